"""What the tests of hf_tasks/analysis share: a task, models that solve it or count, and a stub with given maps."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from hf_tasks.clauses import ClauseBatch, clause_batches
from hf_tasks.errors import UserError
from hf_tasks.models import PositionalConfig, PositionalForTokenClassification
from hf_tasks.tasks import Task
from hf_tasks.tokenizer import build_tokenizer

# Two heads that look at equal tokens, two that look into their own clause, and the place inside the clause.
WIRED = [
    {"ids": "token", "encoding": "match", "initial": 8.0, "heads": [0, 1]},
    {"ids": "clause", "encoding": "match", "initial": 8.0, "heads": [2, 3]},
    {"ids": "segment", "encoding": "learned", "size": 16},
]


def tokenizer_of(task: Task) -> Any:
    tokenizer = build_tokenizer(task)
    tokenizer.padding_side = "right"
    return tokenizer


def encoder(task: Task, **fields: Any) -> PositionalForTokenClassification:
    """A small encoder with one shared layer, wired as above, untrained."""
    torch.manual_seed(0)
    usual = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "share_layers": True,
        "input_injection": True, "norm_position": "post", "is_causal": False, "positions": WIRED,
        "num_labels": len(task.classes),
    }  # fmt: skip
    return PositionalForTokenClassification(PositionalConfig.from_tokenizer(tokenizer_of(task), **{**usual, **fields}))


def batches_of(task: Task, size: int, **options: Any) -> list[ClauseBatch]:
    return list(clause_batches(task.table("test", size), tokenizer_of(task), **options))


class Stub(nn.Module):
    """Answers with what it was given."""

    device = torch.device("cpu")

    def __init__(self, implementation: str = "eager", **output: Any) -> None:
        super().__init__()
        self.config, self.output = SimpleNamespace(_attn_implementation=implementation), output

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **wanted: Any) -> Any:
        return SimpleNamespace(**self.output)


class Reader(nn.Module):
    """A token classifier that reads the text: `answer(prompt)` gives a class for every clause in the text's order."""

    device = torch.device("cpu")

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.tokenizer = task, tokenizer_of(task)
        self.config = SimpleNamespace(_attn_implementation="eager")

    def classes_of(self, prompt: str) -> list[int]:
        raise NotImplementedError

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        logits = torch.zeros(*input_ids.shape, len(self.task.classes))
        for row, ids in enumerate(input_ids):
            prompt = self.tokenizer.decode(ids[attention_mask[row].bool()], skip_special_tokens=True)
            for clause, number in enumerate(self.classes_of(prompt)):
                logits[row, 1 + 5 * clause, number] = 1.0
        return SimpleNamespace(logits=logits)


class Oracle(Reader):
    """Solves the sentence; where that cannot be done, the text decides what it guesses."""

    def classes_of(self, prompt: str) -> list[int]:
        try:
            return [self.task.classes.index(name) for name in self.task.answer(prompt)]
        except UserError:
            return [sum(map(ord, prompt + str(i))) // 3 % 2 for i in range(prompt.count(";"))]


class Counter(Reader):
    """Takes the product of all signs in the sentence for the value of every clause."""

    def classes_of(self, prompt: str) -> list[int]:
        return [prompt.count("-") % 2] * prompt.count(";")
