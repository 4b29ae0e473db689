"""results.json and provenance.json -> cards: Markdown with the YAML head that the Hub reads.

- A card is a template of `model_cards/` filled from the recipe and what was measured or generated, never by hand; the
  committed cards are rendered by `make cards`, and a test fails when one is stale.
- What is measured stands in three places, all from the same `results.json`: the tables of the card, its `model-index`,
  and `.eval_results/*.yaml`, by which the Hub is about to replace it.
- Cards name the repository where they know it: a model gets its card from `hf-tasks run`, and again when published.
"""

import ast
import json
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    CardData,
    DatasetCard,
    DatasetCardData,
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    RepoCard,
    eval_result_entries_to_yaml,
)

from hf_tasks import __version__
from hf_tasks.files import write_bytes, write_text
from hf_tasks.recipe import TEXT, TOKEN_CLASSIFICATION, Experiment, Recipe, origin_of, run_name
from hf_tasks.tasks.hashing import SPLIT_SHARES

LICENSE = "apache-2.0"
FAILS_BELOW = 0.99  # exact match under which a card lists a slice among the limits
CELL_WIDTH = 60
COUNTS = ("clauses", "lines", "operands")  # keys of a slice that say how many; a table names what is counted

Results = dict[str, Any]


def card_template(name: str) -> Path:
    """The path of a card template, in an installed package or in a checkout."""
    package = Path(__file__).parent
    installed = package / "model_cards" / name
    return installed if installed.exists() else package.parent / "model_cards" / name


# Models.


def results_table(results: Results, case: str | None = None) -> list[dict[str, Any]]:
    """One row a slice: {"slice": text, model name: "median (minimum)"}, of one seed "value".

    Args:
        results: the content of `results.json`.
        case: the hard family to show; None: the plain lengths.
    """
    rows: dict[str, dict[str, Any]] = {}
    wanted = [row for row in results["summary"] if row["slice"].get("case") == case]
    metrics = {row["metric"] for row in results["summary"]}
    for row in sorted(wanted, key=lambda row: length_of(row["slice"])):
        value = f"{row['median']:.2f} ({row['min']:.2f})" if row["seeds"] > 1 else f"{row['median']:.2f}"
        place = place_of(row["slice"])
        if len(metrics) > 1:
            place = f"{row['metric'].replace('_', ' ')}, {place}"
        rows.setdefault(place, {"slice": place, "count": row["count"]})[row["name"]] = value
    return list(rows.values())


def results_markdown(results: Results) -> str:
    """`results_table` as Markdown, for cards and the README."""
    names = list(dict.fromkeys(row["name"] for row in results["summary"]))
    rows = [[row["slice"], row["count"], *(row.get(name, "") for name in names)] for row in results_table(results)]
    return markdown_table(["length", "rows", *names], rows)


def hard_markdown(results: Results) -> str:
    """`results_table` of all hard cases as Markdown; empty if there are none."""
    names = list(dict.fromkeys(row["name"] for row in results["summary"]))
    cases = dict.fromkeys(row["slice"].get("case") for row in results["summary"])
    rows = [
        [case, row["slice"], row["count"], *(row.get(name, "") for name in names)]
        for case in cases
        if case not in (None, "grid")
        for row in results_table(results, case)
    ]
    return markdown_table(["problems", "length", "rows", *names], rows) if rows else ""


def counting_markdown(results: Results) -> str:
    """The last clause of every length beside its counting ceiling, as Markdown; empty where there is none."""
    rows = []
    for ceiling in results.get("ceilings", []):
        (said,) = (
            row for row in results["summary"] if (row["name"], row["slice"]) == (ceiling["name"], ceiling["slice"])
        )
        value = f"{said['median']:.2f} ({said['min']:.2f} to {said['max']:.2f})"
        rows.append(
            [ceiling["name"], place_of(said["slice"]), value, f"{ceiling['value']:.2f}", f"{ceiling['chance']:.2f}"]
        )
    return markdown_table(["model", "last clause", "accuracy", "counting ceiling", "chance"], rows) if rows else ""


def learning_markdown(results: Results) -> str:
    """The step at which each depth was first seen learned, one row a run, as Markdown; empty if nobody looked."""
    learned = {(run["name"], run["seed"]): run["learned"] for run in results["runs"] if "learned" in run}
    depths = sorted({int(depth) for steps in learned.values() for depth in steps})
    rows = [
        [name, seed, *(steps.get(str(depth)) or "never" for depth in depths)] for (name, seed), steps in learned.items()
    ]
    return markdown_table(["model", "seed", *(f"depth {depth}" for depth in depths)], rows) if rows else ""


