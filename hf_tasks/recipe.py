"""A recipe: one experiment, one YAML file, read strictly.

- An unknown key, a wrong type or a missing name is one line that says where, what was known and what to do.
- `presets` are overrides of the same keys, laid over the rest: `cpu` runs on two cores in minutes, `gpu` is the papers'
  scale.
- `trainer` holds transformers' `TrainingArguments`, `model` the fields of a `PositionalConfig` and `adapter` those of a
  PEFT configuration, each by their own names, so nothing is renamed and every option of theirs is an option of ours.
- A recipe trains new models (`model`), or starts all of them from one checkpoint (`base`, `adapter`). A model's section
  may also name an architecture of transformers (`stock`), parameters of the task and ways of training: see `Section`.
- Everything a mistake can be found in is built once on loading (tasks, configs, arguments): a run fails at the door. A
  base may not be there yet, so it is looked at when training begins.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import yaml

from hf_tasks.errors import UserError, unknown_name
from hf_tasks.strict import build, lay_over, parse_setting, read_yaml, value_of
from hf_tasks.tasks import TASKS, Task, get_task

RECIPES = Path(__file__).parent / "recipes"

# Decided by the road itself, or by the command line.
_RESERVED_ARGUMENTS = ("output_dir", "seed", "data_seed", "remove_unused_columns", "push_to_hub", "hub_model_id")

CAUSAL_LM, TOKEN_CLASSIFICATION, TEXT = "causal_lm", "token_classification", "text"  # heads; TEXT: see text/recipe.py
MUON = "muon"


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained on.

    Attributes:
        size: number of fixed training rows, seen again each epoch; None: an endless stream, no row twice.
    """

    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Exact match by greedy generation, at these lengths.

    Attributes:
        parameters: task parameters in which evaluation differs from training.
        lengths: values of the task's length parameter; a number stands for all operands, a list gives one for each.
            None given: problems as in training.
        size: rows for each length. sizes: exceptions, length -> rows.
        grid: digits whose every pair (a, b) is evaluated. grid_size: rows for each pair.
        hard_lengths: lengths at which the task's hard cases are evaluated. hard_size: rows for each family.
        batch_tokens: upper bound of tokens (rows x length) in one batch of generation. On a CPU small ones are faster,
            for its own cache then holds theirs; a GPU likes more.
        every: training steps between looks at the validation split, into the log history: exact match or, of token
            classifiers, accuracy by depth and head scores; None: never. every_size: rows for it.
        sharpness: training steps between measurements of the sharpness on the first every_size training rows, see
            analysis/sharpness.py; None: never.
        layers: length -> how often the layers of a model that shares them are applied there; not named: as in training.
        pooled: [lo, hi]: one more cell for everything of these lengths together, as Kazemnejad et al. 2023
            (arXiv 2305.19466) report it; where accuracy is by depth, for the second half of every chain.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    lengths: list[Any] = field(default_factory=list)
    size: int = 200
    sizes: dict[int, int] = field(default_factory=dict)
    grid: list[int] = field(default_factory=list)
    grid_size: int = 20
    hard_lengths: list[int] = field(default_factory=list)
    hard_size: int = 50
    batch_tokens: int = 16384
    every: int | None = None
    every_size: int = 64
    sharpness: int | None = None
    layers: dict[int, int] = field(default_factory=dict)
    pooled: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Mimic:
    """Training of attention maps before anything else, see mimic.py. Defaults: as published, for BERT."""

    steps: int = 1000
    batch_size: int = 200
    learning_rate: float = 5.0e-5


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the section of one model may say beside the fields of its configuration.

    Attributes:
        task: another one than the recipe's, of which then no parameters are taken over, for evaluation neither.
        parameters: of the task, laid over the recipe's, in training and evaluation.
        evaluation_parameters: laid over those in evaluation, and over what the recipe's own evaluation lays there.
        data: in place of the recipe's.
        lengths: of evaluation, in place of the recipe's.
        stock: an architecture of transformers ("bert", "albert"; the other keys are fields of its config), or a
            checkpoint of one, a folder or a name on the Hub.
        pretrained: begin from the weights of that checkpoint, and not from its config alone.
        start_from: an earlier model of the recipe, of the same shape, from whose weights, trained with the same seed,
            this one starts.
        mimic: train heads to the maps of LEGO before the task.
        layers_per_clause: of a token classifier: a value at depth d is read off after layers_per_clause x d layers and
            after every layers_per_clause further ones. None: behind the last layer alone.
        layers_per_hint: of a causal model on a task with hints: every so many layers are told one step of them; see
            hints.py. None: the answer alone is told, to the last.
        freeze_embeddings: keep the first layer as it is, however much of the model it holds; see freeze.py.
        trainer: laid over the recipe's.
    """

    task: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    evaluation_parameters: dict[str, Any] = field(default_factory=dict)
    data: Data | None = None
    lengths: list[Any] | None = None
    stock: str | None = None
    pretrained: bool = False
    start_from: str | None = None
    mimic: Mimic | None = None
    layers_per_clause: int | None = None
    layers_per_hint: int | None = None
    freeze_embeddings: bool = False
    trainer: dict[str, Any] = field(default_factory=dict)


_SECTION_KEYS = tuple(f.name for f in fields(Section))


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """A claim to set the results beside, and where it stands."""

    claim: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every recipe has: one experiment, checked.

    Attributes:
        name: file name without `.yaml`. preset: which overrides are laid over it.
        title, summary: for the card.
        models: name -> fields of its configuration, laid over those of `model`.
        trainer: `TrainingArguments` fields.
        optimizer: "muon": matrices between embeddings and head by Muon, the rest by AdamW, see optimizer.py. None: what
            `trainer.optim` names.
        matrix_lr_multiplier: factor of the learning rate of the matrices between embeddings and head.
        encoding_lr_multiplier: encoding name -> factor of the learning rate for its parameters; all parameters of
            encodings are trained without weight decay.
        seeds: trained when the command line names none.
        command: what it was loaded by, as a command line, without seeds; of no say in what is trained.
    """

    name: str
    preset: str
    title: str
    summary: str
    models: dict[str, dict[str, Any]]
    model: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    optimizer: str | None = None
    matrix_lr_multiplier: float = 1.0
    encoding_lr_multiplier: dict[str, float] = field(default_factory=dict)
    paper: list[PaperFigure] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    command: str = field(default="", compare=False)

    def section(self, name: str) -> Any:
        """What the section of a model says beside fields of its configuration."""
        raise NotImplementedError

    def with_trainer_of(self, name: str) -> Self:
        """The recipe with a model's own `trainer` settings laid over it."""
        return replace(self, trainer={**self.trainer, **self.section(name).trainer})

    def to_dict(self) -> dict[str, Any]:
        """As it is written into a run's `recipe.yaml`; without seeds, which may be added to, and the command."""
        shared = [f.name for f in fields(Experiment)]
        content = asdict(self)
        own = [key for key in content if key not in shared]
        return {key: content[key] for key in (*shared[:4], *own, *shared[4:]) if key not in ("seeds", "command")}

    def to_yaml(self) -> str:
        """As `to_dict`; `read_recipe` reads it back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=120)


@dataclass(frozen=True, kw_only=True)
class Recipe(Experiment):
    """An experiment on a task.

    Attributes:
        task, parameters: a task of the registry, and its training parameters.
        head: what is trained: "causal_lm" answers prompts, "token_classification" labels the clauses of a prompt.
        models: name -> `PositionalConfig` fields, laid over those of `model`; with a base, fields of its adapter, and
            `positions`, pairs that a Llama is given beside its own, see llama.py, and trained where `modules_to_save`
            names `encodings`. What else a section may hold is a `Section`.
        base: the checkpoint that every model starts from: a folder, or a name on the Hub.
        adapter: `method` and PEFT's fields for it, see adapters.py.
    """

    task: str
    head: str = CAUSAL_LM
    parameters: dict[str, Any] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    base: str | None = None
    adapter: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def section(self, name: str) -> Section:
        """What the section of a model says beside fields of its configuration."""
        mine = {key: value for key, value in self.models[name].items() if key in _SECTION_KEYS}
        return build(Section, mine, f"{self.name}.models.{name}")

    def get_task(self, name: str | None = None) -> Task:
        """The training task, of one of the models if that has a task or parameters of its own."""
        task, parameters, _ = self._task(name)
        return get_task(task, **parameters)

    def task_at(self, length: Any, name: str | None = None) -> Task:
        """The task that is evaluated: at a number for all operands, a list with one for each, or (None) as trained."""
        task, parameters, evaluated = self._task(name)
        span = [[d, d] for d in length] if isinstance(length, list) else [length, length]
        at = {} if length is None else {TASKS[task].length_parameter: span}
        return get_task(task, **{**parameters, **evaluated, **at})

    def data_of(self, name: str) -> Data:
        """What a model is trained on."""
        return self.section(name).data or self.data

    def lengths(self, name: str) -> list[Any]:
        """The lengths at which a model is evaluated; [None] for problems as in training."""
        mine = self.section(name).lengths
        return (self.evaluation.lengths if mine is None else mine) or [None]

    def _task(self, name: str | None) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Task, parameters, and those of evaluation alone."""
        section = Section() if name is None else self.section(name)
        if section.task is not None:
            return section.task, section.parameters, section.evaluation_parameters
        evaluated = {**self.evaluation.parameters, **section.evaluation_parameters}
        return self.task, {**self.parameters, **section.parameters}, evaluated

    def added_positions(self, name: str) -> list[dict[str, Any]]:
        """The pairs that one of the models is given beside those of its base."""
        return [] if self.base is None else self.models[name].get("positions") or []

    def model_fields(self, name: str) -> dict[str, Any]:
        """The fields of one of the models: of its `PositionalConfig` or, with a base, of its adapter.

        A model with a method of its own leaves `adapter` aside, whose fields are those of another method.
        """
        mine = {key: value for key, value in self.models[name].items() if key not in _SECTION_KEYS}
        if self.section(name).stock is not None:
            return mine
        if self.base is None:
            return {**self.model, **mine}
        mine.pop("positions", None)
        shared = self.adapter.get("method")
        return {**self.adapter, **mine} if mine.get("method", shared) == shared else mine

    def to_dict(self) -> dict[str, Any]:
        """As of every experiment, without what the kind of start leaves empty."""
        content = super().to_dict()
        for key in ("base", "adapter") if self.base is None else ("model",):
            del content[key]
        return content


