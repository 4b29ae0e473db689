"""Recipe -> trained model, through the plain `Trainer`.

- No Trainer subclass: the learning rate of encodings is a matter of optimizer groups, the loss mask of the collator,
  exact match during training of a callback.
- Loss falls on the answer and <eos> alone.
- A run trains in `.training/RUN` and is moved to `RUN` in one rename when it is complete, so a folder without a dot is
  always a whole model. A run started again continues from its last whole checkpoint and ends bitwise equal on one CPU.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint

from hf_tasks.errors import UserError
from hf_tasks.evaluate import exact_matches
from hf_tasks.models import ENCODINGS, PositionalForCausalLM
from hf_tasks.models.position_encodings import Learned, PositionEncoding
from hf_tasks.recipe import Recipe, build_config, training_arguments
from hf_tasks.tasks import Task
from hf_tasks.tokenizer import build_tokenizer

WORKSHOP = ".training"  # unfinished runs, inside the output folder


def run_name(model: str, seed: int) -> str:
    """The folder of one trained model."""
    return f"{model}-seed{seed}"


def encode(rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
    """Prompts and answers as `input_ids` (<bos> prompt answer <eos>) and the length of the prompt in tokens."""
    prompts = tokenizer(rows["prompt"])["input_ids"]
    answers = tokenizer(rows["answer"], add_special_tokens=False)["input_ids"]
    return {
        "input_ids": [p + a + [tokenizer.eos_token_id] for p, a in zip(prompts, answers, strict=True)],
        "prompt_length": [len(p) for p in prompts],
    }


class AnswerCollator:
    """Pads on the right and masks the loss on prompts.

    There is no attention mask: padding lies behind every real token, and a causal model never looks there.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows of `encode` -> `input_ids` and `labels`, (B, longest)."""
        sequences = [torch.tensor(row["input_ids"]) for row in rows]
        input_ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=self.pad_token_id)
        slots = torch.arange(input_ids.shape[1])
        prompt = slots < torch.tensor([row["prompt_length"] for row in rows])[:, None]
        padding = slots >= torch.tensor([len(sequence) for sequence in sequences])[:, None]
        return {"input_ids": input_ids, "labels": input_ids.masked_fill(prompt | padding, -100)}


@lru_cache(maxsize=1)  # the models of a recipe share it
def training_data(task: Task, size: int | None, seed: int) -> Any:
    """Encoded training rows: a `Dataset` of `size`, or an endless `IterableDataset`."""
    tokenizer = build_tokenizer(task)
    rows = task.iterable("train", seed=seed) if size is None else task.dataset("train", size=size, seed=seed)
    mapped: Any = rows.select_columns(["prompt", "answer"])
    return mapped.map(encode, batched=True, fn_kwargs={"tokenizer": tokenizer}, remove_columns=["prompt", "answer"])


def parameter_groups(model: torch.nn.Module, recipe: Recipe, args: Any) -> list[dict[str, Any]]:
    """Optimizer groups: encodings at their own learning rates without decay, matrices with decay, the rest without."""
    names = {cls: name for name, cls in ENCODINGS.items()}
    factors = {
        id(parameter): recipe.encoding_lr_multiplier.get(names[type(module)], 1.0)
        for module in model.modules()
        if isinstance(module, PositionEncoding)
        for parameter in module.parameters()
    }
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = args.weight_decay if parameter.ndim > 1 and id(parameter) not in factors else 0.0
            groups.setdefault((factors.get(id(parameter), 1.0), decay), []).append(parameter)
    return [
        {"params": members, "lr": args.learning_rate * factor, "weight_decay": decay}
        for (factor, decay), members in groups.items()
    ]


class ExactMatchCallback(TrainerCallback):
    """Greedy exact match on validation rows every so many steps, into the log history as `exact_match`."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, every: int, size: int) -> None:
        self.task, self.tokenizer, self.every = task, tokenizer, every
        self.rows = task.generate("validation", size=size)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every:
            return
        model = kwargs["model"]
        right = exact_matches(model, self.tokenizer, self.task, list(self.rows["prompt"]))
        model.train()
        state.log_history.append({"exact_match": sum(right) / len(right), "step": state.global_step})
        if state.is_world_process_zero:
            print(f"step {state.global_step}: exact match {sum(right)}/{len(right)} on validation rows")


class Stopwatch(TrainerCallback, ExportableState):
    """Seconds of training, summed over interruptions."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        self.seconds, self.last = self.seconds + now - self.last, now

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"args": {"seconds": self.seconds}, "attributes": {}}


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; broken ones are removed."""
    while (found := get_last_checkpoint(str(folder)) if folder.is_dir() else None) is not None:
        try:
            json.loads((Path(found) / "trainer_state.json").read_text())  # the Trainer writes it last
            return found
        except (OSError, ValueError):
            shutil.rmtree(found)
    return None


def lengths_to_evaluate(recipe: Recipe) -> list[Any]:
    """Every length that any part of the evaluation asks for."""
    wanted = recipe.evaluation
    return [*wanted.lengths, *([a, b] for a in wanted.grid[-1:] for b in wanted.grid[-1:]), *wanted.hard_lengths]