def sharpness_markdown(results: Results) -> str:
    """Sharpness of every model by step, beside it how near to the edge of stability it is; medians over the seeds.

    Returns:
        Markdown; empty if nobody looked.
    """
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    for run in results["runs"]:
        for entry in run.get("sharpness", []):
            found.setdefault(run["name"], {}).setdefault(entry["step"], []).append(entry)
    steps = sorted({step for curve in found.values() for step in curve})

    def shown(entries: list[dict[str, float]]) -> str:
        parts = ("sharpness", "{:.4g}"), ("relative_sharpness", "({:.2f})")
        medians = [(form, [entry[key] for entry in entries if key in entry]) for key, form in parts]
        return " ".join(form.format(statistics.median(values)) for form, values in medians if values)

    rows = [[step, *(shown(curve.get(step, [])) for curve in found.values())] for step in steps]
    return markdown_table(["step", *found], rows) if rows else ""


def length_of(place: dict[str, Any]) -> float:
    """How far out a slice is: its longest operand, `length`, a count or `step_size`; 0 where it has none."""
    lengths = ("length", *COUNTS, "step_size")
    return max((value for key, value in place.items() if key.startswith("digits_") or key in lengths), default=0)


def place_of(place: Mapping[str, Any]) -> str:
    """A slice in words: "10 x 10", "12 clauses, depth 3"; "all" where it names no length."""
    lengths = " x ".join(
        str(value) for key, value in place.items() if key.startswith("digits_") or key in ("length", "text")
    )
    counts = [f"{place[key]} {key}" for key in COUNTS if key in place]
    counts += [f"{place['half']} half"] if "half" in place else []
    depths = [f"{key.replace('_', ' ')} {place[key]}" for key in ("depth", "step_size") if key in place]
    shortest = f"{place['shortest']} to " if "shortest" in place else ""
    return shortest + ", ".join([*([lengths] if lengths else []), *counts, *depths]) or "all"


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown; a pipe inside a cell is escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(value).replace("|", r"\|") for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def single_run(results: Results, name: str, seed: int) -> Results:
    """`results.json` of one model: its own run alone, beside the summary of all to compare it with.

    Without the command, which makes more than this model and may name folders of this machine; see recipe.yaml.
    """
    own = [run for run in results["runs"] if (run["name"], run["seed"]) == (name, seed)]
    return {**{key: value for key, value in results.items() if key != "command"}, "runs": own}


def render_model_card(
    recipe: Any,
    results: Results | None,
    name: str,
    seed: int,
    repo_id: str = "",
    dataset_id: str = "",
    base_id: str = "",
    license: str = LICENSE,
) -> str:
    """The card of one trained model.

    Args:
        recipe: what it was made by.
        results: the content of `results.json`; None: the model was not evaluated, and the card says so.
        name, seed: which run of the recipe.
        repo_id: the repository on the Hub; "": a folder.
        dataset_id: the dataset on the Hub that the model was trained on, if it is published.
        base_id: the model on the Hub that it was trained from, if that is published.
        license: of the weights; "" if it is not known.
    """
    if recipe.head == TEXT:
        from hf_tasks.text.card import render_text_card

        return render_text_card(recipe, results, name, seed, repo_id, dataset_id, license)
    run = None if results is None else single_run(results, name, seed)["runs"][0]
    adapted = recipe.base is not None and recipe.model_fields(name).get("method", "none") != "none"
    placed = bool(recipe.added_positions(name))
    adapter = adapted and not placed
    task, origin = recipe.get_task(name), origin_of(recipe, name)
    data = _model_card_data(
        recipe,
        [task.name],
        license=license or None,
        library_name="peft" if adapter else "transformers",
        base_model=base_id or None,
        datasets=[dataset_id] if dataset_id else None,
        model_name=f"{recipe.name} {name}",
        eval_results=None if run is None else [_eval_result(recipe, task.name, one) for one in run["cells"]],
    )
    row = task.generate("test", size=1)
    return _fill(
        data,
        recipe,
        results,
        tasks=[task.name],
        name=name,
        seed=seed,
        run=run,
        adapter=adapter,
        placed=placed,
        merged=adapted and placed,
        base=base_id or origin,
        ours=recipe.base is None and recipe.section(name).stock is None,
        started=recipe.section(name).start_from,
        source=repo_id or run_name(name, seed),
        dataset_id=dataset_id,
        own="" if run is None else _own_table(recipe, run["cells"]),
        limits=[] if results is None or run is None else _limits(results, run),
        longest=0 if run is None else max(length_of(one["slice"]) for one in run["cells"]),
        example={
            "prompt": str(row["prompt"][0]),
            "answer": str(row["answer"][0]),
            "places": row["read_positions"][0] if task.classes else None,
        },
        classes=list(task.classes),
        vocabulary="".join(task.vocabulary),
        generate=generate_command(recipe, name, seed),
    )


