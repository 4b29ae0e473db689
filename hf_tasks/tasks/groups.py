"""Finite groups by their Cayley tables, and what they act on.

- Everything is an index: `group.table[g, h]` is the element g * h, `action.table[g, x]` the point that g takes x to.
- Actions are from the left, (g * h) x = g (h x): the element nearest to the point acts first. A permutation is written
  by what it makes of 1, 2, 3, ...: `P213` swaps the first two points, and P213 * P132 = P231.
- All element names of a group have one length, and so have those of points, so that an element and what follows it can
  be cut apart in one way only. They begin with a capital or a sign, unlike variables.
- Groups with a name are right by construction; tables of a user are checked, and the error names what fails.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from hf_tasks.errors import UserError
from hf_tasks.tasks.checks import as_tuple, is_integer, listed, shortened

Rows = tuple[tuple[int, ...], ...]  # a table as a parameter: it must be hashable
LARGEST = 1000  # elements, or points: each is a token, and a table has the square of them
_KNOWN = "Z<n>, D<n>, S<n>, A<n>, Q8, products such as 'Z2xD3', or a Cayley table (a list of lists of integers)"
_ACTIONS = "'regular', 'natural' or a table (a list of lists of integers)"


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group.

    Attributes:
        title: how messages call it.
        names: of the elements, all of one length.
        table: (G, G), the product of two elements.
        images: (G, n), where each element takes points 0 ... n-1, if the group comes as one of permutations.
    """

    title: str
    names: tuple[str, ...]
    table: np.ndarray
    images: np.ndarray | None = None

    @property
    def order(self) -> int:
        """The number of elements."""
        return len(self.table)

    @cached_property
    def identity(self) -> int:
        """The element that leaves every other as it is."""
        return int(np.flatnonzero((self.table == np.arange(self.order)).all(axis=1))[0])

    @cached_property
    def inverses(self) -> np.ndarray:
        """The inverse of each element, (G,)."""
        return np.argmax(self.table == self.identity, axis=1)

    def commutators(self) -> np.ndarray:
        """The elements of [G, G], in ascending order: the subgroup that all g * h * g^-1 * h^-1 generate.

        Who counts elements but ignores their order knows a long product up to this subgroup at best.
        """
        back = self.table[self.inverses[:, None], self.inverses]
        members = np.unique(self.table[self.table, back])
        while True:
            products = np.unique(self.table[np.ix_(members, members)])
            if len(products) == len(members):
                return members
            members = products

    def commutator_order(self) -> int:
        """|[G, G]|."""
        return len(self.commutators())


@dataclass(frozen=True, eq=False)
class Action:
    """A group acting on a set of points from the left.

    Attributes:
        names: of the points, all of one length.
        table: (G, X), where each element takes each point.
        regular: whether the group acts on itself, so that points are elements.
    """

    names: tuple[str, ...]
    table: np.ndarray
    regular: bool = False


# Groups.


def get_group(group: Any) -> Group:
    """A group by name or by Cayley table.

    Args:
        group: "Z5" (cyclic), "D4" (the 8 symmetries of the square), "S4", "A5" (all, or even, permutations), "Q8"
            (quaternions), a product such as "Z2xD3"; or a table, row g column h being the index of g * h.

    Raises:
        UserError: an unknown name, a group of one element or of more than `LARGEST`, or a table that is no group.
    """
    return _get_group(as_rows("group", group))


@lru_cache(maxsize=64)
def _get_group(group: str | Rows) -> Group:
    if isinstance(group, str):
        factors = [_by_name(group, name) for name in group.split("x")]
        _check_order(group, math.prod(factor.order for factor in factors))
        return factors[0] if len(factors) == 1 else _product(group, factors)
    table = _as_table("group", group)
    _check_group(table)
    return Group("the group of the table", _numbered("G", len(table)), table)


