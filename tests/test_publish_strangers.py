"""What others make of our repositories, in fresh processes that talk to a Hub on the loopback and lack this package.

Importing transformers costs seconds, so there are three processes in all: one that publishes with the ecosystem's own
means (`push_to_hub`, `Trainer`), one that loads everything, and one that looks for what is private. They judge nothing:
they write what they see, and the tests compare.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import Loopback, serving
from safetensors.torch import load_file
from samples import sums_output, sums_recipe, sums_results

from hf_tasks import publish as publishing
from hf_tasks.dataset import write_dataset
from hf_tasks.metrics.functions import digit_accuracy
from hf_tasks.models import PositionalForCausalLM, PositionalForTokenClassification
from hf_tasks.publish import publish
from hf_tasks.tasks import get_task
from hf_tasks.tokenizer import build_tokenizer

pytestmark = [
    # huggingface_hub 2.4 hands a file to httpx2 in a way that httpx2 advises against.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
    # peft 0.21 asks for it by the name of transformers 4.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

ROOT = Path(__file__).parents[1]
SUMS = get_task("addition", digits=(1, 3), reverse="answer", pad=True)
LONGER = get_task("addition", digits=(6, 6), reverse="answer", pad=True)
PROMPTS = ["123+456=", "1+2="]

OTHERS = """
import sys
sys.path.insert(0, sys.argv[1])  # this one has our package
import datasets, torch
from transformers import Trainer, TrainingArguments
from hf_tasks import PositionalForCausalLM, PositionalForTokenClassification, build_tokenizer, get_task
from hf_tasks.train import AnswerCollator, training_data

task = get_task("addition", digits=(1, 3), reverse="answer", pad=True)
tokenizer = build_tokenizer(task)
model = PositionalForCausalLM.from_pretrained(sys.argv[2])
model.push_to_hub("me/pushed")
tokenizer.push_to_hub("me/pushed")
PositionalForTokenClassification.from_pretrained(sys.argv[2]).push_to_hub("me/encoder")
args = TrainingArguments(
    sys.argv[3], max_steps=2, per_device_train_batch_size=8, use_cpu=True, push_to_hub=True, hub_model_id="me/trained",
    save_steps=1, hub_strategy="every_save", disable_tqdm=True, remove_unused_columns=False,
)
trainer = Trainer(
    model, args, AnswerCollator(tokenizer.pad_token_id), training_data(task, 64, 0), processing_class=tokenizer
)
trainer.train()
trainer.push_to_hub()  # what it pushes on the way are weights without the code of a custom model
model.save_pretrained(sys.argv[3] + "/final")
extra = datasets.Dataset(get_task("addition", digits=(5, 5), reverse="answer", pad=True).table("test", 15))
extra.push_to_hub("me/sums", "default", split="extra")
extra.push_to_hub("me/sums", "theirs", split="train")
"""

STRANGER = """
import json, sys, warnings
sys.modules["hf_tasks"] = None
import datasets, evaluate, torch, transformers
from peft import AutoPeftModelForCausalLM
from safetensors.torch import save_file

torch.set_num_threads(1)
prompts, seen, notes = json.loads(sys.argv[1]), {}, {}

def look(name, model, tokenizer, generate=True):
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        seen[name] = model.eval()(**inputs)[0].contiguous()
        if generate:
            seen[name + ".text"] = model.generate(**inputs, max_new_tokens=6, do_sample=False)

tokenizer = transformers.AutoTokenizer.from_pretrained("me/adder", trust_remote_code=False)
for name, revision in {"me/adder": "v1", "me/pushed": None, "me/trained": None}.items():
    load = transformers.AutoModelForCausalLM.from_pretrained
    look(name, load(name, trust_remote_code=True, revision=revision or "main"), tokenizer)
