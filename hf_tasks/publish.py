"""A folder -> what its repository is to hold: model, adapter, dataset or metric.

- Cards and `.eval_results` are rendered for the repository they go to; all else is the folder's own files.
- A dataset may hold a part of what is published: splits that stand on the Hub and are not in the folder stay, in the
  card too, and are compared with the new ones row by row.
- How it gets there, in one commit or not at all, is the matter of `upload.py`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard

from hf_tasks.analysis.plots import draw_statistics
from hf_tasks.cards import eval_results, render_dataset_card, render_metric_card, render_model_card
from hf_tasks.dataset import PICTURE, PROVENANCE, finished_splits, in_order, read_provenance
from hf_tasks.errors import UserError
from hf_tasks.leaks import find_shared_row
from hf_tasks.recipe import Recipe, read_recipe, run_name
from hf_tasks.upload import Content, Published, Standing, Upload, Where, send

NOT_EVALUATED = "> **This model was not evaluated** with `hf_tasks`: nothing is known of how well it does.\n"

# Copies of what results.json says, and pickles that name paths of this machine.
_LEFT_OUT = ("cells.json", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state*.pth", "*.part")
# Files of an earlier version of a model that would speak for the new one if they stayed.
_REPLACED = ("*.safetensors", "*.safetensors.index.json", "*.py", "adapter_*", ".eval_results/*")


class Options(Where, total=False):
    """`Where` an upload goes, and what is for models alone; see `publish_model`."""

    allow_unevaluated: bool
    dataset_id: str | None
    base_id: str | None


def publish(folder: str | Path, repo_id: str, **options: Unpack[Options]) -> Published:
    """Publish whatever a folder is: a trained model or adapter, a dataset, or an `evaluate` module (a .py file).

    Args and errors are those of `publish_model`, `publish_dataset` and `publish_metric`; besides, options that are for
    models are refused for other folders.
    """
    folder = Path(folder)
    function = _kind_of(folder)
    if function is publish_model:
        return publish_model(folder, repo_id, **options)
    for name in Options.__annotations__.keys() - Where.__annotations__.keys():
        if options.get(name):
            raise UserError(f"{str(folder)!r} is no model, and {name} is for models: leave it out")
    return function(
        folder, repo_id, **{name: value for name, value in options.items() if name in Where.__annotations__}
    )


def _kind_of(folder: Path) -> Callable[..., Published]:
    if folder.suffix == ".py" and folder.is_file():
        return publish_metric
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is no folder to publish; give a model, a dataset or an evaluate module (.py)")
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return publish_model
    if next(folder.glob("[!.]*/*/" + PROVENANCE), None):
        return publish_dataset
    models = sorted(path.parent.name for path in folder.glob("[!.]*/*config.json"))
    hint = f"publish one of its models: {', '.join(dict.fromkeys(models))}" if models else (
        "a model has a config.json (hf-tasks run), a dataset CONFIG/SPLIT/provenance.json (hf-tasks generate)"
    )  # fmt: skip
    raise UserError(f"{str(folder)!r} is neither a model nor a dataset; {hint}")


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    allow_unevaluated: bool = False,
    dataset_id: str | None = None,
    base_id: str | None = None,
    **where: Unpack[Where],
) -> Published:
    """Upload a finished model or adapter with its code, tokenizer, recipe, results, picture and card, in one commit.

    Args:
        folder: a model folder that `hf-tasks run` made.
        repo_id: "user/name" on the Hub (`HF_ENDPOINT` and the token are huggingface_hub's own).
        allow_unevaluated: publish a model without results; its card says so.
        dataset_id: the dataset on the Hub that the results belong to; "user/TASK" if not given.
        base_id: where the base of an adapter is published, if it was trained on a folder of this machine.
        where: `private`, `branch`, `tag`, `dry_run`; see `Where`.

    Raises:
        UserError: the folder is not a finished and evaluated model, its card names no licence, a file looks like a
            secret, an adapter's base is a local folder, the tag is taken, or the Hub did not take it.
    """
    folder = Path(folder)
    files, recipe = _files_of(folder), _recipe_of(folder)
    if "adapter_config.json" in files:
        files["adapter_config.json"], base_id = _with_base(folder / "adapter_config.json", base_id)
    elif base_id and (recipe is None or recipe.base is None):
        raise UserError(f"{str(folder)!r} was trained from scratch, so it has no base: leave base_id out")
    if recipe is not None and base_id:
        recipe = replace(recipe, base=base_id)
    files |= _described(folder, recipe, repo_id, allow_unevaluated, dataset_id or "", base_id or "")
    upload = Upload(repo_id, "model", files, _REPLACED)
    return send(lambda _: upload, repo_id, "model", **where)


def _files_of(folder: Path) -> dict[str, Content]:
    """The visible files of a folder by name, but for those that nobody needs."""
    names = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return {path.name: path for path in names if not any(fnmatch(path.name, pattern) for pattern in _LEFT_OUT)}


def _described(
    folder: Path, recipe: Recipe | None, repo_id: str, allow_unevaluated: bool, dataset_id: str, base_id: str
) -> dict[str, Content]:
    """Card, recipe and `.eval_results` of a model."""
    path = folder / "results.json"
    if not path.is_file() and not allow_unevaluated:
        raise UserError(
            f"{str(folder)!r} has no results.json, so it is not an evaluated model: run hf-tasks evaluate first, "
            "or allow it with --allow-unevaluated (its card will say so)"
        )
    if recipe is None:
        if path.is_file():
            raise UserError(f"{str(folder)!r} has no recipe.yaml to say what made it: run hf-tasks evaluate again")
        return {"README.md": _own_card(folder).encode()}
    results = json.loads(path.read_text("utf-8")) if path.is_file() else None
    run = None if results is None else results["runs"][0]
    name, seed = _run_of(folder, recipe) if run is None else (run["name"], run["seed"])
    card = render_model_card(recipe, results, name, seed, repo_id, dataset_id, base_id)
    files: dict[str, Content] = {"recipe.yaml": recipe.to_yaml().encode(), "README.md": card.encode()}
    if run is not None:
        dataset_id = dataset_id or f"{repo_id.split('/')[0]}/{recipe.task}"
        files[f".eval_results/{recipe.task}.yaml"] = eval_results(run, dataset_id).encode()
    return files


def _recipe_of(folder: Path) -> Recipe | None:
    """The recipe that made a model: beside it, or in the run's output folder that it lies in."""
    for path in (folder / "recipe.yaml", folder.parent / "recipe.yaml"):
        if path.is_file():
            return read_recipe(path)
    return None


def _run_of(folder: Path, recipe: Recipe) -> tuple[str, int]:
    """Name and seed of a model that has no results, by the name of its folder."""
    seed = folder.resolve().name.rpartition("-seed")[2]
    for name in recipe.models:
        if seed.isdecimal() and folder.resolve().name == run_name(name, int(seed)):
            return name, int(seed)
    raise UserError(
        f"{str(folder)!r} is not named like a run of recipe {recipe.name}, such as {run_name('MODEL', 0)!r}"
    )


def _own_card(folder: Path) -> str:
    """The card that somebody wrote for a model of no recipe, with a line that it was not evaluated."""
    path = folder / "README.md"
    if not path.is_file():
        raise UserError(f"{str(folder)!r} has no card: write README.md with a YAML head that names a license")
    head, text = re.fullmatch(r"(---\n.*?\n---\n)?(.*)", path.read_text("utf-8"), re.S).groups()  # type: ignore[union-attr]
    return f"{head or ''}\n{NOT_EVALUATED}\n{text.lstrip()}"


def _with_base(path: Path, base_id: str | None) -> tuple[bytes, str]:
    """An adapter's configuration whose base can be found by others, and the base's name."""
    config = json.loads(path.read_text("utf-8"))
    base = base_id or config["base_model_name_or_path"]
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) or Path(base).exists():
        raise UserError(
            f"the adapter's base {base!r} is a folder of this machine, which nobody else has: publish it first, "
            "then give its name on the Hub with --base"
        )
    config["base_model_name_or_path"] = base
    return (json.dumps(config, indent=2) + "\n").encode(), base


