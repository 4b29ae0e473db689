"""The textbooks command as a user runs it, and the builder of what grammars write."""

from pathlib import Path

import datasets
import pytest

from datasets_scripts.textbooks import INTERRUPTED, Textbooks, main
from hf_tasks.corpora import GRAMMARS, build

MIX = "title: Few\nsummary: A few stories.\nparts:\n  tinystories: {rows: 6, writer: grammar, clean: []}\n"


def test_the_command_writes_a_folder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "few.yaml").write_text(MIX)
    arguments = ["--mix", str(tmp_path / "few.yaml"), "--output", str(tmp_path / "few")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "tinystories: 6 of 6 rows; dropped: none" in said and "load_dataset" in said
    loaded = datasets.load_dataset(str(tmp_path / "few"), "tinystories", cache_dir=str(tmp_path / "cache"))
    assert sum(map(len, loaded.values())) == 6
    assert "python -m datasets_scripts.textbooks --mix" in (tmp_path / "few" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "textbook"], "unknown mix 'textbook' (did you mean 'textbooks'?)"),
        (["--mix", "textbooks"], "--mix takes a .yaml file, not 'textbooks'"),
        (["--mix", "{folder}/typo.yaml"], "unknown key of typo.parts.tinystories 'wroter' (did you mean 'writer'?)"),
        (["--mix", "{folder}/few.yaml", "--tasks", "0"], "tasks"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "typo.yaml").write_text(MIX.replace("writer", "wroter"))
    (tmp_path / "few.yaml").write_text(MIX.replace("[]", "[exact_duplicate]"))
    arguments = [one.format(folder=tmp_path) for one in arguments]
    assert main([*arguments, "--output", str(tmp_path / "data")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "few.yaml").write_text(MIX)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "check", interrupted)
    monkeypatch.setattr(build, "readability", interrupted)
    assert main(["--mix", str(tmp_path / "few.yaml"), "--output", str(tmp_path / "few")]) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted; nothing is lost: the same command continues\n"


def test_the_builder_has_what_grammars_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(Textbooks.builder_configs) == set(GRAMMARS)
    builder = Textbooks(config_name="tinystories", cache_dir=str(tmp_path), rows=30, seed=3)
    builder.download_and_prepare()
    rows = [row for split in builder.as_dataset().values() for row in split]
    assert sorted(row["index"] for row in rows) == [*range(30)] and {row["writer"] for row in rows} == {"grammar"}
    assert Textbooks(config_name="tinystories", cache_dir=str(tmp_path), rows=31).cache_dir != builder.cache_dir
    monkeypatch.setattr("datasets_scripts.textbooks.source_hash", lambda: "another source")
    assert Textbooks(config_name="tinystories", cache_dir=str(tmp_path), rows=30, seed=3).cache_dir != builder.cache_dir
