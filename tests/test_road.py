"""The road end to end on a tiny recipe: train, evaluate, resume, refuse.

Runs that are to be killed are children of one fork server that has imported everything once, which saves each of them
the seconds that importing transformers takes.
"""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from hf_tasks.cards import results_table
from hf_tasks.cli import main, spread
from hf_tasks.errors import UserError
from hf_tasks.evaluate import batches, complete, exact_matches, judge
from hf_tasks.files import full_disk_as_os_error
from hf_tasks.models import PositionalForCausalLM
from hf_tasks.optimizer import parameter_groups
from hf_tasks.recipe import Recipe, build_config, load_recipe, training_arguments
from hf_tasks.run import run_recipe, train_recipe
from hf_tasks.tokenizer import build_tokenizer
from hf_tasks.train import (
    LISTING,
    WORKSHOP,
    AnswerCollator,
    check_it_fits,
    encode,
    last_whole_checkpoint,
    training_data,
)

TINY = """
title: Tiny
summary: Two models for a few steps.
task: addition
parameters: {digits: [1, 3], reverse: answer, pad: true}
data: {size: 64}
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, dropout: 0.1}
models:
  usual: {positions: [{ids: sequential, encoding: learned, size: 64}]}
  ours: {positions: [{ids: significance, encoding: clipped, clip: 2}], attention_scaling: log_length}
encoding_lr_multiplier: {clipped: 30}
trainer:
  {max_steps: 8, per_device_train_batch_size: 16, save_steps: 4, learning_rate: 1e-3, use_cpu: true, disable_tqdm: true}
evaluation:
  {lengths: [2, 5], size: 8, hard_lengths: [4], hard_size: 4, grid: [2, 3], grid_size: 2, every: 4, every_size: 4}
presets: {cpu: {}, gpu: {trainer: {max_steps: 9}}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(str(recipe_file))


@pytest.fixture(scope="module")
def output(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    run_recipe(recipe, [0], folder)
    return folder


def test_output_folder_holds_the_whole_road(recipe: Recipe, output: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    assert (results["recipe"], results["preset"], results["seeds"]) == ("tiny", "cpu", [0])
    assert {run["name"] for run in results["runs"]} == {"usual", "ours"}
    for run in results["runs"]:
        assert run["train_examples"] == 64 and run["train_steps"] == 8 and run["train_seconds"] > 0
        config = build_config(recipe, run["name"])
        assert run["parameters"] == sum(p.numel() for p in PositionalForCausalLM(config).parameters())
        plain = [c["slice"] for c in run["cells"] if "case" not in c["slice"]]
        assert plain == [{"digits_a": d, "digits_b": d} for d in (2, 5)]
        assert sum(c["slice"].get("case") == "grid" for c in run["cells"]) == 4
        assert {"nines_plus_one", "carry_chain"} <= {c["slice"].get("case") for c in run["cells"]}
        for cell in run["cells"]:
            assert cell["metric"] == "exact_match" and cell["ci95"][0] <= cell["value"] <= cell["ci95"][1]
    assert (output / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "| 5 x 5 | 8 |" in (output / "README.md").read_text()
    assert not list(output.glob("**/*.part")) and not (output / ".training" / "ours-seed0").exists()
    history = json.loads((output / "ours-seed0" / "training.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "exact_match" in entry] == [4, 8]


def test_results_have_the_form_that_others_read(output: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    assert results["command"] == "hf-tasks run tiny.yaml --preset cpu --seeds 0"
    assert "command" not in json.loads((output / "ours-seed0" / "results.json").read_text())  # it may name folders
    assert set(results) == {
        "recipe", "preset", "command", "seeds", "versions", "hardware", "seconds", "paper", "summary", "runs"
    }  # fmt: skip
    assert results["versions"].keys() >= {"hf_tasks", "torch", "transformers", "datasets"} and results["hardware"]
    assert results["seconds"] == pytest.approx(sum(run["train_seconds"] for run in results["runs"]), abs=0.1)
    for run in results["runs"]:
        assert set(run) == {
            "name", "seed", "parameters", "trainable_parameters", "train_examples", "train_steps", "train_seconds",
            "training_bytes", "cells",
        }  # fmt: skip
        for cell in run["cells"]:
            assert set(cell) == {"slice", "metric", "value", "count", "ci95"}
            assert cell["value"] * cell["count"] == round(cell["value"] * cell["count"]) and cell["count"] > 0


def test_a_model_has_data_and_a_trainer_of_its_own_and_sharpness_is_measured(recipe_file: Path, tmp_path: Path) -> None:
    settings = [
        "models.ours.trainer={optim: sgd, learning_rate: 0.05, optim_args: momentum=0.5}",
        "models.usual.freeze_embeddings=true",
        "models.usual.data={size: 16}",
        "evaluation={lengths: [2], size: 4, sharpness: 4, every_size: 8}",
    ]
    results = run_recipe(load_recipe(str(recipe_file), settings=settings), [0], tmp_path / "out")
    usual, ours = results["runs"]
    assert (usual["train_examples"], ours["train_examples"]) == (16, 64)
    assert [entry["step"] for entry in ours["sharpness"]] == [4, 8]
    assert all(entry["sharpness"] > 0 for run in results["runs"] for entry in run["sharpness"])
    assert all(entry["relative_sharpness"] > 0 for entry in (*usual["sharpness"][:1], *ours["sharpness"][:1]))
    trained = ours["trainable_parameters"]
    assert ours["training_bytes"] == dict.fromkeys(("weights", "gradients", "optimizer"), 4 * trained)
    state = usual["training_bytes"]["optimizer"] - 8 * usual["trainable_parameters"]
    assert 0 < state < 400  # AdamW's counters
    # The tied table of 32 numbers a token is the first layer.
    assert (
        usual["parameters"] - usual["trainable_parameters"]
        == 32 * build_config(load_recipe(str(recipe_file)), "usual").vocab_size
    )
    card = (tmp_path / "out" / "ours-seed0" / "README.md").read_text()
    assert "so that 1 is the edge of stability" in card and "| step | usual | ours |" in card
    assert re.search(r"\| 4 \| \S+ \(\S+\) \| \S+ \(\S+\) \|", card)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["models.ours.trainer={learnin_rate: 1}"],
            "unknown key of tiny.models.ours.trainer .* 'learnin_rate' .*learning_rate",
        ),
        (
            ["models.ours.trainer={per_device_train_batch_size: 0}"],
            "models.ours.trainer.per_device_train_batch_size must",
        ),
        (
            ["optimizer=muon", "models.ours.trainer={optim: sgd}"],
            "models.ours.trainer.optim 'sgd' is not read: .* muon",
        ),
        (["models.ours.freeze_embeddings=3"], "tiny.models.ours.freeze_embeddings must be .*bool"),
        (["models.ours.data={size: 0}"], "tiny.models.ours.data.size must be positive, not 0"),
        (["evaluation.sharpness=0"], "tiny.evaluation.sharpness must be positive, not 0"),
    ],
)
def test_ways_of_training_are_checked_at_the_door(recipe_file: Path, settings: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_recipe(str(recipe_file), settings=settings)


@pytest.mark.parametrize(
    ("task", "parameters", "length"),
    [
        ("lego", "{clauses: [3, 4]}", "clauses"),
        ("lego", "{clauses: [3, 4], format: cot}", "clauses"),
        ("programs", "{lines: [4, 6], target: value}", "lines"),
    ],
)
def test_causal_models_answer_what_has_no_digits(task: str, parameters: str, length: str, tmp_path: Path) -> None:
    path = tmp_path / "causal.yaml"
    path.write_text(
        TINY.replace("task: addition", f"task: {task}")
        .replace("{digits: [1, 3], reverse: answer, pad: true}", parameters)
        .replace(
            "lengths: [2, 5], size: 8, hard_lengths: [4], hard_size: 4, grid: [2, 3], grid_size: 2",
            "lengths: [4], size: 4",
        )
        .replace("size: 64}", "size: 512}")
    )
    results = run_recipe(
        load_recipe(str(path), settings=["models.ours=null", "trainer.max_steps=2"]), [0], tmp_path / "out"
    )
    assert [one["slice"] for one in results["runs"][0]["cells"]] == [{length: 4}]


def test_same_again_does_nothing_and_seeds_are_added(recipe: Recipe, output: Path) -> None:
    weights = output / "ours-seed0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    results = run_recipe(recipe, [0, 1], output)
    assert weights.stat().st_mtime_ns == before
    assert results["seeds"] == [0, 1] and len(results["runs"]) == 4
    place = {"digits_a": 2, "digits_b": 2}
    ours = [row for row in results["summary"] if (row["name"], row["slice"]) == ("ours", place)]
    values = [c["value"] for r in results["runs"] if r["name"] == "ours" for c in r["cells"][:1]]
    assert ours[0]["seeds"] == 2 and ours[0]["min"] == min(values) and ours[0]["median"] == sum(values) / 2
    assert "(" in results_table(results)[0]["ours"]


def test_another_run_is_refused_and_nothing_is_lost(recipe_file: Path, output: Path) -> None:
    other = load_recipe(str(recipe_file), "gpu")
    with pytest.raises(UserError, match=r"another run: preset is .* trainer\.max_steps is 8 there, 9 here; choose"):
        run_recipe(other, [0], output)
    busy = output.parent / "busy"
    busy.mkdir()
    (busy / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="in use by something else"):
        run_recipe(other, [0], busy)
    assert (busy / "thesis.tex").read_text() == "precious"


def test_loss_falls_on_the_answer_alone(recipe: Recipe) -> None:
    tokenizer = build_tokenizer(recipe.get_task())
    encoded = encode({"prompt": ["12+03=", "1+1="], "answer": ["510", "20"]}, tokenizer)
    rows = [{key: encoded[key][i] for key in encoded} for i in range(2)]
    batch = AnswerCollator(tokenizer.pad_token_id)(rows)  # type: ignore[arg-type]
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 11)
    seen = [tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]
    assert seen == ["510<eos>", "20<eos>"]


def test_encodings_have_their_own_learning_rate(recipe: Recipe) -> None:
    model = PositionalForCausalLM(build_config(recipe, "ours"))
    groups = parameter_groups(model, recipe, training_arguments(recipe, "unused", 0))
    table = model.model.encodings[0].table
    (group,) = [g for g in groups if any(p is table for p in g["params"])]
    assert group["lr"] == pytest.approx(30e-3) and group["weight_decay"] == 0.0
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_too_long_for_a_table_is_refused_before_training(recipe_file: Path) -> None:
    with pytest.raises(UserError, match="'learned' has size 64: raise size"):
        check_it_fits(load_recipe(str(recipe_file), settings=["evaluation.lengths=[30]"]))
    # A sum of five digits has six; the separator behind them is at place 6.
    with pytest.raises(UserError, match="ids reach 21, but the table of 'learned' has size 8"):
        pair = "models.ours.positions=[{ids: significance, encoding: learned, size: 8, max_offset: 14}]"
        check_it_fits(load_recipe(str(recipe_file), settings=[pair, "models.usual=null"]))
    with pytest.raises(UserError, match="only 100 problems at these parameters, too few for a test split"):
        check_it_fits(load_recipe(str(recipe_file), settings=["evaluation.grid=[1,2]"]))


def test_a_model_is_trained_and_measured_on_its_own_task_and_lengths(recipe_file: Path, tmp_path: Path) -> None:
    own = [
        "evaluation.grid=[]",
        "evaluation.hard_lengths=[]",
        "models.usual.task=multiplication",
        "models.usual.parameters={digits: [[1, 3], [1, 1]], reverse: answer}",
        "models.usual.evaluation_parameters={carry_heavy: 1.0}",
        "models.usual.lengths=[[3, 1], [6, 1]]",
        "models.ours.task=copy",
        "models.ours.parameters={length: [1, 4]}",
    ]
    recipe = load_recipe(str(recipe_file), settings=own)
    asked = recipe.task_at([6, 1], "usual").parameters()
    assert asked["digits"] == [[6, 6], [1, 1]] and asked["carry_heavy"] == 1.0
    assert recipe.get_task("usual").parameters()["carry_heavy"] == 0.0
    results = run_recipe(recipe, [0], tmp_path / "out")
    assert [(run["name"], [one["slice"] for one in run["cells"]]) for run in results["runs"]] == [
        ("usual", [{"digits_a": 3, "digits_b": 1}, {"digits_a": 6, "digits_b": 1}]),
        ("ours", [{"length": 2}, {"length": 5}]),
    ]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out" / "ours-seed0")
    assert "z" in tokenizer.get_vocab() and "9" not in tokenizer.get_vocab()
    with pytest.raises(UserError, match=r"models\.usual\.lengths names a length twice: \[2, 2\]"):
        check_it_fits(load_recipe(str(recipe_file), settings=[*own[:-2], "models.usual.lengths=[2, 2]"]))
    with pytest.raises(UserError, match=r"hard_lengths: copy has no hard cases at 4"):
        check_it_fits(load_recipe(str(recipe_file), settings=[own[0], "models.usual=null", *own[-2:]]))
    too_short = "models.usual.positions=[{ids: sequential, encoding: learned, size: 8}]"
    with pytest.raises(UserError, match="'learned' has size 8: raise size"):
        check_it_fits(load_recipe(str(recipe_file), settings=[*own, too_short]))


def test_lengths_are_pooled_where_one_number_is_the_length(recipe_file: Path, tmp_path: Path) -> None:
    own = ["evaluation.grid=[]", "evaluation.hard_lengths=[]", "models.usual=null", "evaluation.pooled=[2, 5]"]
    with pytest.raises(UserError, match="model ours is measured by digits; pooled takes lengths of one number"):
        load_recipe(str(recipe_file), settings=own)
    copied = [*own, "models.ours.task=copy", "models.ours.parameters={length: [1, 4]}"]
    results = run_recipe(load_recipe(str(recipe_file), settings=copied), [0], tmp_path / "out")
    *cells, pooled = results["runs"][0]["cells"]
    assert [one["slice"] for one in cells] == [{"length": 2}, {"length": 5}]
    assert (pooled["slice"], pooled["count"]) == ({"length": 5, "shortest": 2}, sum(one["count"] for one in cells))
    assert results_table(results)[-1]["slice"] == "2 to 5"


def test_a_refused_recipe_claims_no_folder(recipe_file: Path, tmp_path: Path) -> None:
    for setting, says in (
        ("evaluation.lengths=[2, 2]", "names a length twice"),
        ("parameters.operands=3", "no hard cases"),
    ):
        with pytest.raises(UserError, match=says):
            check_it_fits(load_recipe(str(recipe_file), settings=[setting, "evaluation.grid=[]"]))
    endless = load_recipe(str(recipe_file), settings=["data.size=null", "trainer.max_steps=-1"])
    with pytest.raises(UserError, match=r"stream is endless: set trainer\.max_steps"):
        run_recipe(endless, [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_transformers_refuses_is_one_line_and_leaves_the_folder_free(recipe_file: Path, tmp_path: Path) -> None:
    for settings, says in ((["trainer.eval_strategy=steps"], "eval_dataset"), (["model.is_causal=false"], "is_causal")):
        with pytest.raises(UserError, match=says):
            run_recipe(load_recipe(str(recipe_file), settings=settings), [0], tmp_path / "out")
    with pytest.raises(UserError, match="seed -1"):
        run_recipe(load_recipe(str(recipe_file)), [-1], tmp_path / "out")


def test_streamed_rows_are_the_task_s_own(recipe: Recipe) -> None:
    task = recipe.get_task()
    streamed = islice(training_data(task, None, 3), 20)
    assert [row["input_ids"] for row in streamed] == list(training_data(task, 20, 3)["input_ids"])


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths, limits = [5, 50, 7, 50, 1, 9, 20], [10, 10, 30, 10, 10, 30, 10]
    made = list(batches(lengths, limits, batch_tokens=80))
    assert sorted(row for rows in made for row in rows) == list(range(7))
    for rows in made:
        assert len(rows) == 1 or len(rows) * (max(lengths[i] for i in rows) + max(limits[i] for i in rows)) <= 80
    # Those that may write most come first, each kind by falling length.
    assert [row for rows in made for row in rows] == [5, 2, 1, 3, 6, 0, 4]


class Parrot(PositionalForCausalLM):
    """Gives the answers it is told to, so that judging is tested apart from learning. `endless`: it never stops."""

    tokenizer: PreTrainedTokenizerFast
    answers: dict[str, str]
    endless: bool

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: object) -> torch.Tensor:  # type: ignore[override]
        rows = []
        for row, mask in zip(input_ids, attention_mask, strict=True):
            prompt = self.tokenizer.decode(row[mask.bool()], skip_special_tokens=True)
            rows.append(self.tokenizer(self.answers[prompt], add_special_tokens=False)["input_ids"])
        end = self.tokenizer.pad_token_id if self.endless else self.tokenizer.eos_token_id
        width = max(map(len, rows)) + 1
        return torch.cat([input_ids, torch.tensor([row + [end] * (width - len(row)) for row in rows])], dim=1)


@pytest.mark.parametrize("endless", [False, True])
def test_only_a_whole_right_answer_counts(recipe: Recipe, endless: bool) -> None:
    task = recipe.get_task()
    model = Parrot(build_config(recipe, "ours"))
    model.tokenizer, model.endless = build_tokenizer(task), endless
    # Digits come units first, and answers of padded sums have one digit more than their operands.
    model.answers = {"12+03=": "510", "001+100=": "1010", "9+9=": "80", "7+1=": "8", "1+1=": ""}
    prompts = list(model.answers)
    right = exact_matches(model, model.tokenizer, task, prompts)
    assert right == [not endless, not endless, False, False, False]
    if not endless:
        assert complete(model, model.tokenizer, prompts, 5) == list(model.answers.values())
        counted: list[int] = []
        limits = [4, 4, 3, 1, 1]  # <eos> counts
        found = complete(model, model.tokenizer, prompts, limits, batch_tokens=20, advance=counted.append)
        assert found == ["510", None, "80", None, ""] and sum(counted) == 5 and len(counted) > 1


def test_long_prompts_are_read_in_parts(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, tokenizer = PositionalForCausalLM(build_config(recipe, "ours")), build_tokenizer(recipe.get_task())
    read, written, generate = [], [], model.generate
    model.get_input_embeddings().register_forward_hook(lambda _, __, states: read.append(states.shape[1]))
    monkeypatch.setattr(model, "generate", lambda **inputs: written.append(generate(**inputs)) or written[-1])
    for prefill, parts in ((512, [13, 1]), (5, [5, 5, 3, 1])):  # of <bos> and 12 tokens
        monkeypatch.setattr("hf_tasks.evaluate.PREFILL", prefill)
        read.clear()
        complete(model, tokenizer, ["12+03=", "001+100=", "98765+43210="], 6)
        assert read[: len(parts)] == parts
    assert torch.equal(*written)


def test_questions_of_many_tasks_are_judged_as_of_each_alone(recipe: Recipe) -> None:
    model = Parrot(build_config(recipe, "ours"))
    tasks = [recipe.task_at(digits) for digits in (1, 3)]
    model.tokenizer, model.endless = build_tokenizer(recipe.get_task()), False
    model.answers = {"9+9=": "82", "7+1=": "80", "001+100=": "1010", "123+001=": "421"}
    prompts = [["9+9=", "7+1="], ["001+100=", "123+001="], []]
    together = judge(model, model.tokenizer, list(zip([*tasks, tasks[0]], prompts, strict=True)), batch_tokens=32)
    assert together == [[False, True], [True, False], []]
    assert together[:2] == [exact_matches(model, model.tokenizer, *one) for one in zip(tasks, prompts, strict=False)]


def _in_child(arguments: list[str], errors: Path) -> None:
    """The command line, with what it writes to stderr in a file."""
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    main(arguments)


@pytest.fixture(scope="module")
def start(recipe_file: Path) -> Iterator[Callable[..., BaseProcess]]:
    """Starts `hf-tasks run` on the tiny recipe in a child; every child is gone when the module ends."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["hf_tasks.run", "hf_tasks.train", "hf_tasks.publish"])
    children = []

    def run(output: Path, errors: Path, *settings: str) -> BaseProcess:
        more = ["--set", *settings] if settings else []
        arguments = ["run", str(recipe_file), "--output", str(output), *more]
        children.append(server.Process(target=_in_child, args=(arguments, errors)))
        children[-1].start()
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.join()
        child.close()