def run_name(model: str, seed: int) -> str:
    """The folder of one trained model; transformers makes a Python module of it, which no `+` may be in."""
    return f"{model.replace('+', '_')}-seed{seed}"


def recipe_names() -> list[str]:
    """The recipes of the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str, preset: str = "cpu", settings: list[str] | None = None) -> Any:
    """Read a recipe, lay a preset and single settings over it, and check all of it.

    Args:
        name: a recipe of the package, or the path of a YAML file.
        preset: a key of its `presets`.
        settings: `key=value` strings with dotted keys and YAML values, such as `trainer.max_steps=100`.

    Returns:
        a `Recipe` or, where it has `sources`, a `TextRecipe`.

    Raises:
        UserError: anything unknown, of the wrong type or contradictory.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        hint = "or the path of a .yaml file"
        raise (
            unknown_name("recipe", name, recipe_names(), hint)
            if path.parent == RECIPES
            else UserError(f"no recipe file {name!r}; the package's own: {', '.join(recipe_names())}")
        )
    try:
        content = read_yaml(path.read_text("utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is no UTF-8 ({error}): give a text file in YAML") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} must hold keys and values, not {type(content).__name__}")
    presets = value_of(dict[str, Any], content.pop("presets", None) or {}, f"{path.stem}.presets")
    if not presets:
        raise UserError(
            f"{path.stem} has no presets: give it presets: {{{preset}: {{}}}}, or one that changes something"
        )
    if preset not in presets:
        raise unknown_name("preset", preset, presets, f"recipe {path.stem}")
    content = lay_over(content, presets[preset] or {})
    for setting in settings or []:
        change, known = parse_setting(setting), content.get("models") or {}
        models = change.get("models") or {}
        for name in models if isinstance(models, dict) and isinstance(known, dict) else {}:
            if models[name] is None and name not in known:
                raise unknown_name(f"model in {path.stem}.models to leave out (null)", name, known)
        content = lay_over(content, change)
    kind, check = _kind(content)
    given = path.stem if path.parent == RECIPES else path.name
    command = shlex.join(["hf-tasks", "run", given, "--preset", preset, *(("--set", *settings) if settings else ())])
    told = {"name": path.stem, "preset": preset, "command": command}
    for key in told.keys() & content.keys():
        says = f"{path.stem}.{key}={content[key]!r}"
        raise UserError(f"{says}: a recipe's {key} follows from its file and the command line; leave it out")
    recipe = build(kind, {**content, **told}, path.stem)
    check(recipe)
    return recipe


