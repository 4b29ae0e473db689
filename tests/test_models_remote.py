"""Checkpoints load in a process that lacks this package, by the code that lies beside them.

One subprocess does it all, since importing transformers costs seconds. It runs isolated, elsewhere, and refuses to
import `hf_tasks`, which an editable install would otherwise find. It judges nothing: it writes what it sees, and the
tests compare. Trap: there the config and the model come with a copy of the sibling files each, so a class of one copy
is no instance of its namesake in the other.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import others

from hf_tasks.models import (
    PositionalForCausalLM,
    PositionalForSequenceClassification,
    PositionalForTokenClassification,
    PositionalModel,
)

PAIRS: dict[str, list[tuple]] = {
    "added": [("significance", "learned"), ("significance", "clipped", {"clip": 2})],
    "turned": [("abacus", "rotary", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}), ("operand", "fire")],
    "content": [("sequential", "cope"), ("token", "match", {"heads": [1], "per_layer": True})],
    "frozen": [("random_float", "t5", {"learnable": False}), ("clause", "alibi"), ("segment", "random_tag")],
    "convolved": [("sequential", "rotary")],
}
PAIRS["others"] = others(PAIRS.values())
FIELDS: dict[str, dict[str, Any]] = {"convolved": {"qkv_conv_kernel": 3}}
HEADS = {
    "AutoModel": PositionalModel,
    "AutoModelForCausalLM": PositionalForCausalLM,
    "AutoModelForTokenClassification": PositionalForTokenClassification,
    "AutoModelForSequenceClassification": PositionalForSequenceClassification,
}

STRANGER = """
import json, sys
from pathlib import Path

sys.modules["hf_tasks"] = None
import torch
import transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
root = Path(sys.argv[1])
given, seen, notes = load_file(root / "given.safetensors"), {}, {}
tokens, mask = given["tokens"], given["mask"]

def load(auto, folder, trust=True):
    return getattr(transformers, auto).from_pretrained(root / folder, trust_remote_code=trust).eval()

def first(model):
    with torch.no_grad():
        return model(tokens, mask)[0].contiguous()

for name in json.loads(sys.argv[2]):
    model = load("AutoModelForCausalLM", name)
    seen[name] = first(model)
    seen[name + ".text"] = model.generate(tokens, attention_mask=mask, max_new_tokens=5, do_sample=False)
    notes[name + ".frozen"] = sorted(n for n, value in model.named_buffers() if "encodings" in n)
    torch.manual_seed(0)
    fresh = transformers.AutoModelForCausalLM.from_config(model.config, trust_remote_code=True)
    seen[name + ".fresh"] = first(fresh.eval())
    model.save_pretrained(root / "again" / name)
    seen[name + ".again"] = first(load("AutoModelForCausalLM", "again/" + name))

for auto in json.loads(sys.argv[3]):
    seen[auto] = first(load(auto, auto))
    body = load(auto, "added")  # any head out of the folder of a language model
    notes[auto] = type(body).__name__
    seen[auto + ".body"] = first(getattr(body, "model", body))

try:
    load("AutoModelForCausalLM", "added", trust=False)
except ValueError as error:
    notes["refusal"] = str(error)
notes["modules"] = sorted(name for name in sys.modules if name.split(".")[0] == "hf_tasks" and sys.modules[name])
save_file(seen, root / "seen.safetensors")
(root / "notes.json").write_text(json.dumps(notes))
"""


@pytest.fixture(scope="module")
def stranger(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable, encode: Callable
) -> tuple[dict, dict, dict]:
    """What this process expects, what the other one saw, and its notes."""
    root = tmp_path_factory.mktemp("remote")
    tokens = encode("^12+34+506=", "___^1 2b+7=", "______^9+8=")
    given = {"tokens": tokens, "mask": (tokens != 19).long()}
    save_file(given, root / "given.safetensors")
    expected: dict[str, Any] = {}
    with torch.no_grad():
        for name, pairs in PAIRS.items():
            model = tiny_model(*pairs, **FIELDS.get(name, {}))
            for layer in model.model.layers if name == "convolved" else []:
                layer.self_attn.conv.filters.uniform_(-1.0, 1.0)  # new ones mix nothing
            model.save_pretrained(root / name)
            expected[name] = model(tokens, given["mask"]).logits
            fresh = tiny_model(*pairs, **FIELDS.get(name, {}), fresh=True)
            expected[name + ".fresh"] = fresh(tokens, given["mask"]).logits
            settings = {"attention_mask": given["mask"], "max_new_tokens": 5, "do_sample": False}
            expected[name + ".text"] = PositionalForCausalLM.from_pretrained(root / name).generate(tokens, **settings)
        for auto, kind in HEADS.items():
            model = tiny_model(*PAIRS["added"], kind=kind)
            model.save_pretrained(root / auto)
            expected[auto] = model(tokens, given["mask"])[0]
        expected["body"] = PositionalModel.from_pretrained(root / "added")(tokens, given["mask"])[0]

    (root / "elsewhere").mkdir()
    command = [
        sys.executable,
        "-I",
        "-W",
        "error",
        "-c",
        STRANGER,
        str(root),
        json.dumps([*PAIRS]),
        json.dumps([*HEADS]),
    ]
    environment = {**os.environ, "HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=root / "elsewhere", env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return expected, load_file(root / "seen.safetensors"), json.loads((root / "notes.json").read_text())


def test_the_stranger_has_no_package(stranger: tuple[dict, dict, dict]) -> None:
    assert stranger[2]["modules"] == []


@pytest.mark.parametrize("name", PAIRS)
def test_checkpoints_compute_generate_initialise_and_save_the_same(
    name: str, stranger: tuple[dict, dict, dict]
) -> None:
    expected, seen, _ = stranger
    assert torch.equal(seen[name], expected[name])
    assert torch.equal(seen[name + ".text"], expected[name + ".text"])
    assert torch.equal(seen[name + ".again"], expected[name])
    assert torch.equal(seen[name + ".fresh"], expected[name + ".fresh"])


@pytest.mark.parametrize("auto", HEADS)
def test_every_head_loads_from_its_own_folder_and_from_a_language_models(
    auto: str, stranger: tuple[dict, dict, dict]
) -> None:
    expected, seen, notes = stranger
    assert torch.equal(seen[auto], expected[auto])
    assert notes[auto] == HEADS[auto].__name__
    assert torch.equal(seen[auto + ".body"], expected["body"])


def test_frozen_pairs_are_frozen_there_too(stranger: tuple[dict, dict, dict]) -> None:
    notes = stranger[2]
    assert notes["frozen.frozen"] == ["model.encodings.0.table", "model.encodings.1.slopes"]
    assert notes["added.frozen"] == []


def test_untrusted_code_is_not_run(stranger: tuple[dict, dict, dict]) -> None:
    assert "trust_remote_code=True" in stranger[2]["refusal"]


def test_the_code_beside_a_checkpoint_is_the_code_of_the_package(tiny_model: Callable, tmp_path: Path) -> None:
    tiny_model(("sequential", "none")).save_pretrained(tmp_path)
    package = Path(sys.modules[PositionalModel.__module__].__file__ or "").parent
    copied = {path.name: path.read_text() for path in tmp_path.glob("*.py")}
    assert copied == {path.name: path.read_text() for path in package.glob("*.py") if path.name != "__init__.py"}
    entries = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert {auto: entries[auto] for auto in HEADS} == {
        auto: f"modeling_positional.{kind.__name__}" for auto, kind in HEADS.items()
    }