look("body", transformers.AutoModel.from_pretrained("me/adder", trust_remote_code=True), tokenizer, False)
load = transformers.AutoModelForTokenClassification.from_pretrained
notes["labels"] = load("me/encoder", trust_remote_code=True).num_labels
adapted = AutoPeftModelForCausalLM.from_pretrained("me/adapter", trust_remote_code=True)
look("adapted", adapted, tokenizer)
look("merged", adapted.merge_and_unload(), tokenizer)
generator = transformers.pipeline("text-generation", "me/adder", trust_remote_code=True)
notes["pipeline"] = generator(prompts[0], max_new_tokens=6, do_sample=False)[0]["generated_text"]
try:
    transformers.AutoModelForCausalLM.from_pretrained("me/adder", trust_remote_code=False)
except ValueError as error:
    notes["untrusted"] = str(error)

notes["configs"] = datasets.get_dataset_config_names("me/sums")
notes["default"] = datasets.get_dataset_default_config_name("me/sums")
notes["rows"] = {}
for config in notes["configs"]:
    for split in datasets.get_dataset_split_names("me/sums", config):
        key = f"{config}/{split}"
        whole = datasets.load_dataset("me/sums", config, split=split)
        streamed = datasets.load_dataset("me/sums", config, split=split, streaming=True)
        notes["rows"][key] = whole["prompt"][:]
        assert [row["prompt"] for row in streamed] == notes["rows"][key], key
old = datasets.load_dataset("me/sums", "default", revision="v1.0.0")
notes["old"] = {split: len(rows) for split, rows in old.items()}
metric = evaluate.load("me/digit_accuracy")
notes["metric"] = metric.compute(predictions=["321"], references=["021"], reverse=True)
save_file(seen, sys.argv[2] + "/seen.safetensors")
open(sys.argv[2] + "/notes.json", "w").write(json.dumps(notes))
"""

NOBODY = """
import sys
import datasets, transformers
for load, name in ((transformers.AutoTokenizer.from_pretrained, "me/secret"), (datasets.load_dataset, "me/hidden")):
    try:
        load(name)
        print("loaded", name)
    except Exception as error:
        print(type(error).__name__, " ".join(str(error).split()))
"""


def run(code: str, hub: Loopback, home: Path, *arguments: str, token: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=home, env=hub.stranger(home / "cache", token),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    return sums_output(sums_recipe(root), root / "out", sums_results()) / "ours-seed1"


@pytest.fixture(scope="module")
def hub(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A Hub on which everything is published."""
    root = tmp_path_factory.mktemp("published")
    with serving(root / "hub") as hub:
        publish(folder, "me/adder", tag="v1", dataset_id="me/sums")
        publish(folder, "me/secret", private=True)
        write_dataset(SUMS, root / "sums", {"train": 300, "test": 40})
        write_dataset(get_task("addition", digits=(1, 3)), root / "sums", {"test": 30}, config="plain")
        publish(root / "sums", "me/sums", tag="v1.0.0")
        publish(root / "sums", "me/hidden", private=True)
        publish(Path(publishing.__file__).parent / "metrics" / "digit_accuracy.py", "me/digit_accuracy")
        model = peft.get_peft_model(
            PositionalForCausalLM.from_pretrained(folder),
            peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False),
        )
        model.save_pretrained(root / "adapter")
        (root / "adapter" / "README.md").write_text("---\nlicense: mit\n---\nAn adapter.\n")
        publish(root / "adapter", "me/adapter", base_id="me/adder", allow_unevaluated=True)
        (root / "elsewhere").mkdir()
        run(OTHERS, hub, root / "elsewhere", str(ROOT), str(folder), str(root / "trainer"), token=hub.token)
        write_dataset(LONGER, root / "more", {"test": 25}, name="test_6")
        publish(root / "more", "me/sums")  # last, so that it meets the splits of others
        yield hub