def read_recipe(path: Path) -> Any:
    """The recipe of a run's `recipe.yaml`: one preset with all settings laid over it, as `Recipe.to_yaml` wrote it.

    Raises:
        UserError: the file is no recipe.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is no UTF-8 ({error}): evaluate again") from error
    content = read_yaml(text, str(path))
    return build(_kind(content)[0], content, str(path))


def _kind(content: Any) -> tuple[type[Any], Callable[[Any], None]]:
    """The kind of a recipe, and what checks it: one with sources trains on texts, any other on a task."""
    if isinstance(content, dict) and "sources" in content:
        from hf_tasks.text.recipe import TextRecipe, check_text_recipe

        return TextRecipe, check_text_recipe
    return Recipe, _check


def check_shared(recipe: Experiment) -> None:
    """Look at what every experiment has.

    Raises:
        UserError: a model's name that is no folder, an encoding that is none, a count or factor of zero or less.
    """
    from hf_tasks.models import ENCODINGS

    if not recipe.models:
        raise UserError(f"{recipe.name}.models names no model: give it one, or leave one of them")
    for name in recipe.models:  # they become folders, and a `+` in them an underscore
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise UserError(f"{recipe.name}.models: {name!r} is no name for a folder; use letters, digits and . _ + -")
    if len({run_name(name, 0) for name in recipe.models}) < len(recipe.models):
        raise UserError(f"{recipe.name}.models: two names differ in + and _ alone: {', '.join(recipe.models)}")
    if recipe.optimizer not in (None, MUON):
        raise unknown_name(f"optimizer in {recipe.name}", recipe.optimizer, [MUON], "others are set as trainer.optim")
    for encoding in recipe.encoding_lr_multiplier:
        if encoding not in ENCODINGS:
            raise unknown_name(f"encoding in {recipe.name}.encoding_lr_multiplier", encoding, ENCODINGS)
    if not recipe.seeds:
        raise UserError(f"{recipe.name}.seeds names no seed: give it some, as in [0, 1, 2]")
    sizes = ("per_device_train_batch_size", "gradient_accumulation_steps")
    check_positive(recipe.name, {
        "matrix_lr_multiplier": recipe.matrix_lr_multiplier,
        **{f"encoding_lr_multiplier.{name}": factor for name, factor in recipe.encoding_lr_multiplier.items()},
        **{f"trainer.{key}": recipe.trainer.get(key) for key in sizes},
        **{f"models.{name}.trainer.{key}": recipe.section(name).trainer.get(key)
           for name in recipe.models for key in sizes},
    })  # fmt: skip


def start_of(recipe: Experiment, name: str) -> str | None:
    """The model whose weights another one starts from, if any.

    Raises:
        UserError: it does not stand before the other.
    """
    before, names = recipe.section(name).start_from, list(recipe.models)
    earlier = names[: names.index(name)]
    if before is not None and before not in earlier:
        raise unknown_name(f"earlier model in {recipe.name}.models.{name}.start_from", before, earlier)
    return before


def origin_of(recipe: Any, name: str) -> str | None:
    """The checkpoint whose weights a model begins from, if there is one: the recipe's base, or its pretrained stock."""
    if recipe.head == TEXT or recipe.base is not None:
        return recipe.base
    section = recipe.section(name)
    return section.stock if section.pretrained else None


