"""What the Trainer is given for a model of a recipe on texts; the rest of the road is train.py of the package.

- Blocks are packed once a run; every epoch sees the same blocks in another order.
- `eval_strategy` in the recipe's `trainer` gives the loss of held-out blocks while training goes on.
"""

from pathlib import Path
from typing import Any

from transformers import set_seed

from hf_tasks.text.data import PackedCollator, encode_documents, pack
from hf_tasks.text.model import build_text_model
from hf_tasks.text.recipe import TextRecipe
from hf_tasks.text.sources import recipe_tokenizer, source_texts


def trainer_parts(recipe: TextRecipe, name: str, seed: int, output: Path) -> dict[str, Any]:
    """Model, tokenizer, data and collator, by the names of the Trainer's arguments.

    Raises:
        UserError: as `sources.source_texts` and `model.build_text_model`.
    """
    tokenizer, section = recipe_tokenizer(recipe, output), recipe.section(name)
    set_seed(seed)
    model = build_text_model(recipe, name, seed, tokenizer, output)
    model.train()  # the collator looks at it, for the first batch before the Trainer says so

    def blocks(split: str) -> Any:
        texts = source_texts(recipe, section.data, split, output)
        return pack(encode_documents(texts, tokenizer), recipe.context, seed)

    held_out = {} if recipe.trainer.get("eval_strategy", "no") == "no" else {"eval_dataset": blocks("validation")}
    return {
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": blocks("train"),
        "data_collator": PackedCollator(model),
        **held_out,
    }
