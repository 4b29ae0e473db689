"""The card of a language model of a recipe on texts; see cards.py."""

import json
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_tasks import __version__
from hf_tasks.cards import LICENSE, Results, card_template, interval_of, markdown_table, single_run, tidy
from hf_tasks.recipe import run_name
from hf_tasks.text.recipe import PYTHON_FILES, Source, TextRecipe

_NO_BEGINNING = "The"


def render_text_card(
    recipe: TextRecipe,
    results: Results | None,
    name: str | None,
    seed: int,
    repo_id: str = "",
    dataset_id: str = "",
    license: str = LICENSE,
) -> str:
    """The card of one model, or (name None) of all models of the recipe side by side; see `cards.render_model_card`."""
    run = None if results is None or name is None else single_run(results, name, seed)["runs"][0]
    data = ModelCardData(
        tags=["synthetic", "small-language-model", "hf-tasks", *_corpora(recipe)],
        pipeline_tag="text-generation",
        library_name="transformers",
        license=license or None,
        language="en",
        datasets=[dataset_id] if dataset_id else None,
        model_name=None if name is None else f"{recipe.name} {name}",
        eval_results=None if run is None else [_eval_result(one) for one in run["cells"]],
    )
    first = (run or {}).get("completions") or [{"beginning": _NO_BEGINNING}]
    card = ModelCard.from_template(
        data,
        template_path=str(card_template("text_card.md.jinja")),
        recipe=recipe,
        results=results,
        name=name,
        seed=seed,
        run=run,
        section=None if name is None else recipe.section(name),
        ours=name is not None and recipe.is_ours(name),
        source=repo_id or ("" if name is None else run_name(name, seed)),
        beginning=json.dumps(first[0]["beginning"], ensure_ascii=False),
        own="" if run is None else _own_table(run["cells"]),
        table="" if results is None else text_markdown(results),
        sources=[_said(name, source) for name, source in recipe.sources.items()],
        dataset_id=dataset_id,
        settings=recipe.to_yaml(),
        version=__version__,
    )
    return tidy(card)


def text_markdown(results: Results) -> str:
    """Every metric by model as Markdown; behind the models what the held-out texts themselves come to."""
    names = list(dict.fromkeys(row["name"] for row in results["summary"]))
    said: dict[tuple[str, str, str], dict[str, str]] = {}
    counts: dict[tuple[str, str, str], int] = {}
    for row in results["summary"]:
        several = f" ({row['min']:.3f})" if len(results["seeds"]) > 1 else ""
        said.setdefault(_place(row), {})[row["name"]] = f"{row['median']:.3f}{several}"
        counts.setdefault(_place(row), row["count"])
    truth = {_place(one): f"{one['value']:.3f}" for one in results.get("references", [])}
    head = ["metric", "texts", "case", "count", *names, *(["held-out texts"] if truth else [])]
    rows = [
        [*place, counts[place], *(values.get(name, "") for name in names), *([truth.get(place, "")] if truth else [])]
        for place, values in said.items()
    ]
    return markdown_table(head, rows)


def _own_table(cells: list[dict[str, Any]]) -> str:
    rows = [[*_place(one), one["count"], f"{one['value']:.3f}", interval_of(one)] for one in cells]
    return markdown_table(["metric", "texts", "case", "count", "value", "95 % interval"], rows)


def _place(row: dict[str, Any]) -> tuple[str, str, str]:
    """Metric, texts and case of a cell."""
    return row["metric"], row["slice"]["text"], row["slice"].get("case", "all")


def _corpora(recipe: TextRecipe) -> list[str]:
    return list(dict.fromkeys(source.corpus for source in recipe.sources.values() if source.corpus is not None))


def _said(name: str, source: Source) -> str:
    """A source in a line."""
    if source.dataset is not None:
        return f"`{name}`: the dataset `{source.dataset}`{f', config `{source.config}`' if source.config else ''}"
    if source.corpus == PYTHON_FILES:
        kept = "" if source.quality is None else f" that the quality filter scores {source.quality} or higher"
        return f"`{name}`: snippets of the standard library of Python{kept}"
    words = "" if source.words is None else f" --words {source.words}"
    command = f"hf-tasks corpus {source.corpus} --writer grammar --rows {source.rows}{words} --output {name}"
    return f"`{name}`: {source.rows:,} rows of `{source.corpus}` asked of a grammar: `{command}`"


def _eval_result(one: dict[str, Any]) -> EvalResult:
    metric, text, case = _place(one)
    return EvalResult(
        task_type="text-generation",
        dataset_type=f"hf_tasks-{text}",
        dataset_name=text,
        dataset_config=case,
        dataset_split="test",
        metric_type=metric,
        metric_name=metric.replace("_", " "),
        metric_value=one["value"],
    )
