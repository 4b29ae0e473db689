"""`hf-tasks corpus` and the registry behind it: every corpus is made by its grammar, and mistakes are one line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pytest

from hf_tasks.cli import main
from hf_tasks.corpora import CORPORA, GRAMMARS, get_corpus, mix
from hf_tasks.corpora.base import split_of
from hf_tasks.corpora.grammar import GrammarWriter
from hf_tasks.corpora.job import COLUMNS, REPORT, TABLE


def command(*arguments: str) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*arguments])


@pytest.mark.parametrize("name", GRAMMARS)
def test_every_corpus_is_made_without_a_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["corpus", name, "--writer", "grammar", "--rows", "12", "--output", str(tmp_path / "out")]
    command(*given)
    shown = capsys.readouterr().out
    assert f"12 of 12 rows of {name} by grammar are in" in shown and "distinct n-grams" in shown
    assert json.loads((tmp_path / "out" / REPORT).read_text())["diversity"]["rows"] == 12
    content = (tmp_path / "out" / TABLE).read_bytes()
    rows: Any = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / TABLE), cache_dir=str(tmp_path), split="train"
    )
    corpus = get_corpus(name)
    parameters = [corpus.parameters(i, 0) for i in range(12)]
    assert rows.column_names == [*corpus.columns, *(f"parameter_{p}" for p in parameters[0]), *COLUMNS]
    for i, row in enumerate(rows):
        assert (row["index"], row["writer"]) == (i, "grammar") and row["text"].strip()
        assert {p: row[f"parameter_{p}"] for p in parameters[i]} == parameters[i]
        assert row["split"] == split_of(name, parameters[i])
        assert row["text"] == corpus.text({column: row[column] for column in corpus.columns})

    replies = (tmp_path / "out" / "replies.jsonl").read_bytes()
    command(*given)
    assert (tmp_path / "out" / TABLE).read_bytes() == content
    assert (tmp_path / "out" / "replies.jsonl").read_bytes() == replies


@pytest.mark.parametrize(
    ("options", "kind", "asked"),
    [
        ([], "embedded", (None,)),
        (["--model", "x.gguf"], "embedded", ("x.gguf",)),
        (["--base-url", "http://h", "--model", "m"], "server", ("http://h", "m")),
        (["--writer", "embedded"], "embedded", (None,)),
        (["--temperature", "0.5", "--top-p", "0.9"], "embedded", (None,)),
    ],
)
def test_without_a_writer_it_is_the_server_that_is_named_or_else_a_small_model(
    options: list[str], kind: str, asked: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, tuple[Any, ...], dict[str, float]]] = []

    def server(*given: Any, **sampling: float) -> GrammarWriter:
        made.append(("server", given, sampling))
        return GrammarWriter()

    @contextmanager
    def embedded(*given: Any, **sampling: float) -> Iterator[GrammarWriter]:
        made.append(("embedded", given, sampling))
        yield GrammarWriter()

    monkeypatch.setattr(mix, "Server", server)
    monkeypatch.setattr(mix, "embedded", embedded)
    command("corpus", "tinystories", *options, "--rows", "3", "--output", str(tmp_path / "out"))
    sampling = {"temperature": 0.5, "top_p": 0.9} if "--top-p" in options else {}
    assert made == [(kind, asked, sampling)]


def test_every_corpus_is_known_to_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert GRAMMARS.keys() < CORPORA.keys()
    command("list", "corpora")
    shown = capsys.readouterr().out
    assert all(name in shown for name in CORPORA)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["storys", "--writer", "grammar"], "unknown corpus 'storys'"),
        (
            ["textbook", "--writer", "grammar", "--words", "9"],
            "words 9 is for tinystories, tinystories_instruct",
        ),
        (["tinystories", "--writer", "gpt"], "unknown writer 'gpt'; known: embedded, grammar, server"),
        (["textbook", "--writer", "grammar"], "no grammar writes textbook, only tinystories"),
        (["tinystories", "--writer", "server"], "--writer server needs --base-url"),
        (["tinystories", "--writer", "server", "--base-url", "http://127.0.0.1:1"], "--writer server needs --model"),
        (["tinystories", "--base-url", "http://127.0.0.1:1"], "--writer server needs --model"),
        (["tinystories", "--writer", "embedded", "--base-url", "http://h"], "--writer embedded takes no --base-url"),
        (["tinystories", "--writer", "grammar", "--model", "x"], "--writer grammar takes no --model"),
        (["tinystories", "--writer", "grammar", "--top-p", "0.9"], "--writer grammar takes no --top-p"),
        (["tinystories", "--model", "no.gguf"], "no.gguf"),
        (["tinystories", "--writer", "grammar", "--max-tokens-total", "1000000"], "counts no tokens"),
        (["tinystories", "--writer", "embedded", "--model", "no.gguf"], "no.gguf"),
        (["tinystories", "--writer", "grammar", "--concurrency", "0"], "concurrency"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["corpus", *options, "--rows", "3", "--output", str(tmp_path / "out")])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out" / TABLE).exists()
