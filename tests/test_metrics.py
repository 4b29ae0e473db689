"""The metric functions against published values and brute force; the `evaluate` modules in processes of their own."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks.metrics.functions import (
    NORMAL_QUANTILE_95,
    cells,
    digit_accuracy,
    exact_match_by_slice,
    wilson_interval,
)

ROOT = Path(__file__).parents[1]


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), Table I, row
# "score"; scipy 1.17's binomtest(...).proportion_ci(method="wilson") gives the same to 15 digits.
@pytest.mark.parametrize(
    ("successes", "count", "interval"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_interval_equals_newcombes_table(successes: int, count: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(successes, count) == pytest.approx(interval, abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 10**6).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_interval_inverts_the_score_test(trials: tuple[int, int]) -> None:
    successes, count = trials
    share = successes / count
    low, high = wilson_interval(successes, count)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        score = abs(share - end)
        assert score == 0 or score == pytest.approx(NORMAL_QUANTILE_95 * math.sqrt(end * (1 - end) / count), abs=1e-7)


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_what_is_no_proportion(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"not {successes} of {count}"):
        wilson_interval(successes, count)


def test_exact_match_by_slice_counts_each_slice() -> None:
    result = exact_match_by_slice(
        ["5", "9", "10", "11", ""],
        ["5", "8", "10", "11", "7"],
        {"digits_a": np.array([1, 1, 2, 2, 1]), "digits_b": [1, 1, 1, 2, 1]},
    )
    assert result["exact_match"] == 3 / 5
    assert result["count"] == 5
    assert [(c["slice"], c["value"], c["count"]) for c in result["cells"]] == [
        ({"digits_a": 1, "digits_b": 1}, 1 / 3, 3),
        ({"digits_a": 2, "digits_b": 1}, 1.0, 1),
        ({"digits_a": 2, "digits_b": 2}, 1.0, 1),
    ]
    assert result["cells"][0]["ci95"] == list(wilson_interval(1, 3))
    assert json.loads(json.dumps(result)) == result


def test_exact_match_is_exact() -> None:
    assert exact_match_by_slice(["05", "5 ", "-5"], ["5", "5", "5"])["exact_match"] == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from("ab")), min_size=1))
def test_cells_partition_the_examples(rows: list[tuple[bool, int, str]]) -> None:
    correct, length, family = ([row[k] for row in rows] for k in range(3))
    made = cells(correct, {"length": length, "family": family}, metric="m")
    assert sum(c["count"] for c in made) == len(rows)
    assert sum(round(c["value"] * c["count"]) for c in made) == sum(correct)
    keys = [(c["slice"]["length"], c["slice"]["family"]) for c in made]
    assert keys == sorted(set(zip(length, family, strict=True)))


def test_cells_of_values_that_do_not_compare_keep_their_order() -> None:
    assert [c["slice"]["depth"] for c in cells([True, True, False], {"depth": [2, None, 2]})] == [2, None]


def test_digit_accuracy_by_place() -> None:
    result = digit_accuracy(["123", "124", "903"], ["123", "123", "123"])
    assert result["by_place"] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert result["digit_accuracy"] == pytest.approx(6 / 9)
    assert result["count_by_place"] == [3, 3, 3]
    assert result["length_accuracy"] == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_digit_accuracy_aligns_units_whatever_the_length(reverse: bool) -> None:
    def write(number: str) -> str:
        return number[::-1] if reverse else number

    short, long, empty = (digit_accuracy([write(p)], [write("123")], reverse) for p in ("23", "9123", ""))
    assert (short["by_place"], short["length_accuracy"]) == ([1, 1, 0], 0)
    assert (long["by_place"], long["length_accuracy"]) == ([1, 1, 1], 0)
    assert (empty["by_place"], empty["digit_accuracy"]) == ([0, 0, 0], 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("01", max_size=6), st.text("01", min_size=1, max_size=6)), min_size=1))
def test_reversed_answers_have_the_same_digit_accuracy(pairs: list[tuple[str, str]]) -> None:
    predictions, references = [p for p, _ in pairs], [r for _, r in pairs]
    plain = digit_accuracy(predictions, references)
    mirrored = digit_accuracy([p[::-1] for p in predictions], [r[::-1] for r in references], reverse=True)
    assert plain == mirrored
    assert sum(plain["count_by_place"]) == sum(map(len, references))


@pytest.mark.parametrize("measure", [exact_match_by_slice, digit_accuracy])
def test_nothing_to_measure_is_refused(measure) -> None:
    with pytest.raises(ValueError, match="no examples"):
        measure([], [])
    with pytest.raises(ValueError, match="predictions has 1 values for 2 examples"):
        measure(["1"], ["1", "2"])


def test_a_slice_column_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="slice column 'digits_a' has 1 values for 2 examples"):
        cells([True, False], {"digits_a": [1]})


def test_references_without_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="all of them are empty"):
        digit_accuracy(["1"], [""])


LOAD_BOTH = """
import json, evaluate
exact = evaluate.load("{metrics}/exact_match_by_slice.py")
exact.add_batch(predictions=["1", "2"], references=["1", "3"])
digits = evaluate.load("{metrics}/digit_accuracy.py")
print(json.dumps([
    exact.compute(slices={{"length": [1, 2]}}),
    digits.compute(predictions=["321"], references=["021"], reverse=True),
]))
"""
BLOCK = "import sys; sys.modules['hf_tasks'] = None\n"  # as if the package were not installed


def run_python(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process with caches of its own, away from the tree but with the package importable."""
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=home, env=environment, check=False
    )


def test_evaluate_loads_both_modules_without_this_package(tmp_path: Path) -> None:
    done = run_python(BLOCK + LOAD_BOTH.format(metrics=ROOT / "hf_tasks/metrics"), tmp_path)
    assert done.returncode == 0, done.stderr
    exact, digits = json.loads(done.stdout.splitlines()[-1])
    assert exact == exact_match_by_slice(["1", "2"], ["1", "3"], {"length": [1, 2]})
    assert digits == digit_accuracy(["321"], ["021"], reverse=True)
