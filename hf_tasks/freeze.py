"""What fine-tuning with SGD takes: frozen embeddings, and the figures that tell whether that is called for.

- Kumar et al. 2022 (arXiv 2211.09359): where the embedding layer has larger gradients than the rest, SGD falls behind
  AdamW; with that layer frozen it does not, at 12 bytes a parameter (weight, gradient, momentum) or 8 instead of 16.
- What is frozen is what the authors' code freezes: the patch embedding; of CLIP the norm behind it too; of ConvNeXt and
  ResNets the stem and what comes first after it. Position embeddings and class tokens are trained.
- `get_input_embeddings` does not know the first layer of CLIP's classifier, ConvNeXt or ResNets, so these are named.
- The `Trainer` hands an optimizer the parameters that are trained when it is made: freeze before, and never thaw by a
  callback, for what is thawed later is in no optimizer.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_tasks.errors import UserError

# Model type -> ends of the names of its first modules, where they are not its input embeddings.
_FIRST = {
    "clip": ("vision_model.embeddings.patch_embedding", "vision_model.pre_layrnorm"),
    "clip_vision_model": ("embeddings.patch_embedding", "pre_layrnorm"),
    "convnext": ("embeddings", "encoder.stages.0"),
    "convnextv2": ("embeddings", "encoder.stages.0"),
    "resnet": ("embedder", "encoder.stages.0.layers.0"),
    "bit": ("embedder", "encoder.stages.0.layers.0"),
    "efficientnet_lite": ("_conv_stem", "_bn0", "_blocks.0"),
}


@dataclass(frozen=True)
class Frozen:
    """What was frozen: names of parameters, how many numbers they hold, and their share of all."""

    names: list[str]
    parameters: int
    share: float


def freeze_embeddings(model: PreTrainedModel, max_share: float = 0.05) -> Frozen:
    """Freeze the first layer of a model, in place.

    Args:
        model: any of transformers', or ours.
        max_share: largest share of all parameters that may be frozen. Vision models have less than 0.01 there; language
            models hold much of what they know in it, and those that tie it to the head would freeze that as well.

    Raises:
        UserError: the layer is not known, or is more than that share; nothing is frozen then.
    """
    modules = _first_modules(model)
    found = {id(p): p for module in modules for p in module.parameters()}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in found]
    size, total = sum(p.numel() for p in found.values()), sum(p.numel() for p in model.parameters())
    if size > max_share * total:
        tied = " and its head" if _is_tied(model, found) else ""
        raise UserError(
            f"the embeddings{tied} of {type(model).__name__} are {size / total:.3g} of its parameters, more than "
            f"max_share {max_share:g}: raise max_share to freeze that much, or leave them trained"
        )
    for parameter in found.values():
        parameter.requires_grad_(False)
    return Frozen(names, size, size / total)


def _first_modules(model: PreTrainedModel) -> Sequence[nn.Module]:
    ends = _FIRST.get(model.config.model_type)
    if ends is not None:
        pattern = re.compile(rf"(?:[^.]+\.)?(?:{'|'.join(map(re.escape, ends))})")
        modules = [module for name, module in model.named_modules() if pattern.fullmatch(name)]
        if len(modules) == len(ends):
            return modules
    try:
        return [model.get_input_embeddings()]
    except (NotImplementedError, AttributeError) as error:
        raise UserError(
            f"the embeddings of {type(model).__name__} ({model.config.model_type}) are not known: set requires_grad of "
            f"its first layer to False yourself; known beside models with input embeddings: {', '.join(_FIRST)}"
        ) from error


def _is_tied(model: PreTrainedModel, found: dict[int, Any]) -> bool:
    head = model.get_output_embeddings()
    return head is not None and any(id(parameter) in found for parameter in head.parameters())


def gradient_norms(
    model: PreTrainedModel, batch: dict[str, Any], loss: Callable[[Any, dict[str, Any]], torch.Tensor] | None = None
) -> dict[str, float]:
    """The norm of the gradient of every layer on one batch, in the order of the model; `.grad` stays as it is.

    Args:
        model: with some parameters trained; its mode is left as it is.
        batch: what `forward` takes, labels included, on the model's device.
        loss: (model, batch) -> loss; None: `model(**batch).loss`.

    Returns:
        layer -> root of the sum of squares over its parameters (not divided by their number, as in the paper's code). A
        layer is a numbered block ("bert.encoder.layer.3") or a module outside of all blocks.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    value = model(**batch).loss if loss is None else loss(model, batch)
    gradients = torch.autograd.grad(value, [*trained.values()], allow_unused=True)
    squares: dict[str, float] = {}
    for name, gradient in zip(trained, gradients, strict=True):
        layer = _layer_of(name)
        squares[layer] = squares.get(layer, 0.0)
        if gradient is not None:
            squares[layer] += float(gradient.double().square().sum())
    return {layer: square**0.5 for layer, square in squares.items()}


def _layer_of(parameter: str) -> str:
    """`a.layer.3.b.weight` -> `a.layer.3`, `a.stages.1.layers.2.b` -> `a.stages.1.layers.2`, `a.norm.w` -> `a.norm`."""
    block = re.match(r"(.*?\.\d+(?:\.layers\.\d+)?)\.", parameter)
    return block[1] if block else parameter.rpartition(".")[0]


def training_bytes(model: nn.Module, optimizer: Any) -> dict[str, int]:
    """Bytes of memory that the weights, the gradients and the optimizer's state take, once a step was taken.

    Returns:
        {"weights", "gradients", "optimizer"}; with all parameters trained in float32 they come to 8 bytes a parameter
        for SGD, 12 with momentum, 16 for AdamW (and AdamW's step counters).
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    state = [x for kept in optimizer.state.values() for x in kept.values() if isinstance(x, torch.Tensor)]
    trained = [p for p in model.parameters() if p.requires_grad]
    return {name: sum(x.numel() * x.element_size() for x in of) for name, of in
            {"weights": [*model.parameters()], "gradients": trained, "optimizer": state}.items()}  # fmt: skip
