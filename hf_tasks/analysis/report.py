"""A trained token classifier -> one page about how it does what it does, for `hf-tasks analyze`.

- Everything is measured anew, on test rows; the recipe of the run says on which task.
- The page is one file: pictures are inside it, and it asks nothing of the network. Its words are in
  `report.html.jinja`, and every sentence that judges is made from its figures by verdicts.py.
"""

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rich.console import Console
from rich.progress import Progress
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_tasks import __version__
from hf_tasks.adapters import load_model
from hf_tasks.analysis import pictures, verdicts
from hf_tasks.analysis.ceiling import has_ceiling, task_ceiling
from hf_tasks.analysis.counterfactuals import Editor, ancestors, counterfactual_tests, patch_pairs, target_of
from hf_tasks.analysis.forward import (
    all_asked,
    asked_only,
    attention_maps,
    predict,
    read,
)
from hf_tasks.analysis.heads import (
    MASSES,
    NAMED_FROM,
    SCORES,
    ablate,
    applications_of_layers,
    by_layer,
    head_table,
    kinds,
    score_heads,
    stands_out,
)
from hf_tasks.analysis.intervals import share
from hf_tasks.analysis.patching import patch
from hf_tasks.analysis.probes import clause_states, probe
from hf_tasks.analysis.shortcuts import (
    LEARNED,
    accuracy_by_depth,
    first_of_last_two,
    last_excess,
    learning_order,
)
from hf_tasks.clauses import ClauseBatch, clause_batches
from hf_tasks.errors import UserError
from hf_tasks.evaluate import hardware
from hf_tasks.files import write_text
from hf_tasks.recipe import Recipe, read_recipe, run_name
from hf_tasks.strict import parse_settings
from hf_tasks.tasks import Task, get_task
from hf_tasks.tasks.groups import get_group

FEWER = 200  # sentences at most for what takes long: head scores, ablation, patching, edited sentences
SHOWN_HEADS = 3  # of each mass, cut off one by one
LISTED_HEADS = 16  # of those without a name, in the table of all
NAMED_HEADS = 8  # that are cut off together
SHOWN_DEPTHS = 6  # in the table of cuts
SHOWN_MAPS = 4
CEILINGS = 12  # depths at most at which the counting ceiling is computed
BATCH_TOKENS = 8192

