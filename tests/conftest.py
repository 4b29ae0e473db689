"""What the tests share: one thread a process, a Hub on the loopback, and tiny models over a twenty-token alphabet.

The alphabet, by token id: the digits 0 ... 9, then + * = (separators), a space (filler), a b c (other tokens),
bos and eos (separators) and the padding. `SYMBOLS` writes each as one character.
"""

import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; subprocesses inherit it

SYMBOLS = "0123456789+*= abc^$_"


@pytest.fixture
def one_block_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets are written in shards of one block."""
    from hf_tasks import dataset

    monkeypatch.setattr(dataset, "SHARD_BYTES", 1)
    monkeypatch.setattr(dataset, "BATCH_BYTES", 1)


@pytest.fixture(scope="session")
def read_recipe_text(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The text of a recipe and settings -> the recipe `tiny`, checked."""
    from hf_tasks.recipe import load_recipe

    def read(text: str, *settings: str) -> Any:
        path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
        path.write_text(text)
        return load_recipe(str(path), settings=list(settings))

    return read


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


@dataclass
class Loopback:
    """A running Hub with the user `me`. `faults` are those to come, and all requests so far (see faults.py)."""

    url: str
    folder: Path
    token: str
    faults: Any

    @property
    def api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.url, token=self.token)

    def get(self, url: str) -> bytes:
        """A file, over a plain connection."""
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def stranger(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process that knows nothing but this Hub, and at will a token."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
        return plain | {
            "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        } | ({"HF_TOKEN": token} if token else {})  # fmt: skip


@contextmanager
def serving(folder: Path) -> Iterator[Loopback]:
    """A fresh Hub, as the one that huggingface_hub talks to in this process, with the token of `me`."""
    import huggingface_hub
    from faults import Faults
    from huggingface_hub.utils import _http

    from hf_tasks.hub.server import running
    from hf_tasks.hub.users import make_token

    faults, token = Faults(), make_token(folder, "me")
    with running(folder, faults.wrap) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", token)
        # The constants are read at import.
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Between its retries huggingface_hub waits for up to 23 seconds in all.
        patch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
        yield Loopback(url, folder, token, faults)


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Loopback]:
    """A fresh Hub; see `serving`."""
    with serving(tmp_path / "hub") as hub:
        yield hub
