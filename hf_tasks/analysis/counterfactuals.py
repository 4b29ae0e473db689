"""Sentences that differ in one clause, made by editing the text, and what a model must say of them.

- The token of a clause's element is exchanged, or the clause is cut out; every other character stays, so that one
  change alone is behind what the model says then. The labels are the task's own answer to the edited text.
- How an element is written is read off the rows (column `elements`), in the place that the task names
  (`element_token`). Where a root is written otherwise, roots are left alone.
- The target is the deepest clause whose value is asked. Sentences whose target the model gets wrong cannot tell
  anything and are left out.
"""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tasks.analysis.forward import predict
from hf_tasks.analysis.intervals import share
from hf_tasks.clauses import COLUMNS, ClauseBatch, clause_batch
from hf_tasks.errors import UserError
from hf_tasks.tasks import Task

Row = dict[str, Any]
AT_ONCE = 64  # sentences in a batch


class Editor:
    """Edits sentences of one task.

    Raises:
        UserError: the task's clauses have no elements that could be exchanged.
    """

    def __init__(self, task: Task, table: pa.Table) -> None:
        if "elements" not in table.column_names:
            raise UserError(
                f"clauses of task {task.name} have no column elements, so none can be exchanged for another"
            )
        self.element: int = task.element_token  # type: ignore[attr-defined]
        kept = ["prompt", *COLUMNS, "elements", "second_parents"]
        self.rows: list[Row] = table.select(kept).to_pylist()
        # All values at once: the same sentences without a question.
        plain: Any = {"query": False, "format": "symbolic" if task.format == "cot" else task.format}  # type: ignore
        self.whole: Task = replace(task, **plain)
        self.cut = re.compile("|".join(map(re.escape, sorted(task.vocabulary, key=lambda token: -len(token)))))
        self.names = re.compile("|".join(map(re.escape, sorted(task.classes, key=lambda name: -len(name)))))
        self.classes = {name: number for number, name in enumerate(task.classes)}
        inner, roots = {}, {}
        for row in self.rows:
            for clause, element in enumerate(row["elements"]):
                (roots if row["parents"][clause] < 0 else inner).setdefault(element, set()).add(
                    self._span(row, clause)[2]
                )
        for written in inner.values():
            if len(written) > 1:
                raise UserError(
                    f"task {task.name} writes one element in several ways ({', '.join(sorted(written))}), so none can "
                    "stand for another: take a format in which there is one"
                )
        self.roots_too = all(roots[element] == inner.get(element, roots[element]) for element in roots)
        known = {**roots, **inner} if self.roots_too else inner
        self.spellings = {element: written for element, (written,) in known.items()}

    def _span(self, row: Row, clause: int) -> tuple[int, int, str]:
        """Where the element of a clause stands in the prompt, and how it is written."""
        begin = row["clause_starts"][clause]
        tokens = [*self.cut.finditer(row["prompt"], begin, row["clause_ends"][clause])]
        element = tokens[self.element]
        return element.start(), element.end(), element[0]

    def editable(self, row: Row) -> list[int]:
        """The clauses whose element can be exchanged."""
        return [clause for clause, parent in enumerate(row["parents"]) if parent >= 0 or self.roots_too]

    def with_other_element(self, row: Row, clause: int, rng: np.random.Generator) -> Row:
        """The sentence with another element in this clause, drawn from those that occur, and the values that follow."""
        start, end, written = self._span(row, clause)
        others = [element for element, spelling in self.spellings.items() if spelling != written]
        if not others:
            raise UserError(
                f"all clauses have the same element, {written!r}, so none can be exchanged for another: take a larger "
                "group, or more sentences"
            )
        element = others[rng.integers(len(others))]
        spelling = self.spellings[element]
        moved = len(spelling) - (end - start)
        return self._solved({
            **row,
            "prompt": row["prompt"][:start] + spelling + row["prompt"][end:],
            "elements": [element if i == clause else old for i, old in enumerate(row["elements"])],
            **{
                name: [place + moved if place > start else place for place in row[name]]
                for name in ("clause_starts", "clause_ends", "read_positions")
            },
        })  # fmt: skip

    def without(self, row: Row, clause: int) -> Row:
        """The sentence without this clause; labels stay what they were."""
        start, end = row["clause_starts"][clause], row["clause_ends"][clause]
        lists = {name: values for name, values in row.items() if isinstance(values, list)}
        kept = {name: [value for i, value in enumerate(values) if i != clause] for name, values in lists.items()}
        for name in ("clause_starts", "clause_ends", "read_positions"):
            kept[name] = [place - (end - start) if place > start else place for place in kept[name]]
        for name in ("parents", "second_parents"):
            kept[name] = [-1 if old == clause else old - (old > clause) for old in kept[name]]
        return {**row, **kept, "prompt": row["prompt"][:start] + row["prompt"][end:]}

    def _solved(self, row: Row) -> Row:
        answer = self.whole.answer(row["prompt"][: max(row["clause_ends"])])
        return {**row, "labels": [self.classes[name] for name in self.names.findall(answer)]}