Cell = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A trained model, with what made it and what it is asked here.

    Attributes:
        told: depths that training told. layers: applications of layers, here.
    """

    folder: Path
    recipe: Recipe
    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    told: list[int]
    layers: int
    history: list[dict[str, Any]]


def analyze(
    folder: Path,
    output: Path | None = None,
    settings: Sequence[str] = (),
    size: int = 400,
    seed: int = 0,
    layers: int | None = None,
    recipe: Path | None = None,
) -> Path:
    """Write the page about a model.

    Args:
        folder: a finished model of a run, a checkpoint of one, or any model with a `recipe`.
        output: the page; `analysis.html` in the folder unless given.
        settings: `key=value`, parameters of the task in which the test sentences differ from those of training.
        size: test sentences. seed: of everything that is drawn.
        layers: applications of a shared layer; as the recipe evaluates, or as trained, unless given.
        recipe: a run's `recipe.yaml` or the folder it is in, where the model's own folder does not tell.

    Returns:
        the path of the page.

    Raises:
        UserError: no such run, or one that cannot be analysed.
    """
    if size < 20:
        raise UserError(f"--size {size}: intervals need at least 20 sentences")
    run, page = open_run(folder, settings, layers, recipe), output or folder / "analysis.html"
    if page.is_dir() or not page.parent.is_dir():
        raise UserError(f"{str(page)!r} cannot be written: give --output a file name in a folder that exists")
    start = time.monotonic()
    found = measure(run, size, seed)
    found["seconds"] = round(time.monotonic() - start)
    write_text(page, render(run, found))
    return page


def open_run(
    folder: Path, settings: Sequence[str] = (), layers: int | None = None, recipe_at: Path | None = None
) -> Run:
    """Load a model with what is known of it.

    Raises:
        UserError: the folder is no run, its model no token classifier, or its task labels no clauses.
    """
    _check_classifier(folder)
    recipe, name = _recipe_of(folder, recipe_at)
    parameters = parse_settings(settings)
    trained = recipe.get_task(name)
    if not trained.classes:
        raise UserError(
            f"task {trained.name} of {str(folder)!r} labels no clauses, and analyze reads those; use evaluate"
        )
    usual = all_asked(recipe.task_at(None, name))
    task = get_task(trained.name, **{**usual.parameters(), **parameters})
    model: Any = load_model(folder)
    _set_layers(model, _layers(recipe, task) if layers is None else layers, asked_for=layers is not None)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    _check_length(model, tokenizer, task)
    rows = trained.generate("train", 256)
    told = {d for depths, asked in zip(rows["depths"], rows["asked"], strict=True)
            for d, known in zip(depths, asked, strict=True) if known}  # fmt: skip
    training = [path for path in (folder / "training.json", folder / "trainer_state.json") if path.is_file()]
    history = json.loads(training[0].read_text("utf-8"))["log_history"] if training else []
    return Run(folder, recipe, name, model, tokenizer, task, sorted(told), model.config.num_hidden_layers, history)


def _check_classifier(folder: Path) -> None:
    way_out = "give the folder of a finished model, such as runs/lego-generalization-cpu/match-seed0"
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"analyze reads token classifiers; {str(folder)!r} is an adapter of a causal model")
    if not (folder / "config.json").is_file():
        raise UserError(f"{str(folder)!r} is no trained model: it has no config.json; {way_out}")
    try:
        kinds = json.loads((folder / "config.json").read_text("utf-8")).get("architectures")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{str(folder / 'config.json')!r} is no config of a model ({error}): train it again") from error
    kind = str((kinds or ["model of unknown architecture"])[0])
    if not kind.endswith("ForTokenClassification"):
        raise UserError(
            f"analyze reads token classifiers; {str(folder)!r} is a {kind}: train one with head: token_classification"
        )


def _recipe_of(folder: Path, given: Path | None) -> tuple[Recipe, str]:
    """The recipe that made a model, and the model's name in it."""
    is_checkpoint = folder.name.startswith("checkpoint-")  # of RUN/.training/MODEL-seedN/checkpoint-STEP
    model = folder.resolve().parent if is_checkpoint else folder.resolve()
    if given is not None:
        places = [given / "recipe.yaml" if given.is_dir() else given]
    else:
        places = [folder / "recipe.yaml", *(parent / "recipe.yaml" for parent in model.parents[: 1 + is_checkpoint])]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        missing = "is no recipe" if given is not None else "has no recipe.yaml in it or beside it"
        raise UserError(
            f"{str(given or folder)!r} {missing} to say what the model was trained on: give --recipe the recipe.yaml "
            "of its run, or the folder it is in"
        )
    recipe = read_recipe(found)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{str(found)!r} trains on texts, and analyze reads token classifiers of a task")
    seed = model.name.rpartition("-seed")[2]
    for name in recipe.models:
        if seed.isdecimal() and model.name == run_name(name, int(seed)):
            return recipe, name
    if len(recipe.models) == 1:
        return recipe, next(iter(recipe.models))
    raise UserError(
        f"{str(model)!r} is not named like a model of recipe {recipe.name}, such as "
        f"{run_name(next(iter(recipe.models)), 0)!r}, so it cannot be told which it is: name it so"
    )


def _layers(recipe: Recipe, task: Task) -> int | None:
    """How often the recipe applies shared layers at this length; None if it does not say."""
    low, high = task.parameters()[task.length_parameter]
    return recipe.evaluation.layers.get(high) if low == high else None


def _set_layers(model: Any, layers: int | None, asked_for: bool) -> None:
    shared = getattr(model.config, "share_layers", model.config.model_type == "albert")
    if layers is not None and shared:
        if layers < 1:
            raise UserError(f"--layers {layers}: a layer is applied at least once")
        model.config.num_hidden_layers = layers
    elif asked_for:
        raise UserError(
            f"--layers {layers}: this model does not share its layers, so there are {model.config.num_hidden_layers}"
        )


