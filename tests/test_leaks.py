"""Secrets are found wherever they stand in a file; rows that two splits share are found by their text."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from hf_tasks import leaks
from hf_tasks.leaks import find_secret, find_shared_row

SECRETS = {
    "hf_" + "aB3" * 11 + "x": "a Hugging Face token",
    "-----BEGIN OPENSSH PRIVATE KEY-----": "a private key",
    "-----BEGIN PRIVATE KEY-----": "a private key",
    "sk-" + "proj-" + "a1" * 20: "an OpenAI or Anthropic key",
    "ghp_" + "a1" * 18: "a GitHub token",
    "AKIA" + "ABCDEFGH12345678": "an AWS key",
    "xoxb-" + "1234567890-" * 3: "a Slack token",
    "AIza" + "a-_1" * 8 + "abc": "a Google key",
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("before", [0, 10, leaks.PIECE - 7, 2 * leaks.PIECE - 20])
def test_a_secret_is_found_wherever_it_stands(secret: str, before: int, tmp_path: Path) -> None:
    content = b" " * before + secret.encode() + b" " * 50
    (tmp_path / "notes.txt").write_bytes(content)
    assert find_secret("notes.txt", tmp_path / "notes.txt") == find_secret("notes.txt", content) == SECRETS[secret]


@pytest.mark.parametrize("name", [".env", "a/.env.local", "id_rsa", "keys/server.pem", "x.key", ".git-credentials"])
def test_files_of_secrets_are_known_by_name(name: str) -> None:
    assert find_secret(name, b"") == "a file of secrets by its name"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", "HF_TOKEN=hf_... and hf_tasks, hf_hub_download_of_a_long_function_name_x; sk-learn; AKIA; xoxb-"),
        ("tokenizer.json", '{"key": "value", "hf_transfer": 1}'),
        ("monkey", "-----BEGIN PUBLIC KEY-----"),
        ("keyed.json", ""),
    ],
)
def test_what_is_no_secret_passes(name: str, text: str) -> None:
    assert find_secret(name, text.encode()) is None


def test_of_weights_the_header_is_read_and_the_numbers_are_not(tmp_path: Path) -> None:
    token = "hf_" + "aB3" * 12
    save_file({"x": np.frombuffer(token.encode() + b" ", np.uint8)}, tmp_path / "a.safetensors")
    assert find_secret("a.safetensors", tmp_path / "a.safetensors") is None
    save_file({"x": np.zeros(2)}, tmp_path / "b.safetensors", metadata={"note": token})
    assert find_secret("b.safetensors", tmp_path / "b.safetensors") == "a Hugging Face token"


def parquet(rows: list[dict]) -> partial:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return partial(io.BytesIO, file.getvalue())


def test_a_shared_problem_is_named_whatever_stands_beside_it() -> None:
    train = [parquet([{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(50)])]
    test = [parquet([{"prompt": f"{i}+1=", "answer": "0"} for i in range(100, 120)])]
    other = [parquet([{"prompt": "7+7=", "answer": "14"}]), parquet([{"prompt": "31+1=", "answer": "another format"}])]
    assert find_shared_row({"train": train, "test": test}) is None
    assert find_shared_row({"train": train, "test": test, "other": other}) == ("train", "other", "31+1=")


def test_rows_may_repeat_inside_a_split() -> None:
    rows = parquet([{"prompt": "1+1=", "answer": "2"}] * 3)
    assert find_shared_row({"train": [rows, rows], "test": [parquet([{"prompt": "2+1=", "answer": "3"}])]}) is None


def test_without_prompts_whole_rows_count() -> None:
    a, b = ({"text": "once", "tags": [1, 2]}, {"text": "once", "tags": [1, 3]})
    assert find_shared_row({"train": [parquet([a])], "test": [parquet([b])]}) is None
    found = find_shared_row({"train": [parquet([b, a])], "test": [parquet([a])]})
    assert found is not None and found[:2] == ("train", "test") and '"tags": [1, 2]' in found[2]


def test_equal_hashes_are_not_yet_equal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_hashes", lambda keys: np.zeros(keys.num_rows, np.uint64))
    assert find_shared_row({"a": [parquet([{"prompt": "1"}])], "b": [parquet([{"prompt": "2"}])]}) is None
    assert find_shared_row({"a": [parquet([{"prompt": "1"}])], "b": [parquet([{"prompt": "1"}])]}) == ("a", "b", "1")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.text(max_size=3), max_size=30), min_size=2, max_size=4), st.integers(1, 7))
def test_it_finds_what_brute_force_finds(texts: list[list[str]], at_once: int) -> None:
    splits = {
        str(number): [parquet([{"prompt": text} for text in rows])] if rows else [] for number, rows in enumerate(texts)
    }
    sets = [set(rows) for rows in texts]
    shared = set().union(*(a & b for i, a in enumerate(sets) for b in sets[:i]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaks, "HASHES_AT_ONCE", at_once)
        found = find_shared_row(splits)
    assert (found is None) == (not shared)
    if found is not None:
        one, other, text = found
        assert text in sets[int(one)] & sets[int(other)] and one != other
