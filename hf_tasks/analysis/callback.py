"""Accuracy by depth and head scores while a model trains.

- Every so many steps one fixed batch of the validation split is looked at: accuracy by depth of all main clauses, told
  in training or not, the grid of (clauses, depth) if sentences differ in length, and the mean association, parent and
  local mass of every (application, head).
- Training does not notice: modes, attention implementation and random states are put back, so that a run with the
  callback ends bitwise equal to one without. How much time it takes is in benchmarks/callback.json.
- Entries go into the log history and, as whole lines, into `clauses.jsonl` of the output folder. A resumed run drops
  the lines behind its checkpoint, so that nothing stands there twice.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, TrainerCallback

from hf_tasks.analysis.forward import all_asked, asked_only, own_randomness, predict, read
from hf_tasks.analysis.heads import MASSES, score_heads
from hf_tasks.analysis.shortcuts import accuracy_by_depth, accuracy_grid
from hf_tasks.clauses import clause_batch
from hf_tasks.errors import UserError
from hf_tasks.files import write_text
from hf_tasks.tasks import Task

FILE = "clauses.jsonl"


class ClauseCallback(TrainerCallback):
    """Logs {"step", "accuracy_by_depth", "heads", "grid"}.

    Args:
        task: one that labels clauses. tokenizer: the model's.
        every: steps between looks. size: sentences of the batch.

    Raises:
        UserError: the task labels no clauses; when training begins: the model gives no attention maps.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, every: int = 100, size: int = 64) -> None:
        if not task.classes:
            raise UserError(f"task {task.name} labels no clauses, so there is no accuracy by depth to log")
        self.every = every
        rows = all_asked(task).table("validation", size)
        self.batch = asked_only(clause_batch(rows.to_pydict(), tokenizer))
        self.first = clause_batch(rows.slice(0, 1).to_pydict(), tokenizer)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with own_randomness(kwargs["model"]):
            score_heads(kwargs["model"], [self.first], MASSES, nulls=False)  # fails now or never
        file = Path(args.output_dir) / FILE
        if state.is_world_process_zero and file.is_file():
            lines = [line for line in file.read_text().splitlines() if _step(line) <= state.global_step]
            write_text(file, "".join(f"{line}\n" for line in lines))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every:
            return
        with own_randomness(kwargs["model"]):
            entry = {"step": state.global_step, **self.look(kwargs["model"])}
        state.log_history.append(entry)
        if state.is_world_process_zero:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            with (Path(args.output_dir) / FILE).open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def look(self, model: Any) -> dict[str, Any]:
        """What there is to say of a model now."""
        reading = read([self.batch], lambda batch: predict(model, batch))
        entry: dict[str, Any] = {
            "accuracy_by_depth": {str(cell["depth"]): cell["value"] for cell in accuracy_by_depth(reading)}
        }
        if len(np.unique(reading.clauses)) > 1:
            entry["grid"] = [
                {name: cell[name] for name in ("clauses", "depth", "value", "count")} for cell in accuracy_grid(reading)
            ]
        scores = score_heads(model, [self.batch], MASSES, nulls=False)
        entry["heads"] = {name: np.nanmean(of.values, -1).round(4).tolist() for name, of in scores.items()}
        return entry


def _step(line: str) -> float:
    """The step of a line; one that was cut off counts as never reached."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")
