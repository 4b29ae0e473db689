"""Texts -> documents -> packed blocks -> batches, in which no token sees another document.

- Documents stay whole (Ding et al. 2024, "Fewer truncations improve language modeling", arXiv 2404.10830) where padding
  is at most a third: a story that was cut off from its instruction teaches to write without one. In blocks of 512
  tokens, stories with instructions (320 tokens each) take 32 % padding, exercises (105) 3 %. What would take more is
  cut at the end of a block. Where nothing hangs on the beginning, cutting is the better bargain: on plain stories a
  small model came in 360 steps to a held-out loss of 2.39 with cut blocks and of 2.60 with whole documents.
- A block says only how long its documents are (`lengths`). The collator makes of it what a model needs: for a stock
  model `position_ids` that restart, from which transformers itself builds the mask of any attention implementation on
  the model's device; for ours, which refuses `position_ids`, `structural_ids` read document by document and a mask.
- The first token of a document is never a label, so the mean loss of a block is that of its documents.
- The tokenizer is trained on the corpus: byte-level, so any text survives it, and digits stand alone.
"""

import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_tasks.corpora.job import TABLE
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.models.modeling_positional import TokenTable

END, PAD = "<|endoftext|>", "<|padding|>"
BYTES = 256
IGNORED = -100  # the label that no loss counts
MOST_PADDING = 1 / 3  # of the blocks, for the sake of whole documents; see the top of this file


def read_texts(path_or_name: str, split: str, config: str | None = None, column: str = "text") -> list[str]:
    """The texts of one split, in order; blank ones are left out.

    Args:
        path_or_name, split, config: as in `read_split`.
        column: that of the texts.

    Raises:
        UserError: as `read_split`; there is no such column; it holds no texts.
    """
    texts = read_split(path_or_name, split, config, column)[column][:]
    if not all(isinstance(text, str | None) for text in texts):
        raise UserError(f"column {column!r} of {path_or_name!r} holds no text: rename the one that does to {column!r}")
    kept = [text for text in texts if text and not text.isspace()]
    if not kept:
        raise UserError(f"split {split!r} of {path_or_name!r} has no text in its column {column!r}")
    return kept


def read_split(path_or_name: str, split: str, config: str | None = None, column: str | None = None) -> Dataset:
    """The rows of one split, in order.

    Args:
        path_or_name: a parquet file whose column `split` says what belongs where (without one, all of it is "train"); a
            folder that `hf-tasks corpus` wrote; else a folder or a name that `datasets.load_dataset` reads.
        split: its name.
        config: of a dataset that has several.
        column: the only one that is wanted.

    Raises:
        UserError: there is no such dataset, split or column.
    """
    path = Path(path_or_name)
    file = path / TABLE if (path / TABLE).is_file() else path
    if file.is_file():
        if config is not None:
            raise UserError(f"config {config!r} of {str(file)!r}: a parquet file has none, leave it out")
        return _read_parquet(file, split, column)
    try:
        rows: Any = load_dataset(path_or_name, config, split=split)
    except (ValueError, OSError, RuntimeError) as error:  # unknown config or split; not there; an old loading script
        raise UserError(f"split {split!r} of {path_or_name!r} cannot be loaded: {_one_line(error)}") from error
    if column is None:
        return rows
    if column not in rows.column_names:
        raise unknown_name("column", column, rows.column_names, f"in {path_or_name!r}")
    return rows.select_columns([column])


