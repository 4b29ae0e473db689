"""Several processes: what they train and write together, what is left when they are killed, and sharded weights.

Processes are children of one fork server that has imported everything once, with the environment that `torchrun` would
give them; one slow test starts `torchrun` itself. They speak gloo, on CPUs.
"""

import copy
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import chain, islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from datasets_scripts.launch import local, on_ray, pipeline, slurm
from hf_tasks import dataset
from hf_tasks.adapters import get_tokenizer
from hf_tasks.cli import main
from hf_tasks.corpora import steps
from hf_tasks.dataset import write_dataset
from hf_tasks.errors import UserError
from hf_tasks.hints import FILE, add_hint_heads, save_hint_heads
from hf_tasks.models import PositionalConfig, PositionalForCausalLM
from hf_tasks.optimizer import build_optimizer
from hf_tasks.recipe import load_recipe, training_arguments
from hf_tasks.run import run_recipe
from hf_tasks.tasks import get_task
from hf_tasks.tasks.base import BLOCK
from hf_tasks.train import (
    LISTING,
    WORKSHOP,
    Batches,
    Throughput,
    _share,
    fault_of,
    last_whole_checkpoint,
    seal,
    training_data,
)

COMMON = """
title: Tiny
summary: For the tests.
trainer:
  {max_steps: 10, save_steps: 4, logging_steps: 1, learning_rate: 1e-2, use_cpu: true, disable_tqdm: true}
presets: {cpu: {}}
"""
# 60 rows in batches of 16: epochs end in a batch of 12, and the third begins within ten steps.
SUMS = f"""{COMMON}
task: addition
parameters: {{digits: [1, 3], reverse: answer, pad: true}}
data: {{size: 60}}
model: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}}
models:
  ours: {{positions: [{{ids: significance, encoding: clipped, clip: 2}}]}}
evaluation: {{lengths: [2], size: 8, every: 5, every_size: 4}}
"""
SUMS_WITH_DROPOUT = SUMS.replace("num_attention_heads: 2", "num_attention_heads: 2, dropout: 0.1")
CLAUSES = f"""{COMMON}
task: lego
head: token_classification
parameters: {{group: Z2, clauses: [3, 4], query: false}}
data: {{size: 60}}
model: {{is_causal: false, hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2}}
models:
  plain: {{positions: [{{ids: sequential, encoding: learned, size: 64}}]}}
  looped: {{share_layers: true, layers_per_clause: 1, positions: [{{ids: token, encoding: match}}]}}
evaluation: {{lengths: [3], size: 8}}
"""
TEXTS = f"""{COMMON}
sources: {{stories: {{corpus: tinystories, rows: 120}}}}
vocab_size: 400
context: 96
models:
  neo:
    {{stock: gpt_neo, data: [stories], num_layers: 1, attention_types: [[[global], 1]], hidden_size: 32, num_heads: 2,
     max_position_embeddings: 96}}
evaluation: {{loss: [stories], loss_rows: 4}}
"""
PRODUCTS = f"""{COMMON}
task: multiplication
parameters: {{digits: [1, 2], lengths: paired, reverse: all, pad: true}}
data: {{size: 60}}
model: {{hidden_size: 32, num_hidden_layers: 9, num_loops: 3, share_layers: true, num_attention_heads: 2}}
models:
  hints: {{layers_per_hint: 1, positions: [{{ids: significance, encoding: clipped, clip: 2}}]}}
evaluation: {{lengths: [2], size: 8}}
"""
RECIPES = {"sums": SUMS, "products": PRODUCTS, "clauses": CLAUSES, "texts": TEXTS}

Start = Callable[..., list[BaseProcess]]


