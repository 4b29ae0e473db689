"""Language models of a recipe on texts: ours, or a stock architecture built from its config's fields.

- A stock architecture's own special tokens and vocabulary are those of its published checkpoint; here they are the
  tokenizer's.
"""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hf_tasks.errors import UserError, unknown_name
from hf_tasks.models import PositionalConfig, PositionalForCausalLM
from hf_tasks.recipe import run_name
from hf_tasks.text.recipe import TextRecipe


def build_text_config(recipe: TextRecipe, name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> Any:
    """The config of a model that starts from nothing, with which a model without memory was built and ran once.

    Args:
        tokenizer: whose tokens it reads; None, before there is one: it has `vocab_size` entries.

    Raises:
        UserError: an unknown architecture, or one that refuses its fields.
    """
    where, section, own = f"{recipe.name}.models.{name}", recipe.section(name), recipe.model_fields(name)
    shape: dict[str, Any] = {"vocab_size": recipe.vocab_size if tokenizer is None else len(tokenizer)}
    shape |= {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")}
    if section.stock is not None and section.stock not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise unknown_name(
            f"architecture in {where}.stock", section.stock, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "such as gpt_neo or phi"
        )
    try:
        if section.stock is None:
            config = (
                PositionalConfig(**{**shape, **own})
                if tokenizer is None
                else PositionalConfig.from_tokenizer(tokenizer, **own)
            )
        else:
            config = AutoConfig.for_model(section.stock, **{**shape, **own})
            unread = [key for key in own if key not in type(config)().to_dict()]
            if unread:  # transformers keeps what it does not know, and nobody reads it
                raise UserError(f"{where}: {section.stock} has no field {unread[0]!r}; leave it out")
        with torch.device("meta"):  # one token: some architectures find out only then that their fields do not fit
            AutoModelForCausalLM.from_config(config)(input_ids=torch.zeros(1, 1, dtype=torch.long))
    except UserError:
        raise
    except (ValueError, TypeError, StrictDataclassError, RuntimeError, IndexError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
    return config


def build_text_model(recipe: TextRecipe, name: str, seed: int, tokenizer: PreTrainedTokenizerBase, output: Path) -> Any:
    """A new model, or one that the recipe trained before; random weights are drawn from torch's generator.

    Raises:
        UserError: as `build_text_config`.
    """
    section = recipe.section(name)
    if section.start_from is not None:
        folder = output / run_name(section.start_from, seed)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    config = build_text_config(recipe, name, tokenizer)
    if isinstance(config, PositionalConfig):
        return PositionalForCausalLM(config)
    return AutoModelForCausalLM.from_config(config)
