"""Sentences per second of ours against a plain generator of the same sentences, side by side on one core.

    python -m benchmarks.lego

- Both make Z2 chains of 12 shuffled clauses. Ours checks the split of every sentence and ends as an Arrow table of
  prompt, answer and 14 columns of labels, spans, parents and depths; the peer ends as text and labels.
- The peer is not the official code (lego_data.py of yizhangzzz/transformers-lego) but written here from what is known
  of it: a loop over sentences, each with numpy's global permutations and one string put together clause by clause. The
  official code then runs a BERT tokenizer over every sentence, which is left out on both sides.
- Rounds alternate between all, so that a busy machine slows them down alike; medians are reported.
- `benchmarks/lego.json` keeps the last run with hardware and versions.
"""

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.generation import ROUNDS, hardware, rows_per_second, versions
from hf_tasks.files import write_text
from hf_tasks.tasks import get_task

RESULT = Path(__file__).with_suffix(".json")
CLAUSES = 12


def ours(split: str, rows: int, **parameters: Any) -> Callable[[int], pa.Table]:
    """A run of our task: give it the round, which is also the seed."""
    task = get_task("lego", clauses=(CLAUSES, CLAUSES), **parameters)
    return lambda seed: task.table(split, rows, seed=seed)


def one_sentence() -> tuple[str, list[int]]:
    """A sentence in the official format and its labels in the order of the text."""
    variables = [ascii_lowercase[i] for i in np.random.permutation(26)[:CLAUSES]]
    values = np.random.randint(0, 2, CLAUSES)
    clauses = [f"{variables[0]} = val {values[0]} ,"]
    for i in range(1, CLAUSES):
        sign = "val" if values[i] == values[i - 1] else "not"
        clauses.append(f"{variables[i]} = {sign} {variables[i - 1]} ,")
    order = np.random.permutation(CLAUSES)
    return " ".join(clauses[i] for i in order), [int(values[i]) for i in order]


def sentence_by_sentence(rows: int) -> Callable[[int], list[tuple[str, list[int]]]]:
    """A run of the peer."""

    def run(seed: int) -> list[tuple[str, list[int]]]:
        np.random.seed(seed)
        return [one_sentence() for _ in range(rows)]

    return run


def main() -> None:
    """Time all, print the speeds and keep them."""
    runs = {
        "ours: labels of all clauses": (100_000, ours("train", 100_000, query=False)),
        "ours: with a question": (100_000, ours("train", 100_000)),
        "ours: official format": (100_000, ours("train", 100_000, query=False, format="bert")),
        "ours: D3": (100_000, ours("train", 100_000, query=False, group="D3")),
        "ours: test split": (20_000, ours("test", 20_000, query=False)),
        "sentence by sentence": (10_000, sentence_by_sentence(10_000)),
    }
    print(f"timing {len(runs)} generators, {ROUNDS} rounds ...", flush=True)
    speeds = rows_per_second(runs, ROUNDS)
    ratio = speeds["ours: official format"] / speeds["sentence by sentence"]
    for name, speed in speeds.items():
        print(f"{name:30}{speed:>12,.0f} sentences/s")
    print(f"{'official format / peer':30}{ratio:>12.1f} times")
    result = {
        "command": "python -m benchmarks.lego",
        "hardware": hardware(),
        "versions": versions("numpy", "pyarrow"),
        "clauses": CLAUSES,
        "sentences_per_second": speeds,
        "ratio": round(ratio, 1),
    }
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
