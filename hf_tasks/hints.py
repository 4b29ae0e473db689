"""Hints: what an algorithm knows between its steps, told to layers as well as the answer to the last.

- The word is that of the CLRS benchmark (Velickovic et al. 2022, arXiv 2205.15659). "Why can't transformers learn
  multiplication?" (arXiv 2510.00184) tells one layer the running sum of a product; here layers are told one step each.
- Nothing is written: hints are read off hidden states, by heads that are no part of the finished model, which is like
  any other and answers at once. They lie beside it, in a file of their own, for models that go on from it: new heads
  would take their first hundreds of steps to find it again.
- Layers that are applied again and again take as many steps of the algorithm in every loop. More loops than in training
  take more steps.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.functional import cross_entropy

from hf_tasks.clauses import NO_LABEL, mean_of_all
from hf_tasks.tasks import Task

HEADS = "hint_heads"  # of a model in training
FILE = "hint_heads.safetensors"  # in the folder of a finished one


def add_hint_heads(model: Any, task: Task, before: Path | None = None) -> None:
    """One linear head for each of the task's hints: new, or those of the finished model that this one goes on from.

    Args:
        before: its folder; without heads in it, or with those of another task, they are new.
    """
    sizes = task.hint_classes.items()
    heads = nn.ModuleDict({name: nn.Linear(model.config.hidden_size, classes) for name, classes in sizes})
    if before is not None and (before / FILE).is_file():
        kept = load_file(before / FILE)
        if {name: each.shape for name, each in kept.items()} == {n: e.shape for n, e in heads.state_dict().items()}:
            heads.load_state_dict(kept)
    setattr(model, HEADS, heads)


def save_hint_heads(model: Any, folder: Path) -> None:
    """Write the heads of a model, if it has any, into the folder of the finished one; every process has to call it."""
    if hasattr(model, HEADS):
        # Of weights that are sharded, every process has a part.
        gathered = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole: dict[str, Any] = get_model_state_dict(getattr(model, HEADS), options=gathered)
        if PartialState().is_main_process:
            save_file(whole, folder / FILE)


def drop_hint_heads(model: Any) -> None:
    """Leave the model as it was before `add_hint_heads`, if it has any."""
    if hasattr(model, HEADS):
        delattr(model, HEADS)


class HintCollator:
    """Adds hints to batches of rows that have their `prompt` with them.

    Args:
        answers: makes batches of `input_ids` and `labels`, whose first token is <bos>, and one a character behind it.
        task: of the rows.
        steps: how many to tell.
    """

    def __init__(self, answers: Callable[[Sequence[Any]], dict[str, Any]], task: Task, steps: int) -> None:
        self.answers, self.task, self.steps = answers, task, steps

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows -> `input_ids`; `labels` (B, S, 1 + hints x steps), the tokens' own first; and the wish for states."""
        batch = self.answers(rows)
        hints = self.task.hints([row["prompt"] for row in rows], self.steps)
        told = torch.from_numpy(np.concatenate([*hints.values()], axis=1))  # (B, hints x steps, characters)
        labels = told.new_full((*batch["labels"].shape, 1 + told.shape[1]), NO_LABEL)
        labels[..., 0] = batch["labels"]
        labels[:, 1 : 1 + told.shape[2], 1:] = told.transpose(1, 2)
        return {**batch, "labels": labels, "output_hidden_states": True}


def hint_loss(model: Any, layers_per_hint: int, args: Any = None) -> Callable[..., torch.Tensor]:
    """Cross-entropy of the answer, and of each hint behind every `layers_per_hint` layers; means, added up.

    Args:
        args: of the Trainer, where a batch is one part of a step's rows; None: it is all of them.

    Returns:
        (outputs with `logits` and `hidden_states`, labels (B, S, 1 + hints x steps)) -> a scalar.
    """
    heads, norm = getattr(model, HEADS), model.base_model.norm

    def mean(logits: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        loss = cross_entropy(logits, told, ignore_index=NO_LABEL)
        return loss if args is None else mean_of_all(loss, (told != NO_LABEL).sum(), args)

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        del num_items_in_batch  # counts hints as well
        answers, hints = labels[..., 0], labels[..., 1:].unflatten(-1, (len(heads), -1))
        total = mean(outputs.logits[:, :-1].flatten(0, 1), answers[:, 1:].flatten())
        last = len(outputs.hidden_states) - 1
        read = [*range(layers_per_hint, last + 1, layers_per_hint)]
        # The last of the recorded states has been through the norm already.
        states = [outputs.hidden_states[at] if at == last else norm(outputs.hidden_states[at]) for at in read]
        state = torch.stack(states, dim=2)  # (B, S, steps, hidden)
        for place, head in enumerate(heads.values()):
            told = hints[:, :, place]
            known = told != NO_LABEL
            total = total + mean(head(state[known]), told[known])
        return total

    return loss
