"""Does a model follow the chain, or does it count? Accuracy by depth, and two signs of counting.

- The last value of a chain is the product of all elements in the sentence, which can be counted where the group is
  abelian; so a counter knows the last clause and not those before it (see ceiling.py), and learns it before them.
- What edited sentences tell is in counterfactuals.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hf_tasks.analysis.forward import Reading
from hf_tasks.analysis.intervals import mean_interval, share
from hf_tasks.metrics.functions import cell

LEARNED = 0.9  # accuracy from which on a depth counts as learned


def accuracy_by_depth(reading: Reading) -> list[dict[str, Any]]:
    """Cells {"depth", "value", "count", "ci95"} with Wilson intervals, depths ascending."""
    return [share(reading.correct[reading.depths == d], depth=d) for d in np.unique(reading.depths).tolist()]


def accuracy_grid(reading: Reading) -> list[dict[str, Any]]:
    """The same for every (clauses of the sentence, depth) that occurs."""
    pairs = np.unique(np.stack([reading.clauses, reading.depths], 1), axis=0).tolist()
    return [
        share(reading.correct[(reading.clauses == c) & (reading.depths == d)], clauses=c, depth=d) for c, d in pairs
    ]


def last_excess(reading: Reading) -> dict[str, Any] | None:
    """How much more accurate the deepest clause of a sentence is than the two before it, sentence by sentence.

    Returns:
        {"value", "ci95", "count"}: a mean over sentences and its interval, to which half a sentence is added on either
        side, as in `difference`, so that it has a width where nothing differed; None if fewer than two sentences are
        three clauses deep.
    """
    differences = []
    order = np.lexsort((reading.depths, reading.sentences))
    bounds = np.flatnonzero(np.diff(reading.sentences[order])) + 1
    for members in np.split(order, bounds):
        depths, right = reading.depths[members], reading.correct[members]
        last = depths.max()
        if last >= 3:
            before = np.mean([right[depths == last - back].mean() for back in (1, 2)])
            differences.append(right[depths == last].mean() - before)
    if len(differences) < 2:
        return None
    _, low, high = mean_interval(np.array([*differences, 0.5**0.5, -(0.5**0.5)]))
    return {"value": float(np.mean(differences)), "ci95": [float(low), float(high)], "count": len(differences)}


def learning_order(history: Iterable[dict[str, Any]], threshold: float = LEARNED) -> dict[int, int | None]:
    """The first logged step at which each depth reached the threshold; None if it never did.

    Args:
        history: `state.log_history`, or the lines of the callback's file.
    """
    learned: dict[int, int | None] = {}
    for entry in history:
        for depth, value in entry.get("accuracy_by_depth", {}).items():
            if learned.setdefault(int(depth), None) is None and value >= threshold:
                learned[int(depth)] = entry["step"]
    return dict(sorted(learned.items()))


def first_of_last_two(
    history: Iterable[dict[str, Any]], depths: Sequence[int], counts: Mapping[int, int], threshold: float = LEARNED
) -> dict[str, Any] | None:
    """The first look at which one of the two deepest depths was learned, and how well both were known by then.

    Args:
        history: as for `learning_order`.
        depths: those that count, ascending. counts: clauses of each in the batch that was looked at.

    Returns:
        {"step", "before", "last"}: cells {"depth", "value", "count", "ci95"} of both; None if neither was ever learned.
    """
    pair = depths[-2:]
    if len(pair) < 2 or not all(counts.get(depth) for depth in pair):
        return None
    for entry in history:
        found = entry.get("accuracy_by_depth", {})
        values = [found.get(str(depth), 0.0) for depth in pair]
        if max(values) >= threshold:
            before, last = (
                {"depth": depth, **cell(round(value * counts[depth]), counts[depth], {})}
                for depth, value in zip(pair, values, strict=True)
            )
            return {"step": entry["step"], "before": before, "last": last}
    return None
