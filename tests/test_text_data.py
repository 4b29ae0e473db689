"""Texts, tokenizer, packing, and the contract of packed batches: a packed document is as good as one alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Trainer,
    TrainingArguments,
)

from hf_tasks.errors import UserError
from hf_tasks.models import PositionalForCausalLM
from hf_tasks.text.data import BYTES, END, IGNORED, PackedCollator, encode_documents, pack, read_texts, train_tokenizer

TEXTS = [f"Tim had {n} red balls. Tim's dog, Spot, ran away!\n\nThen {n + 1} more came." for n in range(40)]
CONTEXT, EOS = 24, 18


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 320)


# Texts.


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    columns = {
        "text": ["one", "  \n", "two", None, "three"],
        "split": ["train"] * 4 + ["test"],
        "index": list(range(5)),
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_texts_of_a_table_are_chosen_by_split_and_blank_ones_left_out(table: Path) -> None:
    assert read_texts(str(table), "train") == read_texts(str(table.parent), "train") == ["one", "two"]
    assert read_texts(str(table), "test") == ["three"]
    bare = table.with_name("bare.parquet")
    pq.write_table(pa.table({"story": ["a", "b"]}), bare)
    assert read_texts(str(bare), "train", column="story") == ["a", "b"]


def test_texts_of_a_folder_are_read_by_datasets(tmp_path: Path) -> None:
    for config, split in (("easy", "train"), ("easy", "test"), ("hard", "train")):
        Dataset.from_dict({"body": [f"{config} {split}"]}).to_parquet(tmp_path / f"{config}/{split}.parquet")
    names = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("easy", "hard"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{names}---\n")
    assert read_texts(str(tmp_path), "test", "easy", "body") == ["easy test"]
    assert read_texts(str(tmp_path), "train", "hard", "body") == ["hard train"]
    for split, config, column, named in [
        ("dev", "easy", "body", "dev"),
        ("train", "easy", "text", "known: body"),
        ("train", "mild", "body", "mild"),
        ("train", None, "body", "easy"),
    ]:
        with pytest.raises(UserError, match=named) as refusal:
            read_texts(str(tmp_path), split, config, column)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"split": "validation"}, "unknown split 'validation'; known: test, train"),
        ({"split": "train", "column": "txt"}, "did you mean 'text'"),
        ({"split": "train", "column": "index"}, "holds no text"),
        ({"split": "train", "config": "easy"}, "has none, leave it out"),
    ],
)
def test_what_a_table_lacks_is_named(table: Path, arguments: dict, named: str) -> None:
    with pytest.raises(UserError, match=named) as refusal:
        read_texts(str(table), **arguments)
    assert "\n" not in str(refusal.value)


def test_files_without_texts_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["", " "]}), tmp_path / "blank.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    for name, named in (("blank.parquet", "has no text"), ("broken.parquet", "no parquet"), ("nowhere", "nowhere")):
        with pytest.raises(UserError, match=named) as refusal:
            read_texts(str(tmp_path / name), "train")
        assert "\n" not in str(refusal.value)


# The tokenizer.


@given(
    st.text() | st.sampled_from([END, f"a{END}b", " 1 23", "  two", "tab\tand\r\n", "don 't , ?", "\ud7ff\U0001f600"])
)
@settings(deadline=None)
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & {*ids}


def test_words_take_their_space_along_and_digits_stand_alone(tokenizer: Any) -> None:
    assert tokenizer.tokenize("Tim had 12 balls") == ["Tim", "Ġhad", "Ġ", "1", "2", "Ġballs"]


def test_the_tokenizer_is_the_same_again_and_after_loading(tokenizer: Any, tmp_path: Path) -> None:
    again = train_tokenizer(iter(TEXTS), 320)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = f"Tim {END} 12"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    for one in (tokenizer, loaded):
        assert one.bos_token == one.eos_token == END
        assert one.pad_token_id not in (None, one.eos_token_id)
        assert one.padding_side == "left"


def test_the_vocabulary_has_room_for_all_bytes_and_no_more_than_is_asked(tokenizer: Any) -> None:
    assert BYTES + 2 < len(tokenizer) <= 320
    assert len(train_tokenizer(TEXTS, BYTES + 2)) == BYTES + 2
    with pytest.raises(UserError, match="give 258 or more"):
        train_tokenizer(TEXTS, 257)


# Packing.


def test_every_document_ends_in_one_eos(tokenizer: Any) -> None:
    documents = encode_documents([*TEXTS, END], tokenizer)["input_ids"]
    assert [tokenizer.decode(ids[:-1]) for ids in documents] == [*TEXTS, END]
    assert all(ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id for ids in documents)


def _pieces(blocks: Dataset) -> list[list[tuple[int, ...]]]:
    """Block by block, the documents in it; what is behind them must be padding."""
    found = []
    for ids, lengths in zip(blocks["input_ids"], blocks["lengths"], strict=True):
        *parts, rest = np.split(ids, np.cumsum(lengths))
        assert {*rest.tolist()} <= {EOS}
        found.append([tuple(part.tolist()) for part in parts])
    return found


def _texts(sizes: list[int]) -> tuple[list[list[int]], Dataset]:
    """Documents of these lengths, in which no token but the last occurs twice."""
    numbers = iter(range(100, 100_000))
    texts = [[next(numbers) for _ in range(size - 1)] + [EOS] for size in sizes]
    return texts, Dataset.from_dict({"input_ids": texts})


@given(st.lists(st.integers(2, 60), min_size=1, max_size=60), st.integers(2, 40), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_every_token_is_in_one_block(sizes: list[int], context: int, seed: int) -> None:
    texts, documents = _texts(sizes)
    blocks = pack(documents, context, seed)
    assert all(len(ids) == context for ids in blocks["input_ids"])
    pieces = [piece for block in _pieces(blocks) for piece in block]
    assert Counter(token for piece in pieces for token in piece) == Counter(token for text in texts for token in text)
    home = {token: (number, place) for number, text in enumerate(texts) for place, token in enumerate(text[:-1])}
    for piece in pieces:  # a run of tokens of one document, in their order
        places = [home[token] for token in piece if token != EOS]
        assert len({number - place for place, (_, number) in enumerate(places)}) <= 1
        assert len({number for number, _ in places}) <= 1 and EOS not in piece[:-1]


@pytest.mark.parametrize("seed", range(3))
def test_short_documents_stay_whole(seed: int) -> None:
    """First fit: two blocks that fit into one are never left apart."""
    context = 36
    texts, documents = _texts([*np.random.default_rng(seed).integers(2, 11, 300).tolist(), 2 * context + 3])
    blocks = pack(documents, context, seed)
    pieces = Counter(tuple(text[at : at + context]) for text in texts for at in range(0, len(text), context))
    assert Counter(piece for block in _pieces(blocks) for piece in block) == pieces
    fullest = sorted(sum(lengths) for lengths in blocks["lengths"])
    assert fullest[0] + fullest[1] > context


def test_documents_that_would_leave_much_padding_are_cut() -> None:
    """Twenty-one tokens in blocks of forty: whole, 47 % would be padding. Thirty: a quarter."""
    _, documents = _texts([21] * 80)
    blocks = pack(documents, 40, 0)
    assert len(blocks) == 80 * 21 // 40
    assert [sum(lengths) for lengths in blocks["lengths"]] == [40] * 42
    assert sum(len(lengths) for lengths in blocks["lengths"]) == 80 + 41 - 1  # each cut but one in the middle makes two
    _, documents = _texts([30] * 99)
    assert [sum(lengths) for lengths in pack(documents, 40, 0)["lengths"]] == [30] * 99


def test_packing_follows_the_seed_alone() -> None:
    documents = Dataset.from_dict({"input_ids": [[n] * (n % 7 + 1) + [EOS] for n in range(100, 200)]})
    first, again, other = (pack(documents, 32, seed) for seed in (0, 0, 1))
    assert first[:] == again[:] != other[:]
    longest = [max(lengths) for lengths in first["lengths"]]
    assert longest != sorted(longest, reverse=True)  # as they were filled
    backwards = documents.select(range(99, -1, -1))  # an indirection, which the arrow table behind it does not show
    pieces = Counter(piece for block in _pieces(pack(backwards, 32, 0)) for piece in block)
    assert pieces == Counter(map(tuple, documents["input_ids"]))


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(UserError, match="give 2 tokens or more"):
        pack(Dataset.from_dict({"input_ids": [[1, EOS]]}), 1, 0)
    with pytest.raises(UserError, match="no documents"):
        pack(Dataset.from_dict({"input_ids": [[1, EOS]]}).select([]), 8, 0)


# The contract: documents in a block are as if alone.

LENGTHS = [[9, 5, 2, 1], [CONTEXT], [13, 11]]  # with padding, one document, two that fill the block
SINGLE = [[9], [CONTEXT], [13]]  # one a block
OURS = {
    "sequential+rotary": [("sequential", "rotary")],
    "sequential+alibi": [("sequential", "alibi", {"learnable": True})],
    "sequential+learned": [("sequential", "learned")],
    "sequential+t5": [("sequential", "t5")],
    "sequential+clipped": [("sequential", "clipped", {"clip": 2})],
    "randomized+rotary": [("randomized", "rotary")],
    "randomized+learned": [("randomized", "learned", {"size": 64, "max_length": 64})],
    "read from tokens": [("segment", "learned"), ("clause", "match"), ("abacus", "rotary")],
    "content": [("sequential", "cope")],
}
CASES = [("gpt_neo", "eager"), ("phi", "eager"), ("phi", "sdpa")]
CASES += [(name, attention) for name in (*OURS, "log_length") for attention in ("eager", "sdpa")]


@pytest.fixture(scope="module")
def build(tiny_model: Any) -> Any:
    def make(name: str, attention: str, **fields: Any) -> Any:
        torch.manual_seed(0)
        stock = {
            "vocab_size": 20, "hidden_size": 32, "initializer_range": 0.2, "max_position_embeddings": CONTEXT,
            "bos_token_id": EOS, "eos_token_id": EOS, "attn_implementation": attention,
        }  # fmt: skip
        if name == "gpt_neo":  # half its layers see four tokens
            kinds: Any = [[["global", "local"], 1]]
            config = GPTNeoConfig(num_layers=2, num_heads=4, attention_types=kinds, window_size=4, **stock)
            model = GPTNeoForCausalLM(config)
        elif name == "phi":
            model = PhiForCausalLM(PhiConfig(num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, **stock))
        else:
            more = {"attention_scaling": "log_length", "attention_scaling_length": 8} if name == "log_length" else {}
            model = tiny_model(*OURS.get(name, OURS["sequential+rotary"]), **more, **fields)
            model.set_attn_implementation(attention)
        assert model.config.use_cache
        return model.eval()

    return make


@pytest.fixture(scope="module")
def blocks() -> list[dict[str, Any]]:
    return _blocks(LENGTHS)


def _blocks(lengths: list[list[int]]) -> list[dict[str, Any]]:
    draws = np.random.default_rng(0)
    ids = [[int(i) for i in draws.integers(0, 17, CONTEXT)] for _ in lengths]
    rows = [{"input_ids": row, "lengths": sizes} for row, sizes in zip(ids, lengths, strict=True)]
    for row in rows:
        for end in np.cumsum(row["lengths"]):
            row["input_ids"][end - 1] = EOS
        row["input_ids"][sum(row["lengths"]) :] = [EOS] * (CONTEXT - sum(row["lengths"]))
    return rows


def _documents(row: dict[str, Any]) -> list[tuple[slice, torch.Tensor]]:
    ends = np.cumsum(row["lengths"]).tolist()
    slices = [slice(end - size, end) for size, end in zip(row["lengths"], ends, strict=True)]
    return [(place, torch.tensor([row["input_ids"][place]])) for place in slices]


def _gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("lengths", [LENGTHS, SINGLE], ids=["packed", "one a block"])
@pytest.mark.parametrize(("name", "attention"), CASES)
def test_packed_documents_are_as_if_alone(build: Any, lengths: list, name: str, attention: str) -> None:
    model, blocks = build(name, attention), _blocks(lengths)
    batch = PackedCollator(model)(blocks)
    assert (lengths is SINGLE) == (not {"attention_mask", "position_ids"} & {*batch})
    packed = model(**batch)
    total, count = torch.zeros(()), 0
    for row, logits in zip(blocks, packed.logits, strict=True):
        for place, document in _documents(row):
            alone = model(input_ids=document)
            torch.testing.assert_close(logits[place], alone.logits[0], atol=1e-5, rtol=1e-5)
            total = total + torch.nn.functional.cross_entropy(alone.logits[0, :-1], document[0, 1:], reduction="sum")
            count += document.shape[1] - 1
    torch.testing.assert_close(packed.loss, total / count, atol=1e-5, rtol=1e-5)
    theirs, ours = (_gradients(model, loss) for loss in (total / count, packed.loss))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_no_token_sees_another_document(build: Any, blocks: list, name: str, attention: str) -> None:
    model = build(name, attention)
    collator = PackedCollator(model)
    before = model(**collator(blocks[:1])).logits[0]
    first, second = (place for place, _ in _documents(blocks[0])[:2])
    for changed, same in ((first, slice(first.stop, None)), (second, first)):
        ids = [*blocks[0]["input_ids"]]
        ids[changed] = [(i + 3) % 17 for i in ids[changed]]
        after = model(**collator([{**blocks[0], "input_ids": ids}])).logits[0]
        torch.testing.assert_close(after[same], before[same], atol=1e-6, rtol=1e-6)
        assert (after[changed] - before[changed]).abs().max() > 1e-2


def test_nothing_is_predicted_across_documents_or_in_padding(build: Any, blocks: list) -> None:
    batch = PackedCollator(build("phi", "sdpa"))(blocks)
    for row, labels, places in zip(blocks, batch["labels"], batch["position_ids"], strict=True):
        used = sum(row["lengths"])
        begins = [place.start for place, _ in _documents(row)]
        expected = torch.tensor(row["input_ids"])
        expected[[*begins, *range(used, CONTEXT)]] = IGNORED
        assert labels.tolist() == expected.tolist()
        assert places[:used].tolist() == [place for size in row["lengths"] for place in range(size)]


def test_random_ids_are_drawn_for_each_document_in_training_alone(build: Any, blocks: list) -> None:
    """Each document gets a sorted subset of the whole range, however long its neighbours are."""
    model = build("randomized+rotary", "sdpa")
    collator = PackedCollator(model)
    still = collator(blocks)["structural_ids"]
    assert torch.equal(still, collator(blocks)["structural_ids"])
    model.train()
    drawn = torch.stack([collator(blocks[:1])["structural_ids"][0, :, 0] for _ in range(300)])
    first, second, third, _ = (place for place, _ in _documents(blocks[0]))
    for place in (first, second, third):
        assert (drawn[:, place].diff() > 0).all()
    # The mean of a sorted subset is the middle of the range: 1023.5 of 0 ... 2047, standard error 2048 / 60 at most.
    for place in (first, second, third):
        assert abs(drawn[:, place].float().mean() - 1023.5) < 120
    assert abs(np.corrcoef(drawn[:, first.start], drawn[:, second.start])[0, 1]) < 0.25


def test_half_precision_takes_the_same_masks(build: Any, blocks: list) -> None:
    for name, attention in (("sequential+alibi", "eager"), ("sequential+alibi", "sdpa"), ("phi", "eager")):
        model = build(name, attention).to(torch.bfloat16)
        packed = model(**PackedCollator(model)(blocks)).logits[0]
        for place, document in _documents(blocks[0]):
            torch.testing.assert_close(packed[place], model(input_ids=document).logits[0], atol=0.3, rtol=0.1)


def test_models_that_would_mix_documents_are_refused(build: Any) -> None:
    flash = build("phi", "sdpa")
    flash.config._attn_implementation = "flash_attention_2"
    bloom = BloomForCausalLM(BloomConfig(vocab_size=20, hidden_size=16, n_layer=1, n_head=2))
    mixing = build("sequential+rotary", "sdpa", qkv_conv_kernel=3)
    flex = build("sequential+rotary", "flex_attention")
    refusals = [
        (flash, "flash_attention_2"),
        (flex, "known: eager, sdpa$"),
        (bloom, "position_ids"),
        (mixing, "qkv_conv_kernel 3"),
    ]
    for model, named in refusals:
        with pytest.raises(UserError, match=named):
            PackedCollator(model)


@pytest.mark.parametrize("name", ["gpt_neo", "sequential+rotary"])
def test_the_trainer_takes_blocks(build: Any, blocks: list, name: str, tmp_path: Path) -> None:
    """Its loss of held-out blocks is the model's own; a Trainer that drops the lengths is told what to set."""
    model = build(name, "eager")
    args = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "max_steps": 2}
    data = Dataset.from_list(blocks)
    parts = {"model": model, "train_dataset": data, "eval_dataset": data, "data_collator": PackedCollator(model)}
    trainer = Trainer(args=TrainingArguments(str(tmp_path), remove_unused_columns=False, **args), **parts)
    trainer.train()
    with torch.no_grad():
        expected = model.eval()(**PackedCollator(model)(blocks)).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(UserError, match="remove_unused_columns"):
        Trainer(args=TrainingArguments(str(tmp_path), **args), **parts).train()


def test_the_collator_wants_no_more_than_a_model(tiny_config: Any) -> None:
    assert PackedCollator(PositionalForCausalLM(tiny_config(("sequential", "none")))).structural
