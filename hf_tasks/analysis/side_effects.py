"""What training on sums did to a language model beside teaching it sums: before and after, side by side.

- Text loss: nats a token on English prose that no recipe here trains on, the language reference that ships with Python
  (`pydoc_data.topics`). Models of one base have one tokenizer, so their losses may be compared.
- First number: the number that a greedy completion begins with, however it goes on and whether or not it ends. A model
  that was not trained to stop behind a sum scores nothing by exact match, whatever it knows.

    python -m hf_tasks.analysis.side_effects runs/addition-in-language-model-cpu --size 100
"""

import argparse
import json
import platform
import pydoc_data.topics
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_tasks.adapters import get_tokenizer, load_base, load_model
from hf_tasks.errors import UserError
from hf_tasks.evaluate import hardware, slice_of, versions
from hf_tasks.files import write_text
from hf_tasks.metrics.functions import cell
from hf_tasks.recipe import read_recipe
from hf_tasks.run import finished_runs

WINDOW, WINDOWS = 256, 32  # tokens that are read at a time, and how often


def reference_text() -> str:
    """The prose of Python's language reference, in the order of its topics' names."""
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics))


@torch.no_grad()
def text_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    """Mean loss of the next token, in nats, over windows of `WINDOW` tokens spread evenly over the text."""
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    whole = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    chosen = whole[:: max(1, len(whole) // WINDOWS)][:WINDOWS].to(model.device)
    model.eval()
    losses = [model(input_ids=window[None], labels=window[None]).loss.item() for window in chosen]
    return sum(losses) / len(losses)


@torch.no_grad()
def first_numbers(model: Any, tokenizer: Any, prompts: list[str], new_tokens: int) -> list[str]:
    """What number, its digits alone, each greedy completion begins with; "" where it begins with none."""
    model.eval()
    inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    output = model.generate(
        **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )  # fmt: skip
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    found = (re.match(r"\s*([0-9]+(?:,[0-9]{3})*)", text) for text in texts)
    return ["" if match is None else match[1].replace(",", "") for match in found]


def measure(
    recipe: Any, name: str, model: Any, tokenizer: Any, parameters: dict[str, Any], size: int | None
) -> dict[str, Any]:
    """Text loss and first numbers of a model, at the lengths and on the task of its section, with these parameters."""
    cells = []
    for length in recipe.lengths(name):
        trained = recipe.task_at(length, name)
        task = type(trained)(**{**trained.parameters(), **parameters})
        rows = task.generate("test", size=size or recipe.evaluation.size)
        # A comma every three digits, and one token to end with.
        numbers = first_numbers(model, tokenizer, list(rows["prompt"]), task.max_lengths[1] * 4 // 3 + 1)
        right = [number == answer for number, answer in zip(numbers, rows["answer"], strict=True)]
        cells.append(cell(sum(right), len(right), slice_of(task, length), "first_number"))
    return {"text_loss": round(text_loss(model, tokenizer, reference_text()), 4), "cells": cells}


def compare(output: Path, size: int | None = None) -> dict[str, Any]:
    """Measure the base and every finished model of a run, and write `side_effects.json` into its folder.

    The base is asked for sums as people write them, which is all that it can know.

    Args:
        output: the folder.
        size: rows for each length; as the recipe evaluates them unless given.

    Raises:
        UserError: the folder holds no run on a base.
    """
    if not (output / "recipe.yaml").is_file() or (recipe := read_recipe(output / "recipe.yaml")).base is None:
        raise UserError(f"{str(output)!r} holds no run with a base: give the output folder of one")
    tokenizer, base = get_tokenizer(recipe.get_task(), recipe.base), load_base(recipe.base)
    found = {"base": measure(recipe, next(iter(recipe.models)), base, tokenizer, {"reverse": "none"}, size)}
    for name, seed, folder in finished_runs(recipe, output):
        own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        found[f"{name}, seed {seed}"] = measure(recipe, name, load_model(folder), own, {}, size)
    text = f"Python {platform.python_version()}'s language reference, {WINDOWS} windows of {WINDOW} tokens"
    measured = {"text": text, "versions": versions(), "hardware": hardware()}
    results = {"recipe": recipe.name, **measured, "models": found}
    write_text(output / "side_effects.json", json.dumps(results, indent=1) + "\n")
    return results


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 behind one line about a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_tasks.analysis.side_effects",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Example: python -m hf_tasks.analysis.side_effects runs/addition-in-language-model-cpu --size 100",
    )
    parser.add_argument("folder", type=Path, help="output folder of a run with a base; side_effects.json comes into it")
    parser.add_argument("--size", type=int, metavar="N", help="rows for each length; as the recipe evaluates them")
    given = parser.parse_args(arguments)
    if given.size is not None and given.size < 1:
        parser.error(f"--size must be positive, not {given.size}")
    try:
        print(json.dumps(compare(given.folder, given.size), indent=1))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