def check_positive(where: str, counts: Mapping[str, Any]) -> None:
    """Refuse numbers that are zero or less; None and what is no number is not looked at."""
    for key, count in counts.items():
        if isinstance(count, int | float) and count <= 0:
            raise UserError(f"{where}.{key} must be positive, not {count}")


def _check(recipe: Recipe) -> None:
    """Build what the recipe names, so that every mistake in it shows now."""
    check_shared(recipe)
    task = recipe.get_task()
    if recipe.head not in (CAUSAL_LM, TOKEN_CLASSIFICATION):
        raise unknown_name(f"head of {recipe.name}", recipe.head, (CAUSAL_LM, TOKEN_CLASSIFICATION))
    if recipe.head == TOKEN_CLASSIFICATION and not task.classes:
        raise UserError(f"{recipe.name}.head is {TOKEN_CLASSIFICATION}, but {recipe.task} labels no clauses: "
                        f"use {CAUSAL_LM}, or a task that does")  # fmt: skip
    wanted = recipe.evaluation
    check_positive(recipe.name, {
        "data.size": recipe.data.size,
        **{f"models.{name}.data.size": recipe.data_of(name).size for name in recipe.models},
        **{f"evaluation.{f.name}": getattr(wanted, f.name) for f in fields(wanted) if f.type in (int, int | None)},
        **{f"evaluation.sizes.{length}": size for length, size in wanted.sizes.items()},
        **{f"evaluation.layers.{length}": layers for length, layers in wanted.layers.items()},
        **{f"models.{name}.mimic.{key}": value for name in recipe.models
           if (mimic := recipe.section(name).mimic) is not None for key, value in vars(mimic).items()},
    })  # fmt: skip
    _check_tasks(recipe)
    if wanted.pooled:
        _check_pooled(recipe)
    if recipe.base is None:
        _check_new_models(recipe)
        _check_starts(recipe)
    else:
        _check_adapters(recipe)
    check_trainers(recipe)


