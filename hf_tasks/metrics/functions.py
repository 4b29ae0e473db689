"""Exact match and digit accuracy as plain functions of strings.

- Results come as cells, in the form of `results.json`: a slice, a value, how many examples, a 95 % Wilson interval.
- `cells` counts what was already judged right or wrong; where a task has a verifier, let that judge.
- Only the standard library: `hf_tasks/evaluate.py` leans on it, and so do the `evaluate` modules beside this file, with
  which it is published.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

NORMAL_QUANTILE_95 = 1.959963984540054  # the standard normal lies within +- this with probability 0.95


def wilson_interval(successes: int, count: int, quantile: float = NORMAL_QUANTILE_95) -> tuple[float, float]:
    """The score interval of Wilson (1927) for a proportion, without continuity correction.

    Unlike the textbook interval it has a width at 0 and 1, where most of our results lie.

    Args:
        successes: how many of the trials succeeded.
        count: how many trials there were, at least 1.
        quantile: normal quantile of the two-sided confidence.

    Returns:
        the lower and the upper end, within [0, 1].

    Raises:
        ValueError: no trials, or successes outside 0 ... count.
    """
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"an interval needs 0 <= successes <= count and count >= 1, not {successes} of {count}")
    share, spread = successes / count, quantile**2 / count
    centre = share + spread / 2
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4))
    low, high = (centre - reach) / (1 + spread), (centre + reach) / (1 + spread)
    # At the edges the ends are exactly 0 and 1; rounding would leave them a hair off.
    return (0.0 if successes == 0 else low), (1.0 if successes == count else high)


def cell(successes: int, count: int, place: Mapping[str, Any], metric: str = "exact_match") -> dict[str, Any]:
    """One cell of `results.json`: the share of successes in a slice, and how sure it is."""
    low, high = wilson_interval(successes, count)
    return {"slice": dict(place), "metric": metric, "value": successes / count, "count": count, "ci95": [low, high]}


def cells(
    correct: Sequence[bool], slices: Mapping[str, Sequence[Any]] | None = None, metric: str = "exact_match"
) -> list[dict[str, Any]]:
    """Shares of right answers, one cell for each combination of slice values that occurs.

    Args:
        correct: right or wrong, one an example, at least one.
        slices: column name -> that column, as long as `correct`; None or {} makes one cell of everything.
        metric: the name under which the cells are reported.

    Returns:
        the cells, in ascending order of their slice values (order of appearance where values do not compare).

    Raises:
        ValueError: no examples, or a column of another length.
    """
    columns = {name: _plain(column) for name, column in (slices or {}).items()}
    _check_lengths(len(correct), {f"slice column {name!r}": column for name, column in columns.items()})
    groups: dict[tuple[Any, ...], list[bool]] = defaultdict(list)
    for index, right in enumerate(correct):
        groups[tuple(column[index] for column in columns.values())].append(bool(right))
    return [
        cell(sum(members), len(members), dict(zip(columns, values, strict=True)), metric)
        for values, members in _ascending(groups)
    ]


def exact_match_by_slice(
    predictions: Sequence[str], references: Sequence[str], slices: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, Any]:
    """Share of predictions equal to their reference, over all and by slice.

    Args:
        predictions: decoded answers, compared character by character; nothing is stripped.
        references: the right answers, as many.
        slices: columns to group by, as for `cells`.

    Returns:
        {"exact_match": share, "ci95": [low, high], "count": examples, "cells": [...]}; see `cells`.

    Raises:
        ValueError: no examples, or lists of different lengths.
    """
    _check_lengths(len(references), {"predictions": predictions})
    correct = [prediction == reference for prediction, reference in zip(predictions, references, strict=True)]
    whole = cells(correct)[0]
    return {
        "exact_match": whole["value"],
        "ci95": whole["ci95"],
        "count": whole["count"],
        "cells": cells(correct, slices),
    }


def digit_accuracy(predictions: Sequence[str], references: Sequence[str], reverse: bool = False) -> dict[str, Any]:
    """Share of the references' characters that the prediction has at the same place, by place.

    Place 0 is the units: the last character, or the first where the answers are written in reverse. Places are those
    of the reference, so that a missing digit is wrong and a digit too many is not counted here: it shows in
    `length_accuracy`. A prediction that lost its top digit is thus right in the places below, whichever way it is
    written. Leading zeros count as digits.

    Args:
        predictions: decoded answers.
        references: the right answers, as many, at least one of them not empty.
        reverse: whether the answers are written units first.

    Returns:
        {"digit_accuracy": share over all digits, "by_place": [share], "count_by_place": [references that have the
        place], "length_accuracy": share of predictions as long as their reference}.

    Raises:
        ValueError: no examples, no digits at all, or lists of different lengths.
    """
    _check_lengths(len(references), {"predictions": predictions})
    places = max(map(len, references))
    if places == 0:
        raise ValueError("digit accuracy needs at least one digit in the references; all of them are empty")
    right, count, same_length = [0] * places, [0] * places, 0
    for prediction, reference in zip(predictions, references, strict=True):
        same_length += len(prediction) == len(reference)
        units_first = (prediction, reference) if reverse else (prediction[::-1], reference[::-1])
        for place, digit in enumerate(units_first[1]):
            count[place] += 1
            right[place] += units_first[0][place : place + 1] == digit
    return {
        "digit_accuracy": sum(right) / sum(count),
        "by_place": [hits / total for hits, total in zip(right, count, strict=True)],
        "count_by_place": count,
        "length_accuracy": same_length / len(references),
    }


def _plain(column: Sequence[Any]) -> Sequence[Any]:
    """numpy's numbers as Python's, which JSON can hold."""
    return column.tolist() if hasattr(column, "tolist") else column  # type: ignore[attr-defined]


def _check_lengths(count: int, columns: Mapping[str, Sequence[Any]]) -> None:
    if count == 0:
        raise ValueError("there are no examples to measure")
    for name, column in columns.items():
        if len(column) != count:
            raise ValueError(f"{name} has {len(column)} values for {count} examples")


def _ascending(groups: Mapping[tuple[Any, ...], list[bool]]) -> list[tuple[tuple[Any, ...], list[bool]]]:
    try:
        return sorted(groups.items(), key=lambda group: group[0])
    except TypeError:  # values of different types, or None among them
        return list(groups.items())
