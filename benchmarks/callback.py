"""What the callback costs: training with `ClauseCallback` at its defaults beside the same training without it.

    python -m benchmarks.callback

- The model is the encoder that follows chains (one shared layer looped), the task LEGO with 8 clauses; the batch size
  is the callback's own, 64, so that one look is compared with as many sentences of training.
- The callback leaves nothing behind, so that training without it is training less the time inside it: the ratio is that
  of one run's processor time to the same without its looks, a median over runs. Two trainings side by side differ by
  more than a look takes; their ratio is kept as `ratio_of_two_runs`.
- `benchmarks/callback.json` keeps the last run with hardware and versions.
"""

import inspect
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks.generation import hardware, versions
from hf_tasks.analysis.callback import ClauseCallback
from hf_tasks.clauses import encode_clauses
from hf_tasks.files import write_text
from hf_tasks.models import PositionalConfig, PositionalForTokenClassification
from hf_tasks.tasks import get_task
from hf_tasks.tokenizer import build_tokenizer

RESULT = Path(__file__).with_suffix(".json")
ROUNDS = 5
TASK = get_task("lego", clauses=(8, 8), query=False)
DEFAULTS = {
    name: p.default for name, p in inspect.signature(ClauseCallback).parameters.items() if name in ("every", "size")
}
BATCH = DEFAULTS["size"]


class Timed(ClauseCallback):
    """Adds up the processor time that it takes."""

    inside = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        start = time.process_time()
        super().on_train_begin(*args, **kwargs)
        self.inside += time.process_time() - start

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        start = time.process_time()
        super().on_step_end(*args, **kwargs)
        self.inside += time.process_time() - start


def trainer(callback: ClauseCallback | None, output: str) -> Trainer:
    """A trainer of the small encoder."""
    tokenizer = build_tokenizer(TASK)
    config = PositionalConfig.from_tokenizer(
        tokenizer, hidden_size=64, num_hidden_layers=8, num_attention_heads=4, share_layers=True, input_injection=True,
        norm_position="post", is_causal=False, num_labels=len(TASK.classes),
        positions=[
            {"ids": "token", "encoding": "match", "initial": 8.0, "heads": [0, 1]},
            {"ids": "clause", "encoding": "match", "initial": 8.0, "heads": [2, 3]},
            {"ids": "segment", "encoding": "learned", "size": 16},
        ],
    )  # fmt: skip
    rows: Any = TASK.dataset("train", 20_000)
    encoded = [
        {"input_ids": ids, "labels": labels_at(ids, places, labels)}
        for ids, places, labels in zip(*encode_clauses(rows[:], tokenizer).values(), rows["labels"], strict=True)
    ]
    args = TrainingArguments(
        output, max_steps=DEFAULTS["every"], per_device_train_batch_size=BATCH, save_strategy="no", report_to="none",
        logging_strategy="no", disable_tqdm=True, use_cpu=True, learning_rate=1e-3,
    )  # fmt: skip
    callbacks: list[TrainerCallback] = [callback] if callback else []
    made = Trainer(
        model=PositionalForTokenClassification(config), args=args, train_dataset=encoded, data_collator=collate,  # type: ignore[arg-type]
        callbacks=callbacks,
    )  # fmt: skip
    made.remove_callback(PrinterCallback)
    return made


def labels_at(ids: list[int], places: list[int], labels: list[int]) -> list[int]:
    """Labels of tokens: those of the clauses at their read-out tokens, -100 elsewhere."""
    found = dict(zip(places, labels, strict=True))
    return [found.get(place, -100) for place in range(len(ids))]


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """All sentences have the same length."""
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def main() -> None:
    torch.manual_seed(0)
    seconds: dict[str, list[float]] = {"plain": [], "watched": [], "inside": []}
    callback = Timed(TASK, build_tokenizer(TASK))
    with tempfile.TemporaryDirectory() as folder:
        trainers = {"plain": trainer(None, folder), "watched": trainer(callback, folder)}
        for turn in range(ROUNDS + 1):
            callback.inside = 0.0
            for name, one in trainers.items():
                start = time.process_time()
                one.train()
                seconds[name].append(time.process_time() - start)
            seconds["inside"].append(callback.inside)
            print(f"round {turn}: " + ", ".join(f"{name} {of[-1]:.2f} s" for name, of in seconds.items()), flush=True)
    medians = {name: statistics.median(of[1:]) for name, of in seconds.items()}
    ratio = statistics.median(w / (w - i) for w, i in zip(seconds["watched"][1:], seconds["inside"][1:], strict=True))
    print(f"with the callback training takes {ratio:.3f} times as long")
    result = {
        "command": "python -m benchmarks.callback",
        "hardware": hardware(),
        "versions": versions("torch", "transformers"),
        "threads": torch.get_num_threads(),
        "batch_size": BATCH,
        **DEFAULTS,
        "processor_seconds": {name: round(value, 2) for name, value in medians.items()},
        "ratio": round(ratio, 4),
        "ratio_of_two_runs": round(medians["watched"] / medians["plain"], 4),
    }
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
