"""Cards say what was measured, pictures draw it, and a published model loads from the Hub without this package.

The Hub is `minihub`, on the loopback. Models here are untrained: publishing does not ask how well a model does.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from minihub import TOKEN, Hub, serve

from hf_tasks.analysis.plots import draw_results, results_figure
from hf_tasks.cli import main
from hf_tasks.errors import UserError
from hf_tasks.evaluate import summary
from hf_tasks.metrics.functions import cell
from hf_tasks.models import PositionalForCausalLM
from hf_tasks.publish import publish_model, render_card, results_table
from hf_tasks.recipe import Recipe, build_config, load_recipe
from hf_tasks.tokenizer import build_tokenizer

# huggingface_hub 2.4 hands a file to httpx2 in a way that httpx2 advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

CURVE = {5: (90, 80), 50: (40, 20)}  # digits -> right of 100, for seeds 0 and 1
RECIPE = """
title: Sums
summary: For the tests.
task: addition
parameters: {digits: [1, 3], reverse: answer, pad: true}
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
models:
  usual: {positions: [{ids: sequential, encoding: learned}]}
  ours: {positions: [{ids: significance, encoding: clipped}]}
paper: [{claim: "Somebody 1999: 7 digits", source: a book}]
presets: {cpu: {}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "sums.yaml"
    path.write_text(RECIPE)
    return load_recipe(str(path))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Results of two seeds of two models, made up."""
    runs = []
    for name in ("usual", "ours"):
        for seed in (0, 1):
            cells = [cell(right[seed], 100, {"digits_a": d, "digits_b": d}) for d, right in CURVE.items()]
            cells += [cell(a * b, 10, {"digits_a": a, "digits_b": b, "case": "grid"}) for a in (1, 3) for b in (1, 3)]
            cells.append(cell(seed, 4, {"digits_a": 5, "digits_b": 5, "case": "nines_plus_one"}))
            runs.append({"name": name, "seed": seed, "parameters": 12345, "train_seconds": 1.5, "cells": cells})
    return {"recipe": "sums", "preset": "cpu", "seeds": [0, 1], "versions": {"torch": "9.9"},
            "hardware": "an abacus", "seconds": 6.0, "paper": [], "summary": summary(runs), "runs": runs}  # fmt: skip


@pytest.fixture(scope="module")
def folder(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the road leaves it."""
    path = tmp_path_factory.mktemp("out") / "ours-seed0"
    torch.manual_seed(0)
    PositionalForCausalLM(build_config(recipe, "ours")).save_pretrained(path)
    build_tokenizer(recipe.get_task()).save_pretrained(path)
    (path / "cells.json").write_text("[]\n")
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n\nA card.\n")
    return path


def test_summary_and_table_are_medians_and_minima(results: dict[str, Any]) -> None:
    first = results["summary"][0]
    assert (first["median"], first["min"], first["max"], first["seeds"]) == (pytest.approx(0.85), 0.8, 0.9, 2)
    rows = results_table(results)
    assert [(row["slice"], row["count"], row["ours"]) for row in rows] == [
        ("5 x 5", 100, "0.85 (0.80)"),
        ("50 x 50", 100, "0.30 (0.20)"),
    ]


def test_card_of_a_model_says_what_was_measured(recipe: Recipe, results: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(render_card(recipe, results, "ours", 1))
    card = ModelCard.load(path)
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert {r.metric_type for r in card.data.eval_results or []} == {"exact_match"}
    values = [result.metric_value for result in card.data.eval_results or []]
    assert values == [one["value"] for one in results["runs"][3]["cells"]]
    for line in (
        "| 5 x 5 | 100 | 0.85 (0.80) | 0.85 (0.80) |",
        "| 50 x 50 | 100 | 0.30 (0.20) | 0.30 (0.20) |",
        "Hard case `nines_plus_one`:",
        "`hf-tasks run sums --preset cpu --seeds 0 1`",
        "Measured on an abacus; training took 6.0 seconds in all. Versions: torch 9.9.",
    ):
        assert line in card.content.splitlines()
    assert "12,345 parameters" in card.content and "- Somebody 1999: 7 digits (a book)" in card.content
    settings = card.content.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(settings) == yaml.safe_load(yaml.safe_dump(recipe.to_dict()))
    example = card.content.split("The right answer to `")[1].split("`")
    assert recipe.get_task().check(example[0], example[2])


def test_card_of_a_recipe_shows_all_its_models(recipe: Recipe, results: dict[str, Any]) -> None:
    card = render_card(recipe, results)
    assert "| length | rows | " + " | ".join(recipe.models) + " |" in card.splitlines()
    assert "model-index" not in card and "## Use" not in card


def test_picture_draws_curves_and_grids(results: dict[str, Any], tmp_path: Path) -> None:
    curves, *grids = results_figure(results).axes
    assert [line.get_label() for line in curves.lines] == ["usual", "ours"]
    for line in curves.lines:
        assert list(line.get_xdata()) == [5, 50] and list(line.get_ydata()) == pytest.approx([0.85, 0.3])
    assert "median of 2 seeds" in curves.get_title() and len(curves.collections) == 2
    assert [axes.get_title() for axes in grids] == ["usual", "ours"]
    for axes in grids:
        assert axes.images[0].get_array().tolist() == [[0.1, 0.3], [0.3, 0.9]]  # type: ignore[union-attr]
    draw_results(results, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["results.png"]


def test_a_folder_without_results_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no cells\.json, so it is not an evaluated model: run hf-tasks evaluate"):
        publish_model(tmp_path, "me/adder")


def test_dry_run_lists_what_would_go(folder: Path) -> None:
    names = [name for name, size in publish_model(folder, "me/adder", dry_run=True) if size]
    assert set(names) >= {
        "README.md", "config.json", "model.safetensors", "generation_config.json", "tokenizer.json",
        "configuration_positional.py", "modeling_positional.py", "position_encodings.py", "position_ids.py",
    }  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of our own, as the one that huggingface_hub talks to; it reads the first two settings at import only."""
    with serve() as running:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


STRANGER = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.modules["hf_tasks"] = None
tokenizer = AutoTokenizer.from_pretrained("me/adder")
model = AutoModelForCausalLM.from_pretrained("me/adder", trust_remote_code=True)
inputs = tokenizer(["123+456=", "1+2="], padding=True, return_tensors="pt")
with torch.no_grad():
    torch.save((model(**inputs).logits, model.generate(**inputs, max_new_tokens=6, do_sample=False)), sys.argv[1])
"""


def test_published_it_loads_without_this_package(recipe: Recipe, folder: Path, hub: Hub, tmp_path: Path) -> None:
    publish_model(folder, "me/adder")
    assert [title for title, _ in hub.repos["me/adder"].commits] == ["initial commit", f"Upload {folder.name} with hf_tasks"]  # fmt: skip  # noqa: E501
    assert {k: f.content for k, f in hub.repos["me/adder"].files().items()}.items() >= {
        path.name: path.read_bytes() for path in folder.iterdir()
    }.items()
    settings = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "seen.pt")],
        cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    model = PositionalForCausalLM.from_pretrained(folder)
    tokenizer = build_tokenizer(recipe.get_task())
    inputs = tokenizer(["123+456=", "1+2="], padding=True, return_tensors="pt")
    logits, generated = torch.load(tmp_path / "seen.pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False), generated)


def test_publishing_again_updates_what_changed(folder: Path, hub: Hub) -> None:
    publish_model(folder, "me/adder")
    publish_model(folder, "me/adder")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\nA better card.\n")
    publish_model(folder, "me/adder")
    files = hub.repos["me/adder"].files()
    assert files["README.md"].content.endswith(b"A better card.\n") and files["model.safetensors"].large
    assert len(hub.repos["me/adder"].commits) == 3  # the empty one, the first, and the better card


@pytest.mark.parametrize(
    ("repo", "token", "says"),
    [
        ("me/adder", "hf_wrong", "the Hub did not take 'me/adder': .*401.*Invalid username or password.*HF_TOKEN"),
        ("me/a b", TOKEN, "the Hub did not take 'me/a b': .*check the name"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repo, token, says
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SystemExit) as caught:
        main(["publish", str(folder), repo])
    error = capsys.readouterr().err.strip()
    assert caught.value.code == 2 and len(error.splitlines()) == 1 and not hub.repos
    assert re.search(says, error)