def _check_tasks(recipe: Recipe) -> None:
    """Build what every model is trained on and evaluated on."""
    for name in recipe.models:
        try:
            recipe.get_task(name)
            for length in recipe.lengths(name):
                recipe.task_at(length, name)
        except UserError as error:
            raise UserError(f"{recipe.name}.models.{name}: {error}") from error


def _check_pooled(recipe: Recipe) -> None:
    bounds, where = recipe.evaluation.pooled, f"{recipe.name}.evaluation.pooled"
    if len(bounds) != 2:
        raise UserError(f"{where} is {bounds}: give [shortest, longest]")
    for name in recipe.models:
        lengths = recipe.lengths(name)
        if recipe.get_task(name).length_parameter == "digits":
            raise UserError(f"{where}: model {name} is measured by digits; pooled takes lengths of one number")
        if not any(isinstance(length, int) and bounds[0] <= length <= bounds[1] for length in lengths):
            raise UserError(f"{where} is {bounds}, but model {name} is evaluated at {lengths}: name one of these")


def check_trainers(recipe: Experiment) -> None:
    """Build the arguments of the recipe's `trainer`, and of every model that has one of its own.

    Raises:
        UserError: as `training_arguments`, or an optimizer that is not read.
    """
    trainers = {f"{recipe.name}.models.{name}.trainer": recipe.section(name).trainer for name in recipe.models}
    for where, own in {f"{recipe.name}.trainer": recipe.trainer, **trainers}.items():
        if recipe.optimizer == MUON and "optim" in own:
            raise UserError(
                f"{where}.optim {own['optim']!r} is not read: the recipe's optimizer is {MUON}; leave out one"
            )
    training_arguments(recipe, "unused", 0)
    for name in recipe.models:
        own, where = recipe.section(name).trainer, f"{recipe.name}.models.{name}.trainer"
        if own:
            training_arguments(recipe.with_trainer_of(name), "unused", 0, where)


