"""Means and differences with 95 % intervals; proportions have Wilson's, in metrics/functions.py.

- A mean over sentences (a head's score) has the normal interval: sentences are drawn independently.
- A difference of two accuracies on the same clauses has the interval of Agresti & Min (2005): half an observation is
  added to each of the four outcomes, so that it has a width where nothing differed.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_tasks.metrics.functions import NORMAL_QUANTILE_95, cell

Interval = tuple[float, float]


def mean_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and both ends of its normal interval over the last axis, NaN left out; all NaN where fewer than two remain.

    Args:
        values: (..., sentences).

    Returns:
        three arrays (...).
    """
    count = (~np.isnan(values)).sum(-1)
    total = np.nansum(values, -1)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 1)
    squares = np.nansum((values - mean[..., None]) ** 2, -1)
    variance = np.divide(squares, count - 1, out=np.full(total.shape, np.nan), where=count > 1)
    reach = NORMAL_QUANTILE_95 * np.sqrt(variance / np.maximum(count, 1))
    return mean, mean - reach, mean + reach


def difference(before: Sequence[bool] | np.ndarray, after: Sequence[bool] | np.ndarray) -> tuple[float, Interval]:
    """accuracy before - accuracy after, on the same clauses, and its interval.

    Raises:
        ValueError: no clauses, or two lists of different lengths.
    """
    first, second = np.asarray(before, bool), np.asarray(after, bool)
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"a difference needs two lists of the same clauses, not {first.shape} and {second.shape}")
    count, lost, gained = first.size, int((first & ~second).sum()), int((~first & second).sum())
    total, centre = count + 2, (lost - gained) / (count + 2)
    reach = NORMAL_QUANTILE_95 * math.sqrt(((lost + gained + 1) / total - centre**2) / total)
    return (lost - gained) / count, (max(-1.0, centre - reach), min(1.0, centre + reach))


def share(right: Sequence[bool] | np.ndarray, **facts: Any) -> dict[str, Any]:
    """A proportion as {"value", "count", "ci95", **facts}; value and interval None where there is nothing to count."""
    hits = np.asarray(right, bool)
    if hits.size == 0:
        return {**facts, "value": None, "count": 0, "ci95": None}
    made = cell(int(hits.sum()), hits.size, {})
    return {**facts, "value": made["value"], "count": made["count"], "ci95": made["ci95"]}
