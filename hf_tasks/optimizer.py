"""The optimizer of a run: parameters in groups, by AdamW alone or by Muon and AdamW together.

- Encodings have learning rates of their own and no weight decay: a bias table has few entries, each behind a softmax.
  The matrices between the embeddings and the head may have one as well: in a small model of texts the embeddings want
  a higher one than that at which attention still learns to copy.
- Muon trains the matrices between the embeddings and the head, AdamW the rest. Muon's updates are scaled to the size of
  AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate and one schedule serve both.
"""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Trainer
from transformers.pytorch_utils import Conv1D

from hf_tasks.models import ENCODINGS
from hf_tasks.models.position_encodings import PositionEncoding
from hf_tasks.recipe import MUON, Experiment

Group = dict[str, Any]


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer out of `torch.optim.Muon` and `torch.optim.AdamW`, as `Trainer` and its schedules want one.

    Args:
        groups: parameter groups with a key `muon`: which of the two steps them. Other keys are options of that one.
    """

    def __init__(self, groups: list[Group]) -> None:
        by_muon = [group for group in groups if group["muon"]]
        by_adam = [group for group in groups if not group["muon"]]
        # Each fills in its defaults in place, so that the groups below are theirs, options included.
        self._parts: list[tuple[torch.optim.Optimizer, bool]] = []
        if by_muon:
            self._parts.append((torch.optim.Muon(by_muon, adjust_lr_fn="match_rms_adamw"), True))
        if by_adam:  # LoRA alone has none, and torch refuses a list without any
            self._parts.append((torch.optim.AdamW(by_adam), False))
        super().__init__([*by_muon, *by_adam], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, muon in self._parts:
            # Loading a checkpoint puts other objects in the place of these.
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group["muon"] is muon]
            part.step()
        return loss


def parameter_groups(model: torch.nn.Module, recipe: Experiment, args: Any) -> list[Group]:
    """Optimizer groups: encodings at their own learning rates without decay, matrices with decay, the rest without."""
    names, inner = {cls: name for name, cls in ENCODINGS.items()}, _inner_matrices(model)
    of_encodings = {
        id(parameter): recipe.encoding_lr_multiplier.get(names[type(module)], 1.0)
        for module in model.modules()
        if isinstance(module, PositionEncoding)
        for parameter in module.parameters()
    }
    factors = dict.fromkeys(inner, recipe.matrix_lr_multiplier) | of_encodings
    groups: dict[tuple[float, float, bool], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = args.weight_decay if parameter.ndim > 1 and id(parameter) not in of_encodings else 0.0
            muon = recipe.optimizer == MUON and id(parameter) in inner
            key = (factors.get(id(parameter), 1.0), decay, muon)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": members, "lr": args.learning_rate * factor, "weight_decay": decay, "muon": muon}
        for (factor, decay, muon), members in groups.items()
    ]


def build_optimizer(model: Any, recipe: Experiment, args: Any) -> torch.optim.Optimizer:
    """The optimizer of a run: `trainer.optim` of the recipe or, with `optimizer: muon`, Muon beside AdamW."""
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    groups = parameter_groups(model, recipe, args)
    if recipe.optimizer != MUON:
        return kind([{key: value for key, value in group.items() if key != "muon"} for group in groups], **options)
    adam = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    return MuonAdamW([group if group["muon"] else group | adam for group in groups])


def _inner_matrices(model: torch.nn.Module) -> set[int]:
    """The weights that stand between embeddings and head, by id: of linear layers, none of an encoding's."""
    whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    body = whole.base_model if isinstance(whole, PreTrainedModel) else whole
    outside = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding | PositionEncoding)
        for parameter in module.parameters()
    }
    linear = [module for module in body.modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    return {id(module.weight) for module in linear} - outside
