"""No problem of train occurs in validation or test, whatever the seeds.

Problems are read back from the prompts by Arrow's string functions, so that a mistake in the hashing cannot hide.
"""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from hf_tasks.tasks import get_task
from hf_tasks.tasks.base import BLOCK
from hf_tasks.tasks.hashing import SPLITS


def unordered_pairs(prompts: pa.ChunkedArray) -> np.ndarray:
    """One number for every sum of two operands below 10**5, the same for a+b and b+a."""
    parts = pc.split_pattern(pc.utf8_rtrim(prompts, "="), "+")
    a, b = (pc.list_element(parts, index).cast(pa.int64()).to_numpy() for index in (0, 1))
    return np.maximum(a, b) * 10**5 + np.minimum(a, b)


def problems_of(split: str, rows: int, seeds: range, **parameters: object) -> np.ndarray:
    """The different problems among so many rows of a split, drawn with several seeds and layouts."""
    tasks = [get_task("addition", digits=(1, 4), **parameters), get_task("addition", digits=(3, 4), pad=True)]
    each = rows // (len(seeds) * len(tasks))
    tables = [task.table(split, each, seed=seed, start=seed * BLOCK) for seed in seeds for task in tasks]
    return np.unique(np.concatenate([unordered_pairs(table["prompt"]) for table in tables]))


def assert_no_leak(train_rows: int, other_rows: int, seeds: dict[str, range]) -> None:
    rows = {"train": train_rows, "validation": other_rows, "test": other_rows}
    train, validation, test = (problems_of(split, rows[split], seeds[split]) for split in SPLITS)
    assert min(len(validation), len(test)) > other_rows / 20
    for first, second in ((train, validation), (train, test), (validation, test)):
        assert len(np.intersect1d(first, second)) == 0


def test_splits_share_no_problem() -> None:
    # The seeds overlap on purpose: it is the problem that decides, not the seed.
    assert_no_leak(200_000, 20_000, {"train": range(4), "validation": range(1, 3), "test": range(2, 4)})


def numbers(prompt: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", prompt)]


def reversed_numbers(prompt: str) -> list[int]:
    return [int(number[::-1]) for number in re.findall("[0-9]+", prompt)]


def pairs_of_pairs(prompt: str) -> tuple:
    a, b, c, d = numbers(prompt)
    return tuple(sorted([tuple(sorted([a, b])), tuple(sorted([c, d]))]))


@pytest.mark.parametrize(
    ("name", "parameters", "problem"),
    [
        ("addition", {"operands": 3, "digits": (1, 2)}, lambda prompt: tuple(sorted(numbers(prompt)))),
        ("running_sum", {"operands": (2, 3), "digits": (1, 2)}, lambda prompt: tuple(sorted(reversed_numbers(prompt)))),
        ("subtraction", {"digits": (1, 2)}, str),
        ("multiplication", {"digits": (1, 2)}, lambda prompt: tuple(sorted(numbers(prompt)))),
        ("modular_addition", {}, lambda prompt: tuple(sorted(numbers(prompt)))),
        ("modular_addition", {"digits": (1, 2)}, lambda prompt: tuple(sorted(numbers(prompt)))),
        ("sum_of_products", {"digits": ((1, 1), (1, 1), (1, 2), (1, 1))}, pairs_of_pairs),
        *((name, {"length": (1, 4), "alphabet": "abcdef"}, str) for name in ("copy", "reverse", "sort")),
        ("parity", {"length": (1, 12)}, str),
    ],
)
def test_small_spaces_are_split_cleanly(name: str, parameters: dict, problem: Callable[[str], object]) -> None:
    task = get_task(name, **parameters)
    seen = [
        {problem(prompt) for seed in range(3) for prompt in task.table(split, 1500, seed=seed)["prompt"].to_pylist()}
        for split in SPLITS
    ]
    assert all(seen)
    assert len(set.union(*seen)) == sum(map(len, seen))


@pytest.mark.slow
def test_splits_share_no_problem_over_two_million_rows() -> None:
    assert_no_leak(1_200_000, 400_000, {"train": range(12), "validation": range(4), "test": range(5, 9)})
