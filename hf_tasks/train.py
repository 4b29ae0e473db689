"""Recipe -> trained model, through the `Trainer`.

- Of the Trainer two things are not as it makes them: which rows a batch holds, and the optimizer. The loss mask is a
  matter of the collator, what is watched during training of callbacks.
- Loss falls on the answer and <eos> alone, or on the labels of the asked clauses.
- Several processes (`torchrun`) share the very batches that one process would see, and what they compute is equal to
  rounding, but for what is random inside the model. What is written is written by the first of them.
- A run trains in `.training/RUN` and is moved to `RUN` in one rename when it is complete, so a folder without a dot is
  always a whole model. A run started again continues from its last whole checkpoint and ends bitwise equal on CPUs.
- A checkpoint is whole if every file is as the list says that is written behind all of them.
"""

import itertools
import json
import os
import shutil
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm
from transformers import (
    BatchEncoding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import get_last_checkpoint
from xxhash import xxh3_128

from hf_tasks.adapters import add_adapter, check_can_merge, get_tokenizer, load_base
from hf_tasks.analysis.callback import ClauseCallback
from hf_tasks.analysis.sharpness import SharpnessCallback
from hf_tasks.clauses import NO_LABEL, ClauseCollator, encode_clauses, loss_by_depth, mean_of_all
from hf_tasks.errors import UserError
from hf_tasks.evaluate import exact_matches
from hf_tasks.files import full_disk_as_os_error, write_text
from hf_tasks.freeze import freeze_embeddings, training_bytes
from hf_tasks.hints import HEADS, HintCollator, add_hint_heads, drop_hint_heads, hint_loss, save_hint_heads
from hf_tasks.llama import positional_model
from hf_tasks.mimic import mimic
from hf_tasks.models import PositionalConfig, PositionalForCausalLM, read_tokens
from hf_tasks.models.position_encodings import Learned
from hf_tasks.models.position_ids import Tokens
from hf_tasks.optimizer import build_optimizer
from hf_tasks.recipe import (
    TEXT,
    TOKEN_CLASSIFICATION,
    Experiment,
    Recipe,
    build_config,
    check_stable,
    run_name,
    training_arguments,
)
from hf_tasks.stock import build_classifier, classifier_tokenizer, load_tokenizer, stock_config, tokenizer_source
from hf_tasks.tasks import Task

WORKSHOP = ".training"  # unfinished runs, inside the output folder
LISTING = "whole.json"  # of a checkpoint: its files with their sizes and hashes


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


def _rows(task: Task, size: int | None, seed: int, columns: list[str]) -> Any:
    """Some columns of the training rows: `size` of them, or of an endless stream those of this process."""
    if size is not None:
        return task.dataset("train", size=size, seed=seed).select_columns(columns)
    stream, processes = task.iterable("train", seed=seed).select_columns(columns), PartialState()
    if processes.num_processes == 1:
        return stream
    share = {"rows": stream, "rank": processes.process_index, "processes": processes.num_processes}
    return datasets.IterableDataset.from_generator(_share, gen_kwargs=share)


def _share(rows: Iterable[Any], rank: int, processes: int) -> Iterator[Any]:
    """Every so-manieth row, so that n rows of each process are the next n x `processes` rows of one."""
    return itertools.islice(rows, rank, None, processes)


@lru_cache(maxsize=1)  # the models of a recipe share it
def training_data(
    task: Task, size: int | None, seed: int, base: str | None = None, with_prompts: bool = False
) -> Any:  # fmt: skip
    """Encoded training rows: a `Dataset` of `size`, or an endless `IterableDataset`; a base has its own tokenizer."""
    tokenizer = get_tokenizer(task, base)
    texts = _rows(task, size, seed, ["prompt", "answer"])
    bar = {} if size is None else {"desc": "encoding"}
    read = ["answer"] if with_prompts else ["prompt", "answer"]
    return texts.map(encode, batched=True, fn_kwargs={"tokenizer": tokenizer}, remove_columns=read, **bar)


@lru_cache(maxsize=1)
def labelled_data(task: Task, size: int | None, seed: int, stock: str | None) -> Any:
    """As `training_data`, for token classifiers: the columns that `ClauseCollator` reads."""
    tokenizer = load_tokenizer(task, stock)
    kept = _rows(task, size, seed, ["prompt", "read_positions", "labels", "depths", "asked"])
    bar = {} if size is None else {"desc": "encoding"}
    read = ["prompt", "read_positions"]
    return kept.map(encode_clauses, batched=True, fn_kwargs={"tokenizer": tokenizer}, remove_columns=read, **bar)


class Batches(Sampler[list[int]]):
    """Row numbers of the batches of an epoch, and of each batch the share of one process.

    The order hangs on seed and epoch alone: all processes draw the same, and so does a run that is resumed. In shares
    of different sizes, at the end of an epoch, every row still counts the same, because losses are sums over all
    processes divided by the number of all labels.

    Args:
        rows: how many there are; or the length of each, and rows of similar length come together.
        size: of a batch, all processes together.
        seed: of the order; None: as they lie.
        rank, processes: whose share, of how many.
        grouped: batches among which rows of similar length are spread at random.
        drop_last: leave out the last batch of an epoch if it is smaller than the others.

    Raises:
        UserError: the last batch has fewer rows than there are processes.
    """

    def __init__(
        self,
        rows: int | Sequence[int],
        size: int,
        seed: int | None = 0,
        rank: int = 0,
        processes: int = 1,
        grouped: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.lengths = None if isinstance(rows, int) else rows
        self.count = rows if isinstance(rows, int) else len(rows)
        self.size, self.seed, self.rank, self.processes, self.grouped = size, seed, rank, processes, grouped
        self.batches, self.epoch, rest = self.count // size, 0, self.count % size
        if rest and not drop_last:
            self.batches += 1
            if rest < processes:
                raise UserError(
                    f"the last batch of {self.count} rows by {size} would have {rest}, too few for {processes} "
                    "processes: set trainer.dataloader_drop_last: true, or take another number of rows"
                )

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next; called by the Trainer."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(0, self.batches * self.size, self.size):
            yield order[start : start + self.size][self.rank :: self.processes]

    def _order(self) -> list[int]:
        if self.seed is None:
            return list(range(self.count))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.lengths is None:
            return torch.randperm(self.count, generator=generator).tolist()
        return get_length_grouped_indices(self.lengths, self.size * self.grouped, generator=generator)


class RecipeTrainer(Trainer):
    """The Trainer, with our batches and optimizer groups.

    Its own order by length is drawn from the state of the model's random numbers, which processes do not share and a
    resumed run does not have; and it fills the last batch of an epoch with rows that were there before.
    """

    def __init__(self, recipe: Experiment, **parts: Any) -> None:
        super().__init__(**parts)
        self.recipe = recipe

    def get_train_dataloader(self) -> DataLoader:
        """Batches of the rows of this process."""
        args, data = self.args, self.train_dataset
        if args.train_sampling_strategy == "batch_rebalance":  # seeded and shared out already
            return super().get_train_dataloader()
        chosen: dict[str, Any] = {"batch_size": self._train_batch_size}
        if isinstance(data, Sized):
            rows: Any = len(data)
            if args.train_sampling_strategy == "group_by_length":
                encoded: Any = data
                rows = pc.list_value_length(encoded.with_format("arrow")[:]["input_ids"]).to_pylist()  # type: ignore[attr-defined]
            chosen = {
                "batch_sampler": Batches(
                    rows,
                    self._train_batch_size * args.world_size,
                    None if args.train_sampling_strategy == "sequential" else args.data_seed,
                    args.process_index,
                    args.world_size,
                    args.gradient_accumulation_steps,
                    args.dataloader_drop_last,
                )
            }
        loader = DataLoader(
            data,  # type: ignore[arg-type]
            **chosen,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # To accelerate this is the loader of one process alone: it has nothing to share out.
        return prepare_data_loader(
            loader,
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """That of the recipe; see optimizer.py."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model if model is None else model, self.recipe, self.args)
        return self.optimizer


def label_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross-entropy of token classes, summed and divided by the number of labels in the whole batch.

    The models' own is a mean over the labels of one process, and the Trainer takes it for this one.
    """
    logits = outputs.logits.flatten(0, 1).float()
    total = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=NO_LABEL, reduction="sum")
    return total / num_items_in_batch


def depth_loss(model: Any, layers_per_clause: int, args: Any) -> Callable[..., torch.Tensor]:
    """`loss_by_depth` for several processes: each counts by how many values it reads off."""
    alone, layers = loss_by_depth(model, layers_per_clause), model.config.num_hidden_layers

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        classes, depths = labels.unbind(-1)
        readings = (layers // layers_per_clause - depths + 1).clamp(min=0)[classes != NO_LABEL].sum()
        return mean_of_all(alone(outputs, labels), readings, args)

    return loss


class ExactMatchCallback(TrainerCallback):
    """Greedy exact match on validation rows every so many steps, into the log history as `exact_match`.

    Every process measures, for where weights are sharded none can do it alone.
    """

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
            tqdm.write(f"step {state.global_step}: exact match {sum(right)}/{len(right)} on validation rows")


class Throughput(TrainerCallback):
    """Adds `rows_per_second`, of all processes together, to what is logged; to come before who reads it."""

    def __init__(self) -> None:
        self.step, self.since = 0, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step, self.since = state.global_step, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs and state.global_step > self.step:
            rows, now = (state.global_step - self.step) * rows_per_step(args), time.monotonic()
            logs["rows_per_second"] = round(rows / (now - self.since), 1)
            self.step, self.since = state.global_step, now


class Bar(ProgressCallback):
    """The Trainer's progress bar, with the name of the run before it, and loss and throughput behind it."""

    place: int | None = None  # its line, of several processes that share a terminal

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, desc=self.name, dynamic_ncols=True, position=self.place)
        self.current_step = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.training_bar is not None and "loss" in (logs or {}):
            shown = {"loss": "loss", "rows_per_second": "rows/s", "train_tokens_per_second": "tokens/s"}
            known: Any = logs
            self.training_bar.set_postfix({shown[key]: f"{float(known[key]):.4g}" for key in shown if key in known})


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


class Seal(TrainerCallback):
    """Lists the files of a checkpoint behind them all, when every process has written its own."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", args.world_size)


def seal(checkpoint: Path, processes: int) -> None:
    """Write the listing of a checkpoint, the last of its files; see `fault_of`."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    listed = {path.relative_to(checkpoint).as_posix(): [path.stat().st_size, _hash(path)] for path in files}
    write_text(checkpoint / LISTING, json.dumps({"processes": processes, "files": listed}, indent=1) + "\n")


def fault_of(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole: never written to its end, or a file is missing, cut off or changed."""
    try:
        listed = json.loads((checkpoint / LISTING).read_text())["files"]
    except (OSError, ValueError):
        return "it was not written to its end"
    for name, (size, content) in listed.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if _hash(path) != content:
            return f"{name} has changed"
    return None


def _hash(path: Path) -> str:
    found = xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            found.update(chunk)
    return found.hexdigest()


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; broken ones are removed, with a line about each."""
    while (found := get_last_checkpoint(str(folder)) if folder.is_dir() else None) is not None:
        fault = fault_of(Path(found))
        if fault is None:
            return found
        tqdm.write(f"{folder.name}: {Path(found).name} is broken ({fault}) and was removed")
        shutil.rmtree(found)
    return None


def _agreed_checkpoint(folder: Path) -> str | None:
    """The checkpoint to go on from: the first process looks, the others are told.

    Raises:
        UserError: another number of processes wrote it.
    """
    state = PartialState()
    found: list[Any] = [last_whole_checkpoint(folder) if state.is_main_process else None]
    broadcast_object_list(found)
    if found[0] is None:
        return None
    processes = json.loads((Path(found[0]) / LISTING).read_text())["processes"]
    if processes != state.num_processes:
        raise UserError(
            f"{str(folder)!r} was begun by {processes} processes, not {state.num_processes}: go on with torchrun "
            f"--nproc-per-node {processes}, or delete it to begin anew"
        )
    if state.is_main_process:
        tqdm.write(f"{folder.name}: going on from {Path(found[0]).name}")
    return found[0]


def lengths_to_evaluate(recipe: Recipe, name: str) -> list[Any]:
    """Every length that any part of the evaluation of a model asks for, each cell of the grid included."""
    wanted = recipe.evaluation
    return [*recipe.lengths(name), *([a, b] for a in wanted.grid for b in wanted.grid), *wanted.hard_lengths]


def check_it_fits(recipe: Any) -> None:
    """Refuse, before anything is trained, a run that would fail later: no such rows, a table too short.

    Here a base is looked at for the first time, too.

    Raises:
        UserError: names the task's parameters or the model, and what is too small; or what the base lacks.
    """
    if recipe.head == TEXT:  # all but its texts was looked at on loading
        return
    for where, lengths in {
        f"{recipe.name}.evaluation": recipe.evaluation.lengths,
        **{f"{recipe.name}.models.{name}": recipe.section(name).lengths or [] for name in recipe.models},
    }.items():
        if len({str(length) for length in lengths}) < len(lengths):
            raise UserError(f"{where}.lengths names a length twice: {lengths}")
    for name in recipe.models:
        steps = training_arguments(recipe.with_trainer_of(name), "unused", 0).max_steps
        if recipe.data_of(name).size is None and steps <= 0:
            raise UserError(
                f"{recipe.name}: model {name} is given no data.size, so its stream is endless: set trainer.max_steps"
            )
    if recipe.head == TOKEN_CLASSIFICATION:
        _check_classifiers(recipe)
        return
    alike: dict[tuple[Task, ...], list[str]] = {}
    for name in recipe.models:
        tasks = [recipe.get_task(name), *(recipe.task_at(length, name) for length in lengths_to_evaluate(recipe, name))]
        alike.setdefault(tuple(dict.fromkeys(tasks)), []).append(name)
    for tasks, names in alike.items():
        _check_answers(recipe, names, list(tasks))


def _check_answers(recipe: Recipe, names: list[str], tasks: list[Task]) -> None:
    """`check_it_fits` for causal models that share a task: that of training first, then those of evaluation."""
    training, wanted = tasks[0], recipe.evaluation
    if wanted.every is not None:
        training.table("validation", size=1)
    for length in wanted.hard_lengths:
        if not recipe.task_at(length, names[0]).hard_cases(size=1):
            raise UserError(f"{recipe.name}.evaluation.hard_lengths: {training.name} has no hard cases at {length}")
    # Training lengths are mixed: the longest of many rows stands for them.
    tables = [training.table("train", size=256), *(task.table("test", size=1) for task in tasks)]
    texts = [max(map(str.__add__, *(t[c].to_pylist() for c in ("prompt", "answer"))), key=len) for t in tables]
    # A model that has not learned to stop goes on to the limit, with one digit (or, without any, name) after the other.
    for task, table in zip(tasks, tables[1:], strict=True):
        token = [*task.number_format()["digits"], *task.vocabulary][0]
        texts.append(table["prompt"][0].as_py() + token * (task.max_lengths[1] + 1))
    rows = get_tokenizer(training, recipe.base)(texts, padding=True, return_tensors="pt")
    longest = max(sum(task.max_lengths) for task in tasks) + 2
    if recipe.base is not None:
        _check_base(recipe, names, training, rows, longest)
    else:
        for name in names:
            _check_tables(build_config(recipe, name), f"{recipe.name}.models.{name}", rows, longest)


def _check_classifiers(recipe: Recipe) -> None:
    """`check_it_fits` for token classifiers: there are such rows, and each model reads the longest of them."""
    wanted = recipe.evaluation
    if recipe.base is not None or wanted.grid or wanted.hard_lengths:
        raise UserError(
            f"{recipe.name}: head {TOKEN_CLASSIFICATION} reads no base, and no evaluation.grid or hard_lengths: "
            "leave them out"
        )
    for name in recipe.models:
        where, section = f"{recipe.name}.models.{name}", recipe.section(name)
        training = recipe.get_task(name)
        tasks = [training, *(recipe.task_at(length, name) for length in recipe.lengths(name))]
        tokenizer = classifier_tokenizer(recipe, name)
        if section.stock is None and not all({*task.vocabulary} <= {*training.vocabulary} for task in tasks):
            raise UserError(
                f"{where}: evaluation writes tokens that training does not know: let both have one alphabet"
            )
        prompts = [
            max(task.table(split, size=16)["prompt"].to_pylist(), key=len)
            for task, split in zip(tasks, ["train"] + ["test"] * (len(tasks) - 1), strict=True)
        ]
        rows = tokenizer(prompts, padding=True, return_tensors="pt")
        config = build_config(recipe, name) if section.stock is None else stock_config(recipe, name)
        if section.stock is None:
            _check_tables(config, where, rows, rows["input_ids"].shape[1])
            if config.is_causal:
                _check_seen(where, tokenizer, training)
        elif rows["input_ids"].shape[1] > getattr(config, "max_position_embeddings", rows["input_ids"].shape[1]):
            raise UserError(f"{where} takes {config.max_position_embeddings} tokens, and prompts have up to "
                            f"{rows['input_ids'].shape[1]}: use shorter lengths")  # fmt: skip
        if section.layers_per_clause is not None:
            _check_layers(where, section.layers_per_clause, config, training)


def _check_seen(where: str, tokenizer: PreTrainedTokenizerBase, task: Task) -> None:
    """Refuse read-out places at which a causal model has not seen all of the clause but the token that closes it."""
    row = {name: values[0] for name, values in task.generate("train", size=1).items()}
    for start, place, end in zip(row["clause_starts"], row["read_positions"], row["clause_ends"], strict=True):
        if len(tokenizer(row["prompt"][place:end], add_special_tokens=False)["input_ids"]) > 2:  # type: ignore[arg-type]
            raise UserError(
                f"{where}.is_causal is true, and the value of the clause {row['prompt'][start:end]!r} is read off "
                "before a causal model has seen the rest of it: set is_causal to false or, for lego, "
                "parameters.read_at to end"
            )


def _check_layers(where: str, layers_per_clause: int, config: Any, task: Task) -> None:
    """Refuse layers too few for what is asked in training."""
    rows = task.generate("train", size=256)
    asked = zip(rows["depths"], rows["asked"], strict=True)
    deepest = max((depth for row in asked for depth, told in zip(*row, strict=True) if told), default=1)
    if not 1 <= layers_per_clause * deepest <= config.num_hidden_layers:
        raise UserError(
            f"{where}.layers_per_clause {layers_per_clause} takes {layers_per_clause * deepest} layers for depth "
            f"{deepest}, and the model has {config.num_hidden_layers}: raise num_hidden_layers, or ask less deep"
        )


def _check_base(recipe: Recipe, names: list[str], task: Task, rows: BatchEncoding, longest: int) -> None:
    """Refuse a base that does not suit the task, and adapters that do not suit the base, by building each once."""
    base: Any = recipe.base
    where, config = f"{recipe.name}: base {base!r}", typing.cast(Any, load_base(base).config)
    window = getattr(config, "max_position_embeddings", None)
    tokenizer = get_tokenizer(task, base)
    if isinstance(config, PositionalConfig):
        _check_places(config, where, task)
        check_stable(where, config, tokenizer, task)
        _check_tables(config, where, rows, longest)
    elif window is not None and longest > window:
        raise UserError(f"{where} takes {window} tokens, and problems take up to {longest}: use shorter lengths")
    for name in names:
        model, theirs = _build_model(recipe, name), f"{recipe.name}.models.{name}.positions"
        if recipe.added_positions(name):
            check_stable(theirs, model.config, tokenizer, task)
            _check_tables(model.config, theirs, rows, longest)
            if isinstance(model, PeftModel):
                check_can_merge(model, theirs)


def _check_places(config: PositionalConfig, where: str, task: Task) -> None:
    """Refuse numbers that the base would read from the wrong end."""
    style = task.number_format()
    theirs, ours = (config.reversed_numbers, config.answer_width), (style["reverse"], style["answer_width"])
    # The width matters where an answer is counted down from it.
    same = theirs == ours if theirs[0] == "none" else theirs[0] == ours[0]
    if not same and any(pair.ids.needs == "digit_token_ids" for pair in config.pairs()):
        raise UserError(
            f"{where} reads numbers as reversed: {theirs[0]}, answer_width: {theirs[1]}, and the task writes them as "
            f"{ours[0]}, {ours[1]}: set parameters.reverse and parameters.pad to what the base was trained with"
        )


def _check_tables(config: PositionalConfig, where: str, rows: BatchEncoding, longest: int) -> None:
    """Refuse a table of `learned` that is too short for the ids of these rows, or of `longest` tokens."""
    tokens = read_tokens(config, rows["input_ids"], rows["attention_mask"].bool())
    count = Tokens(ids=None, kind=None, answer=None, real=torch.ones(1, longest, dtype=torch.bool))
    for spec, pair in zip(config.positions or [], config.pairs(), strict=True):
        if pair.encoding is not Learned:
            continue
        highest = int(pair.ids(tokens if pair.ids.from_tokens else count, False).max())
        drawn = [highest + getattr(pair.ids, "max_offset", 0), getattr(pair.ids, "max_length", 0) - 1]
        with torch.device("meta"):
            table: Any = pair.build(config)
        if max(drawn) >= table.size:
            raise UserError(
                f"{where}: {spec['ids']} ids reach {max(drawn)}, but the table of 'learned' has size {table.size}: "
                "raise size, or evaluate at shorter lengths"
            )


def train_model(recipe: Any, name: str, seed: int, output: Path) -> Path:
    """Train one model of a recipe, or continue, or do nothing if it stands.

    Args:
        recipe: from `load_recipe`.
        name: a key of its `models`.
        seed: of initialisation, data and order.
        output: the recipe's output folder.

    Returns:
        the folder of the finished model: weights, config, code, tokenizer and `training.json`; of an adapter, its
        weights and config in PEFT's form, tokenizer and `training.json`. An adapter on a base that was given positions
        is merged into it.

    Raises:
        UserError: transformers or torch refuse the recipe's settings.
    """
    finished, workshop = output / run_name(name, seed), output / WORKSHOP / run_name(name, seed)
    if finished.is_dir():
        return finished
    checkpoint = _agreed_checkpoint(workshop)
    try:
        trainer = _build_trainer(recipe, name, seed, workshop, checkpoint is not None)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"{recipe.name}, model {name}: {' '.join(str(error).split())}") from error
    if rank := trainer.args.process_index:  # else all processes would drop the same units
        set_seed(seed + rank)
    with full_disk_as_os_error(output):
        if trainer.args.max_steps != 0:  # the Trainer would take one step
            trainer.train(resume_from_checkpoint=checkpoint)
        _finish(trainer, workshop, finished)
    return finished


def _build_trainer(recipe: Any, name: str, seed: int, workshop: Path, continued: bool) -> Trainer:
    callbacks: list[TrainerCallback] = [Stopwatch(), Seal()]
    recipe = recipe.with_trainer_of(name)
    if recipe.head == TEXT:
        from hf_tasks.text.train import trainer_parts

        parts = trainer_parts(recipe, name, seed, workshop.parent.parent)
    else:
        parts = _task_parts(recipe, name, seed, continued, workshop.parent.parent)
        if recipe.evaluation.every is not None:
            watch = ClauseCallback if recipe.head == TOKEN_CLASSIFICATION else ExactMatchCallback
            shown = recipe.evaluation.every, recipe.evaluation.every_size
            callbacks.append(watch(recipe.get_task(name), parts["processing_class"], *shown))
        if recipe.evaluation.sharpness is not None:
            callbacks.append(_sharpness_callback(recipe, name, parts))
    args = training_arguments(recipe, str(workshop), seed)
    args.restore_callback_states_from_checkpoint = True
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False  # every parameter is used in every step
    trainer = RecipeTrainer(recipe, **parts, args=args, callbacks=callbacks)
    trainer.callback_handler.callbacks.insert(0, Throughput())
    trainer.create_optimizer()  # what is wrong with its settings is found here
    trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
    if not args.disable_tqdm:
        trainer.add_callback(Bar(run_name(name, seed)))
    return trainer


def _task_parts(recipe: Recipe, name: str, seed: int, continued: bool, output: Path) -> dict[str, Any]:
    """Model, tokenizer, data, collator and loss of a model on a task, by the names of the Trainer's arguments."""
    task = recipe.get_task(name)
    set_seed(seed)
    if recipe.head == TOKEN_CLASSIFICATION:
        tokenizer = classifier_tokenizer(recipe, name)
        data = labelled_data(task, recipe.data_of(name).size, seed, tokenizer_source(recipe, name))
        per_clause = recipe.section(name).layers_per_clause
        collator: Any = ClauseCollator(tokenizer.pad_token_id, per_clause is not None)  # type: ignore[arg-type]
        set_seed(seed)
        model = _begun(recipe, name, seed, build_classifier(recipe, name), output)
        if not continued:
            _mimic(recipe, name, seed, model, data, collator)
        args = training_arguments(recipe, "unused", seed)
        loss: Any = label_loss if per_clause is None else depth_loss(model, per_clause, args)
    else:
        tokenizer = get_tokenizer(task, recipe.base)
        per_hint = recipe.section(name).layers_per_hint if recipe.base is None else None
        data = training_data(task, recipe.data_of(name).size, seed, recipe.base, per_hint is not None)
        collator, loss = AnswerCollator(tokenizer.pad_token_id), None  # type: ignore[arg-type]
        model = _begun(recipe, name, seed, _build_model(recipe, name), output)
        if per_hint is not None:
            before = recipe.section(name).start_from
            add_hint_heads(model, task, None if before is None else output / run_name(before, seed))
            collator = HintCollator(collator, task, model.config.num_hidden_layers // per_hint)
            loss = hint_loss(model, per_hint, training_arguments(recipe, "unused", seed))
    return {
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": data,
        "data_collator": collator,
        "compute_loss_func": loss,
    }


def _begun(recipe: Recipe, name: str, seed: int, model: Any, output: Path) -> Any:
    """The model with the weights of the one that it starts from, and frozen, where its section says so."""
    section = recipe.section(name)
    if section.start_from is not None:
        before = output / run_name(section.start_from, seed)
        model = type(model).from_pretrained(before, config=model.config, dtype=torch.float32)
    if section.freeze_embeddings:
        freeze_embeddings(model, max_share=1.0)
    return model


def _sharpness_callback(recipe: Recipe, name: str, parts: dict[str, Any]) -> SharpnessCallback:
    """On the first training rows, by the loss that is trained."""
    rows = list(itertools.islice(parts["train_dataset"], recipe.evaluation.every_size))
    batch, of = parts["data_collator"](rows), parts["compute_loss_func"]
    # That of training is a share of it: of an accumulated step, of several processes.
    if (per_clause := recipe.section(name).layers_per_clause) is not None:
        of = loss_by_depth(parts["model"], per_clause)
    elif hasattr(parts["model"], HEADS):
        of = hint_loss(parts["model"], typing.cast(int, recipe.section(name).layers_per_hint))

    def loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
        if of is None:
            return model(**batch).loss
        labels = batch["labels"]
        outputs = model(**{key: value for key, value in batch.items() if key != "labels"})
        return of(outputs, labels, (labels != NO_LABEL).sum())

    return SharpnessCallback(batch, typing.cast(int, recipe.evaluation.sharpness), loss)


def _build_model(recipe: Recipe, name: str) -> Any:
    """A new model, or the base with what is trained of it; random weights are drawn from torch's generator."""
    if recipe.base is None:
        return PositionalForCausalLM(build_config(recipe, name))
    base, where = load_base(recipe.base), f"{recipe.name}.models.{name}"
    if positions := recipe.added_positions(name):
        task = recipe.get_task(name)
        try:
            base = positional_model(base, get_tokenizer(task, recipe.base), task, positions)
        except UserError as error:
            raise UserError(f"{where}.positions: {error}") from error
    return add_adapter(base, recipe.model_fields(name), where)


def _mimic(recipe: Recipe, name: str, seed: int, model: Any, data: Any, collator: Any) -> None:
    """Train the heads to mimic if the model's section says so; every process does the same."""
    wanted, silent = recipe.section(name).mimic, not PartialState().is_main_process
    if wanted is None:
        return
    order = data.shuffle(seed=seed)
    loader = DataLoader(order, batch_size=wanted.batch_size, collate_fn=collator)
    batches = (batch for _ in itertools.count() for batch in loader)
    bar = tqdm(batches, desc=f"mimic {name}", total=wanted.steps, disable=silent)
    losses = mimic(model, bar, wanted.steps, wanted.learning_rate)
    if not silent:
        tqdm.write(f"{name}: mimicking took the divergence of the maps from {losses[0]:.3f} to {losses[-1]:.3f}")


def _finish(trainer: Trainer, workshop: Path, finished: Path) -> None:
    """Save the model with what is known of its training, then move it into place in one rename."""
    # Asked of the Trainer, since resuming replaces the callback that it was given by one made from the checkpoint.
    (stopwatch,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, Stopwatch))
    rows_seen = trainer.state.global_step * rows_per_step(trainer.args)
    whole, model = workshop / "model", typing.cast(Any, trainer.model)
    model.config.use_cache = True  # the Trainer switches it off
    whole.mkdir(parents=True, exist_ok=True)
    save_hint_heads(model, whole)
    needed = training_bytes(model, trainer.optimizer)
    drop_hint_heads(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if isinstance(model, PeftModel) and not model.config.name_or_path:  # there is no checkpoint for it to lie on
        trainer.model = model = model.merge_and_unload()  # type: ignore[operator]
    trainer.save_model(str(whole))  # of weights that are sharded, every process has a part
    if not trainer.is_world_process_zero():
        PartialState().wait_for_everyone()
        return
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": trained,
        "train_examples": min(len(data), rows_seen) if isinstance(data := trainer.train_dataset, Sized) else rows_seen,
        "train_steps": trainer.state.global_step,
        "train_seconds": round(stopwatch.seconds, 3),
        "training_bytes": needed,
        "log_history": trainer.state.log_history,
    }
    write_text(whole / "training.json", json.dumps(facts, indent=1) + "\n")
    (whole / "training_args.bin").unlink(missing_ok=True)  # a pickle, with paths of this machine in it
    os.replace(whole, finished)
    shutil.rmtree(workshop)  # and not the folder around it, in which another process may be about to begin
    PartialState().wait_for_everyone()


def rows_per_step(args: Any) -> int:
    """Rows that all processes together see in a step of the optimizer."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def train(recipe: Any, seeds: list[int], output: Path) -> list[Path]:
    """Train every model of a recipe, once `check_it_fits` has let it pass, with every seed; see `train_model`."""
    if not PartialState().is_main_process:
        datasets.disable_progress_bars()
    return [train_model(recipe, name, seed, output) for seed in seeds for name in recipe.models]
