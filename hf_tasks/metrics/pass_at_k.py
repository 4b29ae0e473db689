"""pass@k of generated programs, for `evaluate.load("hf_tasks/metrics/pass_at_k.py")`.

- The unbiased estimator of Chen et al. 2021 ("Evaluating Large Language Models Trained on Code", section 2.1): with c
  of n candidates right, 1 - C(n - c, k) / C(n, k), which the product below computes without large numbers.
- Candidates run in the sandbox of `hf_tasks.corpora`, so this module, unlike the others, needs the package installed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from hf_tasks.corpora.sandbox import TIMEOUT, run_many

_DESCRIPTION = "Chance that at least one of k candidates passes all tests (unbiased estimate), executed in a sandbox."
_CITATION = "Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374 (2021)"
_INPUTS = """
Args:
    predictions (list of list of str): the candidates of each problem, whole programs (prompt and completion).
    references (list of str): the tests of each problem, Python that raises AssertionError unless they pass.
    k (list of int): none greater than the number of candidates of any problem.
    timeout (float): CPU seconds of a candidate with its tests. workers (int): how many run at a time.
Returns:
    pass@K for every k, candidates that failed by reason (failures), passed candidates of each problem (passed).
"""


def pass_at_k(count: int, passed: int, k: int) -> float:
    """The unbiased estimate of pass@k for one problem.

    Args:
        count: n, how many candidates there are. passed: c, how many of them pass.
        k: how many candidates may be tried, 1 ... n.

    Raises:
        ValueError: numbers outside 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= passed <= count and 1 <= k <= count):
        raise ValueError(
            f"pass@k needs 0 <= passed <= count and 1 <= k <= count, not {passed} of {count} with k = {k}; "
            "make more candidates or choose a smaller k"
        )
    if count - passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / n for n in range(count - passed + 1, count + 1))


def score(
    candidates: Sequence[Sequence[str]],
    tests: Sequence[str],
    k: Sequence[int] = (1,),
    timeout: float = TIMEOUT,
    workers: int | None = None,
) -> dict[str, Any]:
    """Execute candidates and estimate pass@k, the mean over problems.

    Args:
        candidates: of each problem, whole programs.
        tests: of each problem.
        k: as of `pass_at_k`, all of them.
        timeout, workers: of `sandbox.run_many`.

    Returns:
        "pass@K" -> value for every k; "failures" -> number by reason; "passed" -> passed candidates of each problem.

    Raises:
        ValueError: no problems, not as many tests as problems, a k that some problem has too few candidates for.
    """
    if len(candidates) != len(tests) or not tests:
        raise ValueError(
            f"candidates and tests must be of the same problems, not of {len(candidates)} and {len(tests)}"
        )
    for each in k:
        pass_at_k(min(map(len, candidates)), 0, each)  # refuses before anything runs
    programs = [(code, test) for codes, test in zip(candidates, tests, strict=True) for code in codes]
    outcomes = run_many(programs, timeout=timeout, workers=workers)
    judged = [[next(outcomes) for _ in codes] for codes in candidates]
    passed = [sum(outcome.ok for outcome in problem) for problem in judged]
    values = {
        f"pass@{each}": sum(pass_at_k(len(p), c, each) for p, c in zip(judged, passed, strict=True)) / len(judged)
        for each in k
    }
    failures = Counter(outcome.reason for problem in judged for outcome in problem if not outcome.ok)
    return values | {"failures": dict(failures), "passed": passed}


class PassAtK(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.List(text), "references": text}),
        )

    def _compute(
        self,
        predictions: list[list[str]],
        references: list[str],
        k: Sequence[int] = (1,),
        timeout: float = TIMEOUT,
        workers: int | None = None,
    ) -> dict[str, Any]:
        return score(predictions, references, k, timeout, workers)
