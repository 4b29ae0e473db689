"""The LEGO corpus: what it promises to encoders, and its command."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import pytest

from datasets_scripts.common import write_corpus
from datasets_scripts.lego import CORPORA, Lego, main
from hf_tasks.dataset import UNCOUNTED, finished_splits
from hf_tasks.leaks import find_shared_row
from hf_tasks.tasks import get_task

SMALL = {name: replace(corpus, sizes={"train": 300, "test": 40}, longer_size=20) for name, corpus in CORPORA.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(SMALL, "lego", tmp_path_factory.mktemp("corpus") / "lego")


@pytest.mark.parametrize("config", CORPORA["lego"].configs)
def test_every_config_loads_with_its_longer_splits(config: str, folder: Path, tmp_path: Path) -> None:
    made_of = CORPORA["lego"].configs[config]
    loaded = datasets.load_dataset(str(folder), config, cache_dir=str(tmp_path))
    assert set(loaded) == {"train", "test", *made_of.longer}
    for name, rows in loaded.items():
        split = str(name)
        task = get_task("lego", **{**made_of.parameters, **made_of.longer.get(split, {})})
        assert rows.data.table.combine_chunks() == task.table("train" if split == "train" else "test", len(rows))
        clauses = int(split.partition("_")[2] or 12)
        assert set(rows["clauses"]) == {clauses}
        told = [
            [d for d, asked in zip(*lists, strict=True) if asked]
            for lists in zip(rows["depths"], rows["asked"], strict=True)
        ]
        assert all(sorted(depths) == [1, 2, 3, 4, 5, 6] for depths in told)


def test_a_longer_split_needs_no_token_that_training_lacks() -> None:
    for made_of in CORPORA["lego"].configs.values():
        vocabulary = get_task("lego", **made_of.parameters).vocabulary
        for different in made_of.longer.values():
            assert get_task("lego", **{**made_of.parameters, **different}).vocabulary == vocabulary


def test_statistics_are_of_the_entries_of_lists(folder: Path) -> None:
    splits = finished_splits(folder)
    for path, made_by in splits.items():
        found, clauses = made_by["statistics"], (made_by["parameters"]["clauses"][0])
        assert found["depths"]["values"] == ([*range(1, clauses + 1)] if clauses <= 64 else [*range(1, 101, 2)])
        assert sum(found["depths"]["counts"]) == sum(found["labels"]["counts"]) == clauses * made_by["size"], path
        assert found["asked"] == {"values": [0, 1], "counts": [(clauses - 6) * made_by["size"], 6 * made_by["size"]]}
        assert not set(UNCOUNTED) & set(found) and len(made_by["examples"][0]["labels"]) == clauses
    card = (folder / "README.md").read_text("utf-8")
    assert "| depths | 1 … 6.5 … 12 |" in card and "| asked | 0 … 0.5 … 1 |" in card


def test_splits_share_no_sentence(folder: Path) -> None:
    for config in CORPORA["lego"].configs:
        shards = {
            path.name: [partial(f.open, "rb") for f in path.glob("*.parquet")] for path in (folder / config).iterdir()
        }
        assert len(shards) >= 3 and find_shared_row(shards) is None


def test_the_builder_has_lego_alone(tmp_path: Path) -> None:
    assert set(Lego.builder_configs) == {"lego"}
    builder = Lego(config_name="lego", cache_dir=str(tmp_path), sizes={"test": 5}, parameters={"group": "D3"}, seed=3)
    rows = list(builder.as_streaming_dataset("test"))
    assert rows == get_task("lego", group="D3").table("test", 5, seed=3).to_pylist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "addition"], "unknown task 'addition'; known: lego"),
        (["--config", "lego", "--sizes", "trian=5"], "did you mean 'train'"),
        (["--corpus", "leg"], "did you mean 'lego'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--output", str(tmp_path / "data")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_the_command_writes_a_folder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "lego"
    assert main(["--config", "lego", "--sizes", "train=50", "--seed", "5", "--output", str(folder)]) == 0
    assert "load_dataset" in capsys.readouterr().out
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].data.table.combine_chunks() == get_task("lego").table("train", 50, seed=5)
    assert "python -m datasets_scripts.lego --config lego" in (folder / "README.md").read_text("utf-8")