def _in_child(
    environment: dict[str, str], said: str, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Call a function as one of several processes, with what it says in a file."""
    os.environ.update(environment)
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a function in so many processes, each of which has `said`, the file of its output."""
    server, children, folder = multiprocessing.get_context("forkserver"), [], tmp_path_factory.mktemp("said")
    server.set_forkserver_preload(["hf_tasks.run", "hf_tasks.train", "hf_tasks.text.train", "hf_tasks.evaluate"])

    def run(processes: int, function: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = []
        for rank in range(processes):
            one: dict[str, str] = {}
            if processes > 1:
                sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
                ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
                one = sizes | ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            said = folder / f"{len(children)}"
            child: Any = server.Process(target=_in_child, args=(one, str(said), function, arguments))
            child.said = said
            child.start()
            children.append(child)
            group.append(child)
        return group

    yield run
    for child in children:
        child.kill()
        child.join()
        child.close()


def wait(group: list[BaseProcess]) -> str:
    """Until all have ended well; what the first has said."""
    for child in group:
        child.join(240)
    said: list[str] = [child.said.read_text() for child in group]  # type: ignore[attr-defined]
    assert [child.exitcode for child in group] == [0] * len(group), "\n".join(said)
    return said[0]


def _train(recipe: str, output: str, *changes: str) -> None:
    main(["train", recipe, "--output", output, *(["--set", *changes] if changes else [])])


def _train_exactly(recipe: str, output: str, *changes: str) -> None:
    _orthogonalise_in_float32()
    _train(recipe, output, *changes)


def _orthogonalise_in_float32() -> None:
    """Muon does it in bfloat16, whose rounding makes percents of an update out of the last bits of a gradient."""
    torch.Tensor.bfloat16 = torch.Tensor.clone  # type: ignore[method-assign]


def _weights(output: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(output / f"{name}-seed0" / "model.safetensors")


def _log(output: Path, name: str, key: str) -> list[float]:
    history = json.loads((output / f"{name}-seed0" / "training.json").read_text())["log_history"]
    return [entry[key] for entry in history if key in entry]


# Which rows come in a batch.


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 90),
    each=st.integers(1, 8),
    processes=st.integers(1, 4),
    grouped=st.booleans(),
    drop=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_processes_share_the_batches_of_one(
    count: int, each: int, processes: int, grouped: bool, drop: bool, epoch: int
) -> None:
    size = each * processes
    rows: Any = [(7 * row) % 11 for row in range(count)] if grouped else count
    if 0 < count % size < processes and not drop:
        with pytest.raises(UserError, match=f"the last batch of {count} rows by {size} would have .*_drop_last: true"):
            Batches(rows, size, processes=processes)
        return
    alone = Batches(rows, size, drop_last=drop)
    shares = [Batches(rows, size, rank=rank, processes=processes, drop_last=drop) for rank in range(processes)]
    for batches in (alone, *shares):
        batches.set_epoch(epoch)
    whole = list(alone)
    assert len(whole) == len(alone) == len(shares[0]) and all(len(batch) <= size for batch in whole)
    assert all(shared for share in shares for shared in share)  # no process is left without rows
    assert [sorted(chain(*parts)) for parts in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    seen = [*chain(*whole)]
    assert len(set(seen)) == len(seen) == (count // size * size if drop else count)


def test_the_order_is_that_of_the_seed_and_the_epoch_alone() -> None:
    """And of one process as accelerate has it: `SeedableRandomSampler` draws a permutation from seed + epoch."""
    batches = Batches(10, 4, seed=5)
    batches.set_epoch(2)
    torch.manual_seed(0)
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(7)).tolist()
    assert [*chain(*batches)] == [*chain(*batches)] == expected
    batches.set_epoch(3)
    assert [*chain(*batches)] != expected
    assert [*chain(*Batches(10, 4, seed=None))] == list(range(10))


def test_processes_share_a_stream() -> None:
    task = get_task("addition", digits=(1, 3))
    rows = [row["prompt"] for row, _ in zip(task.iterable("train"), range(12), strict=False)]
    shares = [[row for row, _ in zip(_share(rows, rank, 3), range(4), strict=False)] for rank in range(3)]
    assert [row for turn in zip(*shares, strict=True) for row in turn] == rows


@pytest.mark.parametrize(
    ("kind", "names", "changes"),
    [
        ("sums", ["ours"], ["trainer.train_sampling_strategy=group_by_length"]),
        ("sums", ["ours"], ["data.size=null", "trainer.gradient_accumulation_steps=2"]),
        ("products", ["hints"], ["trainer.gradient_accumulation_steps=2", "data.size=120"]),
        ("clauses", ["plain", "looped"], []),
        ("texts", ["neo"], []),
        ("sums", ["ours"], ["optimizer=muon"]),
    ],
    ids=["by length", "streamed", "hints", "clauses", "texts", "muon"],
)
def test_two_processes_train_as_one(
    start: Start, tmp_path: Path, kind: str, names: list[str], changes: list[str]
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPES[kind])
    one, two = tmp_path / "one", tmp_path / "two"
    batch = "trainer.per_device_train_batch_size="
    wait(start(1, _train_exactly, str(recipe), str(one), f"{batch}16", *changes))
    wait(start(2, _train_exactly, str(recipe), str(two), f"{batch}8", *changes))
    for name in names:
        losses = [_log(output, name, "loss") for output in (one, two)]
        assert len(losses[0]) == len({*losses[0]}) == 10
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        norms = [_log(output, name, "grad_norm") for output in (one, two)]
        assert norms[0][:3] == pytest.approx(norms[1][:3], rel=1e-4)
        # Adam divides by the size of a gradient, and so makes more of rounding errors from step to step.
        assert norms[0] == pytest.approx(norms[1], rel=1e-2)
        first, second = (_weights(output, name) for output in (one, two))
        apart = max(float((first[key] - second[key]).abs().max()) for key in first)
        assert apart < (1e-4 if "optimizer=muon" in changes else 1e-3)
        facts = [json.loads((output / f"{name}-seed0" / "training.json").read_text()) for output in (one, two)]
        assert facts[0]["train_examples"] == facts[1]["train_examples"]
    assert not (two / WORKSHOP).exists()


def _road(recipe: str, output: str) -> None:
    results = run_recipe(load_recipe(recipe), [0], Path(output))
    print("results:", len(results.get("runs", [])))


def test_the_first_evaluates_and_the_others_go(start: Start, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SUMS)
    group = start(2, _road, str(recipe), str(tmp_path / "out"))
    assert "results: 1" in wait(group)
    assert "results: 0" in group[1].said.read_text()  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["runs"][0]["cells"]
    assert len(_log(tmp_path / "out", "ours", "exact_match")) == 2


# Killed.


def _until(found: Callable[[], Any], group: list[BaseProcess]) -> Any:
    """Look until something is found, while all run; what it is."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and all(child.is_alive() for child in group):
        if what := found():
            return what
        time.sleep(0.005)
    raise AssertionError("\n".join(["it never came", *(child.said.read_text() for child in group)]))  # type: ignore[attr-defined]


def _until_whole(workshop: Path, after: int, group: list[BaseProcess]) -> int:
    """Wait for a whole checkpoint past a step; its step."""

    def newer() -> int | None:
        steps = (int(path.parent.name.split("-")[1]) for path in workshop.glob(f"checkpoint-*/{LISTING}"))
        return max((step for step in steps if step > after), default=None)

    return _until(newer, group)


def _kill(group: list[BaseProcess]) -> None:
    """All at once: none sees the end of another, for they are stopped first."""
    for blow in (signal.SIGSTOP, signal.SIGKILL):
        for child in group:
            os.kill(child.pid or 0, blow)
    for child in group:
        child.join()
        assert child.exitcode == -signal.SIGKILL


def assert_bitwise_equal(output: Path, other: Path) -> None:
    first, second = _weights(output, "ours"), _weights(other, "ours")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert _log(output, "ours", "grad_norm") == _log(other, "ours", "grad_norm")


def test_killed_they_end_bitwise_equal(start: Start, tmp_path: Path) -> None:
    """One is killed, then all, and then the last checkpoint is cut off; with dropout, in the second epoch and later."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SUMS_WITH_DROPOUT)
    changes = ["trainer.max_steps=60", "trainer.per_device_train_batch_size=8", "evaluation.every=null",
               "trainer.train_sampling_strategy=group_by_length"]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    workshop = broken / WORKSHOP / "ours-seed0"
    wait(start(2, _train, str(recipe), str(whole), *changes))

    group = start(2, _train, str(recipe), str(broken), *changes)
    step = _until_whole(workshop, 0, group)
    os.kill(group[1].pid or 0, signal.SIGKILL)
    group[0].join(60)  # it has lost the other; torchrun would end it
    assert group[0].exitcode not in (0, None) and not (broken / "ours-seed0").exists()

    group = start(2, _train, str(recipe), str(broken), *changes)
    _until_whole(workshop, step, group)
    _kill(group)
    last = Path(str(last_whole_checkpoint(workshop)))
    before = workshop / f"checkpoint-{int(last.name.split('-')[1]) - 4}"
    assert fault_of(before) is None
    os.truncate(last / "optimizer.pt", 100)

    said = wait(start(2, _train, str(recipe), str(broken), *changes))
    assert f"ours-seed0: {last.name} is broken (optimizer.pt has 100 of " in said
    assert f"ours-seed0: going on from {before.name}" in said
    assert_bitwise_equal(whole, broken)


def _train_and_die(recipe: str, output: str, *changes: str) -> None:
    """Killed while the second checkpoint is written: what the Trainer writes is there, the listing is not."""
    from hf_tasks import train

    whole = train.seal
    train.seal = lambda folder, processes: (  # type: ignore[assignment]
        os.kill(os.getpid(), signal.SIGKILL) if folder.name == "checkpoint-8" else whole(folder, processes)
    )
    _train(recipe, output, *changes)


def test_killed_in_mid_checkpoint(start: Start, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SUMS)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    wait(start(1, _train, str(recipe), str(whole)))
    (child,) = start(1, _train_and_die, str(recipe), str(broken))
    child.join(240)
    assert child.exitcode == -signal.SIGKILL
    assert (broken / WORKSHOP / "ours-seed0" / "checkpoint-8" / "trainer_state.json").is_file()
    with_two = start(2, _train, str(recipe), str(broken))
    with_two[0].join(240)
    assert with_two[0].exitcode == 2
    said = with_two[0].said.read_text()  # type: ignore[attr-defined]
    assert "ours-seed0: checkpoint-8 is broken (it was not written to its end) and was removed" in said
    assert "begun by 1 processes, not 2: go on with torchrun --nproc-per-node 1" in said.splitlines()[-1]
    assert "ours-seed0: going on from checkpoint-4" in wait(start(1, _train, str(recipe), str(broken)))
    assert_bitwise_equal(whole, broken)


def _train_and_stick(recipe: str, output: str) -> None:
    """The first never gets to the end of the optimizer's state in the second checkpoint; the others wait for it."""
    save = torch.save

    def save_a_part(content: Any, path: Any, **options: Any) -> None:
        save(content, path, **options)
        if Path(path).parts[-2:] == ("checkpoint-8", "optimizer.pt"):
            os.truncate(path, 100)
            signal.pause()

    torch.save = save_a_part
    _train(recipe, output)


def test_both_killed_in_mid_checkpoint(start: Start, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SUMS_WITH_DROPOUT)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    wait(start(2, _train, str(recipe), str(whole)))

    group, cut_off = start(2, _train_and_stick, str(recipe), str(broken)), broken / WORKSHOP / "ours-seed0/checkpoint-8"
    parts = cut_off / "optimizer.pt", cut_off / "rng_state_1.pth"
    _until(lambda: all(part.is_file() for part in parts) and parts[0].stat().st_size == 100, group)
    _kill(group)
    assert not (cut_off / "trainer_state.json").exists() and not (cut_off / LISTING).exists()

    said = wait(start(2, _train, str(recipe), str(broken)))
    assert "ours-seed0: checkpoint-8 is broken (it was not written to its end) and was removed" in said
    assert "ours-seed0: going on from checkpoint-4" in said
    assert_bitwise_equal(whole, broken)


def _train_and_tell(told: str, stop: int | None, recipe: str, output: str, *changes: str) -> None:
    """Tells the rows of every step; at the beginning of one it waits to be killed."""
    from hf_tasks import train

    rank, whole = os.environ["RANK"], train.RecipeTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *rest: Any) -> torch.Tensor:
        step = self.state.global_step
        with open(f"{told}-{rank}", "a") as file:
            print(json.dumps([step, inputs["input_ids"].tolist()]), file=file)
        if step == stop:
            Path(f"{told}-{rank}-waits").touch()
            signal.pause()
        return whole(self, model, inputs, *rest)

    train.RecipeTrainer.training_step = training_step  # type: ignore[method-assign]
    _train(recipe, output, *changes)


def _told(told: Path) -> dict[int, list[list[int]]]:
    """Of each step, the rows of both processes by turns, padding included."""
    rows: dict[int, list[list[int]]] = {}
    lines = [Path(f"{told}-{rank}").read_text().splitlines() for rank in range(2)]
    for (step, first), (same, second) in zip(*(map(json.loads, each) for each in lines), strict=True):
        assert step == same
        rows.setdefault(step, []).extend(chain(*zip(first, second, strict=True)))
    return rows


def test_both_killed_they_go_on_in_a_stream_where_they_were(start: Start, tmp_path: Path) -> None:
    """Each row of the stream counts once, in its order, though two steps behind the checkpoint are taken twice."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SUMS_WITH_DROPOUT)
    changes = ["data.size=null", "trainer.gradient_accumulation_steps=2", "trainer.per_device_train_batch_size=4"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    wait(start(2, _train, str(recipe), str(whole), *changes))

    before, after = tmp_path / "before", tmp_path / "after"
    group = start(2, _train_and_tell, str(before), 6, str(recipe), str(broken), *changes)
    _until(lambda: all(Path(f"{before}-{rank}-waits").exists() for rank in range(2)), group)
    _kill(group)
    assert "going on from checkpoint-4" in wait(
        start(2, _train_and_tell, str(after), None, str(recipe), str(broken), *changes)
    )
    assert_bitwise_equal(whole, broken)

    told, told_again = _told(before), _told(after)
    assert [*told] == [*range(7)] and [*told_again] == [*range(4, 10)]
    assert all(told[step] == told_again[step] for step in (4, 5))
    counted = [*chain(*(told[step] for step in range(4)), *(told_again[step] for step in range(4, 10)))]
    task = load_recipe(str(recipe)).get_task("ours")
    stream = [row["input_ids"] for row in islice(training_data(task, None, 0), 160)]  # ten steps of sixteen
    padding = get_tokenizer(task, None).pad_token_id
    assert [[token for token in row if token != padding] for row in counted] == stream


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda folder: os.truncate(folder / "model.safetensors", 9), "model.safetensors has 9 of 500 bytes"),
        (lambda folder: (folder / "rng_state_1.pth").unlink(), "rng_state_1.pth is missing"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(bytes(300)), "optimizer.pt has changed"),
        (lambda folder: os.truncate(folder / LISTING, 30), "it was not written to its end"),
        (lambda folder: (folder / LISTING).unlink(), "it was not written to its end"),
    ],
)
def test_a_checkpoint_with_a_fault_is_removed_and_the_one_before_it_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], fault: str
) -> None:
    for step in (4, 8):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name, size in (("model.safetensors", 500), ("optimizer.pt", 300), ("rng_state_1.pth", 20)):
            (folder / name).write_bytes(os.urandom(size))
        seal(folder, 2)
    assert last_whole_checkpoint(tmp_path) == str(folder)
    harm(folder)
    assert fault_of(folder) == fault
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4") and not folder.exists()
    assert capsys.readouterr().out == f"{tmp_path.name}: checkpoint-8 is broken ({fault}) and was removed\n"
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert last_whole_checkpoint(tmp_path) is None and last_whole_checkpoint(tmp_path / "nowhere") is None


# What is shown while it trains.


def test_throughput_is_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 12.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    shown, state = Throughput(), SimpleNamespace(global_step=100)
    args = SimpleNamespace(train_batch_size=8, gradient_accumulation_steps=2, world_size=4)
    shown.on_train_begin(args, state, None)
    state.global_step = 150
    logs: dict[str, Any] = {"loss": 1.0}
    shown.on_log(args, state, None, logs=logs)
    assert logs["rows_per_second"] == 50 * 64 / 2
    end = {"train_loss": 1.0}
    shown.on_log(args, state, None, logs=end)
    assert end == {"train_loss": 1.0}


def test_reporters_and_the_bar_see_loss_and_throughput(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A package in trackio's place keeps what it is told."""
    (tmp_path / "trackio.py").write_text(
        "import collections, types\n"
        "told = []\n"
        "config = collections.UserDict()\n"
        "config.update = lambda values, **options: None\n"
        "context_vars = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))\n"
        "def init(**options): told.append(options)\n"
        "def log(values, **options): told.append(values)\n"
        "def finish(): told.append('end')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SUMS)
    changes = [
        "trainer.report_to=trackio",
        "trainer.disable_tqdm=false",
        "evaluation.every=null",
    ]
    with pytest.raises(SystemExit) as caught:
        _train(str(tmp_path / "tiny.yaml"), str(tmp_path / "out"), *changes)
    assert caught.value.code == 0
    import trackio  # type: ignore[import-not-found]

    sys.modules.pop("trackio")
    assert (trackio.told[0]["project"], trackio.told[0]["name"]) == ("tiny", "ours-seed0")
    steps = [told for told in trackio.told if "train/loss" in told]
    assert len(steps) == 10 and all(told["train/rows_per_second"] > 0 for told in steps)
    bar = capfd.readouterr().err
    assert "ours-seed0" in bar and "loss=" in bar and "rows/s=" in bar


# Sharded weights. On CPUs the Trainer silently falls back to DDP, so this is `fully_shard` itself.


def _model(share_layers: bool) -> PositionalForCausalLM:
    torch.manual_seed(0)
    return PositionalForCausalLM(PositionalConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, initializer_range=0.2,
        share_layers=share_layers, digit_token_ids=list(range(10)), separator_token_ids=[10, 11], pad_token_id=19,
        bos_token_id=17, eos_token_id=18,
        positions=[{"ids": "significance", "encoding": "clipped", "clip": 2},
                   {"ids": "sequential", "encoding": "learned", "size": 32, "per_layer": False}],
    ))  # fmt: skip


def _fully_shard(model: Any, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _shard(folder: str, share_layers: bool) -> None:
    """One step of SGD on half of the rows each, and of the whole model on all of them; saved and loaded again."""
    from torch.distributed import destroy_process_group, get_rank, init_process_group
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor

    init_process_group("gloo")
    mesh, rows = init_device_mesh("cpu", (2,)), torch.arange(96).remainder(19).view(8, 12)
    whole, sharded = _model(share_layers), _model(share_layers)
    _fully_shard(sharded, mesh)
    assert isinstance(sharded, FSDPModule) and isinstance(sharded, PositionalForCausalLM)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    assert sharded.lm_head.weight is sharded.model.embed_tokens.weight
    assert len(sharded.model.layers) == (1 if share_layers else 4)

    mine = rows[get_rank() :: 2]
    expected, found = whole(input_ids=rows, labels=rows), sharded(input_ids=mine, labels=mine)
    torch.testing.assert_close(found.logits, expected.logits[get_rank() :: 2], rtol=1e-5, atol=1e-5)
    expected.loss.backward()
    found.loss.backward()  # halves of equal size: the mean of their means is that of all
    wanted = dict(whole.named_parameters())
    for name, parameter in sharded.named_parameters():
        gradient: Any = parameter.grad
        torch.testing.assert_close(gradient.full_tensor(), wanted[name].grad, rtol=1e-4, atol=1e-6)
    for model in (whole, sharded):
        torch.optim.SGD(model.parameters(), lr=0.1).step()

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(sharded, options=options)
    if get_rank() == 0:
        whole.save_pretrained(folder, state_dict=state)
        again, stepped = PositionalForCausalLM.from_pretrained(folder), whole.state_dict()
        for name, tensor in again.state_dict().items():
            torch.testing.assert_close(tensor, stepped[name], rtol=1e-4, atol=1e-6)

    add_hint_heads(whole, get_task("parity"))
    heads: Any = whole.hint_heads
    told = {name: tensor.clone() for name, tensor in heads.state_dict().items()}
    for head in heads.values():
        fully_shard(head, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in heads.parameters())
    save_hint_heads(whole, Path(folder))
    if get_rank() == 0:
        kept = load_file(Path(folder) / FILE)
        assert {*kept} == {*told} and all(torch.equal(kept[name], told[name]) for name in told)
    destroy_process_group()


@pytest.mark.parametrize("share_layers", [False, True])
def test_sharded_weights_compute_the_same(start: Start, tmp_path: Path, share_layers: bool) -> None:
    wait(start(2, _shard, str(tmp_path / "saved"), share_layers))
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def _step_by_muon(recipe: str) -> None:
    """Two steps as above by Muon; a third from a saved state.

    The optimizer is there before the weights are sharded, and is given the shards, as by the Trainer and accelerate.
    """
    from torch.distributed import destroy_process_group, get_rank, init_process_group
    from torch.distributed.checkpoint import state_dict
    from torch.distributed.device_mesh import init_device_mesh

    init_process_group("gloo")
    mesh, rows = init_device_mesh("cpu", (2,)), torch.arange(96).remainder(19).view(8, 12)
    loaded = load_recipe(recipe, settings=["optimizer=muon", "trainer.weight_decay=0.1"])
    args = training_arguments(loaded, "unused", 0)

    def begun(shard: bool) -> tuple[Any, Any]:
        model: Any = _model(False)
        optimizer, names = build_optimizer(model, loaded, args), {id(p): name for name, p in model.named_parameters()}
        assert any(group["muon"] for group in optimizer.param_groups)
        if shard:
            _fully_shard(model, mesh)
        now = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [now[names[id(parameter)]] for parameter in group["params"]]
        return model, optimizer

    def step(model: Any, optimizer: Any, seen: torch.Tensor) -> None:
        model(input_ids=seen, labels=seen).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    mine, before = rows[get_rank() :: 2], dict(_model(False).named_parameters())
    for far in (0.1, 1e-4):
        whole, sharded = begun(shard=False), begun(shard=True)
        for _ in range(2):
            step(*whole, rows)
            step(*sharded, mine)
        wanted = dict(whole[0].named_parameters())
        for name, parameter in sharded[0].named_parameters():
            off, moved = parameter.full_tensor() - wanted[name], wanted[name] - before[name]
            assert moved.norm() > 0 and off.norm() < far * moved.norm(), (name, off.norm() / moved.norm())
        _orthogonalise_in_float32()

    weights = copy.deepcopy(state_dict.get_model_state_dict(sharded[0]))
    state = copy.deepcopy(state_dict.get_optimizer_state_dict(*sharded))
    again = begun(shard=True)
    state_dict.set_model_state_dict(again[0], weights)
    state_dict.set_optimizer_state_dict(*again, state)
    for model, optimizer in (sharded, again):
        step(model, optimizer, mine)
    pairs = zip(sharded[0].parameters(), again[0].parameters(), strict=True)
    assert all(torch.equal(one.to_local(), other.to_local()) for one, other in pairs)
    destroy_process_group()


def test_muon_steps_on_sharded_weights_as_on_whole_ones(start: Start, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SUMS)
    wait(start(2, _step_by_muon, str(recipe)))


def test_a_recipe_lets_sharding_through(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SUMS)
    changes = [
        "trainer.fsdp=true",
        "trainer.fsdp_config={version: 2, transformer_layer_cls_to_wrap: [PositionalLayer]}",
    ]
    args = training_arguments(load_recipe(str(tmp_path / "tiny.yaml"), settings=changes), "unused", 0)
    assert args.fsdp_plugin_args["transformer_cls_names_to_wrap"] == "PositionalLayer"
    assert args.fsdp_plugin_args["fsdp_version"] == 2


# Datasets.


SUM_TASK = get_task("addition", digits=(3, 5))
ROWS = 3 * BLOCK + 5  # four shards where a shard is one block


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def by_one(tmp_path: Path, one_block_shards: None) -> dict[str, bytes]:
    """What one process writes."""
    return _bytes(write_dataset(SUM_TASK, tmp_path / "one", {"train": ROWS}, seed=3, command="all"))


@pytest.mark.parametrize("shares", [[(0, 2), (1, 2)], [(2, 3), (0, 3)], [(1, 9), (8, 9), (1, 9)]])
def test_shares_in_any_order_make_the_bytes_of_one_process(
    tmp_path: Path, by_one: dict[str, bytes], shares: list[tuple[int, int]]
) -> None:
    """With a share missing, too, which the last call writes."""
    folder = tmp_path / "many"
    for share in shares:
        write_dataset(SUM_TASK, folder, {"train": ROWS}, seed=3, command=f"share {share}", share=share)
        assert [path.name for path in folder.iterdir()] == [".train.partial"]
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob(".*/*.parquet")}
    assert written.keys() == {f"{s:05d}-of-00004.parquet" for first, n in shares for s in range(first, 4, n)}
    write_dataset(SUM_TASK, folder, {"train": ROWS}, seed=3, command="all")
    assert _bytes(folder) == by_one
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("data/train/*.parquet")}
    assert after.items() >= written.items()  # they were not written again


def _write_share(folder: str, share: tuple[int, int]) -> None:
    dataset.SHARD_BYTES = dataset.BATCH_BYTES = 1
    write_dataset(SUM_TASK, folder, {"train": ROWS}, seed=3, command=f"share {share}", share=share)


def test_shares_written_at_once(start: Start, tmp_path: Path, by_one: dict[str, bytes]) -> None:
    folder = tmp_path / "many"
    groups = [start(1, _write_share, str(folder), (share, 4)) for share in range(4)]
    for group in groups:
        wait(group)
    write_dataset(SUM_TASK, folder, {"train": ROWS}, seed=3, command="all")
    assert _bytes(folder) == by_one


def test_shares_of_different_requests_are_not_mixed(tmp_path: Path, one_block_shards: None) -> None:
    write_dataset(SUM_TASK, tmp_path, {"train": ROWS}, seed=3, share=(0, 2))
    with pytest.raises(UserError, match=r"train.partial' holds shards of another request.*delete it"):
        write_dataset(SUM_TASK, tmp_path, {"train": ROWS}, seed=4, share=(1, 2))
    with pytest.raises(UserError, match="share 2/2 is none; n processes take 0/n to n-1/n"):
        write_dataset(SUM_TASK, tmp_path, {"train": ROWS}, seed=3, share=(2, 2))


LAUNCHED = ["addition", "--size", str(ROWS), "--seed", "3", "--set", "digits=[3,5]"]


def test_a_pipeline_of_datatrove_makes_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_block_shards: None
) -> None:
    """Killed after one of its tasks, it does the others; that finished task is not looked at again."""
    monkeypatch.chdir(tmp_path)
    command = ["hf-tasks", "generate", "addition", "--split", "train", *LAUNCHED[1:5], "--output", "many",
               *LAUNCHED[5:]]  # fmt: skip
    one = write_dataset(SUM_TASK, tmp_path / "one", {"train": ROWS}, seed=3, command=shlex.join(command))
    arguments = [*LAUNCHED, "--output", "many", "--tasks", "3"]
    job = pipeline.job_of(pipeline.parser("local", "").parse_args(arguments))
    assert job.shards == 4
    first, _ = pipeline.stages(job, 3)
    steps.LocalPipelineExecutor(first.pipeline, 3, 1, str(first.logging_dir), local_tasks=1).run()
    assert [path.name for path in (first.logging_dir / "completions").iterdir()] == ["00000"]
    assert len([*(tmp_path / "many").glob(".*/*.parquet")]) == 2
    assert local.main([*arguments, "--workers", "1"]) == 0
    assert _bytes(tmp_path / "many") == _bytes(one)


