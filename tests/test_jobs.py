"""Models trained side by side: the same as one after the other, and no process is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hf_tasks.errors import UserError
from hf_tasks.jobs import chains
from hf_tasks.recipe import load_recipe, run_name
from hf_tasks.run import claim, run_recipe, train_recipe
from hf_tasks.train import train_model

RECIPE = """
title: Side by side
summary: For the tests.
task: copy
parameters: {length: [1, 4]}
data: {size: 64}
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
models:
  first: {positions: [{ids: sequential, encoding: rotary}]}
  other: {positions: [{ids: sequential, encoding: alibi}]}
  second: {start_from: first, positions: [{ids: sequential, encoding: rotary}]}
trainer: {max_steps: 4, per_device_train_batch_size: 8, use_cpu: true, save_steps: 2}
evaluation: {lengths: [3, 6], size: 16}
presets: {cpu: {}}
"""
ENDLESS = ["models.second=null", "trainer.max_steps=1000000", "trainer.save_steps=20"]


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "side.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_models_that_start_from_one_another_are_one_chain(recipe_file: str) -> None:
    assert chains(load_recipe(recipe_file)) == [["first", "second"], ["other"]]
    points, itself = chains(load_recipe("lego-curriculum"))
    assert (points, itself) == (["points-products", "points-chains", "points"], ["A5-products", "A5-chains", "A5"])


@pytest.mark.usefixtures("one_thread")
def test_side_by_side_is_one_after_the_other(recipe_file: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    alone = run_recipe(recipe, [0, 1], tmp_path / "alone")
    together = run_recipe(recipe, [0, 1], tmp_path / "together", jobs=2)
    assert together["summary"] == alone["summary"] and len(together["runs"]) == 6
    for run in alone["runs"]:
        name = run_name(run["name"], run["seed"])
        ours, theirs = (tmp_path / where / name / "model.safetensors" for where in ("alone", "together"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_unfinished_runs_share_a_folder_that_none_of_them_takes_away(recipe_file: str, tmp_path: Path) -> None:
    recipe, output = load_recipe(recipe_file), tmp_path / "out"
    claim(recipe, output)
    train_model(recipe, "first", 0, output)
    assert list(output.glob(".training/*")) == [] and (output / ".training").is_dir()
    train_recipe(recipe, [0], output, jobs=2)
    assert not (output / ".training").exists()


def test_a_mistake_in_a_process_is_one_line_here(recipe_file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="eval_dataset"):
        train_recipe(load_recipe(recipe_file, settings=["trainer.eval_strategy=steps"]), [0], tmp_path / "out", jobs=2)
    with pytest.raises(UserError, match="--jobs is 0: give 1 or more"):
        train_recipe(load_recipe(recipe_file), [0], tmp_path / "other", jobs=0)
    assert not (tmp_path / "other").exists()


def _children(process: int) -> list[int]:
    """The training processes below one, which multiprocessing starts; beside them it has one that keeps its books."""
    found = subprocess.run(["pgrep", "-f", "-P", str(process), "spawn_main"], capture_output=True, text=True).stdout
    return [int(line) for line in found.split()]


def _until(true: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


def _gone(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")
@pytest.mark.parametrize("ending", ["one killed", "first killed", "interrupted"])
def test_whatever_ends_it_leaves_no_process_and_goes_on_later(recipe_file: str, tmp_path: Path, ending: str) -> None:
    output = tmp_path / "out"
    command = [
        str(Path(sys.executable).with_name("hf-tasks")),
        "train",
        recipe_file,
        "--jobs",
        "2",
        "--output",
        str(output),
        "--set",
    ]
    said = tmp_path / "said"
    with said.open("wb") as file:  # a pipe would fill up with bars, and wait for its reader
        # As from a shell: a test runner in the background may have had SIGINT ignored, which children inherit.
        def heard() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)

        started = subprocess.Popen([*command, *ENDLESS], stderr=file, preexec_fn=heard)
    runs = {"first-seed0", "other-seed0"}
    assert _until(lambda: {path.parts[-3] for path in output.glob(".training/*/checkpoint-*/whole.json")} == runs, 180)
    workers = _children(started.pid)
    assert len(workers) == 2
    target, sent = {
        "one killed": (workers[0], signal.SIGKILL),
        "first killed": (started.pid, signal.SIGKILL),
        "interrupted": (started.pid, signal.SIGINT),
    }[ending]
    os.kill(target, sent)
    assert started.wait(timeout=60)
    says = said.read_text(errors="replace").splitlines()[-1]
    assert _until(lambda: all(map(_gone, workers)))
    if ending == "one killed":
        assert started.returncode == 2 and "process of --jobs was killed by SIGKILL; the same command" in says
    elif ending == "interrupted":
        assert started.returncode == 130 and "nothing is lost: the same command continues" in says
    assert {run.name for run in output.glob(".training/*")} == runs
