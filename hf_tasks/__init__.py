"""The public names. They are imported on first use, so that the command line starts without torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tasks.errors import UserError
    from hf_tasks.models import (
        PositionalConfig,
        PositionalForCausalLM,
        PositionalForSequenceClassification,
        PositionalForTokenClassification,
        PositionalModel,
    )
    from hf_tasks.publish import publish_dataset, publish_metric, publish_model
    from hf_tasks.recipe import load_recipe
    from hf_tasks.tasks import get_task
    from hf_tasks.tokenizer import build_tokenizer

_HOMES = {
    "PositionalConfig": "models",
    "PositionalForCausalLM": "models",
    "PositionalForSequenceClassification": "models",
    "PositionalForTokenClassification": "models",
    "PositionalModel": "models",
    "UserError": "errors",
    "build_tokenizer": "tokenizer",
    "get_task": "tasks",
    "load_recipe": "recipe",
    "publish_dataset": "publish",
    "publish_metric": "publish",
    "publish_model": "publish",
}

__version__ = "0.1.0"
__all__ = [
    "PositionalConfig",
    "PositionalForCausalLM",
    "PositionalForSequenceClassification",
    "PositionalForTokenClassification",
    "PositionalModel",
    "UserError",
    "build_tokenizer",
    "get_task",
    "load_recipe",
    "publish_dataset",
    "publish_metric",
    "publish_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hf_tasks.{_HOMES[name]}"), name)
