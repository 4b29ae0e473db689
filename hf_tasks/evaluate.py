"""Trained model -> exact match by slice, results.json and its picture.

- An answer counts when the greedy generation, up to and with <eos>, is exactly right by the task's verifier. Nothing is
  teacher-forced.
- The prompts of all cells are sorted by length into batches of at most so many tokens, padded on the left and decoded
  with a cache until the last row has stopped.
- Every run keeps its cells in `cells.json` beside the model, so an interrupted evaluation goes on with the next run.
- Test rows depend on nothing but the recipe: every model and seed answers the same questions.
"""

import json
import os
import platform
import shlex
import statistics
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_tasks import __version__
from hf_tasks.adapters import load_model
from hf_tasks.analysis.ceiling import has_ceiling, task_ceiling
from hf_tasks.analysis.forward import read_asked
from hf_tasks.analysis.plots import draw_results
from hf_tasks.analysis.shortcuts import accuracy_by_depth, learning_order
from hf_tasks.cards import length_of
from hf_tasks.files import write_text
from hf_tasks.kv_cache import growing_cache
from hf_tasks.metrics.functions import cell
from hf_tasks.recipe import TEXT, TOKEN_CLASSIFICATION, Recipe
from hf_tasks.tasks import Task

PREFILL = 512  # tokens of a long prompt that are read at a time: scores of all pairs of 20,000 would fill the memory
COMPLETIONS = "completions.jsonl"  # of a model of texts, beside its weights
PACKAGES = ("torch", "transformers", "peft", "datasets", "numpy")


def batches(lengths: list[int], new_tokens: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers, cut so that rows x (longest prompt + most new tokens) stays under `batch_tokens`.

    They are sorted by what may be written, then by the prompt, the longest first: the steps of a batch are as many as
    its longest answer takes, and its padding is what prompts differ in.
    """
    rows: list[int] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda i: (-new_tokens[i], -lengths[i], i)):
        wider = max(longest, lengths[row])
        if rows and (len(rows) + 1) * (wider + new_tokens[rows[0]]) > batch_tokens:
            yield rows
            rows, wider = [], lengths[row]
        rows.append(row)
        longest = wider
    if rows:
        yield rows


@torch.no_grad()
def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int | list[int],
    batch_tokens: int = 16384,
    advance: Callable[[int], None] | None = None,
) -> list[str | None]:
    """Greedy completions without special tokens; None where <eos> did not come within `max_new_tokens`.

    Args:
        model, tokenizer: what completes.
        prompts: their beginnings.
        max_new_tokens: of each, or of all.
        batch_tokens: most tokens of a batch, padding and new ones included.
        advance: told after every batch how many prompts it had.
    """
    model.eval()
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    encoded = tokenizer(prompts)["input_ids"]
    completions: list[str | None] = [None] * len(prompts)
    for rows in batches([len(ids) for ids in encoded], limits, batch_tokens):  # type: ignore[arg-type]
        inputs = tokenizer.pad({"input_ids": [encoded[i] for i in rows]}, padding_side="left", return_tensors="pt")
        inputs = inputs.to(model.device)
        output = model.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=limits[rows[0]],
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            past_key_values=growing_cache(model.config),
            prefill_chunk_size=PREFILL if inputs["input_ids"].shape[1] > PREFILL else None,
        )
        for row, tokens in zip(rows, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            if tokenizer.eos_token_id in tokens[: limits[row]]:
                tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
                completions[row] = str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
        if advance is not None:
            advance(len(rows))
    return completions


def judge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[tuple[Task, list[str]]],
    batch_tokens: int = 16384,
    advance: Callable[[int], None] | None = None,
) -> list[list[bool]]:
    """Whether each prompt of each task is answered exactly right; all are asked together.

    An answer may be as long as the longest of its task, and <eos>.

    Args:
        model, tokenizer: what answers.
        questions: tasks, and prompts of theirs.
        batch_tokens, advance: as in `complete`.
    """
    asked = [(task, prompt) for task, prompts in questions for prompt in prompts]
    limits = [task.max_lengths[1] + 1 for task, _ in asked]
    answers = complete(model, tokenizer, [prompt for _, prompt in asked], limits, batch_tokens, advance)
    right = iter([a is not None and task.check(p, a) for (task, p), a in zip(asked, answers, strict=True)])
    return [list(islice(right, len(prompts))) for _, prompts in questions]


def exact_matches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, prompts: list[str]
) -> list[bool]:
    """Whether each prompt of one task is answered exactly right."""
    return judge(model, tokenizer, [(task, prompts)])[0]


def _questions(recipe: Recipe, name: str) -> Iterator[tuple[dict[str, Any], Task, list[str]]]:
    """Every cell of the evaluation: its slice, its task and its prompts."""
    wanted = recipe.evaluation
    for length in recipe.lengths(name):
        task = recipe.task_at(length, name)
        size = wanted.size if isinstance(length, list) else wanted.sizes.get(length, wanted.size)
        yield slice_of(task, length), task, task.generate("test", size=size)["prompt"]  # type: ignore[misc]
    for a in wanted.grid:
        for b in wanted.grid:
            task = recipe.task_at([a, b], name)
            place = {**slice_of(task, [a, b]), "case": "grid"}
            yield place, task, task.generate("test", size=wanted.grid_size)["prompt"]  # type: ignore[misc]
    for length in wanted.hard_lengths:
        task = recipe.task_at(length, name)
        for family, table in task.hard_cases(size=wanted.hard_size).items():
            if prompts := unseen(recipe.get_task(name), task, length, table["prompt"].to_pylist()):
                yield {**slice_of(task, length), "case": family}, task, prompts


def unseen(trained: Task, task: Task, length: int, prompts: list[str]) -> list[str]:
    """The prompts that no training row can hold: longer ones all, others if their problem belongs to the test split.

    Families of a handful of problems (99...9 + 1) are not drawn from the test split, so this is theirs to need.
    """
    if length > trained.longest:
        return prompts
    return [prompt for prompt in prompts if task.split_of(prompt) == "test"]


def slice_of(task: Task, length: Any) -> dict[str, Any]:
    """The slice of one length: digits_a, digits_b, ... of every operand, or `length`; {} for None."""
    if length is None:
        return {}
    if task.length_parameter != "digits":
        return {task.length_parameter: length}
    operands = sum(name.startswith("digits_") for name in task.columns)
    lengths = length if isinstance(length, list) else [length] * operands
    names = [name for name in task.columns if name.startswith("digits_")]
    return dict(zip(names, lengths, strict=True))


def _clause_cells(recipe: Recipe, name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Accuracy by depth at every length of the evaluation, of a token classifier."""
    wanted, cells, trained = recipe.evaluation, [], model.config.num_hidden_layers
    lengths = recipe.lengths(name)
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"evaluating {name}", total=len(lengths))
        for length in lengths:
            task = recipe.task_at(length, name)
            table = task.table("test", size=wanted.sizes.get(length, wanted.size))
            model.config.num_hidden_layers = _layers_at(recipe, model.config, length)
            reading = read_asked(model, tokenizer, table, wanted.batch_tokens)
            for one in accuracy_by_depth(reading):
                place = {**slice_of(task, length), "depth": one.pop("depth")}
                cells.append({"slice": place, "metric": "accuracy", **one})
            model.config.num_hidden_layers = trained
            progress.advance(bar)
    return cells