def render_recipe_card(recipe: Any, results: Results) -> str:
    """The card of a whole recipe: all its models side by side."""
    if recipe.head == TEXT:
        from hf_tasks.text.card import render_text_card

        return render_text_card(recipe, results, None, 0)
    tasks = list(dict.fromkeys(recipe.get_task(name).name for name in recipe.models))
    licenses = {license_of(recipe, name) for name in recipe.models}
    license = licenses.pop() if len(licenses) == 1 else ""
    data = _model_card_data(recipe, tasks, library_name="transformers", license=license or None)
    origins = [origin for name in recipe.models if (origin := origin_of(recipe, name)) is not None]
    return _fill(data, recipe, results, tasks=tasks, name=None, base=", ".join(dict.fromkeys(origins)))


def write_cards(recipe: Experiment, results: Results, output: Path) -> None:
    """`README.md` of the output folder and of every model in it, with the recipe, results and picture beside it."""
    picture = (output / "results.png").read_bytes()
    write_text(output / "README.md", render_recipe_card(recipe, results))
    for run in results["runs"]:
        folder = output / run_name(run["name"], run["seed"])
        own = single_run(results, run["name"], run["seed"])
        write_text(folder / "results.json", json.dumps(own, indent=1) + "\n")
        write_bytes(folder / "results.png", picture)
        write_text(folder / "recipe.yaml", recipe.to_yaml())
        license = license_of(recipe, run["name"])
        card = render_model_card(recipe, results, run["name"], run["seed"], license=license)
        write_text(folder / "README.md", card)


def eval_results(run: dict[str, Any], dataset_id: str) -> str:
    """`.eval_results/*.yaml` of one run: every slice as a task of the dataset, with its count and interval."""
    asked = {"accuracy": "{} test values", "exact_match": "greedy generation, {} test problems"}
    entries = [
        EvalResultEntry(
            dataset_id=dataset_id,
            task_id="-".join([one["metric"], *(f"{key}_{value}" for key, value in one["slice"].items())]),
            value=one["value"],
            notes=f"{asked[one['metric']].format(one['count'])}, 95 % interval {interval_of(one)}",
        )
        for one in run["cells"]
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=120)