def _read_parquet(file: Path, split: str, column: str | None) -> Dataset:
    try:
        names = pq.read_schema(file).names
        if column is not None and column not in names:
            raise unknown_name("column", column, names, f"in {str(file)!r}")
        table = pq.read_table(file, columns=None if column is None else list({column, "split"} & {*names}))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{str(file)!r} is no parquet file that can be read: {_one_line(error)}") from error
    if not len(table):
        raise UserError(f"{str(file)!r} has no rows")
    splits = np.array(table["split"].to_pylist() if "split" in names else ["train"] * len(table), dtype=object)
    if not (chosen := splits == split).any():
        raise unknown_name("split", split, {str(name) for name in splits}, f"in {str(file)!r}")
    return Dataset(table.filter(pa.array(chosen)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the corpus: spaces lead their word as in GPT-2, every digit is a token.

    Decoding what was encoded gives any text back, byte for byte. `<|endoftext|>` ends a document and is the only other
    special token beside the padding, as in GPT-Neo and phi; the same characters inside a text stay text. TinyStories
    keeps the 10,000 commonest tokens of GPT-Neo's tokenizer ("top-10k"); here as many entries at most are learned
    anew, so none is spent on words that the corpus lacks.

    Args:
        texts: read once. The same texts give the same tokenizer.
        vocab_size: entries, special tokens and the 256 bytes included. A small corpus fills fewer: what occurs but once
            is not merged.

    Raises:
        UserError: `vocab_size` has no room for the bytes.
    """
    if vocab_size < (least := BYTES + len((END, PAD))):
        raise UserError(f"vocab_size {vocab_size} has no room for the {BYTES} bytes and two more; give {least} or more")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def encode_documents(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Every text as one row of `input_ids` that the tokenizer's end-of-text token ends."""

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [np.array([*ids, tokenizer.eos_token_id], np.int32) for ids in encoded]}  # type: ignore

    return Dataset.from_dict({"text": texts}).map(encode, batched=True, remove_columns=["text"], desc="encoding")


def pack(documents: Dataset, context: int, seed: int) -> Dataset:
    """Documents -> blocks of `context` tokens. Every token is in exactly one block.

    Documents stay whole where that takes few more blocks than the tokens fill, `MOST_PADDING` of them at most; one
    longer than a block is cut into pieces of `context` tokens first. Otherwise documents are laid end to end, in a
    random order, and cut at every block's end; only the last block is padded. Pieces of a document count as documents.

    Args:
        documents: from `encode_documents`: a column `input_ids`, each row ending in the same token.
        context: tokens a block.
        seed: of the order of documents and blocks.

    Returns:
        rows of `input_ids` (`context` of them; behind the documents the end-of-text token pads) and `lengths` of the
        block's documents; their sum is the number of tokens that are no padding.

    Raises:
        UserError: a context below 2; no documents.
    """
    if context < 2:
        raise UserError(f"context {context} leaves nothing to predict; give 2 tokens or more")
    column = documents.with_format("arrow")[:]["input_ids"].combine_chunks()
    tokens, sizes = np.asarray(column.flatten()), np.asarray(column.value_lengths()).astype(np.int64)
    if not len(tokens):
        raise UserError("there are no documents to pack")
    filled = _whole(sizes, context, np.random.default_rng(seed))
    if -(-len(tokens) // context) < (1 - MOST_PADDING) * len(filled):
        filled = _cut(sizes, context, np.random.default_rng(seed))
    blocks, lengths = np.full((len(filled), context), tokens[-1], np.int32), []
    for block, pieces in zip(blocks, filled, strict=True):
        parts = [tokens[start:stop] for start, stop in pieces]
        lengths.append([len(part) for part in parts])
        block[: sum(lengths[-1])] = np.concatenate(parts)
    return Dataset.from_dict({"input_ids": blocks, "lengths": lengths})


Pieces = list[tuple[int, int]]  # from which token of the corpus to which


def _whole(sizes: np.ndarray, context: int, rng: np.random.Generator) -> list[Pieces]:
    """Blocks filled one after the other with the longest document that still fits (first-fit decreasing)."""
    ends = sizes.cumsum()
    starts = np.concatenate([np.arange(end - size, end, context) for size, end in zip(sizes, ends, strict=True)])
    lengths = np.diff(starts, append=ends[-1])
    pools: list[Pieces] = [[] for _ in range(context + 1)]  # by length
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        pools[length].append((start, start + length))
    for pool in pools:
        rng.shuffle(pool)
    left = sum(1 << length for length, pool in enumerate(pools) if pool)  # bit n: pieces of length n are left
    blocks = []
    while left:
        block, room = [], context
        while fits := left & ((2 << room) - 1):
            length = fits.bit_length() - 1
            block.append(pools[length].pop())
            room -= length
            if not pools[length]:
                left ^= 1 << length
        blocks.append(block)
    return [blocks[place] for place in rng.permutation(len(blocks))]


def _cut(sizes: np.ndarray, context: int, rng: np.random.Generator) -> list[Pieces]:
    """Blocks cut from one stream of shuffled documents."""
    order = rng.permutation(len(sizes))
    shifts = (sizes.cumsum() - sizes)[order]
    ends = sizes[order].cumsum()
    shifts -= ends - sizes[order]  # from a place in the stream to one in the corpus
    cuts = np.union1d(ends, np.arange(context, ends[-1], context))  # where a piece ends in the stream
    starts = np.append(0, cuts[:-1])
    shifts = shifts[np.searchsorted(ends, starts, side="right")]
    pieces = np.stack([starts + shifts, cuts + shifts], axis=1)
    return [block.tolist() for block in np.split(pieces, np.flatnonzero(cuts % context == 0) + 1) if len(block)]


class PackedCollator:
    """Blocks of `pack` -> what the model needs so that documents do not see each other and positions restart.

    - A stock model gets `position_ids` that restart and no mask. `create_causal_mask` of transformers reads that as
      packed documents, on the model's device and for its attention implementation: an added mask for eager, a boolean
      one for sdpa, a sparse `BlockMask` for flex_attention. It does not where there is a cache, whence `use_cache`.
    - Ours gets `structural_ids`, and a mask of all pairs of tokens: boolean for sdpa, added for eager. Random ids are
      drawn for each document while the model is in training mode; a batch that the Trainer fetches just behind an
      evaluation, before it sets the mode back, has those of evaluation.
    - Where every block holds one document, which padding alone follows, no mask is needed, and the faster ways of
      attention that have none are taken.

    The Trainer must leave the column `lengths` alone: `remove_unused_columns=False`.

    Args:
        model: whose batches these are; looked at for its kind, its attention implementation and its mode.

    Raises:
        UserError: the model would let documents see each other.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        name, config = type(model).__name__, model.config
        self.structural = hasattr(model, "structural_ids")
        if not self.structural and "position_ids" not in inspect.signature(model.forward).parameters:
            raise UserError(
                f"{name} takes no position_ids, so packed documents would see each other: choose gpt_neo, phi or ours"
            )
        # flash_attention tells packed rows apart only in batches of one, and of GPT-Neo not even there.
        known = ("eager", "sdpa") if self.structural else ("eager", "sdpa", "flex_attention")
        if config._attn_implementation not in known:
            raise UserError(
                f"attention {config._attn_implementation!r} is not known to keep packed documents of {name} apart; "
                f"known: {', '.join(known)}"
            )
        if getattr(config, "qkv_conv_kernel", None) is not None:
            raise UserError(
                f"qkv_conv_kernel {config.qkv_conv_kernel} mixes tokens of packed documents: leave it out of the model"
            )
        if self.structural:
            self.pairs = config.pairs()
            self.table = TokenTable(config)  # type: ignore[arg-type]
            self.table.kinds.copy_(self.table.compute())

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """B rows of S tokens -> `input_ids` and `labels`, (B, S), and what tells the model of the documents.

        Raises:
            UserError: the Trainer has removed the lengths.
        """
        if "lengths" not in rows[0]:
            raise UserError("blocks came without their lengths: set remove_unused_columns to false in the trainer")
        input_ids = torch.from_numpy(np.array([row["input_ids"] for row in rows], np.int64))
        context = input_ids.shape[1]
        lengths = torch.tensor([size for row in rows for size in (*row["lengths"], context - sum(row["lengths"]))])
        owner = torch.arange(len(lengths)).repeat_interleave(lengths).view(input_ids.shape)
        place = torch.arange(input_ids.numel()).view(input_ids.shape) - (lengths.cumsum(0) - lengths)[owner]
        used = torch.tensor([sum(row["lengths"]) for row in rows])[:, None]
        unpredicted = (place == 0) | (torch.arange(context) >= used)
        batch = {"input_ids": input_ids, "labels": input_ids.masked_fill(unpredicted, IGNORED), "use_cache": False}
        is_alone = all(len(row["lengths"]) == 1 for row in rows)
        if not self.structural:
            return batch if is_alone else batch | {"position_ids": place}
        if is_alone:
            ids = [self._before_padding(tokens[:size], context) for tokens, size in zip(input_ids, used, strict=True)]
            return batch | {"structural_ids": torch.stack(ids)}
        ids = [self._ids(document) for document in input_ids.view(-1).split(lengths.tolist()) if len(document)]
        return batch | {
            "structural_ids": torch.cat(ids).view(*input_ids.shape, -1),
            "attention_mask": self._mask(owner),
        }

    def _ids(self, document: torch.Tensor) -> torch.Tensor:
        """The ids that the model would give a document that stands alone: (S,) tokens -> (S, pairs)."""
        tokens = self.table(document[None], torch.ones(1, len(document), dtype=torch.bool))
        columns = [pair.ids(tokens, self.model.training) for pair in self.pairs]
        return torch.stack(torch.broadcast_tensors(*columns), dim=-1)[0]

    def _before_padding(self, document: torch.Tensor, context: int) -> torch.Tensor:
        """The ids of a document, (S,) tokens, and behind them some that nobody sees: (context, pairs).

        They go on where biases are a function of the distance, so that ids which are places stay so, and else repeat
        the last one, because no table may have more.
        """
        ids = self._ids(document)
        goes_on = torch.tensor([pair.encoding.by_distance for pair in self.pairs])
        more = torch.arange(1, context - len(ids) + 1)[:, None] * goes_on
        return torch.cat([ids, ids[-1:] + more])

    def _mask(self, owner: torch.Tensor) -> torch.Tensor:
        """(B, S) numbers of documents -> what each token may see, (B, 1, S, S), in the attention's own form."""
        size = owner.shape[1]
        owner = owner.short()  # four times as fast; numbers that wrap are too far apart to meet in one row
        seen = owner[:, None, :, None] == owner[:, None, None, :]
        seen &= torch.ones(size, size, dtype=torch.bool).tril()
        if self.model.config._attn_implementation == "sdpa":
            return seen
        dtype = self.model.dtype
        return torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype).masked_fill_(seen, 0.0)