def _signal_after_checkpoint(child: BaseProcess, workshop: Path, after: int, number: int) -> int:
    """Send a signal once a checkpoint past step `after` is whole; the step of the last whole checkpoint."""
    deadline = time.monotonic() + 240
    while child.is_alive() and time.monotonic() < deadline:
        whole = [int(path.parent.name.split("-")[1]) for path in workshop.glob(f"checkpoint-*/{LISTING}")]
        if max(whole, default=0) > after:
            os.kill(child.pid or 0, number)
            break
        time.sleep(0.01)
    child.join(240)
    return int(str(last_whole_checkpoint(workshop)).rpartition("-")[2])


@pytest.mark.parametrize("size", ["64", "null"], ids=["fixed", "streamed"])
def test_interrupted_and_killed_it_ends_bitwise_equal(
    recipe_file: Path, tmp_path: Path, start: Callable[..., BaseProcess], size: str
) -> None:
    settings = ["models.usual=null", f"data.size={size}", "trainer.max_steps=200", "trainer.save_steps=20",
                "evaluation.every=null", "evaluation.grid=[]", "evaluation.hard_lengths=[]"]  # fmt: skip
    recipe = load_recipe(str(recipe_file), settings=settings)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    workshop, errors = broken / WORKSHOP / "ours-seed0", tmp_path / "errors"
    train_recipe(recipe, [0], whole)

    child = start(broken, errors, *settings)
    step = _signal_after_checkpoint(child, workshop, 0, signal.SIGINT)
    said = errors.read_text()
    assert child.exitcode == 130 and "Traceback" not in said
    assert said.splitlines()[-1] == "hf-tasks: interrupted; nothing is lost: the same command continues"
    child = start(broken, errors, *settings)
    step = _signal_after_checkpoint(child, workshop, step, signal.SIGKILL)
    assert child.exitcode == -signal.SIGKILL and not (broken / "ours-seed0").exists()
    seconds = json.loads((workshop / f"checkpoint-{step}" / "trainer_state.json").read_text())
    torn = workshop / f"checkpoint-{step + 1}"  # as if killed in mid write
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_st')
    train_recipe(recipe, [0], broken)

    first, second = (load_file(folder / "ours-seed0" / "model.safetensors") for folder in (whole, broken))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    facts, unbroken = (json.loads((f / "ours-seed0" / "training.json").read_text()) for f in (broken, whole))
    assert facts["train_seconds"] > seconds["stateful_callbacks"]["Stopwatch"]["args"]["seconds"] > 0
    assert facts["train_examples"] == unbroken["train_examples"] == (64 if size == "64" else 200 * 16)
    # The loss in the log is a mean since the last log line, or since the resumption; the norm is that of one step.
    norms = [[entry.get("grad_norm") for entry in one["log_history"]] for one in (facts, unbroken)]
    assert norms[0] == norms[1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_full_disk_is_one_line_and_nothing_half_written(small_disk: Path, start: Callable[..., BaseProcess]) -> None:
    child = start(small_disk / "out", small_disk.parent / "errors")
    child.join(240)
    said = (small_disk.parent / "errors").read_text()
    assert child.exitcode == 2 and "Traceback" not in said
    assert "No space left on device" in said.splitlines()[-1]
    assert not (small_disk / "out" / "results.json").exists() and not (small_disk / "out" / "usual-seed0").exists()


def test_every_writer_reports_a_full_disk_as_such(small_disk: Path) -> None:
    tensor = torch.zeros(200_000)
    for write in (lambda path: torch.save(tensor, path), lambda path: save_file({"x": tensor}, path)):
        with pytest.raises(OSError, match="No space left on device"), full_disk_as_os_error(small_disk):
            write(small_disk / "x")
        (small_disk / "x").unlink(missing_ok=True)
    with pytest.raises(RuntimeError, match="shapes"), full_disk_as_os_error(small_disk):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "adition-extrapolation"], "unknown recipe 'adition-extrapolation'"),
        (["run", "addition-extrapolation", "--preset", "tpu"], "unknown preset 'tpu'"),
        (["run", "addition-extrapolation", "--set", "trainer.max_stepz=1"], "unknown key"),
        (["run", "addition-extrapolation", "--seeds", "one"], "--seeds takes whole numbers .* not 'one'"),
        (["evaluate", "addition-extrapolation", "--output", "nowhere/at/all"], "holds no trained model"),
        (["generate", "additon", "--size", "5", "--output", "x"], "unknown task 'additon'"),
        (["generate", "addition", "--size", "5", "--output", "x", "--set", "digits=ten"], "digits"),
        (["generate", "addition", "--size", "-5", "--output", "x"], "size"),
        (["generate", "addition", "--split", "exam", "--size", "5", "--output", "x"], "'exam'"),
        (["list", "encoding"], "unknown list 'encoding'.*did you mean 'encodings'"),
        (["publish", "nowhere", "me/it"], "'nowhere' is no folder to publish"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    error = capsys.readouterr().err.strip()
    assert caught.value.code == 2 and len(error.splitlines()) == 1
    assert re.search(says, error)
    assert not list(tmp_path.iterdir())


def test_several_values_in_a_row() -> None:
    assert spread(["run", "r", "--seeds", "0", "1", "--preset", "cpu"]) == [
        "run", "r", "--seeds", "0", "--seeds", "1", "--preset", "cpu",
    ]  # fmt: skip


def test_generate_and_list_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["generate", "addition", "--split", "test", "--size", "30", "--output", str(tmp_path / "d")]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--set", "digits=[1,20]", "reverse=answer"])
    assert caught.value.code == 0
    rows = datasets.load_dataset(str(tmp_path / "d"), split="test", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 30
    with pytest.raises(SystemExit) as caught:
        main(["list"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("significance", "clipped", "addition", "addition-extrapolation"))