def ancestors(row: Row, clause: int) -> list[int]:
    """Every clause that this one's value depends on, itself left out, nearest first."""
    found: list[int] = []
    waiting = [clause]
    while waiting:
        last = waiting.pop(0)
        for parent in (row["parents"][last], row["second_parents"][last]):
            if parent >= 0 and parent not in found:
                found.append(parent)
                waiting.append(parent)
    return found


def target_of(row: Row) -> int | None:
    """The deepest asked clause, the first in the text if there are several; None if none is asked."""
    asked = [clause for clause, told in enumerate(row["asked"]) if told]
    return max(asked, key=lambda clause: row["depths"][clause], default=None)


def counterfactual_tests(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, editor: Editor, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Three tests, each {"value", "count", "ci95"} over the sentences that the model gets right as they are.

    Returns:
        "upstream": an element upstream of the target is exchanged: share of predictions that are right again.
        "irrelevant": an element that the target does not depend on is exchanged: share of predictions that stay; with
            "kind", "beside" (the chain) or "downstream" of the target: where no sentence has a clause beside the chain,
            one that follows from the target, or the target is the parent of the deepest asked clause, which is edited.
        "removed": a clause in the middle of the chain is cut out: share of predictions that are still right.
    """
    rng = np.random.default_rng(seed)
    cases: dict[str, list[tuple[Row, int, Row, int]]] = {"upstream": [], "irrelevant": [], "removed": []}
    downstream: list[tuple[Row, int, Row, int]] = []
    for row in editor.rows:
        target = target_of(row)
        if target is None:
            continue
        above, editable = ancestors(row, target), editor.editable(row)
        if upstream := [clause for clause in above if clause in editable]:
            edited = editor.with_other_element(row, int(rng.choice(upstream)), rng)
            cases["upstream"].append((row, target, edited, target))
        below = [clause for clause in range(len(row["parents"])) if target in ancestors(row, clause)]
        if beside := [clause for clause in editable if clause not in {*above, *below, target}]:
            edited = editor.with_other_element(row, int(rng.choice(beside)), rng)
            cases["irrelevant"].append((row, target, edited, target))
        elif below:
            downstream.append((row, target, editor.with_other_element(row, int(rng.choice(below)), rng), target))
        elif above and target in editable:
            downstream.append((row, above[0], editor.with_other_element(row, target, rng), above[0]))
        if middle := [clause for clause in above if row["parents"][clause] >= 0] or above:
            clause = int(rng.choice(middle))
            cases["removed"].append((row, target, editor.without(row, clause), target - (clause < target)))
    kind = "beside" if cases["irrelevant"] else "downstream"
    cases["irrelevant"] = cases["irrelevant"] or downstream
    results = {}
    for name, members in cases.items():
        before = _right(model, tokenizer, [(row, target, row["labels"][target]) for row, target, _, _ in members])
        after = _right(model, tokenizer, [(new, at, row["labels"][target] if name == "removed" else new["labels"][at])
                                          for row, target, new, at in members])  # fmt: skip
        results[name] = share(after[before])
    results["irrelevant"]["kind"] = kind
    return results


def _right(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, wanted: list[tuple[Row, int, int]]
) -> np.ndarray:
    """Whether the model gives the wanted label to the clause of each (row, clause, label)."""
    right = [np.zeros(0, bool)]
    for start in range(0, len(wanted), AT_ONCE):
        rows, clauses, labels = zip(*wanted[start : start + AT_ONCE], strict=True)
        said = predict(model, batch_of(list(rows), tokenizer))
        right.append((said[torch.arange(len(rows)), list(clauses)] == torch.tensor(labels)).numpy())
    return np.concatenate(right)


def batch_of(rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> ClauseBatch:
    """Edited rows as a batch."""
    return clause_batch({name: [row[name] for row in rows] for name in ("prompt", *COLUMNS)}, tokenizer)


def patch_pairs(
    editor: Editor, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> list[tuple[ClauseBatch, ClauseBatch, torch.Tensor]]:
    """Sentences A, sentences B with another element in one clause that others follow from, and that clause."""
    rng = np.random.default_rng(seed)
    chosen = []
    for row in editor.rows:
        if followed := [clause for clause in editor.editable(row) if clause in row["parents"]]:
            clause = int(rng.choice(followed))
            chosen.append((row, editor.with_other_element(row, clause, rng), clause))
    pairs = []
    for start in range(0, len(chosen), AT_ONCE):
        ours, theirs, clauses = zip(*chosen[start : start + AT_ONCE], strict=True)
        pairs.append((batch_of([*ours], tokenizer), batch_of([*theirs], tokenizer), torch.tensor(clauses)))
    return pairs
