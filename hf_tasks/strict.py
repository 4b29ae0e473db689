"""YAML -> dataclasses, strictly: an unknown key, a wrong type or a missing name is one line that says where.

- Whole numbers serve as floats; nothing else is converted.
"""

import copy
import re
import typing
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any

import yaml

from hf_tasks.errors import UserError, unknown_name


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text, for want of a dot; here it is the number it looks like."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML; a syntax error is a `UserError` with its place."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{where} is no valid YAML: {' '.join(str(error).split())}") from error


def build(cls: type, content: Any, where: str) -> Any:
    """A dataclass from a dictionary, strictly.

    Raises:
        UserError: a key that is unknown or missing, or a value of a wrong type, by its place below `where`.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where} must hold keys and values, not {content!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    for key in content:
        if key not in known:
            raise unknown_name(f"key of {where}", key, known)
    missing = [
        n for n, f in known.items() if n not in content and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    return cls(**{key: value_of(hints[key], value, f"{where}.{key}") for key, value in content.items()})


def value_of(wanted: Any, value: Any, where: str) -> Any:
    """`value` if it is of the wanted type (whole numbers serve as floats), dataclasses built on the way.

    Raises:
        UserError: as `build`.
    """
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin is UnionType:
        return None if value is None else value_of(arguments[0], value, where)
    if is_dataclass(wanted):
        return build(typing.cast(type, wanted), value, where)
    kind = origin or wanted
    known: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, known) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where} must be of type {kind.__name__}, not {value!r}")
    if kind is list:
        return [value_of(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(typing.cast(list, value))]
    if kind is dict:
        items = typing.cast(dict, value).items()
        return {
            value_of(arguments[0], k, f"a key of {where}"): value_of(arguments[1], v, f"{where}.{k}") for k, v in items
        }
    return float(value) if kind is float else value


def lay_over(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` over `base`, dictionary by dictionary; where `base` has a dictionary, None takes it away."""
    result = copy.deepcopy(base)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = lay_over(result[key], value)
        elif value is None and isinstance(result.get(key), dict):
            del result[key]
        else:
            result[key] = value
    return result


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """All of several settings `key=value`; of a key that comes twice, the last.

    Raises:
        UserError: as `parse_setting`.
    """
    parameters: dict[str, Any] = {}
    for setting in settings:
        parameters |= parse_setting(setting)
    return parameters


def parse_setting(text: str) -> dict[str, Any]:
    """`a.b=value` as {"a": {"b": value}}, the value read as YAML.

    Raises:
        UserError: no such form, or no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key=value with a dotted key, such as trainer.max_steps=100, not {text!r}")
    nested: Any = read_yaml(value, f"--set {text}")
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested
