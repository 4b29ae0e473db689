"""Checks of task parameters: each returns the value in the form the task keeps, or raises one line for the user."""

from collections.abc import Iterable
from typing import Any

from hf_tasks.errors import UserError, unknown_name


def as_tuple(value: Any) -> Any:
    """Lists as tuples, all the way down: YAML and JSON have no tuples, and a frozen task must be hashable."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, tuple | list) else value


def listed(value: Any) -> Any:
    """Tuples as lists, all the way down: what JSON and YAML give back."""
    return [listed(item) for item in value] if isinstance(value, tuple | list) else value


def is_integer(value: Any) -> bool:
    """Whether the value is an int and not a bool, which Python counts among them."""
    return isinstance(value, int) and not isinstance(value, bool)


def shortened(text: str) -> str:
    """The text quoted for an error message, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An int of at least `low` and, where given, at most `high`."""
    if not is_integer(value) or value < low or (high is not None and value > high):
        upper = "" if high is None else f" and at most {high}"
        raise UserError(f"{name}={value!r}: give an integer of at least {low}{upper}")
    return value


def share(name: str, value: Any) -> float:
    """A number between 0 and 1."""
    if not (is_integer(value) or isinstance(value, float)) or not 0 <= value <= 1:
        raise UserError(f"{name}={value!r}: give a number between 0 and 1")
    return float(value)


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """One of the known strings."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise unknown_name(name, value, known)
    return value


def is_span(value: Any) -> bool:
    """Whether the value is (lo, hi) with integers 1 <= lo <= hi."""
    return isinstance(value, tuple) and len(value) == 2 and all(map(is_integer, value)) and 1 <= value[0] <= value[1]


def span(name: str, value: Any) -> tuple[int, int]:
    """A pair (lo, hi) of integers, 1 <= lo <= hi."""
    value = as_tuple(value)
    if not is_span(value):
        raise UserError(f"{name}={listed(value)!r}: give [lo, hi] with integers 1 <= lo <= hi")
    return value