def check_it_fits(recipe: Recipe) -> None:
    """Refuse, before anything is trained, a run whose longest sequence a table or a limit cannot hold.

    Raises:
        UserError: names the model, the length and what is too short.
    """
    tokenizer = build_tokenizer(recipe.get_task())
    limit = recipe.evaluation.max_new_tokens
    for task in [recipe.get_task(), *(recipe.task_at(length) for length in lengths_to_evaluate(recipe))]:
        prompt, answer = task.max_lengths
        if limit is not None and answer + 1 > limit:
            raise UserError(
                f"{recipe.name}.evaluation.max_new_tokens is {limit}, but an answer of {task.name} with "
                f"{task.parameters()} takes up to {answer + 1} tokens: raise it, or leave it out"
            )
        rows = task.generate("test", size=1)
        encoded = encode({"prompt": list(rows["prompt"]), "answer": list(rows["answer"])}, tokenizer)["input_ids"]
        for name in recipe.models:
            _check_tables(recipe, name, torch.tensor(encoded), prompt + answer + 2)


def _check_tables(recipe: Recipe, name: str, row: torch.Tensor, longest: int) -> None:
    with torch.device("cpu"):
        model = PositionalForCausalLM(build_config(recipe, name))
    ids = model.structural_ids(row)
    for index, encoding in enumerate(model.model.encodings):
        if isinstance(encoding, Learned):
            spec = model.config.positions[index]  # type: ignore[index]
            # Rows differ in length, so ids that count tokens are taken at the longest; the others at one full row.
            needed = longest if spec["ids"] == "sequential" else int(ids[..., index].max()) + 1
            needed += spec.get("max_offset", 0)
            if needed > encoding.size:
                raise UserError(
                    f"{recipe.name}.models.{name}: {spec['ids']} ids reach {needed - 1}, but the table of 'learned' has "
                    f"size {encoding.size}: raise size, or evaluate at shorter lengths"
                )


def train_model(recipe: Recipe, name: str, seed: int, output: Path) -> Path:
    """Train one model of a recipe, or continue, or do nothing if it stands.

    Args:
        recipe: from `load_recipe`.
        name: a key of its `models`.
        seed: of initialisation, data and order.
        output: the recipe's output folder.

    Returns:
        the folder of the finished model: weights, config, code, tokenizer and `training.json`.

    Raises:
        UserError: the recipe cannot be trained as it is.
    """
    finished, workshop = output / run_name(name, seed), output / WORKSHOP / run_name(name, seed)
    if finished.is_dir():
        return finished
    args = training_arguments(recipe, str(workshop), seed)
    if recipe.data.size is None and args.max_steps <= 0:
        raise UserError(f"{recipe.name}.data.size is not given, so the stream is endless: set trainer.max_steps")
    args.restore_callback_states_from_checkpoint = True
    task = recipe.get_task()
    tokenizer = build_tokenizer(task)
    set_seed(seed)
    model = PositionalForCausalLM(build_config(recipe, name))
    stopwatch = Stopwatch()
    callbacks: list[TrainerCallback] = [stopwatch]
    if recipe.evaluation.every is not None:
        callbacks.append(ExactMatchCallback(task, tokenizer, recipe.evaluation.every, recipe.evaluation.every_size))
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    trainer = Trainer(
        model=model,
        args=args,
        data_collator=AnswerCollator(tokenizer.pad_token_id),  # type: ignore[arg-type]
        train_dataset=training_data(task, recipe.data.size, seed),
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizers=(optimizer_class(parameter_groups(model, recipe, args), **options), None),
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(workshop))
    if not trainer.is_world_process_zero():
        return finished
    _finish(trainer, recipe, workshop, finished, _seconds(trainer, stopwatch))
    return finished


def _seconds(trainer: Trainer, ours: Stopwatch) -> float:
    # Restoring from a checkpoint replaces the callback by one made from its state.
    found: Iterator[Stopwatch] = (c for c in trainer.callback_handler.callbacks if isinstance(c, Stopwatch))
    return max((watch.seconds for watch in found), default=ours.seconds)


def _finish(trainer: Trainer, recipe: Recipe, workshop: Path, finished: Path, seconds: float) -> None:
    """Save the model with what is known of its training, then move it into place in one rename."""
    whole = workshop / "model"
    trainer.save_model(str(whole))
    facts = {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),  # type: ignore[union-attr]
        "train_examples": recipe.data.size,
        "train_steps": trainer.state.global_step,
        "train_seconds": round(seconds, 1),
        "log_history": trainer.state.log_history,
    }
    (whole / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    (whole / "training_args.bin").unlink(missing_ok=True)  # a pickle, with paths of this machine in it
    os.replace(whole, finished)
    shutil.rmtree(workshop)


def train(recipe: Recipe, seeds: list[int], output: Path) -> list[Path]:
    """Train every model of a recipe with every seed; see `train_model`."""
    check_it_fits(recipe)
    datasets.disable_progress_bars()
    return [train_model(recipe, name, seed, output) for seed in seeds for name in recipe.models]
