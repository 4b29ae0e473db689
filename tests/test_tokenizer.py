"""The tokenizer: the longest tokens that fit, loads anywhere, keeps the number format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_tasks import PositionalConfig, build_tokenizer, get_task
from hf_tasks.tasks import TASKS

ADDITION = get_task("addition", reverse="answer", pad=True)
TOKENIZER = build_tokenizer(ADDITION)


def longest_first(text: str, tokens: tuple[str, ...]) -> list[str]:
    """The text cut from the left into the longest tokens that fit."""
    pieces = []
    while text:
        pieces.append(max((token for token in tokens if text.startswith(token)), key=len))
        text = text[len(pieces[-1]) :]
    return pieces


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_row_survives(name: str) -> None:
    task = get_task(name)
    tokenizer = build_tokenizer(task)
    rows = task.generate("train", size=50)
    for text in [*rows["prompt"], *rows["answer"]]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", *longest_first(text, task.vocabulary)]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


@given(st.text(alphabet="".join(ADDITION.vocabulary), max_size=60))
def test_round_trip(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_special_tokens_are_not_read_out_of_data() -> None:
    assert TOKENIZER.eos_token_id not in TOKENIZER("12<eos>")["input_ids"]


def test_reload_keeps_everything(tmp_path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert loaded("12+34=")["input_ids"] == TOKENIZER("12+34=")["input_ids"]
    assert loaded.padding_side == "left"
    assert PositionalConfig.from_tokenizer(loaded).to_dict() == PositionalConfig.from_tokenizer(TOKENIZER).to_dict()


def test_config_reads_digits_and_separators() -> None:
    config = PositionalConfig.from_tokenizer(TOKENIZER)
    symbols = TOKENIZER.convert_ids_to_tokens
    assert sorted(symbols(config.digit_token_ids)) == list("0123456789")
    assert set(symbols(config.separator_token_ids)) == {"+", "=", "<bos>", "<eos>"}
    assert symbols(config.answer_token_ids) == ["="] and config.reversed_numbers == "answer"
    assert config.answer_width == [1, 1] and config.vocab_size == len(TOKENIZER)