def publish_dataset(folder: str | Path, repo_id: str, **where: Unpack[Where]) -> Published:
    """Upload the splits of a dataset with a card of all that then stands in the repository, in one commit.

    Splits of the same name are replaced, their old shards deleted; others stay. A dry run asks nothing of the Hub: it
    shows the card of a new repository.

    Args:
        folder: a folder that `hf-tasks generate` made.
        repo_id, where: as for `publish_model`.

    Raises:
        UserError: a shard is missing or broken, two splits of a config share a row, the card names no licence, a file
            looks like a secret, the tag is taken, or the Hub did not take it.
    """
    folder = Path(folder)
    splits = finished_splits(folder)
    for path, made_by in splits.items():
        _check_shards(folder / path, made_by)
    decide = partial(_dataset_upload, folder, repo_id, splits)
    return send(decide, repo_id, "dataset", **where)


def _check_shards(folder: Path, made_by: dict[str, Any]) -> None:
    """Refuse a split whose parquet files are not all there or do not hold its rows."""
    rows = 0
    for path in sorted(folder.glob("*.parquet")):
        try:
            rows += pq.read_metadata(path).num_rows
        except (OSError, ValueError) as error:
            raise UserError(
                f"{str(path)!r} is no whole parquet file ({error}): delete its folder, generate again"
            ) from error
    if rows != made_by["size"]:
        raise UserError(
            f"{str(folder)!r} holds {rows} rows, but was made with {made_by['size']}: delete it, generate it again"
        )