def _check_new_models(recipe: Recipe) -> None:
    """Build every config, and see that it suits the task."""
    from hf_tasks.tokenizer import build_tokenizer

    if recipe.adapter:
        raise UserError(f"{recipe.name}.adapter adapts a checkpoint: give it as base, a folder or a name on the Hub")
    for name in recipe.models:
        where, section, task = f"{recipe.name}.models.{name}", recipe.section(name), recipe.get_task(name)
        if section.stock is None:
            config = build_config(recipe, name)
            if recipe.head == CAUSAL_LM:
                check_stable(where, config, build_tokenizer(task), task)
        elif recipe.head == CAUSAL_LM:
            raise UserError(f"{where}.stock is for head {TOKEN_CLASSIFICATION}; a causal model is given as base")
        if recipe.head == CAUSAL_LM and (section.mimic or section.layers_per_clause):
            raise UserError(f"{where}: mimic and layers_per_clause are for head {TOKEN_CLASSIFICATION}")
        if section.layers_per_hint is not None:
            _check_hints(recipe, name, section.layers_per_hint)
        if section.pretrained and section.stock is None:
            raise UserError(f"{where}.pretrained needs stock, the checkpoint to begin from")


def _check_hints(recipe: Recipe, name: str, per_hint: int) -> None:
    """See that there are hints, and layers enough for all of their steps."""
    from hf_tasks.tasks import TASKS

    where, task = f"{recipe.name}.models.{name}", recipe.get_task(name)
    if recipe.head != CAUSAL_LM or not task.hint_classes:
        known = [name for name, cls in TASKS.items() if cls.hint_classes]
        raise UserError(f"{where}.layers_per_hint: {task.name} has no hints for head {recipe.head}; {CAUSAL_LM} has "
                        f"them on: {', '.join(known)}")  # fmt: skip
    layers, steps = build_config(recipe, name).num_hidden_layers or 0, task.hint_steps
    if per_hint < 1 or layers % per_hint or layers // per_hint < steps:
        raise UserError(
            f"{where}.layers_per_hint {per_hint}: the longest problem takes {steps} steps, so num_hidden_layers has to "
            f"be a multiple of it, at least {max(per_hint, 1) * steps}, not {layers}"
        )


def _check_starts(recipe: Recipe) -> None:
    """See that a model which starts from another one comes behind it, and has its shape."""
    import torch

    from hf_tasks.models import PositionalForCausalLM, PositionalForTokenClassification

    head = PositionalForCausalLM if recipe.head == CAUSAL_LM else PositionalForTokenClassification
    for name in recipe.models:
        where, before = f"{recipe.name}.models.{name}", start_of(recipe, name)
        if before is None:
            continue
        for each in (before, name):
            if recipe.section(each).stock is not None:
                raise UserError(f"{where}.start_from is for models of ours, and {each!r} is stock: leave it out")
        with torch.device("meta"):
            theirs, ours = (head(build_config(recipe, each)).state_dict() for each in (before, name))
        for key in {**theirs, **ours}:
            shapes = [list(weights[key].shape) if key in weights else None for weights in (theirs, ours)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"{where} starts from {before!r}, whose {key} is {shapes[0]} and not {shapes[1]}: give both one "
                    "shape, alphabet and number of values"
                )


