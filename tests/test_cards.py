"""Cards say what was measured or generated, pictures draw it, and the committed ones are those of today."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub._eval_results import parse_eval_result_entries
from samples import sums_output, sums_recipe, sums_results

from hf_tasks.analysis.plots import draw_results, results_figure, statistics_figure
from hf_tasks.cards import (
    eval_results,
    generate_command,
    render_model_card,
    render_recipe_card,
    results_table,
    single_run,
)
from hf_tasks.cli import spread
from hf_tasks.dataset import finished_splits, write_dataset
from hf_tasks.recipe import Recipe, load_recipe, read_recipe
from hf_tasks.strict import parse_setting
from hf_tasks.tasks import get_task
from model_cards import render


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return sums_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return sums_results()


def card_of(text: str) -> ModelCard:
    return ModelCard(text)


def test_summary_and_table_are_medians_and_minima(results: dict[str, Any]) -> None:
    first = results["summary"][0]
    assert (first["median"], first["min"], first["max"], first["seeds"]) == (pytest.approx(0.85), 0.8, 0.9, 2)
    rows = results_table(results)
    assert [(row["slice"], row["count"], row["ours"]) for row in rows] == [
        ("5 x 5", 100, "0.85 (0.80)"),
        ("50 x 50", 100, "0.30 (0.20)"),
    ]


def test_card_of_a_model_says_what_was_measured(recipe: Recipe, results: dict[str, Any]) -> None:
    card = card_of(render_model_card(recipe, results, "ours", 1, "me/adder", "me/sums"))
    assert (card.data.license, card.data.library_name, card.data.datasets) == (
        "apache-2.0", "transformers", ["me/sums"],
    )  # fmt: skip
    for line in (
        "| random | 5 x 5 | 100 | 0.800 | [0.711, 0.867] |",
        "| random | 50 x 50 | 100 | 0.200 | [0.133, 0.289] |",
        "| nines_plus_one | 5 x 5 | 4 | 0.250 | [0.046, 0.699] |",
        "| 5 x 5 | 100 | 0.85 (0.80) | 0.85 (0.80) |",
        "| nines_plus_one | 5 x 5 | 4 | 0.12 (0.00) | 0.12 (0.00) |",
        "- random, 50 x 50: 0.20 [0.133, 0.289] of 100",
        "`hf-tasks run sums --preset cpu --seeds 0 1`, with these settings:",
        "- Somebody 1999: 7 digits (a book)",
        "Nothing above length 50 was measured, and no other format.",
        'model = AutoModelForCausalLM.from_pretrained("me/adder", trust_remote_code=True)',
    ):
        assert line in card.content.splitlines(), line
    assert "12,345 parameters." in card.content and "on: an abacus. Energy was not metered." in card.content
    settings = card.content.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(settings) == yaml.safe_load(yaml.safe_dump(recipe.to_dict()))
    example = card.content.split("The right answer to `")[1].split("`")
    assert recipe.get_task().check(example[0], example[2])


def test_every_slice_stands_in_the_model_index_and_in_eval_results(recipe: Recipe, results: dict[str, Any]) -> None:
    cells = single_run(results, "ours", 1)["runs"][0]["cells"]
    index = card_of(render_model_card(recipe, results, "ours", 1)).data.eval_results or []
    assert [(result.dataset_config, result.metric_type, result.metric_value) for result in index] == [
        (", ".join(f"{k} {v}" for k, v in one["slice"].items()), "exact_match", one["value"]) for one in cells
    ]
    entries = parse_eval_result_entries(yaml.safe_load(eval_results(results["runs"][3], "me/sums")))
    assert [(entry.dataset_id, entry.value) for entry in entries] == [("me/sums", one["value"]) for one in cells]
    assert len({entry.task_id for entry in entries}) == len(cells)
    assert entries[0].task_id == "exact_match-digits_a_5-digits_b_5"
    assert entries[0].notes == "greedy generation, 100 test problems, 95 % interval [0.711, 0.867]"


def test_a_model_that_was_not_measured_says_so(recipe: Recipe) -> None:
    card = card_of(render_model_card(recipe, None, "ours", 1))
    assert "**This model was not evaluated.**" in card.content and not card.data.eval_results
    assert "## Results" not in card.content and "## Limits" not in card.content


def test_seeds_that_fail_are_limits_of_one_that_does_not(recipe: Recipe, results: dict[str, Any]) -> None:
    good = {
        "slice": {"digits_a": 5, "digits_b": 5},
        "metric": "exact_match",
        "value": 1.0,
        "count": 9,
        "ci95": [0.7, 1],
    }
    runs = [run | {"cells": [good]} if run["seed"] == 0 else run for run in results["runs"]]
    limits = render_model_card(recipe, results | {"runs": runs}, "ours", 0).split("## Limits")[1].split("##")[0]
    assert "- random, 50 x 50: down to 0.20 with other seeds" in limits and "[" not in limits


def test_the_command_of_the_card_makes_the_training_rows(recipe: Recipe) -> None:
    words = spread(shlex.split(generate_command(recipe, "ours", 7)))
    assert words[:9] == ["hf-tasks", "generate", "addition", "--split", "train", "--size", "64", "--seed", "7"]
    parameters: dict[str, Any] = {}
    for option, value in pairwise(words):
        if option == "--set":
            parameters |= parse_setting(value)
    assert get_task(words[2], **parameters) == recipe.get_task()


def test_card_of_a_recipe_shows_all_its_models(recipe: Recipe, results: dict[str, Any]) -> None:
    card = render_recipe_card(recipe, results)
    assert "| length | rows | " + " | ".join(recipe.models) + " |" in card.splitlines()
    assert "model-index" not in card and "## Use" not in card


def test_every_model_folder_holds_its_card_recipe_results_and_picture(
    recipe: Recipe, results: dict[str, Any], tmp_path: Path
) -> None:
    output = sums_output(recipe, tmp_path / "out", results)
    folder = output / "ours-seed1"
    assert read_recipe(folder / "recipe.yaml") == recipe
    assert (folder / "README.md").read_text() == render_model_card(recipe, results, "ours", 1)
    own = yaml.safe_load((folder / "results.json").read_text())
    assert [(run["name"], run["seed"]) for run in own["runs"]] == [("ours", 1)] and own["summary"] == results["summary"]
    assert (folder / "results.png").read_bytes() == (output / "results.png").read_bytes()


def test_picture_draws_curves_and_grids(results: dict[str, Any], tmp_path: Path) -> None:
    curves, *grids = results_figure(results).axes
    assert [line.get_label() for line in curves.lines] == ["usual", "ours"]
    for line in curves.lines:
        assert list(line.get_xdata()) == [5, 50] and list(line.get_ydata()) == pytest.approx([0.85, 0.3])
    assert curves.get_xlabel() == "length (digits of each operand)"
    assert "median of 2 seeds" in curves.get_title() and len(curves.collections) == 2
    assert [axes.get_title() for axes in grids] == ["usual", "ours"]
    for axes in grids:
        assert axes.images[0].get_array().tolist() == [[0.1, 0.3], [0.3, 0.9]]  # type: ignore[union-attr]
    draw_results(results, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["results.png"]


def test_picture_of_all_lengths_together_has_no_logarithm(results: dict[str, Any]) -> None:
    results["summary"] = [{**results["summary"][0], "slice": {}}]
    curves, *_ = results_figure(results).axes
    assert curves.get_xscale() == "linear" and list(curves.lines[0].get_xdata()) == [0]


def test_what_is_counted_is_named_in_table_and_picture(results: dict[str, Any]) -> None:
    results["summary"] = [{**results["summary"][0], "slice": {"operands": count}} for count in (20, 3)]
    assert [row["slice"] for row in results_table(results)] == ["3 operands", "20 operands"]
    curves, *_ = results_figure(results).axes
    assert curves.get_xlabel() == "operands" and list(curves.lines[0].get_xdata()) == [3, 20]


def test_picture_of_a_dataset_draws_shares_by_split(tmp_path: Path) -> None:
    task = get_task("addition", digits=(2, 2))
    write_dataset(task, tmp_path, {"train": 100, "test": 50})
    axes = {one.get_title(): one for one in statistics_figure(finished_splits(tmp_path)).axes}
    assert [line.get_label() for line in axes["digits_a"].lines] == ["train", "test"]
    assert [list(line.get_ydata()) for line in axes["digits_a"].lines] == [[1.0], [1.0]]
    assert all(sum(line.get_ydata()) == pytest.approx(1) for one in axes.values() for line in one.lines)
    assert "format" not in axes and "characters of prompt" in axes


def test_committed_cards_are_those_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the finished base of one of them too, as `make demo` leaves it."""
    base = tmp_path / load_recipe("addition-adapter").base
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    monkeypatch.chdir(tmp_path)
    expected = render.model_cards() | {path: text for path, (text, _) in render.dataset_cards().items()}
    committed = {str(p.relative_to(render.HERE)): p.read_text("utf-8") for p in render.HERE.glob("*/*.md")}
    assert committed.keys() == expected.keys(), "run: make cards"
    assert [path for path in expected if committed[path] != expected[path]] == [], "run: make cards"


def test_committed_cards_are_cards() -> None:
    for path in render.HERE.glob("*/*.md"):
        kind = DatasetCard if path.parent.name == "datasets" else ModelCard
        card = kind.load(path)
        others = path.parent.name in ("addition-adapter", "addition-in-language-model", "sgd-fine-tuning")
        assert card.data.license == (None if others else "apache-2.0")  # of what begins from other weights, theirs
        for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", card.content):
            assert (path.parent / link).is_file()
