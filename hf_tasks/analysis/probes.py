"""Where the values of clauses can be read from: linear probes at the read-out tokens, by layer and depth.

- Multinomial logistic regression with a little weight decay: convex, so the optimum does not depend on a seed.
- Every second sentence is fitted, the others are tested.
- The control is the same probe on labels permuted among the clauses of a depth. A value is no function of its tokens,
  so knowing the tokens by heart, which the control tasks of Hewitt & Liang (2019, arXiv 1909.03368) measure, does not
  help here; what a control above chance would show is clauses shared by both halves. Selectivity is the difference.
- Layer 0 is the embeddings, layer i the state behind application i; behind the last one stands the final norm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_tasks.analysis.forward import logits, looking_into
from hf_tasks.analysis.intervals import difference, share
from hf_tasks.clauses import NO_LABEL, ClauseBatch
from hf_tasks.errors import UserError

WEIGHT_DECAY = 1e-3
STEPS = 100  # of L-BFGS, far more than it takes


@dataclass(frozen=True)
class States:
    """What stands at the read-out tokens of N clauses.

    Attributes:
        states: (layers, N, hidden_size). labels, depths, sentences: (N,).
    """

    states: torch.Tensor
    labels: torch.Tensor
    depths: torch.Tensor
    sentences: torch.Tensor


def clause_states(model: PreTrainedModel, batches: Iterable[ClauseBatch]) -> States:
    """The hidden states at the read-out token of every clause that has a value.

    Raises:
        UserError: the model gives no hidden states.
    """
    parts, first = [], 0
    for batch in batches:
        known = batch.labels != NO_LABEL
        sentences = (torch.arange(len(known)) + first)[:, None].expand_as(known)
        moved = batch.to(model.device)
        with looking_into(model):
            states = getattr(logits(model, moved, output_hidden_states=True), "hidden_states", None)
        if not states:
            raise UserError(
                f"{type(model).__name__} gives no hidden states for probes: let it give output_hidden_states"
            )
        at = torch.stack([moved.read(one)[known.to(model.device)].float().cpu() for one in states])
        parts.append((at, batch.labels[known], batch.depths[known], sentences[known]))
        first += len(known)
    states, *rest = zip(*parts, strict=True)
    return States(torch.cat(states, 1), *(torch.cat(column) for column in rest))


def probe(found: States, seed: int = 0) -> list[dict[str, Any]]:
    """Test accuracy of a probe for every (layer, depth) that both halves have.

    Args:
        seed: of the control's labels.

    Returns:
        cells {"layer", "depth", "value", "count", "ci95", "chance" (share of the commonest class), "control",
        "control_ci95", "selectivity", "selectivity_ci95"}.
    """
    generator = torch.Generator().manual_seed(seed)
    fitted = found.sentences % 2 == 0
    depths, picks = [], []
    labels = torch.stack([found.labels, found.labels])
    for depth in found.depths.unique().tolist():
        members = (found.depths == depth).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        labels[1, members] = found.labels[members[order]]
        halves = members[fitted[members]], members[~fitted[members]]
        if all(len(half) for half in halves):
            depths.append(depth)
            picks.append(halves)
    cells = []
    for layer, states in enumerate(found.states):
        weights = _fit(states, labels, [fit for fit, _ in picks])
        for depth, (fit, test), (centre, scale, coefficients) in zip(depths, picks, weights, strict=True):
            del fit
            features = torch.nn.functional.pad((states[test].double() - centre) / scale, (0, 1), value=1.0)
            right = (features @ coefficients).argmax(-1) == labels[:, test]  # (2, tests): the labels, the control
            whole, control = share(right[0].numpy()), share(right[1].numpy())
            gain, interval = difference(right[0].numpy(), right[1].numpy())
            common = np.bincount(labels[0, test].numpy()).max() / len(test)
            cells.append({
                "layer": layer, "depth": depth, **whole, "chance": float(common),
                "control": control["value"], "control_ci95": control["ci95"],
                "selectivity": gain, "selectivity_ci95": [*interval],
            })  # fmt: skip
    return cells


def _fit(
    states: torch.Tensor, labels: torch.Tensor, members: list[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Fit one layer's probes, those of all depths at once.

    Args:
        states: (N, hidden_size). labels: (2, N), the true ones and the control's.
        members: the clauses that are fitted, one tensor a depth.

    Returns:
        centre, scale and coefficients (2, hidden_size + 1, classes) of each depth.
    """
    classes, longest = int(labels.max()) + 1, max(map(len, members), default=0)
    features, wanted, scales = [], [], []
    for chosen in members:
        x = states[chosen].double()
        centre, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
        x = torch.nn.functional.pad((x - centre) / scale, (0, 1), value=1.0)
        features.append(torch.nn.functional.pad(x, (0, 0, 0, longest - len(chosen))))
        wanted.append(torch.nn.functional.pad(labels[:, chosen], (0, longest - len(chosen)), value=NO_LABEL))
        scales.append((centre, scale))
    if not members:
        return []
    inputs, targets = torch.stack(features)[:, None], torch.stack(wanted)  # (depths, 1, n, D), (depths, 2, n)
    counts = (targets != NO_LABEL).sum(-1, keepdim=True)
    weights = torch.zeros(len(members), 2, inputs.shape[-1], classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = (inputs @ weights).permute(0, 3, 1, 2)  # cross_entropy wants the classes second
        each = torch.nn.functional.cross_entropy(scores, targets, ignore_index=NO_LABEL, reduction="none") / counts
        # The last row is the bias, which does not decay.
        total = each.sum() + WEIGHT_DECAY / 2 * weights[:, :, :-1].square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[arg-type]
    return [(centre, scale, one) for (centre, scale), one in zip(scales, weights.detach(), strict=True)]
