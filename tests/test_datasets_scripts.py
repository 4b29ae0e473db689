"""The builder by direct instantiation, and its command as a stranger runs it."""

import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from datasets_scripts import common, textbooks
from datasets_scripts.arithmetic import Arithmetic, main
from datasets_scripts.common import parse_sizes
from datasets_scripts.launch import local
from hf_tasks.analysis import side_effects, threshold_neurons
from hf_tasks.errors import UserError
from hf_tasks.tasks import TASKS, get_task
from hf_tasks.tasks.base import BLOCK

ROOT = Path(__file__).parents[1]
SIZES = {"train": 2 * BLOCK + 10, "test": 20}


COMMANDS = {
    "datasets_scripts.arithmetic": main,
    "datasets_scripts.textbooks": textbooks.main,
    "datasets_scripts.launch.local": local.main,
    "hf_tasks.analysis.side_effects": side_effects.main,
    "hf_tasks.analysis.threshold_neurons": threshold_neurons.main,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        COMMANDS[name](["--help"])
    assert f"Example: python -m {name} " in " ".join(capsys.readouterr().out.split())


def test_side_effects_of_no_run_are_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert side_effects.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("holds no run with a base: give the output folder of one\n")


def build(cache: Path, **settings) -> Arithmetic:
    settings = {"config_name": "addition", "sizes": SIZES, "parameters": {"digits": [2, 6]}} | settings
    return Arithmetic(cache_dir=str(cache), **settings)


def test_the_configs_are_the_registry() -> None:
    assert set(Arithmetic.builder_configs) == set(TASKS)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_config_streams_rows_that_check(name: str, tmp_path: Path) -> None:
    builder = Arithmetic(config_name=name, cache_dir=str(tmp_path), sizes={"test": 5}, seed=3)
    rows = list(builder.as_streaming_dataset("test"))
    task = get_task(name)
    assert rows == task.table("test", 5, seed=3).to_pylist()
    assert all(task.check(row["prompt"], row["answer"]) for row in rows)


def test_prepared_rows_are_those_of_the_task_for_any_number_of_processes(tmp_path: Path) -> None:
    tables = {}
    for processes in (1, 2):
        builder = build(tmp_path / str(processes))
        builder.download_and_prepare(num_proc=processes)
        tables[processes] = {split: builder.as_dataset(split).data.table.combine_chunks() for split in SIZES}
    task = get_task("addition", digits=(2, 6))
    assert tables[1] == tables[2] == {split: task.table(split, size) for split, size in SIZES.items()}


def test_streaming_has_a_shard_a_batch_and_resumes(tmp_path: Path) -> None:
    stream = build(tmp_path).as_streaming_dataset("train")
    assert stream.num_shards == 3
    rows = iter(stream)
    head = [next(rows) for _ in range(5)]
    state = stream.state_dict()
    assert head == get_task("addition", digits=(2, 6)).table("train", 5).to_pylist()
    resumed = build(tmp_path).as_streaming_dataset("train")
    resumed.load_state_dict(state)
    assert next(iter(resumed)) == next(rows)


def test_the_cache_follows_parameters_seed_and_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [build(tmp_path).cache_dir, build(tmp_path, seed=1).cache_dir]
    folders.append(build(tmp_path, parameters={"digits": [2, 7]}).cache_dir)
    folders.append(build(tmp_path, sizes={"train": 1}).cache_dir)
    assert build(tmp_path).cache_dir == folders[0]
    monkeypatch.setattr(common, "source_hash", lambda: "another source")
    folders.append(build(tmp_path).cache_dir)
    assert len(set(folders)) == len(folders)


def test_parse_sizes() -> None:
    assert parse_sizes(["train=10", "test=2"]) == {"train": 10, "test": 2}
    for bad in ("train", "train=", "train=ten", "train=-1", "=5x"):
        with pytest.raises(UserError, match="SPLIT=ROWS"):
            parse_sizes([bad])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "adition"], "did you mean 'addition'"),
        (["--config", "addition", "--sizes", "trian=5"], "did you mean 'train'"),
        (["--config", "addition", "--sizes", "train"], "SPLIT=ROWS"),
        (["--corpus", "adition"], "did you mean 'addition'"),
        (["--corpus", "addition", "--seed", "7"], "has sizes and a seed of its own"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--output", str(tmp_path / "data")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "data").exists()


def test_the_command_writes_a_folder_that_loads(tmp_path: Path) -> None:
    command = ["-m", "datasets_scripts.arithmetic", "--config", "addition", "--output", str(tmp_path / "addition")]
    done = subprocess.run(
        [sys.executable, *command, "--sizes", "train=100", "test=10", "--seed", "5"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = datasets.load_dataset(str(tmp_path / "addition"), cache_dir=str(tmp_path / "cache"))
    assert loaded["test"].data.table.combine_chunks() == get_task("addition").table("test", 10, seed=5)
    card = (tmp_path / "addition" / "README.md").read_text("utf-8")
    assert "python -m datasets_scripts.arithmetic --config addition" in card