def _check_adapters(recipe: Recipe) -> None:
    """Read every adapter section by itself."""
    from hf_tasks.adapters import read_section

    if recipe.model:
        raise UserError(f"{recipe.name}.model is for new models, and base brings its own: leave one of the two out")
    for name in recipe.models:
        where = f"{recipe.name}.models.{name}"
        if recipe.models[name].get("positions") is not None:
            value_of(list[dict[str, Any]], recipe.models[name]["positions"], f"{where}.positions")
        if recipe.section(name).start_from is not None:
            raise UserError(f"{where}.start_from: all models of the recipe start from its base: leave it out")
        for key in ("stock", "pretrained", "mimic", "layers_per_clause", "layers_per_hint"):
            if getattr(recipe.section(name), key):
                raise UserError(f"{where}.{key} is for new models, and the recipe has a base: leave one of the two out")
        adapted = read_section(recipe.model_fields(name), where) is not None
        if adapted and recipe.section(name).freeze_embeddings:
            raise UserError(
                f"{where}.freeze_embeddings: an adapter freezes the base as it is; leave it out, or set method to none"
            )


def check_stable(where: str, config: Any, tokenizer: Any, task: Task) -> None:
    """Refuse ids that an answer's tokens get otherwise in training than while the answer is being generated.

    Rows are read whole, as in training, and cut off behind each token of the answer, as in generation.

    Args:
        where: what the message begins with.
        config: a `PositionalConfig`. tokenizer: what its ids are read with.
        task: what is trained.

    Raises:
        UserError: an id changes.
    """
    from hf_tasks.models import read_tokens

    rows = task.generate("train", size=16)
    for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True):
        asked, told = tokenizer(prompt)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"]
        cuts = {"input_ids": [asked + told[:end] for end in range(len(told) + 1)]}
        batch = tokenizer.pad(cuts, padding_side="right", return_tensors="pt")
        real = batch["attention_mask"].bool()
        tokens = read_tokens(config, batch["input_ids"], real)
        for spec, pair in zip(config.positions, config.pairs(), strict=True):
            ids = pair.ids(tokens, False)
            if bool(((ids != ids[-1:]) & real).any()):
                raise UserError(
                    f"{where}: {spec['ids']} ids of the answer {answer!r} would change while it is "
                    "generated, as it is neither reversed nor padded, or no plain number: set parameters.reverse to "
                    "answer (or all), or parameters.pad to true, in a plain format"
                )


def build_config(recipe: Recipe, name: str) -> Any:
    """The `PositionalConfig` of one of the recipe's own models, for the tokenizer of its task.

    Raises:
        UserError: no such model, or fields that a config does not take.
    """
    from huggingface_hub.errors import StrictDataclassError

    from hf_tasks.models import PositionalConfig
    from hf_tasks.tokenizer import build_tokenizer

    if name not in recipe.models:
        raise unknown_name("model", name, recipe.models, f"recipe {recipe.name}")
    task = recipe.get_task(name)
    labels = {"num_labels": len(task.classes)} if recipe.head == TOKEN_CLASSIFICATION else {}
    try:
        return PositionalConfig.from_tokenizer(build_tokenizer(task), **labels, **recipe.model_fields(name))
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"{recipe.name}.models.{name}: {' '.join(str(error).split())}") from error


def training_arguments(recipe: Experiment, output: str, seed: int, where: str = "") -> Any:
    """transformers' `TrainingArguments` for one run of the recipe; `where` names the section in a message.

    Raises:
        UserError: a key that is unknown, not for a recipe, or of a wrong type or value.
    """
    import torch
    from transformers import TrainingArguments

    where = where or f"{recipe.name}.trainer"
    known = {f.name: f.type for f in fields(TrainingArguments) if f.init and f.name not in _RESERVED_ARGUMENTS}
    for key, value in recipe.trainer.items():
        if key not in known:
            raise unknown_name(f"key of {where} (a field of TrainingArguments)", key, known)
        if known[key] in (bool, int, float):  # transformers itself looks at no types
            value_of(known[key], value, f"{where}.{key}")
    settings = {
        "logging_steps": 50,
        "save_total_limit": 2,
        "report_to": "none",
        "project": recipe.name,
        "run_name": Path(output).name,
        "use_cpu": not torch.accelerator.is_available(),  # else bf16, of a recipe for a GPU, is refused
        **recipe.trainer,
        "remove_unused_columns": False,  # the collator reads what it needs
        "output_dir": output,
        "seed": seed,
        "data_seed": seed,
    }
    try:
        return TrainingArguments(**settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
