"""Where the value of a clause is kept: its state is exchanged for that of a sentence in which the value is another one.

Sentence B is sentence A with another element in one clause. The state of A at (layer, read-out token of the clause) is
replaced by that of B, and the clauses downstream are asked: does the prediction become that of B? Distance 0 is the
clause itself, 1 its children. Only clauses on which the model answers A and B differently can tell.

Layer 0 is the embeddings, layer i the state behind application i, before any final norm.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_tasks.analysis.forward import layers, logits, looking_into
from hf_tasks.analysis.intervals import share
from hf_tasks.clauses import ClauseBatch


def distances(batch: ClauseBatch, clauses: torch.Tensor) -> torch.Tensor:
    """How many steps each clause (B, C) is downstream of the chosen one (B,) of its sentence; -1 if it is not."""
    chosen = clauses[:, None]
    ancestor = torch.arange(batch.parents.shape[1], device=clauses.device).expand_as(batch.parents).clone()
    found = torch.where((ancestor == chosen) & (batch.read_tokens >= 0), 0, -1)
    for steps in range(1, batch.parents.shape[1]):
        ancestor = torch.where(ancestor >= 0, batch.parents.gather(1, ancestor.clamp(min=0)), -1)
        found = torch.where((ancestor == chosen) & (found < 0) & (batch.read_tokens >= 0), steps, found)
    return found


def patch(
    model: PreTrainedModel, pairs: Iterable[tuple[ClauseBatch, ClauseBatch, torch.Tensor]]
) -> list[dict[str, Any]]:
    """How often a patch at each layer carries to each distance: cells {"layer", "distance", "value", "count", "ci95"}.

    Args:
        pairs: sentences A, sentences B, and the clause (B,) in which they differ.

    Raises:
        UserError: the model does not name the class of its layers.
        ValueError: tokens of A and B do not stand at the same places.
    """
    hits: dict[tuple[int, int], list[np.ndarray]] = {}
    order = layers(model)
    for ours, theirs, clauses in pairs:
        if not torch.equal(ours.read_tokens, theirs.read_tokens):
            raise ValueError("sentences that are patched into one another must have their tokens at the same places")
        ours, theirs, clauses = ours.to(model.device), theirs.to(model.device), clauses.to(model.device)
        away = distances(ours, clauses)
        rows = torch.arange(len(clauses), device=clauses.device)
        places = (rows, ours.read_tokens[rows, clauses])
        before, kept = _run(model, order, ours, None, places, None)
        wanted, kept = _run(model, order, theirs, None, places, None)
        telling = (away >= 0) & (before != wanted)
        for layer in range(len(order) + 1):
            now, _ = _run(model, order, ours, layer, places, kept[layer])
            for steps in away[telling].unique().tolist():
                chosen = telling & (away == steps)
                hits.setdefault((layer, steps), []).append((now == wanted)[chosen].cpu().numpy())
    return [
        {"layer": layer, "distance": steps, **share(np.concatenate(parts))}
        for (layer, steps), parts in sorted(hits.items())
    ]


def _run(
    model: PreTrainedModel,
    order: list[torch.nn.Module],
    batch: ClauseBatch,
    layer: int | None,
    places: tuple[torch.Tensor, torch.Tensor],
    value: torch.Tensor | None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Predictions (B, C) and the states (B, D) at the places in every layer, after `value` was set in one of them."""
    states: list[torch.Tensor] = []

    def visit(state: torch.Tensor) -> torch.Tensor:
        if len(states) == layer and value is not None:
            state = state.clone()
            state[places] = value
        states.append(state[places])
        return state

    def enter(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        return (visit(inputs[0]), *inputs[1:]) if not states else None

    def leave(_: torch.nn.Module, __: Any, output: Any) -> Any:
        return (visit(output[0]), *output[1:]) if isinstance(output, tuple) else visit(output)

    handles = [
        handle
        for module in set(order)
        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        with looking_into(model):
            return batch.read(logits(model, batch).logits).argmax(-1), states
    finally:
        for handle in handles:
            handle.remove()