def _by_name(whole: str, name: str) -> Group:
    """One factor of a product."""
    if name == "Q8":
        return _quaternions()
    match = re.fullmatch("([ZDSA])([1-9][0-9]{0,3})", name)
    if match is None:
        raise UserError(f"group={shortened(whole)}: {shortened(name)} is no group known here; give {_KNOWN}")
    family, n = match[1], int(match[2])
    least = {"Z": 2, "S": 2, "D": 3, "A": 3}[family]
    if n < least:
        raise UserError(f"group={whole!r}: {family}<n> begins with {family}{least}")
    permutations = math.factorial(min(n, 10))
    _check_order(whole, {"Z": n, "D": 2 * n, "S": permutations, "A": permutations // 2}[family])
    if family in "ZD":
        i, x = np.ogrid[:n, :n]
        turns, mirrors = (i + x) % n, (i - x) % n
        if family == "Z":
            return _of_permutations(name, ("+", "-") if n == 2 else _numbered("R", n), turns)
        return _of_permutations(name, _numbered("R", n) + _numbered("S", n), np.concatenate([turns, mirrors]))
    images = np.array(list(itertools.permutations(range(n))))
    if family == "A":
        a, b = np.triu_indices(n, 1)
        images = images[(images[:, a] > images[:, b]).sum(axis=1) % 2 == 0]
    return _of_permutations(name, tuple("P" + "".join(str(x + 1) for x in image) for image in images), images)


def _of_permutations(title: str, names: tuple[str, ...], images: np.ndarray) -> Group:
    """The group of permutations (G, n), which multiply as functions: (g * h)(x) = g(h(x))."""
    seen = images[:, :6]  # tells elements apart: no group here that moves more points is more than dihedral
    scale = len(images) ** np.arange(seen.shape[1])
    codes = seen @ scale
    order = np.argsort(codes)
    table = order[np.searchsorted(codes, images[:, seen] @ scale, sorter=order)]
    return Group(title, names, table, images)


def _quaternions() -> Group:
    """1, i, j, k and their negatives; element 2u + s is unit u with sign s. ij = k, jk = i, ki = j."""
    units = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
    signs = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]])
    u, s = np.divmod(np.arange(8), 2)
    table = 2 * units[u[:, None], u] + (s[:, None] + s + signs[u[:, None], u]) % 2
    return Group("Q8", tuple(sign + unit for unit in "EIJK" for sign in "+-"), table)


def _product(title: str, factors: Sequence[Group]) -> Group:
    """Pairs of elements, which multiply apart; the last factor runs fastest."""
    table = factors[0].table
    for factor in factors[1:]:
        size = len(table) * factor.order
        table = (table[:, None, :, None] * factor.order + factor.table[None, :, None, :]).reshape(size, size)
    names = itertools.product(*(factor.names for factor in factors))
    return Group(title, tuple(map("".join, names)), table)


def _check_group(table: np.ndarray) -> None:
    """Raise UserError unless a table of numbers is that of a group."""
    n = len(table)
    if table.shape[1] != n:
        raise UserError(f"group: a Cayley table has as many columns as rows, not {table.shape[1]} and {n}")
    _check_order("the table", n)
    _check_closed("group", table, n)
    numbers = np.arange(n)
    neutral = np.flatnonzero((table == numbers).all(axis=1) & (numbers == table.T).all(axis=1))
    if not len(neutral):
        raise UserError("group: no element e of the table has e * g = g * e = g for all g, and a group needs one")
    is_neutral = table == neutral[0]
    has_inverse = (is_neutral & is_neutral.T).any(axis=1)
    if not has_inverse.all():
        g = np.argmin(has_inverse)
        raise UserError(f"group: element {g} has no inverse, no h with {g} * h = h * {g} = {neutral[0]} (the identity)")
    for a in range(n):  # one element at a time, so that memory stays square
        wrong = np.argwhere(table[table[a]] != table[a][table])
        if len(wrong):
            b, c = wrong[0]
            left, right = table[table[a, b], c], table[a, table[b, c]]
            raise UserError(
                f"group: the table is not associative: ({a} * {b}) * {c} is {left}, but {a} * ({b} * {c}) is {right}"
            )


