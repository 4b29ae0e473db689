"""A recipe of language models on texts: what they read, in which order, and what is measured of them.

- `sources` name texts, each written by a grammar when the run begins, or read from a dataset. A model's section says
  in `data` which of them it reads.
- `start_from` names an earlier model of the recipe: pretraining and fine-tuning are two models, so that the scores
  before and after stand side by side (phi-1-base and phi-1).
- All models of a recipe share one tokenizer, trained on the training texts of all sources.
- Everything a mistake can be found in without writing or reading the texts is built once on loading.
"""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from hf_tasks.corpora import GRAMMARS, get_corpus
from hf_tasks.corpora.code_exercises import CodeExercises
from hf_tasks.corpora.tinystories import TinyStoriesInstruct
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.recipe import TEXT, Experiment, check_positive, check_shared, check_trainers, start_of
from hf_tasks.strict import build

PYTHON_FILES = "python_files"  # a source that nobody writes: the standard library of Python


@dataclass(frozen=True, kw_only=True)
class Source:
    """Texts from one place; a corpus or a dataset.

    Attributes:
        corpus: what a grammar writes, or "python_files", the standard library of this Python.
        rows: how many the grammar is asked for.
        words: of its stories: verbs, nouns and adjectives that they are asked to use, so many of each; None: all.
        quality: of python_files: texts with a lower score of the quality filter are left out of training.
        dataset: a table of `hf-tasks corpus`, a folder, or a name on the Hub. config: of the dataset.
    """

    corpus: str | None = None
    rows: int | None = None
    words: int | None = None
    quality: float | None = None
    dataset: str | None = None
    config: str | None = None


@dataclass(frozen=True, kw_only=True)
class Completions:
    """Held-out beginnings that are completed and measured.

    Attributes:
        source: whose. prompts: how many of them. samples: completions of each.
        temperature: of sampling; 0: the likeliest token each time.
        max_new_tokens: of a completion.
    """

    source: str
    prompts: int = 50
    samples: int = 10
    temperature: float = 1.0
    max_new_tokens: int = 256


@dataclass(frozen=True, kw_only=True)
class TextEvaluation:
    """What is measured of every model.

    Attributes:
        loss: sources of whose held-out texts the loss is measured. loss_rows: how many texts of each.
        stories: instructions of `tinystories_instruct` that are completed.
        exercises: functions of `code_exercises` that are completed and executed.
        batch_size: completions that are generated at a time.
    """

    loss: list[str] = field(default_factory=list)
    loss_rows: int = 200
    stories: Completions | None = None
    exercises: Completions | None = None
    batch_size: int = 64


@dataclass(frozen=True, kw_only=True)
class TextSection:
    """What the section of one model may say beside the fields of its configuration.

    Attributes:
        data: the sources it is trained on.
        stock: an architecture of transformers ("gpt_neo", "phi"), whose config's fields the section has; None: ours.
        start_from: an earlier model of the recipe, whose weights it starts from.
        trainer: laid over the recipe's.
    """

    data: list[str]
    stock: str | None = None
    start_from: str | None = None
    trainer: dict[str, Any] = field(default_factory=dict)


_SECTION_KEYS = tuple(f.name for f in fields(TextSection))


@dataclass(frozen=True, kw_only=True)
class TextRecipe(Experiment):
    """An experiment on texts.

    Attributes:
        sources: by name.
        vocab_size: entries of the tokenizer, at most.
        context: tokens of a training block, into which documents are packed; see `data.pack`.
        model: fields of every model's configuration, and what else a `TextSection` may say. A model of another
            architecture (`stock`) leaves the former aside.
    """

    head: ClassVar[str] = TEXT
    base: ClassVar[None] = None

    sources: dict[str, Source]
    vocab_size: int = 10_000
    context: int = 512
    evaluation: TextEvaluation = field(default_factory=TextEvaluation)

    def section(self, name: str) -> TextSection:
        """What the section of a model says beside fields of its configuration."""
        mine = {key: value for key, value in self._whole(name).items() if key in _SECTION_KEYS}
        return build(TextSection, mine, f"{self.name}.models.{name}")

    def model_fields(self, name: str) -> dict[str, Any]:
        """The fields of a model's configuration; of one that starts from another, those of the other."""
        section = self.section(name)
        if section.start_from is not None:
            return self.model_fields(section.start_from)
        return {key: value for key, value in self._whole(name).items() if key not in _SECTION_KEYS}

    def is_ours(self, name: str) -> bool:
        """Whether a model, or the one that it starts from, is of our architecture."""
        section = self.section(name)
        return section.stock is None if section.start_from is None else self.is_ours(section.start_from)

    def _whole(self, name: str) -> dict[str, Any]:
        """A model's own keys over those of all; fields of another architecture's config are left aside."""
        mine, shared = self.models[name], self.model
        if "stock" in mine and mine["stock"] != shared.get("stock"):
            shared = {key: value for key, value in shared.items() if key in _SECTION_KEYS}
        return {**shared, **mine}


