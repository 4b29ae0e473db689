"""Mimicking initialisation: heads of an encoder are trained to two attention maps before the task is (2206.04301).

- In every layer, head 0 is driven to the local map and head 1 to the association map, exactly as the official code has
  them: row i of the local map has the weights 1 2 4 2 1 at the offsets -2 ... 2; that of the association map has 1 at
  every equal token but the token itself; both have 0.001 everywhere besides and rows that sum to 1.
- No labels are used. Any encoder of transformers that gives its attention maps will do.
"""

from collections.abc import Iterable
from typing import Any

import torch

from hf_tasks.errors import UserError

SMOOTHING = 1e-3
BAND = (4.0, 2.0, 1.0)  # at distance 0, 1, 2
LOCAL_HEAD, ASSOCIATION_HEAD = 0, 1


def local_map(real: torch.Tensor) -> torch.Tensor:
    """(B, S) which tokens are real -> (B, S, S): the band, over real keys."""
    return smoothed(band(real.shape[1], real.device), real[:, None])


def association_map(input_ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """(B, S) tokens and which are real -> (B, S, S): the equal tokens but the token itself, over real keys."""
    equal = (input_ids[:, :, None] == input_ids[:, None]) & ~torch.eye(
        input_ids.shape[1], dtype=torch.bool, device=real.device
    )
    return smoothed(equal.float(), real[:, None])


def band(length: int, device: torch.device) -> torch.Tensor:
    """(length, length) the weights 1 2 4 2 1 around the diagonal."""
    slots = torch.arange(length, device=device)
    distance = (slots - slots[:, None]).abs()
    return torch.tensor(BAND, device=device)[distance.clamp(max=2)] * (distance <= 2)


def smoothed(weights: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Weights with a little everywhere, as rows that sum to 1 over visible keys."""
    weights = (weights + SMOOTHING) * visible
    return weights / weights.sum(-1, keepdim=True).clamp(min=SMOOTHING)


def divergence(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """KL(ours || theirs) of every row; a gradient exists where both are 0."""
    return (ours * (ours.clamp(min=1e-30) / theirs.clamp(min=1e-30)).log()).sum(-1)


def mimic_loss(attentions: Iterable[torch.Tensor], input_ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The sum over layers of KL(head 0 || local map) + KL(head 1 || association map), mean over rows of real tokens.

    Args:
        attentions: one (B, heads, S, S) a layer.
        input_ids, real: (B, S).

    Raises:
        UserError: there are no maps, or fewer than two heads.
    """
    maps = [(LOCAL_HEAD, local_map(real)), (ASSOCIATION_HEAD, association_map(input_ids, real))]
    total, layers = torch.zeros((), device=input_ids.device), 0
    for weights in attentions or ():
        if weights.shape[1] <= ASSOCIATION_HEAD:
            raise UserError(f"mimic trains heads 0 and 1, and the model has {weights.shape[1]}: give it two at least")
        layers += 1
        for head, target in maps:
            mine = smoothed(weights[:, head], real[:, None])
            total = total + divergence(mine, target)[real].mean()
    if not layers:
        raise UserError("mimic trains attention maps, and the model gives none: take an encoder with attention")
    return total


def mimic(
    model: Any, batches: Iterable[dict[str, torch.Tensor]], steps: int, learning_rate: float = 5e-5
) -> list[float]:
    """Train a model's attention maps in place: Adam, cosine to zero, no labels.

    Args:
        model: an encoder, or any head on one.
        batches: `input_ids` and `attention_mask`, at least `steps` of them; labels are left out.
        steps: of training.
        learning_rate: at the first step.

    Returns:
        the loss of every step.

    Raises:
        UserError: the model gives no attention maps, or has one head.
    """
    body, was = model.base_model, model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others give no maps
    optimizer = torch.optim.Adam(body.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    model.train()
    try:
        for _, batch in zip(range(steps), batches, strict=False):
            real = batch["attention_mask"].bool()
            outputs = body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True)
            loss = mimic_loss(outputs.attentions, batch["input_ids"], real)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    finally:
        model.set_attn_implementation(was)
    return losses
