"""Cayley tables and actions against sympy's permutations, and every check of a user's own tables."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy.combinatorics import Permutation, PermutationGroup

from hf_tasks.errors import UserError
from hf_tasks.tasks.groups import LARGEST, get_action, get_group

# Name -> its order and |[G, G]|; the tables of facts and textbooks.
COMMUTATORS = {
    "Z2": (2, 1), "Z3": (3, 1), "Z5": (5, 1), "Z12": (12, 1), "D3": (6, 3), "D4": (8, 2), "D5": (10, 5), "S3": (6, 3),
    "A3": (3, 1), "A4": (12, 4), "S4": (24, 12), "A5": (60, 60), "S5": (120, 60), "Q8": (8, 2), "Z2xZ2": (4, 1),
    "Z2xD3": (12, 3), "D3xQ8": (48, 6),
}  # fmt: skip
KLEIN = [[g ^ h for h in range(4)] for g in range(4)]


@pytest.mark.parametrize("name", COMMUTATORS)
def test_every_group_is_a_group_of_its_order(name: str) -> None:
    group = get_group(name)
    order, commutators = COMMUTATORS[name]
    assert group.order == len(group.names) == len(set(group.names)) == order
    assert group.commutator_order() == commutators
    assert len({len(element) for element in group.names}) == 1
    assert all(element[0].isupper() or element[0] in "+-" for element in group.names)
    assert (group.table[np.arange(order), group.inverses] == group.identity).all()
    assert get_group(group.table.tolist()).commutator_order() == commutators  # it passes the checks of a user's table


@pytest.mark.parametrize("name", ["Z2", "Z7", "D3", "D4", "D6", "S3", "S4", "S5", "A4", "A5"])
def test_products_are_those_of_sympy(name: str) -> None:
    group = get_group(name)
    assert group.images is not None
    elements = [Permutation(image.tolist()) for image in group.images]
    rng = np.random.default_rng(0)
    for g, h in rng.integers(0, group.order, (300, 2)):
        # sympy applies the left factor first; here the right one is nearer to the point.
        assert elements[group.table[g, h]] == elements[h] * elements[g]
    whole = PermutationGroup(elements)
    assert whole.order() == group.order
    assert whole.derived_subgroup().order() == group.commutator_order()  # type: ignore[union-attr]
    if name[0] in "SA":
        assert whole.is_symmetric if name[0] == "S" else whole.is_alternating


def test_d3_is_s3_up_to_names() -> None:
    dihedral, symmetric = get_group("D3"), get_group("S3")
    assert dihedral.images is not None and symmetric.images is not None
    renamed = [symmetric.images.tolist().index(image) for image in dihedral.images.tolist()]
    assert sorted(renamed) == [*range(6)]
    for g, h in itertools.product(range(6), repeat=2):
        assert renamed[dihedral.table[g, h]] == symmetric.table[renamed[g], renamed[h]]


def test_products_by_name() -> None:
    def product(group_name: str, a: str, b: str) -> str:
        group = get_group(group_name)
        return group.names[group.table[group.names.index(a), group.names.index(b)]]

    assert product("Z2", "-", "-") == "+"
    assert product("S3", "P213", "P132") == "P231"  # 3 -> 2 -> 1, 1 -> 1 -> 2, 2 -> 3 -> 3
    assert product("D4", "R1", "S0") == "S1" and product("D4", "S0", "R1") == "S3"
    for a, b, c in ("IJK", "JKI", "KIJ"):
        assert product("Q8", f"+{a}", f"+{b}") == f"+{c}" and product("Q8", f"+{b}", f"+{a}") == f"-{c}"
        assert product("Q8", f"+{a}", f"+{a}") == "-E"
    assert product("Z2xD3", "-S1", "+S0") == "-R1"
    assert product("Z12", "R11", "R03") == "R02"


@pytest.mark.parametrize("name", ["Z2", "Z5", "D4", "S4", "A4"])
@pytest.mark.parametrize("which", ["regular", "natural"])
def test_actions_are_actions(name: str, which: str) -> None:
    group = get_group(name)
    action = get_action(group, which)
    points = action.table.shape[1]
    assert (
        len(action.names) == len(set(action.names)) == points == (group.order if which == "regular" else int(name[1]))
    )
    assert action.regular is (which == "regular")
    for g, h in itertools.product(range(group.order), repeat=2):
        assert (action.table[group.table[g, h]] == action.table[g][action.table[h]]).all()
    assert get_action(group, action.table.tolist()).table.tolist() == action.table.tolist()


def test_a_table_of_ones_own() -> None:
    group = get_group(KLEIN)
    assert group.names == ("G0", "G1", "G2", "G3") and group.identity == 0 and group.commutator_order() == 1
    shifted = [[(g + h + 1) % 12 for h in range(12)] for g in range(12)]
    group = get_group(shifted)
    assert group.identity == 11 and group.names[0] == "G00"
    assert get_action(get_group(KLEIN), [[0, 1], [1, 0], [0, 1], [1, 0]]).names == ("1", "2")


def broken(table: list[list[int]], row: int, column: int, value: int) -> list[list[int]]:
    copy = [list(entries) for entries in table]
    copy[row][column] = value
    return copy


# A loop of five elements: identity, inverses, every element once in each row and column, but no associativity.
LOOP = [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("F5", "group='F5': 'F5' is no group known here; give Z<n>, D<n>"),
        ("Z2xF5", "'F5' is no group"),
        ("Z0", "'Z0' is no group"),
        ("z2", "'z2' is no group"),
        ("", "'' is no group"),
        ("Z\u0662", "is no group"),
        ("Z1", "Z<n> begins with Z2"),
        ("D2", "D<n> begins with D3"),
        ("S7", f"groups of 2 to {LARGEST} can be used"),
        ("A9999", f"groups of 2 to {LARGEST} can be used"),
        ("x".join(["Z2"] * 10), "has 1024 elements"),
        (7, "group=7: give Z<n>"),
        ([], r"group=\[\]: give Z<n>"),
        ([[0, 1], [1, True]], "group="),
        ([[0, 1], [1, 0.0]], "group="),
        ([[0]], "has 1 elements"),
        ([[0, 1], [1]], "rows of the table have 1 to 2 entries"),
        ([[0, 1]], "as many columns as rows, not 2 and 1"),
        ([[0, 1], [1, 2]], r"row 1, column 1 of the table is 2, which is none of 0 \.\.\. 1"),
        ([[0, 1], [1, 10**30]], "row 1, column 1"),
        ([[0, 0], [0, 0]], "no element e of the table has"),
        ([[0, 1], [1, 1]], "element 1 has no inverse"),
        (LOOP, r"not associative: \(1 \* 1\) \* 2 is 2, but 1 \* \(1 \* 2\) is 4"),
    ],
)
def test_what_is_no_group_is_refused_in_one_line(group: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        get_group(group)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("group", "action", "message"),
    [
        ("Z2", "regal", "action='regal': give 'regular', 'natural' or a table"),
        ("Z2", 5, "action=5"),
        ("Q8", "natural", "Q8 has no points of its own"),
        (KLEIN, "natural", "has no points of its own"),
        ("Z2", [[0, 1]], "1 rows; give one for each of the 2 elements"),
        ("Z2", [[0], [0]], "1 points"),
        ("Z2", [[0, 1], [1, 2]], "row 1, column 1 of the table is 2"),
        ("Z2", [[0, 1], [1, -(10**40)]], "row 1, column 1"),
        ("Z2", [[1, 0], [0, 1]], r"the identity \(row 0\) moves point 0"),
        ("Z2", [[0, 1, 2], [1, 2, 0]], r"\(1 \* 1\) takes point 0 to 0, but 1 of \(1 of 0\) is 2"),
    ],
)
def test_what_is_no_action_is_refused_in_one_line(group: object, action: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        get_action(get_group(group), action)
    assert "\n" not in str(error.value)


def test_the_triple_of_an_error_is_one_that_fails() -> None:
    table = broken(get_group("Z5").table.tolist(), 2, 4, 2)
    with pytest.raises(UserError, match="not associative") as error:
        get_group(table)
    triple = re.search(r"\((\d) \* (\d)\) \* (\d) is (\d), but .* is (\d)$", str(error.value))
    assert triple is not None
    a, b, c, left, right = map(int, triple.groups())
    assert table[table[a][b]][c] == left != right == table[a][table[b][c]]


@settings(deadline=None)
@given(st.integers(2, 4).flatmap(lambda n: st.permutations(range(n)).flatmap(lambda names: st.tuples(
    st.just([[names[(g + h) % n] for h in range(n)] for g in range(n)]),
    st.lists(st.tuples(*[st.integers(0, n - 1)] * 3), max_size=2),
))))  # fmt: skip
def test_a_table_passes_exactly_if_it_is_a_group(case: tuple[list[list[int]], list[tuple[int, int, int]]]) -> None:
    table, changes = case
    for row, column, value in changes:
        table = broken(table, row, column, value)
    n = range(len(table))
    neutral = [e for e in n if all(table[e][g] == g == table[g][e] for g in n)]
    truth = bool(neutral) and all(any(table[g][h] == neutral[0] for h in n) for g in n)
    truth = truth and all(table[table[a][b]][c] == table[a][table[b][c]] for a in n for b in n for c in n)
    try:
        get_group(table)
        assert truth
    except UserError as error:
        assert not truth and "\n" not in str(error)


@given(
    st.one_of(st.text(max_size=12), st.lists(st.lists(st.integers())), st.recursive(st.none() | st.floats(), st.lists))
)
def test_garbage_raises_only_user_errors(garbage: object) -> None:
    for read in (get_group, lambda action: get_action(get_group("D3"), action)):
        try:
            read(garbage)
        except UserError as error:
            assert "\n" not in str(error)
