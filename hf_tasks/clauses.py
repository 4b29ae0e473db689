"""Rows of a task that labels clauses -> batches that a token classifier reads, with where and what each clause is.

- Places come as characters and are found again as tokens through the tokenizer's own offsets, so that any fast
  tokenizer serves, that of a stock BERT included.
- Clauses of a batch are padded like tokens: -1 is no place, -100 no label, as `transformers` has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from accelerate.utils import reduce
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

NO_LABEL = -100  # what the losses of transformers and torch leave out
COLUMNS = ("labels", "read_positions", "depths", "parents", "clause_starts", "clause_ends", "asked")


@dataclass(frozen=True)
class ClauseBatch:
    """Sentences as a model reads them: B rows of S tokens with at most C clauses.

    Attributes:
        input_ids, attention_mask: (B, S), padded on the right.
        clause_of_token: (B, S), the clause that a token lies in; -1 for none.
        read_tokens: (B, C), the token at which the value of a clause is read off; -1 where there is no clause.
        labels: (B, C), the class of the value; -100 for none.
        depths: (B, C), how many clauses lead to the value, itself counted; -1 where there is no clause.
        parents: (B, C), the clause that the value is made from; -1 for none.
        asked: (B, C), whether training is told the value.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    clause_of_token: torch.Tensor
    read_tokens: torch.Tensor
    labels: torch.Tensor
    depths: torch.Tensor
    parents: torch.Tensor
    asked: torch.Tensor

    def to(self, device: Any) -> "ClauseBatch":
        """The same on another device."""
        return ClauseBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def read(self, values: torch.Tensor) -> torch.Tensor:
        """What stands at each clause's read-out token: (B, S, ...) -> (B, C, ...); any value where no clause is."""
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, self.read_tokens.clamp(min=0)]


def encode_clauses(rows: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
    """Columns of a task -> `input_ids` and `read_tokens` (the places of `read_positions` as tokens)."""
    encoded: Any = tokenizer(rows["prompt"])
    return {"input_ids": encoded["input_ids"], "read_tokens": _read_tokens(encoded, rows)}


def clause_batch(rows: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase) -> ClauseBatch:
    """Columns of a task as one batch."""
    encoded: Any = tokenizer(rows["prompt"])
    spans = zip(encoded.encodings, rows["clause_starts"], rows["clause_ends"], strict=True)
    return ClauseBatch(
        input_ids=_padded(encoded["input_ids"], tokenizer.pad_token_id),  # type: ignore[arg-type]
        attention_mask=_padded([[1] * len(ids) for ids in encoded["input_ids"]], 0),
        clause_of_token=_padded([_clauses_of(*span) for span in spans], -1),
        read_tokens=_padded(_read_tokens(encoded, rows), -1),
        labels=_padded(rows["labels"], NO_LABEL),
        depths=_padded(rows["depths"], -1),
        parents=_padded(rows["parents"], -1),
        asked=_padded(rows["asked"], 0).bool(),
    )


def clause_batches(
    table: pa.Table, tokenizer: PreTrainedTokenizerBase, batch_tokens: int = 65536
) -> Iterator[ClauseBatch]:
    """The rows of a task's table in order, in batches of at most about `batch_tokens` tokens."""
    longest = max((len(ids) for ids in tokenizer(table["prompt"].to_pylist())["input_ids"]), default=1)  # type: ignore
    step = max(1, batch_tokens // longest)
    for start in range(0, table.num_rows, step):
        part = table.select(["prompt", *COLUMNS]).slice(start, step)
        yield clause_batch(part.to_pydict(), tokenizer)


def _read_tokens(encoded: Any, rows: dict[str, list[Any]]) -> list[list[int]]:
    """The tokens of `read_positions`, row by row."""
    pairs = zip(encoded.encodings, rows["read_positions"], strict=True)
    return [[encoding.char_to_token(place) for place in places] for encoding, places in pairs]


def _clauses_of(encoding: Any, starts: list[int], ends: list[int]) -> list[int]:
    """The clause of every token of one encoded text, -1 for none."""
    clauses, clause = [], 0
    for begin, end in encoding.offsets:
        while clause < len(ends) and ends[clause] <= begin:
            clause += 1
        inside = clause < len(ends) and starts[clause] <= begin < end
        clauses.append(clause if inside else -1)
    return clauses


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


class ClauseCollator:
    """Pads on the right and puts the asked labels at their read-out tokens.

    Args:
        pad_token_id: of the tokenizer.
        with_depths: `labels` get a second channel, the depth of the value, and the model returns its hidden states; for
            `loss_by_depth`.
    """

    def __init__(self, pad_token_id: int, with_depths: bool = False) -> None:
        self.pad_token_id, self.with_depths = pad_token_id, with_depths

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows of `encode_clauses` with `labels`, `depths` and `asked` -> `input_ids`, `attention_mask`, `labels`."""
        input_ids = _padded([row["input_ids"] for row in rows], self.pad_token_id)
        real = _padded([[1] * len(row["input_ids"]) for row in rows], 0)
        read = _padded([row["read_tokens"] for row in rows], -1)
        asked = _padded([row["asked"] for row in rows], 0).bool() & (read >= 0)
        row_of = torch.arange(len(rows))[:, None].expand_as(read)[asked]
        labels = torch.full_like(input_ids, NO_LABEL)
        labels[row_of, read[asked]] = _padded([row["labels"] for row in rows], NO_LABEL)[asked]
        batch: dict[str, Any] = {"input_ids": input_ids, "attention_mask": real, "labels": labels}
        if self.with_depths:
            depths = torch.full_like(input_ids, NO_LABEL)
            depths[row_of, read[asked]] = _padded([row["depths"] for row in rows], NO_LABEL)[asked]
            batch |= {"labels": torch.stack([labels, depths], dim=-1), "output_hidden_states": True}
        return batch


def loss_by_depth(model: Any, layers_per_clause: int) -> Any:
    """A loss for `Trainer(compute_loss_func=...)`: a value at depth d is due after `layers_per_clause` x d layers.

    It is read off there and after every `layers_per_clause` further layers, as if these were the last; the loss is the
    mean over all readings. A model that applies one layer again and again so learns to take one step each time, and to
    leave alone what is already known.
    """
    norm, head = getattr(model.base_model, "norm", None), getattr(model, "score", None) or model.classifier

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        del num_items_in_batch  # counts labels, not readings
        classes, depths = labels.unbind(-1)
        total, count = 0.0, 0
        states = outputs.hidden_states
        for layer in range(layers_per_clause, len(states), layers_per_clause):
            due = (classes != NO_LABEL) & (depths * layers_per_clause <= layer)
            hidden = states[layer][due]
            # The last of the recorded states has been through the norm already.
            logits = head(hidden if norm is None or layer == len(states) - 1 else norm(hidden))
            total = total + torch.nn.functional.cross_entropy(logits, classes[due], reduction="sum")
            count += len(hidden)
        return total / max(count, 1)  # type: ignore[return-value]

    return loss


def mean_of_all(mean: torch.Tensor, count: torch.Tensor, args: Any) -> torch.Tensor:
    """A mean over `count` readings of one process -> its part of that of all, as the Trainer adds them up."""
    mean = mean / args.gradient_accumulation_steps
    if args.world_size == 1:
        return mean
    everyone: Any = reduce(count.clone(), "sum")
    # The Trainer multiplies by the number of processes, over which gradients are averaged, if it counts labels.
    factor = 1 if args.average_tokens_across_devices else args.world_size
    return mean * count * factor / everyone