def check_text_recipe(recipe: TextRecipe) -> None:
    """Build what the recipe names, so that every mistake in it shows now.

    Raises:
        UserError: names the key, its value and the way out.
    """
    check_shared(recipe)
    for name, source in recipe.sources.items():
        _check_source(f"{recipe.name}.sources.{name}", source)
    for name in recipe.models:
        _check_model(recipe, name)
    _check_evaluation(recipe)
    check_trainers(recipe)


def _check_source(where: str, source: Source) -> None:
    if (source.corpus is None) == (source.dataset is None):
        raise UserError(f"{where} must name one of corpus and dataset, not both or none")
    if source.corpus == PYTHON_FILES:
        if source.rows is not None:
            raise UserError(f"{where}.rows is for a corpus that a grammar writes; {PYTHON_FILES} has what there is")
    elif source.corpus is not None:
        if source.corpus not in GRAMMARS:
            known = (*GRAMMARS, PYTHON_FILES)
            hint = "have others written by hf-tasks corpus, and name the folder as dataset"
            raise unknown_name(f"corpus of {where} that a grammar writes", source.corpus, known, hint)
        if source.rows is None or source.rows < 1:
            raise UserError(f"{where}.rows must say how many rows the grammar is asked for, not {source.rows}")
        get_corpus(source.corpus, source.words)
    elif source.rows is not None:
        raise UserError(f"{where}.rows is for a corpus; of a dataset all rows are read")
    if source.words is not None and source.corpus in (None, PYTHON_FILES):
        raise UserError(f"{where}.words is for stories that a grammar writes; leave it out")
    if source.quality is not None and source.corpus != PYTHON_FILES:
        raise UserError(f"{where}.quality is for {PYTHON_FILES}; filter others when they are built")
    if source.config is not None and source.dataset is None:
        raise UserError(f"{where}.config is of a dataset: name one")


def _check_model(recipe: TextRecipe, name: str) -> None:
    where, section = f"{recipe.name}.models.{name}", recipe.section(name)
    for source in section.data:
        if source not in recipe.sources:
            raise unknown_name(f"source in {where}.data", source, recipe.sources)
    if not section.data:
        raise UserError(f"{where}.data names no source; known: {', '.join(recipe.sources)}")
    if start_of(recipe, name) is not None:
        own = [key for key in recipe.models[name] if key not in _SECTION_KEYS or key == "stock"]
        if own:
            raise UserError(f"{where} starts from {section.start_from!r}, which has a shape: leave {own[0]} out")
    else:
        from hf_tasks.text.model import build_text_config

        config = build_text_config(recipe, name)
        window = getattr(config, "max_position_embeddings", None)
        if window is not None and window < recipe.context:
            raise UserError(f"{where}: max_position_embeddings {window} is below context {recipe.context}: raise it")


def _check_evaluation(recipe: TextRecipe) -> None:
    where, wanted = f"{recipe.name}.evaluation", recipe.evaluation
    for source in wanted.loss:
        if source not in recipe.sources:
            raise unknown_name(f"source in {where}.loss", source, recipe.sources)
    for key, corpus in (("stories", TinyStoriesInstruct), ("exercises", CodeExercises)):
        completions: Completions | None = getattr(wanted, key)
        if completions is None:
            continue
        if completions.source not in recipe.sources:
            raise unknown_name(f"source in {where}.{key}", completions.source, recipe.sources)
        given = recipe.sources[completions.source]
        if given.corpus is not None and given.corpus != corpus.name:
            raise UserError(f"{where}.{key}.source {completions.source!r} is {given.corpus}; it must be {corpus.name}")
        check_positive(f"{where}.{key}", {n: getattr(completions, n) for n in ("samples", "max_new_tokens")})
        if completions.prompts < 2:
            raise UserError(f"{where}.{key}.prompts {completions.prompts} gives no interval: give 2 or more")
        if completions.temperature < 0 or (completions.temperature == 0 and completions.samples > 1):
            raise UserError(
                f"{where}.{key}.temperature {completions.temperature} with {completions.samples} samples: at 0 all "
                "samples are the same, so give samples: 1, or a temperature above 0"
            )
    check_positive(where, {"loss_rows": wanted.loss_rows, "batch_size": wanted.batch_size})
