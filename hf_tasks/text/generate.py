"""Sampled completions of beginnings, the same ones whoever asks.

- Every batch has a seed of its own, from the seed and its place, so that a run that was interrupted goes on with the
  batches that are missing and gets what it would have got.
- A completion ends at the end-of-text token, or is cut off: `Completion.ended` says which, for a story that never ends
  is no story.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tasks.tasks.hashing import hash_name


@dataclass(frozen=True)
class Completion:
    """What a model wrote behind a beginning. ended: by itself, before the limit."""

    text: str
    ended: bool


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    samples: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 64,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> list[list[Completion]]:
    """Completions of every prompt, from the model's whole distribution (no top-k, no top-p).

    Args:
        model: of any device, in any mode; left in evaluation mode.
        tokenizer: with a padding and an end-of-text token.
        samples: of each prompt.
        temperature: 0: the likeliest token each time.
        batch_size: completions at a time.
        seed: of all draws; torch's global generator is left as it was.
        on_batch: called with the number of completions after each batch.

    Returns:
        for each prompt its completions.
    """
    model.eval()
    encoded: list[Any] = [
        tokenizer(prompt, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id] for prompt in prompts
    ]
    # By length, so that little is padded; all samples of a prompt stand together.
    order = [place for place in sorted(range(len(prompts)), key=lambda n: len(encoded[n])) for _ in range(samples)]
    found: list[list[Completion]] = [[] for _ in prompts]
    choice = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {
        "do_sample": False
    }  # fmt: skip
    devices = [model.device] if model.device.type == "cuda" else []
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        inputs = tokenizer.pad(
            {"input_ids": [encoded[place] for place in places]}, padding_side="left", return_tensors="pt"
        ).to(model.device)
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(hash_name(seed, start) % 2**63)
            output = model.generate(  # type: ignore[operator]
                **inputs,
                **choice,
                max_new_tokens=max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        for place, tokens in zip(places, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ended = tokenizer.eos_token_id in tokens
            kept = tokens[: tokens.index(tokenizer.eos_token_id)] if ended else tokens
            text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            found[place].append(Completion(str(text), ended))
        if on_batch is not None:
            on_batch(len(places))
    return found