def _check_length(model: Any, tokenizer: Any, task: Task) -> None:
    window = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, tokenizer(task.table("test", 64)["prompt"].to_pylist())["input_ids"]))
    if window is not None and longest > window:
        raise UserError(f"the model takes {window} tokens, and test sentences have up to {longest}: --set shorter ones")
    unknown = tokenizer.unk_token_id
    prompt = task.table("test", 1)["prompt"][0].as_py()
    if unknown is not None and unknown in tokenizer(prompt)["input_ids"]:
        raise UserError(
            f"the model's tokenizer has no token for something in {prompt!r}: --set what it was trained with"
        )
    if model.config.num_labels != len(task.classes):
        raise UserError(
            f"the model knows {model.config.num_labels} values, and these sentences have {len(task.classes)}: "
            "--set what it was trained with"
        )


# Measuring.


def measure(run: Run, size: int, seed: int) -> dict[str, Any]:
    """Everything that the page shows, as plain numbers and lists."""
    table = run.task.table("test", size, seed)
    batches = _batches(run, table)
    fewer = _batches(run, table.slice(0, FEWER))
    found: dict[str, Any] = {"size": size, "seed": seed, "fewer": min(size, FEWER)}
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as progress:

        def shown(items: Iterable[Any], name: str) -> Iterable[Any]:
            return progress.track([*items], description=name)

        reading = read(shown(batches, "accuracy"), lambda batch: predict(run.model, batch))
        found["accuracy"] = accuracy_by_depth(reading)
        found["excess"] = last_excess(reading)
        depths = [cell["depth"] for cell in found["accuracy"]]
        counted = _spaced(depths, CEILINGS) if has_ceiling(run.task) else []
        found["ceilings"] = [
            (depth, task_ceiling(run.task, depth, seed=seed)) for depth in shown(counted, "counting ceiling")
        ]
        scores = score_heads(run.model, shown(fewer, "heads"), seed=seed)
        found["heads"] = head_table(scores)
        found["masses"] = {name: np.nanmean(scores[name].values, -1) for name in MASSES}
        # A layer that is applied again has the same heads again: one head is what has weights of its own.
        layers = applications_of_layers(run.model)
        pooled = by_layer(scores, layers)
        found["own"] = head_table(pooled, "layer")
        found["kinds"], found["called"] = kinds(scores), kinds(pooled)
        found["layers"], found["best"] = layers, _best_heads(found["own"])
        whole = read(fewer, lambda batch: predict(run.model, batch))
        found["kept"] = share(whole.correct)
        groups = _groups(found["own"], found["called"])
        best = sorted({(row["layer"], row["head"]) for row in found["best"]})
        single = [one for one in best if [one] not in groups.values()]
        found["cuts"] = [
            {"kind": kind, "heads": heads, "drops": ablate(run.model, fewer, whole, _places(heads, layers))}
            for kind, heads in shown([*((None, [one]) for one in single), *groups.items()], "cutting heads off")
        ]
        found["probes"] = probe(clause_states(run.model, shown(batches, "probes")), seed)
        if "elements" in table.column_names:
            editor = Editor(run.task, table.slice(0, FEWER))
            for row in editor.rows:  # what was never told is not what the answers are tested on
                row["asked"] = [known and d in run.told for known, d in zip(row["asked"], row["depths"], strict=True)]
            (found["edits"],) = (
                counterfactual_tests(run.model, run.tokenizer, one, seed) for one in shown([editor], "edited sentences")
            )
            found["patches"] = patch(run.model, shown(patch_pairs(editor, run.tokenizer, seed), "patching"))
        found["learned"] = learning_order(run.history)
        found["look"] = first_of_last_two(run.history, run.told, _watched(run))
        found["example"] = _example(run, table)
        found["maps"] = _example_maps(run, found, table)
    found["verdicts"] = _verdicts(run, found)
    return found


def _batches(run: Run, table: pa.Table) -> list[ClauseBatch]:
    return [asked_only(batch) for batch in clause_batches(table, run.tokenizer, BATCH_TOKENS)]


