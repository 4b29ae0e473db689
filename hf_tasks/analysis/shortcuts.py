"""Does a model follow the chain, or does it count? Accuracy by depth, and two signs of counting.

- The last value of a chain is the product of all elements in the sentence, which can be counted where the group is
  abelian; so a counter knows the last clause and not those before it (see ceiling.py), and learns it before them.
- What edited sentences tell is in counterfactuals.py.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from hf_tasks.analysis.forward import Reading
from hf_tasks.analysis.intervals import mean_interval, share

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
        {"value", "ci95", "count"}: a mean over sentences and its normal interval; None if fewer than two sentences are
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
    mean, low, high = mean_interval(np.array(differences))
    return {"value": float(mean), "ci95": [float(low), float(high)], "count": len(differences)}


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


def last_learned_early(learned: dict[int, int | None]) -> bool | None:
    """Whether the deepest clause was learned before the one above it, as a counter does; None if neither was."""
    depths = list(learned)
    if len(depths) < 2:
        return None
    before, last = learned[depths[-2]], learned[depths[-1]]
    if last is None:
        return None if before is None else False
    return before is None or last < before