def _check_order(group: str, order: int) -> None:
    if not 2 <= order <= LARGEST:
        raise UserError(f"group: {shortened(group)} has {order} elements or more; groups of 2 to {LARGEST} can be used")


# Actions.


def get_action(group: Group, action: Any) -> Action:
    """An action of the group.

    Args:
        group: from `get_group`.
        action: "regular" (on itself), "natural" (permutations: on the points they move) or a table, row g column x
            being the index of the point that element g takes x to.

    Raises:
        UserError: an unknown name, a group without points of its own, or a table that is no action.
    """
    action = as_rows("action", action)
    if action == "regular":
        return Action(group.names, group.table, regular=True)
    if action == "natural":
        if group.images is None:
            raise UserError(f"action='natural': {group.title} has no points of its own; give 'regular' or a table")
        return Action(_numbered("", group.images.shape[1], first=1), group.images)
    if isinstance(action, str):
        raise UserError(f"action={shortened(action)}: give {_ACTIONS}")
    table = _as_table("action", action)
    _check_action(group, table)
    return Action(_numbered("", table.shape[1], first=1), table)


def _check_action(group: Group, table: np.ndarray) -> None:
    """Raise UserError unless a table of numbers is that of an action."""
    rows, points = table.shape
    if rows != group.order:
        raise UserError(f"action: the table has {rows} rows; give one for each of the {group.order} elements")
    if not 2 <= points <= LARGEST:
        raise UserError(f"action: {points} points in the table; actions on 2 to {LARGEST} can be used")
    _check_closed("action", table, points)
    moved = np.flatnonzero(table[group.identity] != np.arange(points))
    if len(moved):
        raise UserError(f"action: the identity (row {group.identity}) moves point {moved[0]}, and must leave all alone")
    for g in range(rows):
        wrong = np.argwhere(table[group.table[g]] != table[g][table])
        if len(wrong):
            h, x = wrong[0]
            left, right = table[group.table[g, h], x], table[g, table[h, x]]
            raise UserError(
                f"action: the table is not compatible: ({g} * {h}) takes point {x} to {left}, but {g} of ({h} of {x}) "
                f"is {right}"
            )


# Both.


def as_rows(name: str, value: Any) -> str | Rows:
    """A parameter that is a name or a table, in the form a task keeps: a string, or tuples of tuples of integers."""
    value = as_tuple(value)
    if isinstance(value, str):
        return value
    good = isinstance(value, tuple) and value and all(isinstance(row, tuple) and row for row in value)
    if not good or not all(is_integer(entry) for row in value for entry in row):
        text = repr(listed(value))
        text = text if len(text) <= 60 else text[:57] + "..."
        raise UserError(f"{name}={text}: give {_KNOWN if name == 'group' else _ACTIONS}")
    return value


def _as_table(name: str, rows: Rows) -> np.ndarray:
    """A parameter as an array."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise UserError(f"{name}: the rows of the table have {lengths[0]} to {lengths[-1]} entries; give all as many")
    # A number beyond 64 bits is no index either, and numpy would choke on it before the check names it.
    return np.array([[max(min(entry, 2**62), -1) for entry in row] for row in rows])


def _check_closed(name: str, table: np.ndarray, count: int) -> None:
    outside = np.argwhere((table < 0) | (table >= count))
    if len(outside):
        row, column = outside[0]
        entry = table[row, column]
        raise UserError(
            f"{name}: row {row}, column {column} of the table is {entry}, which is none of 0 ... {count - 1}"
        )


def _numbered(prefix: str, count: int, first: int = 0) -> tuple[str, ...]:
    """`count` names of one length."""
    width = len(str(first + count - 1))
    return tuple(f"{prefix}{number:0{width}}" for number in range(first, first + count))
