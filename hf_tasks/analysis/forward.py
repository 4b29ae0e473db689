"""Looking into a token classifier without leaving traces: attention maps, predictions, and its layers one by one.

- A layer that is shared and applied again (ours, ALBERT) is looked at in every application: "application" is the place
  in the order of computation, from 0.
- Attention maps need eager attention. It is switched on around our own forward pass and off again, also when that
  fails; so is evaluation mode, module by module.
- Maps are made for a few rows at a time: all applications and heads of a long sentence take hundreds of megabytes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tasks.clauses import NO_LABEL, ClauseBatch, clause_batches
from hf_tasks.errors import UserError
from hf_tasks.tasks import Task

MAP_BYTES = 2**28  # of attention maps that are held at a time
# The linear map behind the concatenated heads, by the end of its name: ours and Llama's, BERT's, ALBERT's.
OUTPUT_PROJECTIONS = ("self_attn.o_proj", "attention.output.dense", "attention.dense")


@contextmanager
def looking_into(model: PreTrainedModel, maps: bool = False) -> Iterator[None]:
    """Evaluation mode without gradients and, if `maps` are wanted, eager attention; then all as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    before = model.config._attn_implementation if maps else None
    try:
        model.eval()
        if maps and before != "eager":
            model.set_attn_implementation("eager")
        with torch.no_grad():
            yield
    finally:
        if maps and model.config._attn_implementation != before:
            model.set_attn_implementation(before)  # type: ignore[arg-type]
        for module, mode in modes:
            module.training = mode


def own_randomness(model: Any) -> Any:
    """A context in which random numbers are drawn without training missing them."""
    devices = [model.device] if model.device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)


def logits(model: PreTrainedModel, batch: ClauseBatch, **wanted: Any) -> Any:
    """The model's output on a batch that lies on its device."""
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **wanted)


def predict(model: PreTrainedModel, batch: ClauseBatch) -> torch.Tensor:
    """The class predicted for each clause, (B, C), on the CPU; any value where no clause is."""
    batch = batch.to(model.device)
    with looking_into(model):
        return batch.read(logits(model, batch).logits).argmax(-1).cpu()


@dataclass(frozen=True)
class Reading:
    """What a model said of clauses that have a value, one entry a clause.

    Attributes:
        correct, asked: bool. depths: from 1. clauses: how many the sentence has. sentences: number of the sentence.
    """

    correct: np.ndarray
    depths: np.ndarray
    clauses: np.ndarray
    asked: np.ndarray
    sentences: np.ndarray


def read(batches: Iterable[ClauseBatch], answer: Callable[[ClauseBatch], torch.Tensor]) -> Reading:
    """Hold predictions against labels.

    Args:
        batches: sentences.
        answer: batch -> predicted classes (B, C), such as `lambda batch: predict(model, batch)`.
    """
    parts, first = [], 0
    for batch in batches:
        known = batch.labels != NO_LABEL
        correct = answer(batch) == batch.labels
        clauses = (batch.read_tokens >= 0).sum(1, keepdim=True).expand_as(batch.labels)
        sentence = (torch.arange(len(batch.labels)) + first)[:, None].expand_as(batch.labels)
        parts.append([x[known].numpy() for x in (correct, batch.depths, clauses, batch.asked, sentence)])
        first += len(batch.labels)
    return Reading(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def read_asked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, table: pa.Table, batch_tokens: int = 65536
) -> Reading:
    """Hold a model's predictions against the asked clauses of a task's table."""
    batches = map(asked_only, clause_batches(table, tokenizer, batch_tokens))
    return read(batches, lambda batch: predict(model, batch))


def asked_only(batch: ClauseBatch) -> ClauseBatch:
    """The same sentences, the labels of clauses that are not asked left out."""
    return ClauseBatch(**{**vars(batch), "labels": torch.where(batch.asked, batch.labels, NO_LABEL)})


def all_asked(task: Task) -> Task:
    """The task with every clause of its main graph asked, if it can be told which are."""
    return replace(task, asked="all") if "asked" in task.parameters() else task  # type: ignore[call-arg]


def no_maps(model: Any, reason: str = "") -> UserError:
    """The error for a model without attention maps."""
    return UserError(
        f"{type(model).__name__} gives no attention maps{f' ({reason})' if reason else ''}: head scores need a "
        "transformer that returns them with output_attentions under attn_implementation 'eager'"
    )


def attention_maps(model: PreTrainedModel, batch: ClauseBatch) -> Iterator[tuple[slice, Any]]:
    """Rows of the batch, and the maps of every application on them: a tuple of (rows, heads, S, S), float32.

    Raises:
        UserError: the model gives none.
    """
    rows, length = batch.input_ids.shape
    step, start = 1, 0  # the first row tells how many maps there are
    while start < rows:
        chosen = slice(start, min(rows, start + step))
        part = ClauseBatch(**{name: x[chosen] for name, x in vars(batch).items()}).to(model.device)
        maps = _maps(model, part)
        yield chosen, maps
        start = chosen.stop
        step = max(1, MAP_BYTES // (4 * length**2 * sum(one.shape[1] for one in maps)))


def _maps(model: PreTrainedModel, batch: ClauseBatch) -> Any:
    try:
        with looking_into(model, maps=True):
            maps = getattr(logits(model, batch, output_attentions=True), "attentions", None)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise no_maps(model, " ".join(str(error).split())) from error
    if not maps or any(one is None or one.ndim != 4 for one in maps):
        raise no_maps(model)
    return [one.float() for one in maps]


def output_projections(model: PreTrainedModel) -> list[nn.Module]:
    """The module behind the concatenated heads of each application, in the order of computation.

    Raises:
        UserError: none is found.
    """
    found: set[nn.Module] = set()
    found.update(module for name, module in model.named_modules() if name.endswith(OUTPUT_PROJECTIONS))
    if not found:
        raise UserError(
            f"{type(model).__name__} has no output projection that heads can be cut from; known by the end of their "
            f"names: {', '.join(OUTPUT_PROJECTIONS)}"
        )
    return in_order(model, found)


def layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layer (attention and MLP) of each application, in the order of computation.

    Raises:
        UserError: the model does not say what its layers are.
    """
    kind = (getattr(model.base_model, "_can_record_outputs", None) or {}).get("hidden_states")
    kind = getattr(kind, "target_class", kind)
    found: set[nn.Module] = set()
    found.update(module for module in model.modules() if isinstance(kind, type) and isinstance(module, kind))
    if not found:
        raise UserError(f"{type(model).__name__} does not name the class of its layers: set _can_record_outputs")
    return in_order(model, found)


def in_order(model: PreTrainedModel, modules: set[nn.Module]) -> list[nn.Module]:
    """The applications of these modules in one forward pass, found by making one over two tokens."""
    order: list[nn.Module] = []
    handles = [module.register_forward_hook(lambda module, _, __: order.append(module)) for module in modules]
    try:
        with looking_into(model):
            two = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            model(input_ids=two, attention_mask=torch.ones_like(two))
    finally:
        for handle in handles:
            handle.remove()
    return order
