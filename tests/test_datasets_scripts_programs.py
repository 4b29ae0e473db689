"""The corpus of programs: what it promises, and its command."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import pytest

from datasets_scripts.common import write_corpus
from datasets_scripts.programs import CORPORA, Programs, main
from hf_tasks.leaks import find_shared_row
from hf_tasks.tasks import get_task
from hf_tasks.tasks.programs import TARGETS

CORPUS = CORPORA["programs"]
CONFIGS = CORPUS.configs
# Drawing the pictures of the cards is what takes time here, so the folder has two of the configs.
WRITTEN = {config: CONFIGS[config] for config in ("value", "labels")}
SMALL = {"programs": replace(CORPUS, configs=WRITTEN, sizes={"train": 300, "test": 40}, longer_size=20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(SMALL, "programs", tmp_path_factory.mktemp("corpus") / "programs")


def test_there_is_a_config_for_every_target() -> None:
    assert tuple(CONFIGS) == TARGETS


@pytest.mark.parametrize("config", WRITTEN)
def test_every_written_config_loads_with_its_longer_splits(config: str, folder: Path, tmp_path: Path) -> None:
    made_of = CONFIGS[config]
    loaded = datasets.load_dataset(str(folder), config, cache_dir=str(tmp_path))
    assert set(loaded) == {"train", "test", "test_24", "test_nested"}
    for name, rows in loaded.items():
        split = str(name)
        task = get_task("programs", **{**made_of.parameters, **made_of.longer.get(split, {})})
        assert rows.data.table.combine_chunks() == task.table("train" if split == "train" else "test", len(rows))
        assert all(map(task.check, rows["prompt"], rows["answer"]))
    assert set(loaded["test_24"]["lines"]) == {24}
    assert set(loaded["test_nested"]["nesting"]) == {3}
    assert max(loaded["train"]["nesting"]) == 2 and max(loaded["train"]["lines"]) == 12


def test_a_longer_split_needs_no_token_that_training_lacks() -> None:
    for made_of in CONFIGS.values():
        vocabulary = get_task("programs", **made_of.parameters).vocabulary
        for different in made_of.longer.values():
            assert get_task("programs", **{**made_of.parameters, **different}).vocabulary == vocabulary


def test_splits_share_no_program_not_even_with_other_constants(folder: Path) -> None:
    for config in WRITTEN:
        paths = [path for path in (folder / config).iterdir() if path.is_dir()]
        shards = {path.name: [partial(f.open, "rb") for f in path.glob("*.parquet")] for path in paths}
        assert set(shards) == {"train", "test", "test_24", "test_nested"} and find_shared_row(shards) is None
    prompts = {split: datasets.Dataset.from_parquet(str(folder / "value" / split / "*.parquet"))["prompt"]
               for split in ("train", "test")}  # fmt: skip
    without_values = {split: {re.sub(r"\d+", "#", prompt) for prompt in texts} for split, texts in prompts.items()}
    assert not without_values["train"] & without_values["test"]


def test_the_builder_has_programs_alone(tmp_path: Path) -> None:
    assert set(Programs.builder_configs) == {"programs"}
    parameters = {"target": "trace"}
    builder = Programs(
        config_name="programs", cache_dir=str(tmp_path), sizes={"test": 5}, parameters=parameters, seed=3
    )
    rows = list(builder.as_streaming_dataset("test"))
    assert rows == get_task("programs", **parameters).table("test", 5, seed=3).to_pylist()


def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--corpus", "program", "--output", str(tmp_path / "data")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "did you mean 'programs'" in lines[0]


def test_the_command_writes_a_folder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "programs"
    assert main(["--config", "programs", "--sizes", "train=50", "--seed", "5", "--output", str(folder)]) == 0
    assert "load_dataset" in capsys.readouterr().out
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].data.table.combine_chunks() == get_task("programs").table("train", 50, seed=5)
    assert "python -m datasets_scripts.programs --config programs" in (folder / "README.md").read_text("utf-8")