def test_launchers_refuse_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["additon", "--size", "5"], "unknown task 'additon'"),
        (["addition", "--size", "0"], "size 0 of split 'train' is no number of rows"),
        (["addition", "--size", "5", "--tasks", "0"], "--tasks is 0; give 1 or more, 1 at most are of use"),
    ):
        assert local.main([*arguments, "--output", "nowhere"]) == 2
        error = capsys.readouterr().err.strip()
        assert says in error and len(error.splitlines()) == 1
    if find_spec("ray") is None:
        assert on_ray.main(["addition", "--size", "5", "--output", "nowhere"]) == 2
        assert capsys.readouterr().err == "error: this launcher needs Ray: pip install ray\n"


def test_tasks_of_ray_do_the_work(tmp_path: Path, one_block_shards: None, by_one: dict[str, bytes]) -> None:
    """What Ray would call on its workers, called here; all but the command is as one process writes it."""
    job = pipeline.job_of(pipeline.parser("on_ray", "").parse_args([*LAUNCHED, "--output", str(tmp_path / "many")]))
    last = steps.chain(pipeline.stages(job, 2), on_ray.RayPipelineExecutor, mem_per_cpu_gb=2)
    for rank in (1, 0):
        last.depends._run_for_rank(rank)
    last._run_for_rank(0)
    written = _bytes(tmp_path / "many")
    assert {name: text for name, text in written.items() if name.endswith(".parquet")} == {
        name: text for name, text in by_one.items() if name.endswith(".parquet")
    }


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm that keeps what is submitted, in the order of submission, in a folder."""
    folder, programs = tmp_path / "jobs", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    scripts = {
        "sbatch": f'cd {folder}; n=$(ls | wc -l); cp "${{@: -1}}" $n; echo "# $*" >> $n; echo Submitted $n',
        "srun": 'while [ "$1" != launch_pickled_pipeline ]; do shift; done; exec "$@"',
        "scontrol": "hostname",
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return folder


def test_slurm_gets_an_array_and_a_job_behind_it(tmp_path: Path, cluster: Path, one_block_shards: None) -> None:
    arguments = [*LAUNCHED, "--output", str(tmp_path / "many"), "--partition", "cpu", "--workers", "2"]
    assert slurm.main([*arguments, "--venv", "/shared/venv"]) == 0
    shares, merge, finish, _ = ((cluster / str(n)).read_text() for n in range(4))
    for line in ("#SBATCH --partition=cpu", "#SBATCH --array=0-3%2", "#SBATCH --time=1:00:00", "#SBATCH --requeue",
                 "source /shared/venv/bin/activate"):  # fmt: skip
        assert line in shares
    assert "#SBATCH --array=0-0" in finish and "--dependency=afterok:0" in finish.splitlines()[-1]
    assert "merge_stats" in merge


@pytest.mark.slow
def test_what_slurm_gets_does_the_work(tmp_path: Path, cluster: Path) -> None:
    """Each job is run as a node of the cluster would."""
    one = write_dataset(SUM_TASK, tmp_path / "one", {"train": ROWS}, seed=3)
    assert slurm.main([*LAUNCHED, "--output", str(tmp_path / "many"), "--partition", "cpu", "--tasks", "2"]) == 0
    for number, indices in ((0, (0, 1)), (2, (0,))):
        for index in indices:
            node = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_NODELIST": "here"}
            subprocess.run(["bash", str(cluster / str(number))], check=True, env=node, timeout=200)
    parquet = "data/train/00000-of-00001.parquet"
    assert (tmp_path / "many" / parquet).read_bytes() == (one / parquet).read_bytes()
    assert (tmp_path / "many" / "README.md").is_file()


@pytest.mark.slow
def test_torchrun_starts_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SUMS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "hf_tasks.cli", "run", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "out")]
    done = subprocess.run([*torchrun, *command], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "results.json").is_file()
    assert done.stdout.count("results.json, results.png and the models are in") == 1
