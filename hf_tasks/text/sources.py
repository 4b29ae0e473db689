"""The texts of a recipe: written by a grammar when they are first needed, or read from where they are.

- What is written lies in `.sources/NAME` of the run's folder, as `hf-tasks corpus` leaves it: the same command finds it
  again, and evaluation reads its held-out rows. The seed of a source is fixed; the seeds of a recipe are of training.
- A row's split is its own (a hash of what was asked for, or of the file), so that no seed moves it.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from accelerate import PartialState
from datasets import Dataset, load_dataset
from transformers import PreTrainedTokenizerBase

from hf_tasks.corpora import GRAMMARS, get_corpus
from hf_tasks.corpora.job import TABLE, generate
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.text.data import read_texts, train_tokenizer
from hf_tasks.text.recipe import PYTHON_FILES, Source, TextRecipe

FOLDER = ".sources"
Row = dict[str, Any]


def source_texts(recipe: TextRecipe, names: list[str], split: str, output: Path) -> list[str]:
    """The texts of several sources in one split, source after source.

    Raises:
        UserError: a source that cannot be read, or has no such texts.
    """
    return [text for name in names for text in _texts(recipe.sources[name], output / FOLDER / name, split)]


def source_rows(recipe: TextRecipe, name: str, split: str, output: Path) -> list[Row]:
    """The rows of a source of `hf-tasks corpus` in one split, with all their columns.

    Raises:
        UserError: as `source_texts`.
    """
    return source_table(recipe, name, split, output).to_list()


def source_table(recipe: TextRecipe, name: str, split: str, output: Path) -> Dataset:
    """The same, not yet read where it need not be."""
    source = recipe.sources[name]
    place = Path(source.dataset) if source.dataset else _written(source, output / FOLDER / name)
    file = place / TABLE if (place / TABLE).is_file() else place
    if file.is_file():
        if "split" in pq.read_schema(file).names:
            return Dataset(pq.read_table(file, filters=[("split", "==", split)]))
        if split != "train":
            raise unknown_name("split", split, ["train"], f"in {str(file)!r}, which has no column of splits")
        return Dataset(pq.read_table(file))
    return load_dataset(str(source.dataset), source.config, split=split)  # type: ignore[return-value]


def recipe_tokenizer(recipe: TextRecipe, output: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of all models, trained on what any of them reads."""
    names = tuple(dict.fromkeys(source for model in recipe.models for source in recipe.section(model).data))
    sources = tuple((recipe.sources[name], output / FOLDER / name) for name in names)
    return _tokenizer(sources, recipe.vocab_size)


@lru_cache(maxsize=1)
def _tokenizer(sources: tuple[tuple[Source, Path], ...], vocab_size: int) -> PreTrainedTokenizerBase:
    return train_tokenizer((text for place in sources for text in _texts(*place, "train")), vocab_size)


@lru_cache(maxsize=8)
def _texts(source: Source, folder: Path, split: str) -> list[str]:
    if source.dataset is not None:
        return read_texts(source.dataset, split, source.config)
    if source.corpus != PYTHON_FILES:
        return read_texts(str(_written(source, folder)), split)
    from hf_tasks.corpora.python_files import snippets

    rows = [row for row in snippets() if row["split"] == split]
    texts = [row["text"] for row in rows]
    if source.quality is None or split != "train":
        return texts
    from hf_tasks.corpora.quality import quality_scores

    with PartialState().main_process_first():  # the others find the embeddings
        scores, _ = quality_scores(texts, folder, groups=[row["path"] for row in rows])
    return [texts[place] for place in np.flatnonzero(scores >= source.quality)]


def _written(source: Source, folder: Path) -> Path:
    """The folder of a grammar's rows, written if they are not there."""
    with PartialState().main_process_first():  # the other processes find them
        if not (folder / TABLE).is_file():
            asked = get_corpus(str(source.corpus), source.words)
            report = generate(asked, GRAMMARS[asked.name](), source.rows or 0, folder)
            if report.kept + report.left_out < report.rows:
                raise UserError(f"the rows of {str(folder)!r} could not all be written; run the same command again")
    return folder