@pytest.fixture(scope="module")
def stranger(hub: Loopback, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and notes of a process that has no package of ours and no token."""
    home = tmp_path_factory.mktemp("stranger")
    run(STRANGER, hub, home, json.dumps(PROMPTS), str(home))
    return load_file(home / "seen.safetensors"), json.loads((home / "notes.json").read_text())


def outputs(model: Any, generate: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
    inputs = build_tokenizer(SUMS)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**inputs)[0]
        return logits, model.generate(**inputs, max_new_tokens=6, do_sample=False) if generate else None


@pytest.mark.parametrize("name", ["me/adder", "me/pushed"])
def test_models_compute_and_generate_the_same(name: str, folder: Path, stranger: Any) -> None:
    seen, _ = stranger
    logits, text = outputs(PositionalForCausalLM.from_pretrained(folder))
    assert torch.equal(seen[name], logits) and torch.equal(seen[name + ".text"], text)


def test_bodies_and_other_heads_load_too(folder: Path, stranger: Any) -> None:
    seen, notes = stranger
    model = PositionalForCausalLM.from_pretrained(folder).model
    assert torch.equal(seen["body"], outputs(model, generate=False)[0])
    assert notes["labels"] == PositionalForTokenClassification.from_pretrained(folder).num_labels


def test_what_the_trainer_pushed_is_what_it_trained(hub: Loopback, stranger: Any) -> None:
    seen, _ = stranger
    trained = PositionalForCausalLM.from_pretrained(hub.folder.parent / "trainer" / "final")
    assert torch.equal(seen["me/trained"], outputs(trained)[0])
    assert not torch.equal(seen["me/trained"], seen["me/adder"])


def test_adapters_load_on_their_base_and_merge(hub: Loopback, folder: Path, stranger: Any) -> None:
    seen, _ = stranger
    base = PositionalForCausalLM.from_pretrained(folder)
    logits, text = outputs(peft.PeftModel.from_pretrained(base, hub.folder.parent / "adapter"))
    assert torch.equal(seen["adapted"], logits) and torch.equal(seen["adapted.text"], text)
    torch.testing.assert_close(seen["merged"], logits)
    assert not torch.equal(seen["adapted"], seen["me/adder"])


def test_the_pipeline_finds_what_it_expects(folder: Path, stranger: Any) -> None:
    _, notes = stranger
    tokenizer = build_tokenizer(SUMS)
    inputs = tokenizer(PROMPTS[:1], return_tensors="pt")
    model = PositionalForCausalLM.from_pretrained(folder).eval()
    output = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert notes["pipeline"] == tokenizer.decode(output[0], skip_special_tokens=True)


def test_untrusted_code_is_not_run(stranger: Any) -> None:
    assert "trust_remote_code=True" in stranger[1]["untrusted"]


def test_every_config_and_split_loads_and_streams_those_of_others_too(stranger: Any) -> None:
    _, notes = stranger
    assert (notes["configs"], notes["default"]) == (["default", "plain", "theirs"], "default")
    expected = {
        "default/train": SUMS.table("train", 300),
        "default/test": SUMS.table("test", 40),
        "default/test_6": LONGER.table("test", 25),
        "default/extra": get_task("addition", digits=(5, 5), reverse="answer", pad=True).table("test", 15),
        "plain/test": get_task("addition", digits=(1, 3)).table("test", 30),
        "theirs/train": get_task("addition", digits=(5, 5), reverse="answer", pad=True).table("test", 15),
    }
    assert notes["rows"] == {key: table["prompt"].to_pylist() for key, table in expected.items()}
    assert notes["old"] == {"train": 300, "test": 40}


def test_metrics_load_without_this_package(stranger: Any) -> None:
    assert stranger[1]["metric"] == digit_accuracy(["321"], ["021"], reverse=True)


def test_private_repositories_are_not_seen_without_a_token(hub: Loopback, tmp_path: Path) -> None:
    said = run(NOBODY, hub, tmp_path).splitlines()
    assert len(said) == 2 and not any("loaded" in line for line in said)
    assert "me/secret is not a local folder and is not a valid model identifier" in said[0]
    assert said[1].startswith("DatasetNotFoundError")
