"""A small recipe, results made up for it, model folders as the road leaves them, mixes of pairs; nothing is trained."""

import json
from collections.abc import Iterable
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import torch

from hf_tasks.cards import write_cards
from hf_tasks.evaluate import summary
from hf_tasks.metrics.functions import cell
from hf_tasks.models import ENCODINGS, POSITION_IDS, PositionalForCausalLM
from hf_tasks.recipe import Recipe, build_config, load_recipe, run_name
from hf_tasks.tokenizer import build_tokenizer

CURVE = {5: (90, 80), 50: (40, 20)}  # digits -> right of 100, for seeds 0 and 1
RECIPE = """
title: Sums
summary: For the tests.
task: addition
parameters: {digits: [1, 3], reverse: answer, pad: true}
data: {size: 64}
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
models:
  usual: {positions: [{ids: sequential, encoding: learned}]}
  ours: {positions: [{ids: significance, encoding: clipped}]}
paper:
  - {claim: "Somebody 1999: 7 digits", source: a book}
  - {claim: "Somebody else 2000: half of 5", source: a talk}
presets: {cpu: {}}
"""


def others(mixes: Iterable[list[tuple]]) -> list[tuple]:
    """Pairs of (ids, encoding) that hold every name of the two registries which stands in none of these mixes."""
    used = [*chain.from_iterable(mixes)]
    ids = sorted(POSITION_IDS.keys() - {pair[0] for pair in used}) or ["sequential"]
    encodings = sorted(ENCODINGS.keys() - {pair[1] for pair in used}) or ["rotary"]
    count = max(len(ids), len(encodings))
    return [*islice(zip(cycle(ids), cycle(encodings)), count)]


def sums_recipe(folder: Path) -> Recipe:
    """The recipe `sums`, written into the folder."""
    path = folder / "sums.yaml"
    path.write_text(RECIPE)
    return load_recipe(str(path))


def sums_results() -> dict[str, Any]:
    """Results of two seeds of its two models, made up."""
    runs = []
    for name in ("usual", "ours"):
        for seed in (0, 1):
            cells = [cell(right[seed], 100, {"digits_a": d, "digits_b": d}) for d, right in CURVE.items()]
            cells += [cell(a * b, 10, {"digits_a": a, "digits_b": b, "case": "grid"}) for a in (1, 3) for b in (1, 3)]
            cells.append(cell(seed, 4, {"digits_a": 5, "digits_b": 5, "case": "nines_plus_one"}))
            runs.append({"name": name, "seed": seed, "parameters": 12345, "trainable_parameters": 12345,
                         "train_seconds": 1.5, "cells": cells})  # fmt: skip
    return {"recipe": "sums", "preset": "cpu", "seeds": [0, 1], "versions": {"torch": "9.9"},
            "hardware": "an abacus", "seconds": 6.0, "paper": [], "summary": summary(runs), "runs": runs}  # fmt: skip


def sums_output(recipe: Recipe, output: Path, results: dict[str, Any] | None = None) -> Path:
    """A run's output folder with untrained models; without results it is as `hf-tasks train` leaves it."""
    output.mkdir(exist_ok=True)
    (output / "recipe.yaml").write_text(recipe.to_yaml())
    for name in recipe.models:
        for seed in (0, 1):
            folder = output / run_name(name, seed)
            torch.manual_seed(seed)
            PositionalForCausalLM(build_config(recipe, name)).save_pretrained(folder)
            build_tokenizer(recipe.get_task()).save_pretrained(folder)
            (folder / "training.json").write_text("{}\n")
            (folder / "cells.json").write_text("[]\n")
    if results is not None:
        (output / "results.json").write_text(json.dumps(results))
        (output / "results.png").write_bytes(b"\x89PNG")
        write_cards(recipe, results, output)
    return output
