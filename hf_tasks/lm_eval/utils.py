"""What the task files beside this one call: problems, execution, values.

- Completions are executed in the filter, where those of all problems are together: a sandbox starts once, not once for
  each problem, and keeps all cores busy.
- lm-eval hands `--metadata`, with the model's arguments in it, to the functions that load problems.
"""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset
from tqdm import tqdm

from hf_tasks.corpora import decontaminate
from hf_tasks.corpora.base import Row, split_of
from hf_tasks.corpora.code_exercises import CodeExercises, ExerciseWriter, check, program
from hf_tasks.corpora.sandbox import run_many
from hf_tasks.errors import UserError
from hf_tasks.metrics.pass_at_k import pass_at_k

K = (1, 10, 100)  # as in Chen et al. 2021; those that a problem has completions enough for
HELD_OUT = 200  # exercises, where no folder is given
PASSED = "passed"
_COLUMNS = ("prompt", "solution", "tests", "entry_point")


def load_humaneval(exercises: str | None = None, **_: Any) -> dict[str, Dataset]:
    """HumanEval; with the folder of a corpus, marked by whether its training rows resemble a problem.

    Returns:
        "test" -> columns `prompt`, `solution`, `tests`, `entry_point`, `close_match` (None without a folder).

    Raises:
        UserError: a package is missing, or the folder holds no exercises.
    """
    return _documents(decontaminate.humaneval(), _read(exercises, "train") if exercises else [])


def load_exercises(exercises: str | None = None, **_: Any) -> dict[str, Dataset]:
    """The exercises of a folder's test split, likewise, or `HELD_OUT` by the grammar; those that pass their own tests.

    Raises:
        UserError: the folder holds none, or none that passes.
    """
    rows = _read(exercises, "test") if exercises else _write(HELD_OUT)
    kept, rejections = check(rows)
    if rejections:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejections.most_common())
        left_out = f"{len(rows) - len(kept)} of {len(rows)} exercises are left out: {reasons}"
        logging.getLogger(__name__).warning(left_out)
    if not kept:
        raise UserError(
            f"no exercise of the test split in {exercises!r} passes its own tests ({len(rows)} are there; one row in "
            "twenty is of that split): write more rows"
        )
    return _documents(kept, _read(exercises, "train") if exercises else [])


def execute(responses: Sequence[Sequence[str]], docs: Sequence[Row]) -> list[list[str]]:
    """Run every completion behind its prompt, with the tests of its problem.

    Returns:
        the verdict on each: `PASSED`, or one of `sandbox.REASONS`.
    """
    programs = [
        (program(doc["prompt"], text), doc["tests"])
        for texts, doc in zip(responses, docs, strict=True)
        for text in texts
    ]
    outcomes = tqdm(run_many(programs), "executing completions", len(programs))
    verdicts = (outcome.reason or PASSED for outcome in outcomes)
    return [list(itertools.islice(verdicts, len(texts))) for texts in responses]


def process_results(doc: Row, results: Sequence[list[str]]) -> dict[str, float]:
    """pass@k of one problem by its verdicts; once more under the name of the half that it belongs to."""
    [verdicts] = results
    count, passed = len(verdicts), verdicts.count(PASSED)
    values = {f"pass@{k}": pass_at_k(count, passed, k) for k in K if k <= count}
    if doc["close_match"] is None:
        return values
    half = "with_match" if doc["close_match"] else "without_match"
    return values | {f"{name}_{half}": value for name, value in values.items()}


def _documents(problems: Sequence[Row], training: Sequence[Row]) -> dict[str, Dataset]:
    """Problems as lm-eval wants them, with `close_match` if there are training rows to compare them with."""
    rows = [{column: problem[column] for column in _COLUMNS} for problem in problems]
    marks: list[bool | None] = [None] * len(rows)
    if training:
        named = [row | {"task_id": place} for place, row in enumerate(rows)]
        matched = decontaminate.decontaminate(training, named)[1]["with_match"]
        marks = [str(place) in matched for place in range(len(rows))]
    return {"test": Dataset.from_list([row | {"close_match": mark} for row, mark in zip(rows, marks, strict=True)])}


def _read(folder: str, split: str) -> list[Row]:
    """The exercises of one split, of all parquet files in a folder that hold exercises.

    Raises:
        UserError: there is no such file.
    """
    root, wanted = Path(folder), {*_COLUMNS, "split"}
    visible = (p for p in root.rglob("*.parquet") if not any(s.startswith(".") for s in p.relative_to(root).parts))
    files = [path for path in sorted(visible) if wanted <= set(pq.read_schema(path).names)]
    if not files:
        raise UserError(
            f"{folder!r} holds no parquet file with the columns {', '.join(sorted(wanted))}; write one with: "
            "hf-tasks corpus code_exercises --writer grammar --rows 2000 --output DIR"
        )
    filters = [("split", "=", split)]
    return [row for path in files for row in pq.read_table(path, columns=list(_COLUMNS), filters=filters).to_pylist()]


def _write(count: int) -> list[Row]:
    """The first exercises of the grammar (seed 0) in the test split; no row to train on asks for the same."""
    corpus, writer = CodeExercises(), ExerciseWriter()

    async def write() -> list[Row]:
        wanted = ((index, corpus.parameters(index, 0)) for index in itertools.count())
        held_out = (pair for pair in wanted if split_of(corpus.name, pair[1]) == "test")
        requests = [corpus.request(*pair) for pair in itertools.islice(held_out, count)]
        return [corpus.read(request, (await writer.write(request, 0)).text) for request in requests]

    with ThreadPoolExecutor(1) as thread:  # this one may be a notebook's, which runs an event loop already
        return thread.submit(asyncio.run, write()).result()
