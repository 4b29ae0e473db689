"""What the tests share: one thread a process, and tiny models over a twenty-token alphabet.

The alphabet, by token id: the digits 0 ... 9, then + * = (separators), a space (filler), a b c (other tokens),
bos and eos (separators) and the padding. `SYMBOLS` writes each as one character.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; subprocesses inherit it

SYMBOLS = "0123456789+*= abc^$_"


@pytest.fixture(scope="session")
def encode() -> Callable[..., Any]:
    """Strings -> token ids (B, S); all strings of one length, `_` is padding."""
    import torch

    return lambda *texts: torch.tensor([[SYMBOLS.index(symbol) for symbol in text] for text in texts])


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """(ids, encoding, {options}) tuples and fields -> a config. Its weights are large, so that every part matters."""
    from hf_tasks.models import PositionalConfig

    def make(*pairs: tuple, **fields: Any) -> PositionalConfig:
        positions = [{"ids": ids, "encoding": encoding, **dict(*rest)} for ids, encoding, *rest in pairs]
        usual = {
            "vocab_size": len(SYMBOLS),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "initializer_range": 0.2,
            "positions": positions,
            "digit_token_ids": list(range(10)),
            "separator_token_ids": [10, 11, 12, 17, 18],
            "filler_token_ids": [13],
            "answer_token_ids": [12],
            "reversed_numbers": "answer",
            "bos_token_id": 17,
            "eos_token_id": 18,
            "pad_token_id": 19,
        }
        return PositionalConfig(**{**usual, **fields})

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Callable[..., Any]) -> Callable[..., Any]:
    """As `tiny_config`, a model in evaluation mode whose encodings are filled at random instead of with zeros.

    `kind` is its class, PositionalForCausalLM unless given; `fresh=True` leaves the encodings as they are initialised.
    """
    import torch

    from hf_tasks.models import PositionalForCausalLM

    def make(*pairs: tuple, kind: type = PositionalForCausalLM, fresh: bool = False, **fields: Any) -> Any:
        torch.manual_seed(0)
        model = kind(tiny_config(*pairs, **fields)).eval()
        if model.can_generate():
            model.generation_config.eos_token_id = None  # generation goes on to its full length
        if not fresh:
            with torch.no_grad():
                for name, value in model.state_dict().items():  # frozen pairs hold buffers
                    if "encodings" in name:
                        value.uniform_(0.1, 1.0)
        return model

    return make