def license_of(recipe: Any, name: str) -> str:
    """The licence of a model: ours, or that of what it begins from, if that is a folder whose card says it."""
    origin = origin_of(recipe, name)
    if origin is None:
        return LICENSE
    card = Path(origin) / "README.md"
    try:
        head = ModelCard(card.read_text("utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return str(head.get("license") or "")


def generate_command(recipe: Recipe, name: str, seed: int) -> str:
    """The command that writes the training rows of a run; a stream has no end, so it shows the first 100,000."""
    size = recipe.data_of(name).size or 100_000
    task = recipe.get_task(name)
    settings = [f"{key}={json.dumps(value)}" for key, value in task.parameters().items()]
    command = ["hf-tasks", "generate", task.name, "--split", "train", "--size", str(size), "--seed", str(seed)]
    return shlex.join([*command, "--output", task.name, "--set", *settings])


def _model_card_data(recipe: Recipe, tasks: list[str], **fields: Any) -> ModelCardData:
    tags = ["synthetic", "reasoning", "length-generalization", "hf-tasks", *tasks]
    return ModelCardData(tags=tags, pipeline_tag=_pipeline(recipe), **{"license": LICENSE, **fields})


def _pipeline(recipe: Recipe) -> str:
    """What the Hub calls the head of a recipe's models."""
    return "token-classification" if recipe.head == TOKEN_CLASSIFICATION else "text-generation"


def _fill(data: ModelCardData, recipe: Recipe, results: Results | None, **fields: Any) -> str:
    card = ModelCard.from_template(
        data,
        template_path=str(card_template("model_card.md.jinja")),
        recipe=recipe,
        settings=recipe.to_yaml(),
        results=results,
        table="" if results is None else results_markdown(results),
        hard="" if results is None else hard_markdown(results),
        counting="" if results is None else counting_markdown(results),
        learning="" if results is None else learning_markdown(results),
        sharpness="" if results is None else sharpness_markdown(results),
        shares=SPLIT_SHARES,
        version=__version__,
        classifier=recipe.head == TOKEN_CLASSIFICATION,
        metric="accuracy" if recipe.head == TOKEN_CLASSIFICATION else "exact match",
        **fields,
    )
    return tidy(card)


def _own_table(recipe: Recipe, cells: list[dict[str, Any]]) -> str:
    """Every slice of one run with its interval."""
    rows = []
    order = list(dict.fromkeys(_case(one) for one in cells))
    for one in sorted(cells, key=lambda one: (order.index(_case(one)), length_of(one["slice"]))):
        rows.append([_case(one), place_of(one["slice"]), one["count"], f"{one['value']:.3f}", interval_of(one)])
    metric = "accuracy" if recipe.head == TOKEN_CLASSIFICATION else "exact match"
    return markdown_table(["problems", "length", "rows", metric, "95 % interval"], rows)


def _case(one: dict[str, Any]) -> str:
    return one["slice"].get("case", "random")


def _limits(results: Results, run: dict[str, Any]) -> list[str]:
    """The slices in which a model fails, shortest first; then those in which another seed of it does."""
    failing = [one for one in run["cells"] if one["value"] < FAILS_BELOW]
    lines = [
        f"{_case(one)}, {place_of(one['slice'])}: {one['value']:.2f} {interval_of(one)} of {one['count']}"
        for one in sorted(failing, key=lambda one: length_of(one["slice"]))
    ]
    known = [one["slice"] for one in failing]
    others = [
        f"{_case(row)}, {place_of(row['slice'])}: down to {row['min']:.2f} with other seeds"
        for row in results["summary"]
        if row["name"] == run["name"] and row["min"] < FAILS_BELOW and row["slice"] not in known
    ]
    return lines + others


def interval_of(one: dict[str, Any]) -> str:
    """The 95 % interval of a cell."""
    return f"[{one['ci95'][0]:.3f}, {one['ci95'][1]:.3f}]"


def _eval_result(recipe: Recipe, task: str, one: dict[str, Any]) -> EvalResult:
    """One slice in `model-index`, which keeps apart only what differs in dataset or config."""
    place = ", ".join(f"{key} {value}" for key, value in one["slice"].items())
    return EvalResult(
        task_type=_pipeline(recipe),
        dataset_type=f"hf_tasks-{task}",
        dataset_name=task,
        dataset_config=place or "all",
        dataset_split="test",
        metric_type=one["metric"],
        metric_name=one["metric"].replace("_", " "),
        metric_value=one["value"],
    )


# Datasets.


def render_dataset_card(
    splits: Mapping[str, dict[str, Any]], repo_id: str | None = None, others: Iterable[dict[str, Any]] = ()
) -> str:
    """The card of a dataset, from the provenance of its splits.

    Args:
        splits: path of each split in the dataset -> its provenance, in the order of `dataset.in_order`.
        repo_id: the repository on the Hub, None for a folder.
        others: configs of the repository's present card whose splits have no provenance; they stay as they are.
    """
    if any("corpus" in made_by for made_by in splits.values()):
        from hf_tasks.corpora.card import render_corpus_card

        return render_corpus_card(splits, repo_id, others)
    rows = sum(made_by["size"] for made_by in splits.values())
    configs = configs_of(splits, others)
    by_task = {made_by["task"]: made_by for made_by in splits.values()}
    data = DatasetCardData(
        pretty_name=f"{', '.join(by_task)} (hf_tasks)",
        license=LICENSE,
        annotations_creators="machine-generated",
        task_categories=["text-generation"],
        size_categories=size_category(rows),
        tags=["synthetic", "reasoning", "length-generalization", "hf-tasks", *by_task],
        configs=configs,
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(card_template("dataset_card.md.jinja")),
        by_task=by_task,
        splits=splits,
        rows=rows,
        source=repo_id or "PATH_OF_THIS_FOLDER",
        config=next(config["config_name"] for config in configs if config.get("default")),
        shares=SPLIT_SHARES,
        split_table=_split_table(splits),
        commands=commands_of(splits),
        sources=sorted({made_by["source"] for made_by in splits.values()}),
        examples=_example_tables(splits),
        statistics=statistics_tables(splits),
        version=__version__,
    )
    return tidy(card)


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows: '1K<n<10K' holds 1,000 up to 9,999."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    power = len(str(rows)) - 3
    if power < 1:
        return "n<1K"
    return f"{bounds[power - 1]}<n<{bounds[power]}" if power < len(bounds) else "n>1T"


def configs_of(splits: Mapping[str, dict[str, Any]], others: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `configs` of the YAML head; the first of ours is the default."""
    files: dict[str, list[dict[str, str]]] = {}
    for path, made_by in splits.items():
        entry = {"split": made_by["name"], "path": f"{path}/*.parquet"}
        files.setdefault(made_by["config"], []).append(entry)
    default = next(iter(files))
    for config in others:
        if config["config_name"] in files:
            files[config["config_name"]].extend(config["data_files"])
    configs = [
        {"config_name": name, "data_files": data_files, **({"default": True} if name == default else {})}
        for name, data_files in files.items()
    ]
    return configs + [
        {key: value for key, value in config.items() if key != "default"}
        for config in others
        if config["config_name"] not in files
    ]


def _split_table(splits: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for m in splits.values():
        parameters = ", ".join(f"`{key}={json.dumps(value)}`" for key, value in m["parameters"].items())
        rows.append([m["config"], m["name"], f"{m['size']:,}", m["task"], m["split"], m["seed"], parameters])
    return markdown_table(["config", "split", "rows", "task", "problems of", "seed", "parameters"], rows)


def commands_of(splits: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Command -> the splits that it wrote; the command of an unrecorded one is empty."""
    made: dict[str, list[str]] = {}
    for path, made_by in splits.items():
        made.setdefault(made_by["command"], []).append(path)
    return {command: ", ".join(paths) for command, paths in made.items()}


def _example_tables(splits: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Config -> the first rows of its first split."""
    first = {made_by["config"]: made_by["examples"] for made_by in reversed(list(splits.values()))}
    return {
        config: markdown_table(rows[0], [[_in_cell(value) for value in row.values()] for row in rows])
        for config, rows in reversed(first.items())
    }


def statistics_tables(splits: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Config -> its columns by its splits: minimum, mean and maximum, or the values of a column that has few."""
    tables = {}
    for config in dict.fromkeys(made_by["config"] for made_by in splits.values()):
        members = [made_by for made_by in splits.values() if made_by["config"] == config]
        columns = dict.fromkeys(column for made_by in members for column in made_by["statistics"])
        rows = [[column, *(_summary(made_by["statistics"].get(column)) for made_by in members)] for column in columns]
        tables[config] = markdown_table(["column", *(made_by["name"] for made_by in members)], rows)
    return tables


def _summary(histogram: dict[str, list[Any]] | None) -> str:
    if histogram is None or not histogram["values"]:
        return ""
    values, counts = histogram["values"], histogram["counts"]
    if isinstance(values[0], str):
        common = sorted(zip(counts, values, strict=True), reverse=True)[:4]
        return ", ".join(f"{value} ({count:,})" for count, value in common)
    if len(values) == 1:
        return str(values[0])
    mean = sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)
    return f"{values[0]} … {mean:.1f} … {values[-1]}"


def _in_cell(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
    return "`" + (text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…") + "`"


# Metrics.


def render_metric_card(module: Path, repo_id: str) -> str:
    """The card of an `evaluate` module, from its own docstring and descriptions.

    Args:
        module: the .py file, which is parsed and not run.
        repo_id: the Space it is published as.
    """
    tree = ast.parse(module.read_text("utf-8"))
    texts = {
        target.id: statement.value.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    head = {"title": module.stem, "license": LICENSE, "sdk": "static", "tags": ["evaluate", "metric", "hf-tasks"]}
    card = RepoCard.from_template(
        CardData(**head),
        template_path=str(card_template("metric_card.md.jinja")),
        name=module.stem,
        description=texts.get("_DESCRIPTION", ast.get_docstring(tree)),
        inputs=str(texts.get("_INPUTS", "")).strip(),
        citation=str(texts.get("_CITATION", "")).strip(),
        source=repo_id,
    )
    return tidy(card)


def tidy(card: RepoCard) -> str:
    """The text of a card, without the empty lines that a template leaves."""
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"