def _dataset_upload(folder: Path, repo_id: str, splits: Mapping[str, dict[str, Any]], standing: Standing) -> Upload:
    """The upload of these splits to a repository that holds that much already."""
    there = [path for path in standing.files if path.endswith(f"/{PROVENANCE}")]
    kept = {str(Path(path).parent): read_provenance(standing.read(path), f"{repo_id}/{path}") for path in there}
    everything = in_order({**kept, **splits})
    others = _other_configs(standing, everything)
    _check_leaks(folder, splits, everything, others, standing)
    files: dict[str, Content] = {
        f"{path}/{file.name}": file
        for path in splits
        for file in sorted((folder / path).iterdir())
        if file.suffix == ".parquet" or file.name == PROVENANCE
    }
    files["README.md"] = render_dataset_card(everything, repo_id, others).encode()
    files[PICTURE] = draw_statistics(everything)
    return Upload(repo_id, "dataset", files, tuple(f"{path}/*" for path in splits), standing.parent)


def _check_leaks(
    folder: Path,
    splits: Mapping[str, dict[str, Any]],
    everything: Mapping[str, dict[str, Any]],
    others: list[dict[str, Any]],
    standing: Standing,
) -> None:
    """Refuse a row that two splits of a config share; those that stay on the Hub are read from there."""
    shards: dict[str, dict[str, list[Any]]] = {made_by["config"]: {} for made_by in splits.values()}
    for path, made_by in everything.items():
        if made_by["config"] in shards:
            files = sorted((folder / path).glob("*.parquet"))
            here = [partial(file.open, "rb") for file in files] if path in splits else standing.parquet(f"{path}/*")
            shards[made_by["config"]][made_by["name"]] = here
    for config in others:
        for entry in config["data_files"]:
            if config["config_name"] in shards:
                shards[config["config_name"]][entry["split"]] = standing.parquet(entry["path"])
    for config, members in shards.items():
        if found := find_shared_row(members):
            one, other, row = found
            raise UserError(
                f"splits {one!r} and {other!r} of config {config!r} share a row, {row[:80]!r}: generate one of them "
                "from the problems of another split, at other lengths, or in another config"
            )


def _other_configs(standing: Standing, ours: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Configs and splits of the present card that others put there, by `Dataset.push_to_hub` for instance."""
    if "README.md" not in standing.files:
        return []
    head = DatasetCard(standing.read("README.md").decode(), ignore_metadata_errors=True).data.to_dict()
    known = {(made_by["config"], made_by["name"]) for made_by in ours.values()}
    others = []
    for config in head.get("configs") or []:
        entries = config["data_files"] if isinstance(config["data_files"], list) else []
        foreign = [e for e in entries if (config["config_name"], e["split"]) not in known]
        if foreign:
            others.append({"config_name": config["config_name"], "data_files": foreign})
    return others


def publish_metric(module: str | Path, repo_id: str, **where: Unpack[Where]) -> Published:
    """Upload an `evaluate` module with the plain functions it leans on, as a Space, where `evaluate.load` looks.

    Args:
        module: a module of `hf_tasks/metrics/`.
        repo_id, where: as for `publish_model`; the name must be the module's own.

    Raises:
        UserError: the repository has another name than the module, or the Hub did not take it.
    """
    module = Path(module)
    if repo_id.rpartition("/")[2] != module.stem:
        raise UserError(f"evaluate.load({repo_id!r}) looks for a module of that name: publish it as USER/{module.stem}")
    siblings = re.findall(r"^from \.(\w+) import", module.read_text("utf-8"), re.M)
    files: dict[str, Content] = {path.name: path for path in (module, *(module.with_name(f"{n}.py") for n in siblings))}
    files["README.md"] = render_metric_card(module, repo_id).encode()
    files["requirements.txt"] = b"evaluate\n"
    upload = Upload(repo_id, "space", files, ("*.py",))
    return send(lambda _: upload, repo_id, "space", **where)
