"""The texts of a recipe: written by a grammar when they are first needed, or read from where they are.

- What is written lies in `.sources/NAME` of the run's folder, as `hf-tasks corpus` leaves it: the same command finds it
  again, and evaluation reads its held-out rows. The seed of a source is fixed; the seeds of a recipe are of training.
- A row's split is its own (a hash of what was asked for, or of the file), so that no seed moves it.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_tasks.corpora import GRAMMARS, get_corpus
from hf_tasks.corpora.job import TABLE, generate
from hf_tasks.errors import UserError
from hf_tasks.text.data import read_split, read_texts, train_tokenizer
from hf_tasks.text.recipe import PYTHON_FILES, Source, TextRecipe

FOLDER = ".sources"
Place = tuple[Source, Path]  # a source, and the folder of what is written of it
Row = dict[str, Any]


def place_of(recipe: TextRecipe, name: str, output: Path) -> Place:
    """A source by its name, and its folder in that of the run."""
    return recipe.sources[name], output / FOLDER / name


def training_sources(recipe: TextRecipe) -> list[str]:
    """What any model of the recipe reads, in the order in which it first does."""
    return [*dict.fromkeys(source for model in recipe.models for source in recipe.section(model).data)]


def source_texts(recipe: TextRecipe, names: list[str], split: str, output: Path) -> list[str]:
    """The texts of several sources in one split, source after source.

    Raises:
        UserError: a source that cannot be read, or has no such texts.
    """
    return [text for name in names for text in _texts(*place_of(recipe, name, output), split)]


def source_rows(recipe: TextRecipe, name: str, split: str, output: Path) -> list[Row]:
    """The rows of a source of `hf-tasks corpus` in one split, with all their columns.

    Raises:
        UserError: as `source_texts`.
    """
    return source_table(*place_of(recipe, name, output), split).to_list()


def source_table(source: Source, folder: Path, split: str) -> Dataset:
    """The same of a place, as a table."""
    return read_split(_where(source, folder), split, source.config)


def recipe_tokenizer(recipe: TextRecipe, output: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of all models, trained on what any of them reads."""
    places = tuple(place_of(recipe, name, output) for name in training_sources(recipe))
    return _tokenizer(places, recipe.vocab_size)


@lru_cache(maxsize=1)
def _tokenizer(places: tuple[Place, ...], vocab_size: int) -> PreTrainedTokenizerBase:
    return train_tokenizer((text for place in places for text in _texts(*place, "train")), vocab_size)


@lru_cache(maxsize=8)
def _texts(source: Source, folder: Path, split: str) -> list[str]:
    if source.corpus != PYTHON_FILES:
        return read_texts(_where(source, folder), split, source.config)
    from hf_tasks.corpora.python_files import snippets

    rows = [row for row in snippets() if row["split"] == split]
    texts = [row["text"] for row in rows]
    if source.quality is None or split != "train":
        return texts
    from hf_tasks.corpora.quality import quality_scores

    with PartialState().main_process_first():  # the others find the embeddings
        scores, _ = quality_scores(texts, folder, groups=[row["path"] for row in rows])
    return [texts[place] for place in np.flatnonzero(scores >= source.quality)]


def _where(source: Source, folder: Path) -> str:
    """The dataset, or the folder of a grammar's rows, written if they are not there."""
    if source.dataset is not None:
        return source.dataset
    with PartialState().main_process_first():  # the other processes find them
        if not (folder / TABLE).is_file():
            asked = get_corpus(str(source.corpus), source.words)
            report = generate(asked, GRAMMARS[asked.name](), source.rows or 0, folder)
            if report.kept + report.left_out < report.rows:
                raise UserError(f"the rows of {str(folder)!r} could not all be written; run the same command again")
    return str(folder)