def _layers_at(recipe: Recipe, config: Any, length: Any) -> int:
    """How many layers to apply at a length: shared ones as often as the recipe says; a config counts applications."""
    trained: int = config.num_hidden_layers
    shared = getattr(config, "share_layers", config.model_type == "albert")
    return recipe.evaluation.layers.get(length, trained) if shared else trained


def _pooled(task: Task, cells: list[dict[str, Any]], shortest: int, longest: int) -> dict[str, Any]:
    """One cell for all lengths from the shortest to the longest; of cells by depth, for the second halves of chains."""
    key = task.length_parameter
    inside = [one for one in cells if shortest <= one["slice"].get(key, 0) <= longest and "case" not in one["slice"]]
    place: dict[str, Any] = {key: longest, "shortest": shortest}
    if "depth" in inside[0]["slice"]:
        inside = [one for one in inside if one["slice"]["depth"] > one["slice"][key] // 2]
        place["half"] = "second"
    right = sum(round(one["value"] * one["count"]) for one in inside)
    return cell(right, sum(one["count"] for one in inside), place, inside[0]["metric"])


def _answer_cells(recipe: Recipe, name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Exact match at every length of the evaluation, its grid and hard cases."""
    wanted, trained = recipe.evaluation, model.config.num_hidden_layers
    asked = list(_questions(recipe, name))
    layers = [_layers_at(recipe, model.config, int(length_of(place))) for place, _, _ in asked]
    found: dict[int, list[bool]] = {}
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"evaluating {name}", total=sum(len(prompts) for _, _, prompts in asked))
        for count in dict.fromkeys(layers):  # questions that take as many are answered together
            together = [number for number, one in enumerate(layers) if one == count]
            model.config.num_hidden_layers = count
            right = judge(
                model,
                tokenizer,
                [asked[number][1:] for number in together],
                wanted.batch_tokens,
                lambda done: progress.advance(bar, done),
            )
            found |= dict(zip(together, right, strict=True))
    model.config.num_hidden_layers = trained
    return [cell(sum(found[n]), len(found[n]), place) for n, (place, _, _) in enumerate(asked)]


def evaluate_model(recipe: Any, name: str, folder: Path) -> list[dict[str, Any]]:
    """The cells of one trained model, measured, or read if they stand in its folder.

    Args:
        recipe: what was trained, from `load_recipe`.
        name: which of its models.
        folder: the finished model.

    Returns:
        cells in the form of `results.json`.
    """
    kept = folder / "cells.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_model(folder)
    model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if recipe.head == TEXT:
        from hf_tasks.text.evaluate import measure

        cells = measure(recipe, model, tokenizer, folder)
    elif recipe.head == TOKEN_CLASSIFICATION:
        cells = _clause_cells(recipe, name, model, tokenizer)
    else:
        cells = _answer_cells(recipe, name, model, tokenizer)
    if recipe.head != TEXT and recipe.evaluation.pooled:
        cells.append(_pooled(recipe.get_task(name), cells, *recipe.evaluation.pooled))
    write_text(kept, json.dumps(cells, indent=1) + "\n")
    return cells


def evaluate(recipe: Any, runs: list[tuple[str, int, Path]], output: Path) -> dict[str, Any]:
    """Evaluate finished runs and write `results.json` and `results.png` into the output folder.

    Args:
        recipe: from `load_recipe`.
        runs: model name, seed and folder of every finished run.
        output: where the results go.

    Returns:
        the content of `results.json`.
    """
    entries = []
    for name, seed, folder in runs:
        facts = json.loads((folder / "training.json").read_text())
        history = facts.pop("log_history")
        learned = learning_order(history)
        order = {"learned": {str(depth): step for depth, step in learned.items()}} if learned else {}
        curve = [entry for entry in history if "sharpness" in entry]
        watched = {"sharpness": curve} if curve else {}
        cells = evaluate_model(recipe, name, folder)
        shown = _shown(folder)
        entries.append({"name": name, "seed": seed, **facts, **order, **watched, **shown, "cells": cells})
    ceilings = last_ceilings(recipe, list(dict.fromkeys(name for name, _, _ in runs)))
    references = _references(recipe, output)
    seeds = sorted({seed for _, seed, _ in runs})
    results = {
        "recipe": recipe.name,
        "preset": recipe.preset,
        "command": shlex.join([*shlex.split(recipe.command), "--seeds", *map(str, seeds)]),
        "seeds": seeds,
        "versions": versions(),
        "hardware": hardware(),
        "seconds": round(sum(entry["train_seconds"] for entry in entries), 1),
        "paper": [vars(figure) for figure in recipe.paper],
        "summary": summary(entries),
        **({"ceilings": ceilings} if ceilings else {}),
        **({"references": references} if references else {}),
        "runs": entries,
    }
    write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
    draw_results(results, output / "results.png")
    return results


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median and minimum over the seeds of every model and slice, in the order of the runs."""
    values: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        for one in run["cells"]:
            values.setdefault((run["name"], json.dumps(one["slice"]), one["metric"]), []).append(one)
    return [
        {
            "name": name,
            "slice": json.loads(place),
            "metric": metric,
            "median": statistics.median(one["value"] for one in members),
            "min": min(one["value"] for one in members),
            "max": max(one["value"] for one in members),
            "seeds": len(members),
            "count": members[0]["count"],
        }
        for (name, place, metric), members in values.items()
    ]


def _shown(folder: Path) -> dict[str, Any]:
    """The first completion of the first beginning of every source, of a model of texts."""
    if not (folder / COMPLETIONS).is_file():
        return {}
    rows = [json.loads(line) for line in (folder / COMPLETIONS).read_text("utf-8").splitlines()]
    return {"completions": list({row["source"]: row for row in reversed(rows)}.values())}


def _references(recipe: Any, output: Path) -> list[dict[str, Any]]:
    """What the held-out texts themselves come to, of a recipe on texts."""
    if recipe.head != TEXT:
        return []
    from hf_tasks.text.evaluate import references

    return references(recipe, output)


def last_ceilings(recipe: Any, names: list[str]) -> list[dict[str, Any]]:
    """The counting ceiling of the last clause at every length, of token classifiers that read single paths.

    Args:
        names: models of the recipe.

    Returns:
        {"name", "slice", "value", "ci95", "limit", "chance"} for every model and length; see analysis/ceiling.py.
    """
    found: list[dict[str, Any]] = []
    for name in names if recipe.head == TOKEN_CLASSIFICATION else []:
        for length in filter(None, recipe.lengths(name)):
            task = recipe.task_at(length, name)
            parameters = task.parameters()
            # Beside other chains or distractors the last clause is not the product of the sentence; and where clauses
            # stand in order, who counts along them follows the chain.
            single = has_ceiling(task) and parameters["chains"] == 1 and parameters["depth"] is None
            if single and parameters["order"] == "shuffled":
                ceiling = task_ceiling(task, length)
                known = {key: getattr(ceiling, key) for key in ("value", "ci95", "limit", "chance")}
                found.append({"name": name, "slice": {**slice_of(task, length), "depth": length}, **known})
    return found


def versions() -> dict[str, str]:
    """What the figures were measured with."""
    return {"hf_tasks": __version__, **{name: version(name) for name in PACKAGES}}


def hardware() -> str:
    """What the figures were measured on, in one line."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"CPU {model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