def _spaced(items: list[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spaced, the first and the last among them."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int).tolist()]


def _best_heads(rows: list[Cell]) -> list[Cell]:
    """The rows of the heads that have most of each mass; of those alone that have more of it than by chance."""
    best = []
    for name in MASSES:
        found = [row for row in rows if row["score"] == name and stands_out(row)]
        best += sorted(found, key=lambda row: -row["value"])[:SHOWN_HEADS]
    return best


def _groups(rows: list[Cell], called: list[list[str | None]]) -> dict[str, list[tuple[int, int]]]:
    """The heads of each kind, (layer, head); where none is called so, the best without a name that stand out by it."""
    groups = {}
    for name in MASSES:
        found = [row for row in rows if row["score"] == name and stands_out(row)]
        most = sorted(found, key=lambda row: -row["value"])
        heads = [(row["layer"], row["head"]) for row in most]
        named, unnamed = ([(a, h) for a, h in heads if called[a][h] == wanted] for wanted in (name, None))
        if named or unnamed:
            groups[name] = sorted(named or unnamed[:SHOWN_HEADS])
    return groups


def _places(heads: list[tuple[int, int]], layers: list[list[int]]) -> list[tuple[int, int]]:
    return [(application, head) for layer, head in heads for application in layers[layer]]


def _watched(run: Run) -> dict[int, int]:
    """How many clauses of each depth there are in the batch that was looked at in training."""
    table = all_asked(run.recipe.get_task(run.name)).table("validation", run.recipe.evaluation.every_size)
    known = zip(table["depths"].to_pylist(), table["asked"].to_pylist(), strict=True)
    return Counter(depth for depths, asked in known for depth, one in zip(depths, asked, strict=True) if one)


def _example(run: Run, table: pa.Table) -> dict[str, Any]:
    """The shortest test sentence, and how its deepest value comes about."""
    row = min(table.to_pylist(), key=lambda row: len(row["prompt"]))
    row.setdefault("second_parents", [-1] * len(row["parents"]))
    target = target_of(row)
    steps = [] if target is None else sorted([*ancestors(row, target), target], key=lambda i: row["depths"][i])
    texts = [row["prompt"][row["clause_starts"][i] : row["clause_ends"][i]].strip() for i in steps]
    values = [run.task.classes[row["labels"][i]] for i in steps]
    depth = 0 if target is None else row["depths"][target]
    return {"prompt": row["prompt"], "steps": [*zip(texts, values, strict=True)], "depth": depth}


def _example_maps(run: Run, found: dict[str, Any], table: pa.Table) -> list[dict[str, Any]]:
    """The maps of the best heads on the shortest sentence, each in the application where it has most."""
    sentence = table.take([int(np.argmin([len(text) for text in table["prompt"].to_pylist()]))])
    (batch,) = _batches(run, sentence)
    ((_, maps),) = attention_maps(run.model, batch)
    ids = batch.input_ids[0].tolist()
    written = zip(ids, run.tokenizer.convert_ids_to_tokens(ids), strict=True)
    tokens = ["\u00b7" if i in run.tokenizer.all_special_ids else token.replace("\n", "\u21b5") for i, token in written]
    shown: dict[tuple[int, int], dict[str, Any]] = {}
    for row in found["best"]:
        rows = [one for one in found["heads"] if (one["score"], one["head"]) == (row["score"], row["head"])]
        most = max((rows[a] for a in found["layers"][row["layer"]]), key=lambda one: one["value"])
        weights = maps[most["application"]][0, most["head"]].cpu().numpy()
        shown.setdefault((row["layer"], row["head"]), {**most, "weights": weights, "tokens": tokens})
    return [*shown.values()][:SHOWN_MAPS]


def _verdicts(run: Run, found: dict[str, Any]) -> dict[str, verdicts.Verdict]:
    cells, chance = found["accuracy"], 1 / len(run.task.classes)
    one_path = has_ceiling(run.task) and run.task.parameters()["chains"] == 1
    made: dict[str, verdicts.Verdict | None] = {
        "told_depths": verdicts.told_depths(cells, run.told),
        "beyond": verdicts.beyond(cells, run.told, chance),
        "last_variable": verdicts.last_variable(found["excess"]) if one_path else None,
        "order_of_learning": verdicts.order_of_learning(found["look"], LEARNED),
    }
    if found["ceilings"]:
        depth, ceiling = found["ceilings"][-1]
        made["against_counting"] = verdicts.against_counting(cells[-1], ceiling, depth)
    if "edits" in found:
        edits = found["edits"]
        made["upstream"] = verdicts.upstream(edits["upstream"])
        made["irrelevant"] = verdicts.irrelevant(edits["irrelevant"])
        made["removed"] = verdicts.removed(edits["removed"], chance)
    for cut in found["cuts"]:
        if cut["kind"]:
            heads = _cut_names(cut, found)
            made[cut["kind"]] = verdicts.used(
                cut["kind"], heads, cut["drops"], found["kept"], chance, _is_called(cut, found)
            )
    present = {name: verdict for name, verdict in made.items() if verdict is not None}
    return {"overall": verdicts.overall(present), **present}


def _is_called(cut: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether the heads that were cut off as one kind are called so."""
    return all(found["called"][layer][head] == cut["kind"] for layer, head in cut["heads"])


def _cut_names(cut: dict[str, Any], found: dict[str, Any]) -> str:
    """The heads of a cut, in words."""
    if len(cut["heads"]) > NAMED_HEADS:
        return f"all {len(cut['heads'])} of them"
    return verdicts.head_names(cut["heads"], len(found["layers"]))


# Writing.


def render(run: Run, found: dict[str, Any]) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": verdicts.figure, "percent": verdicts.percent, "spread": spread}
    chance = 1 / len(run.task.classes)
    drawn = {
        "accuracy": pictures.depth_curve(
            found["accuracy"], chance, run.told, [(depth, ceiling.value) for depth, ceiling in found["ceilings"]]
        ),
        "heads": pictures.head_scores(found["masses"]),
        "probes": pictures.heat_map(found["probes"], ("depth", "depth of the clause"), "probes"),
        "maps": [
            pictures.attention_map(
                one["weights"], one["tokens"],
                f"application {one['application']}, head {one['head']}: {one['score']} {one['value']:.2f}", f"map{i}",
            )
            for i, one in enumerate(found["maps"])
        ],
    }  # fmt: skip
    if found["learned"]:
        drawn["learning"] = pictures.learning_curves(run.history)
    if found.get("patches"):
        drawn["patches"] = pictures.heat_map(found["patches"], ("distance", "clauses downstream"), "patches")
    readable = verdicts.first_readable(found["probes"])
    return environment.get_template("report.html.jinja").render(
        run=run,
        found=found,
        pictures={name: [*map(Markup, of)] if isinstance(of, list) else Markup(of) for name, of in drawn.items()},
        told=verdicts.spans(run.told),
        group=get_group(run.task.parameters()["group"]) if "group" in run.task.parameters() else None,
        task_is=(type(run.task).__doc__ or "").strip().splitlines()[0],
        parameters=run.task.parameters(),
        chance=chance,
        high=verdicts.HIGH,
        masses=MASSES,
        scores=SCORES,
        kinds=head_rows(found),
        unlisted=len(found["own"]) // len(SCORES) - len(head_rows(found)),
        steps=verdicts.two_steps(found["called"], _most(found["own"], "parent")),
        uncut=[
            verdicts.no_head(name, most, verdicts.head_names([(most["layer"], most["head"])], len(found["layers"])))
            for name in MASSES
            if name not in found["verdicts"] and (most := _most(found["own"], name))
        ],
        cut_depths=_spaced([drop["depth"] for cut in found["cuts"][:1] for drop in cut["drops"][1:]], SHOWN_DEPTHS),
        cuts=[
            {**cut, "name": _cut_names(cut, found), "is_called": cut["kind"] and _is_called(cut, found)}
            for cut in found["cuts"]
        ],
        elsewhere=elsewhere(run.folder),
        named_from=NAMED_FROM,
        probe_sentence=verdicts.readable_from(readable),
        readable=_spaced(readable, CEILINGS),
        patch_sentence=verdicts.carried(found.get("patches", []), chance),
        untested=untested(run, found),
        command=shlex.join(["hf-tasks", *sys.argv[1:]])
        if Path(sys.argv[0]).name == "hf-tasks"
        else "hf_tasks.analysis.report.analyze",
        hardware=hardware(),
        versions={"hf_tasks": __version__, **{name: version(name) for name in ("torch", "transformers", "numpy")}},
    )


def elsewhere(folder: Path) -> list[Cell]:
    """What the recipe's own evaluation found: one entry a length, how deep every depth is solved and the deepest."""
    if not (folder / "cells.json").is_file():
        return []
    lengths: dict[str, list[Cell]] = {}
    for cell in json.loads((folder / "cells.json").read_text("utf-8")):
        if "depth" not in cell["slice"]:
            continue
        place = ", ".join(f"{value} {key}" for key, value in cell["slice"].items() if key != "depth")
        lengths.setdefault(place or "as trained", []).append({**cell, "depth": cell["slice"]["depth"]})
    return [
        {
            "length": length,
            "solved": (solved := verdicts.solved_to(cells)),
            "weakest": min(
                [cell for cell in cells if cell["depth"] <= solved] or [min(cells, key=lambda cell: cell["depth"])],
                key=lambda cell: cell["value"],
            ),
            **max(cells, key=lambda cell: cell["depth"]),
        }
        for length, cells in lengths.items()
    ]


def spread(cell: Cell, key: str = "value", scale: float = 1, digits: int = 3) -> str:
    """A mean or a difference with its interval, short: "0.766 (0.757 to 0.774)"."""
    numbers = cell[key], *cell["ci95" if key == "value" else f"{key}_ci95"]
    # Adding 0 makes a plain zero of what rounds to minus zero.
    value, low, high = (f"{round(scale * number, digits) + 0:.{digits}f}" for number in numbers)
    return f"{value} ({low} to {high})"


def _most(rows: list[Cell], score: str) -> Cell | None:
    """The row of the head that has most of a score; None if no sentence has a query for it."""
    found = [row for row in rows if row["score"] == score and not np.isnan(row["value"])]
    return max(found, key=lambda row: row["value"], default=None)


def head_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The heads that have a name, and the first of the others: the rows of all scores by name, and what each is."""
    heads: dict[tuple[int, int], dict[str, Any]] = {}
    for row in found["own"]:
        heads.setdefault((row["layer"], row["head"]), {})[row["score"]] = row
    rows = []
    for (layer, head), of in heads.items():
        each = [found["kinds"][application][head] for application in found["layers"][layer]]
        counts = [f"{name} in {each.count(name)} of {len(each)} applications" for name in MASSES if each.count(name)]
        name = verdicts.head_names([(layer, head)], len(found["layers"]))
        rows.append({"name": name, "kind": found["called"][layer][head], "applied": ", ".join(counts), **of})
    unnamed = [i for i, row in enumerate(rows) if row["kind"] is None]
    return [row for i, row in enumerate(rows) if i not in unnamed[LISTED_HEADS:]]


def untested(run: Run, found: dict[str, Any]) -> list[str]:
    """What the page does not show."""
    clauses = run.task.parameters()[run.task.length_parameter]
    span = " to ".join(map(str, sorted({*clauses})))
    lines = [
        f"Sentences with other than {span} {run.task.length_parameter}, other formats, and other seeds of training.",
        f"Heads beyond the best {SHOWN_HEADS} of each habit were cut off with those of their kind, if at all; a cut "
        "sets a head to zero, which is also something that the model has never seen.",
        "Probes are linear: a value that they do not find may still be there in another form.",
    ]
    if "edits" not in found:
        lines.append(
            f"No sentence was edited and nothing patched: clauses of {run.task.name} have no element to exchange."
        )
    elif not found["patches"]:
        lines.append("Patching: the model answers no pair of edited sentences differently, so no patch can be told.")
    if not found["ceilings"]:
        lines.append("There is no counting ceiling for these sentences: it is known for paths of group elements.")
    if not found["learned"]:
        lines.append("The order of learning: training logged no accuracy by depth (see ClauseCallback).")
    return lines
