"""results.json -> model cards -> the Hub.

- A card is a template of `model_cards/` filled from the recipe and `results.json`, never written by hand.
- A model is published in one commit, so a repository is never half-published; the same command again updates it.
- Only what was measured is published: a folder without results is refused.
"""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError

from hf_tasks.analysis.plots import length_of
from hf_tasks.dataset import card_template
from hf_tasks.errors import UserError
from hf_tasks.files import write_bytes, write_text
from hf_tasks.recipe import Recipe, run_name

SOURCE = "hf_tasks"


def results_table(results: dict[str, Any], case: str | None = None) -> list[dict[str, Any]]:
    """One row a slice: {"slice": text, model name: "median (minimum)"}, for `results` of one seed "value".

    Args:
        results: the content of `results.json`.
        case: the hard family to show; None: the plain lengths.
    """
    several = len(results["seeds"]) > 1
    rows: dict[str, dict[str, Any]] = {}
    wanted = [row for row in results["summary"] if row["slice"].get("case") == case]
    for row in sorted(wanted, key=lambda row: length_of(row["slice"])):
        place = " x ".join(str(v) for k, v in row["slice"].items() if k != "case")
        value = f"{row['median']:.2f} ({row['min']:.2f})" if several else f"{row['median']:.2f}"
        rows.setdefault(place, {"slice": place, "count": row["count"]})[row["name"]] = value
    return list(rows.values())


def results_markdown(results: dict[str, Any], case: str | None = None) -> str:
    """`results_table` as Markdown, for cards and the README."""
    names = list(dict.fromkeys(row["name"] for row in results["summary"]))
    lines = [["length", "rows", *names], ["---"] * (len(names) + 2)]
    for row in results_table(results, case):
        lines.append([row["slice"], str(row["count"]), *(row.get(name, "") for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_card(recipe: Recipe, results: dict[str, Any], name: str | None = None, seed: int | None = None) -> str:
    """The card of one trained model, or of the whole recipe where `name` is None."""
    cases = list(dict.fromkeys(row["slice"].get("case") for row in results["summary"]))
    of_model = [run for run in results["runs"] if (run["name"], run["seed"]) == (name, seed)]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        tags=["synthetic", "reasoning", "length-generalization", "hf-tasks", recipe.task],
        pipeline_tag="text-generation",
        model_name=None if name is None else f"{recipe.name} {name}",
        eval_results=[_eval_result(recipe, one) for run in of_model for one in run["cells"]] or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(card_template("model_card.md.jinja")),
        recipe=recipe,
        settings=yaml.safe_dump(recipe.to_dict(), sort_keys=False, width=110),
        results=results,
        name=name,
        seed=seed,
        run=of_model[0] if of_model else None,
        tables=[(case, results_markdown(results, case)) for case in cases if case != "grid"],
        example=_example(recipe),
    )
    return str(card).rstrip() + "\n"


def write_cards(recipe: Recipe, results: dict[str, Any], output: Path) -> None:
    """`README.md` of the output folder and of every model in it, each beside the picture that it shows."""
    picture = (output / "results.png").read_bytes()
    write_text(output / "README.md", render_card(recipe, results))
    for run in results["runs"]:
        folder = output / run_name(run["name"], run["seed"])
        write_text(folder / "README.md", render_card(recipe, results, run["name"], run["seed"]))
        write_bytes(folder / "results.png", picture)


def _eval_result(recipe: Recipe, one: dict[str, Any]) -> EvalResult:
    place = ", ".join(f"{key} {value}" for key, value in one["slice"].items())
    return EvalResult(
        task_type="text-generation",
        dataset_type=f"{SOURCE}-{recipe.task}",
        dataset_name=f"{recipe.task} ({place})",
        metric_type=one["metric"],
        metric_value=one["value"],
    )


def _example(recipe: Recipe) -> dict[str, str]:
    row = recipe.get_task().generate("test", size=1)
    return {"prompt": str(row["prompt"][0]), "answer": str(row["answer"][0])}


def publish_model(folder: Path, repo_id: str, private: bool = False, dry_run: bool = False) -> list[tuple[str, int]]:
    """Upload a finished model in one commit.

    Args:
        folder: a model folder that `hf-tasks run` made.
        repo_id: "user/name" on the Hub (`HF_ENDPOINT` and the token are huggingface_hub's own).
        private: make the repository private if it does not exist yet.
        dry_run: only list what would be uploaded.

    Returns:
        every file with its size in bytes.

    Raises:
        UserError: the folder is not a finished and evaluated model, or the Hub did not take it.
    """
    for needed, how in (("config.json", "a model folder"), ("cells.json", "an evaluated model: run hf-tasks evaluate")):
        if not (folder / needed).is_file():
            raise UserError(f"{str(folder)!r} has no {needed}, so it is not {how}")
    files = [(path.name, path.stat().st_size) for path in sorted(folder.iterdir()) if path.is_file()]
    if not dry_run:
        api = HfApi()
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"Upload {folder.name} with hf_tasks")
        # The last is what huggingface_hub makes of a large file whose upload broke off.
        except (HTTPError, HFValidationError, LocalTokenNotFoundError, RuntimeError) as error:
            raise UserError(
                f"the Hub did not take {repo_id!r}: {' '.join(str(error).split())}; check the name, HF_ENDPOINT "
                "and the token (hf auth login, or HF_TOKEN)"
            ) from error
    return files
