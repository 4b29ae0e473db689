"""The callback: what it logs, and that training does not notice."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from analysis_samples import Stub, encoder, tokenizer_of
from transformers import Trainer, TrainingArguments, set_seed

from hf_tasks.analysis.callback import FILE, ClauseCallback
from hf_tasks.analysis.forward import predict
from hf_tasks.clauses import NO_LABEL, clause_batch
from hf_tasks.errors import UserError
from hf_tasks.tasks import get_task

TASK = get_task("lego", clauses=(3, 4), query=False)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = clause_batch({name: [row[name] for row in rows] for name in rows[0]}, tokenizer_of(TASK))
    labels = torch.full_like(batch.input_ids, NO_LABEL)
    rows_, clauses = (batch.read_tokens >= 0).nonzero(as_tuple=True)
    labels[rows_, batch.read_tokens[rows_, clauses]] = batch.labels[rows_, clauses]
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}


def trained(output: Path, steps: int, callback: ClauseCallback | None, resume: bool = False) -> Trainer:
    set_seed(0)
    # Dropout draws random numbers in every step, and a frozen part would show a change of modes.
    model = encoder(TASK, dropout=0.1, num_hidden_layers=2)
    args = TrainingArguments(
        str(output), max_steps=steps, per_device_train_batch_size=8, save_steps=4, report_to="none", logging_steps=2,
        disable_tqdm=True, remove_unused_columns=False, use_cpu=True, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=args, data_collator=collate, train_dataset=TASK.dataset("train", 64),
        callbacks=[callback] if callback else [],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / FILE).read_text().splitlines()]


def test_training_ends_bitwise_equal_with_and_without(tmp_path: Path) -> None:
    plain = trained(tmp_path / "a", 6, None)
    watched = trained(tmp_path / "b", 6, ClauseCallback(TASK, tokenizer_of(TASK), every=2, size=8))
    assert plain.model is not None
    assert watched.model is not None
    for (name, before), after in zip(
        plain.model.state_dict().items(), watched.model.state_dict().values(), strict=True
    ):
        assert torch.equal(before, after), name
    assert watched.model.config._attn_implementation == "sdpa"
    assert [entry["step"] for entry in lines(tmp_path / "b")] == [2, 4, 6]
    logged = [entry for entry in watched.state.log_history if "accuracy_by_depth" in entry]
    assert logged == lines(tmp_path / "b")
    assert [e["loss"] for e in plain.state.log_history if "loss" in e] == [
        e["loss"] for e in watched.state.log_history if "loss" in e
    ]


def test_what_is_logged(tmp_path: Path) -> None:
    callback = ClauseCallback(TASK, tokenizer_of(TASK), size=20)
    model = encoder(TASK)
    entry = callback.look(model)
    rows = TASK.table("validation", 20).to_pydict()
    right = predict(model, callback.batch) == callback.batch.labels
    for depth in (1, 2, 3, 4):
        wanted = right[callback.batch.depths == depth].float().mean().item()
        assert entry["accuracy_by_depth"][str(depth)] == pytest.approx(wanted)
    assert {(cell["clauses"], cell["depth"]) for cell in entry["grid"]} == {
        (c, d) for c in (3, 4) for d in range(1, c + 1)
    }
    assert sum(cell["count"] for cell in entry["grid"]) == sum(map(len, rows["labels"]))
    assert set(entry["heads"]) == {"association", "parent", "local"}
    assert np.shape(entry["heads"]["local"]) == (3, 4)
    assert entry["heads"]["local"][0][2] > 0.7
    assert json.loads(json.dumps(entry)) == entry
    alike = get_task("lego", clauses=(3, 3), query=False)
    assert "grid" not in ClauseCallback(alike, tokenizer_of(alike), size=4).look(encoder(alike))


def test_a_resumed_run_logs_nothing_twice(tmp_path: Path) -> None:
    def callback() -> ClauseCallback:
        return ClauseCallback(TASK, tokenizer_of(TASK), every=2, size=8)

    trained(tmp_path / "whole", 8, callback())
    trained(tmp_path / "cut", 6, callback())  # checkpoint 4 is the last whole one ...
    for path in (tmp_path / "cut").glob("checkpoint-6/*"):
        path.unlink()
    (tmp_path / "cut" / "checkpoint-6").rmdir()
    with (tmp_path / "cut" / FILE).open("a") as file:  # ... and a line was being written when the power failed
        file.write('{"step": 8, "accuracy_by')
    trainer = trained(tmp_path / "cut", 8, callback(), resume=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert [e["step"] for e in trainer.state.log_history if "accuracy_by_depth" in e] == [2, 4, 6, 8]


def test_what_cannot_be_watched_is_one_line(tmp_path: Path) -> None:
    addition = get_task("addition")
    with pytest.raises(UserError, match="task addition labels no clauses"):
        ClauseCallback(addition, tokenizer_of(addition))
    state: Any = SimpleNamespace(is_world_process_zero=True, global_step=0)
    args: Any = SimpleNamespace(output_dir=str(tmp_path))
    callback = ClauseCallback(TASK, tokenizer_of(TASK), size=4)
    with pytest.raises(UserError, match="gives no attention maps"):
        callback.on_train_begin(args, state, None, model=Stub(logits=None))
