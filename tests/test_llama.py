"""A Llama with more pairs: the same function before training, its numbers found, and the road to one whole model."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_tasks.adapters import get_tokenizer, load_model
from hf_tasks.cards import render_model_card
from hf_tasks.errors import UserError
from hf_tasks.evaluate import evaluate_model, exact_matches
from hf_tasks.llama import positional_config, positional_model
from hf_tasks.models import PositionalForCausalLM
from hf_tasks.recipe import Recipe, check_stable
from hf_tasks.run import train_recipe
from hf_tasks.tasks import get_task
from hf_tasks.train import Stopwatch, check_it_fits

pytestmark = pytest.mark.filterwarnings(
    # As in test_adapters.py.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)

TASK = get_task("addition_in_context", digits=(1, 3), reverse="answer", dialogues=1.0)
PLACES: list[dict[str, Any]] = [
    {"ids": "significance", "encoding": "clipped", "clip": 2},
    {"ids": "operand", "encoding": "clipped", "clip": 2, "heads": [0, 3], "per_layer": True},
]
SHAPES: list[dict[str, Any]] = [
    {"num_key_value_heads": 2, "tie_word_embeddings": True},
    {"num_key_value_heads": 4, "tie_word_embeddings": False, "head_dim": 8, "rms_norm_eps": 1e-3},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 123456.0}},
    {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few words, digits apart, as SmolLM2 has them."""
    backend = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    backend.train_from_iterator(TASK.generate("train", size=64)["prompt"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>", padding_side="left"
    )


def llama(tokenizer: Any, **fields: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
    end = tokenizer.eos_token_id
    specials = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **specials, "vocab_size": len(tokenizer), **fields})).eval()


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "llama"
    llama(tokenizer, num_key_value_heads=2, tie_word_embeddings=True).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("fields", SHAPES, ids=["grouped", "untied", "theta", "llama3"])
def test_at_first_it_is_the_llama_bit_for_bit(fields: dict[str, Any], tokenizer: Any) -> None:
    base: Any = llama(tokenizer, **fields)
    model: Any = positional_model(base, tokenizer, TASK, PLACES).eval()
    rows = tokenizer(["Ann has 12 and 7. In all =", "3 and 456 ="], padding=True, return_tensors="pt")
    seen = rows["attention_mask"].bool()
    with torch.no_grad():
        theirs, ours = (m(rows["input_ids"][:1]).logits for m in (base, model))
        assert torch.equal(ours, theirs)
        theirs, ours = (m(**rows).logits for m in (base, model))  # a Llama counts padding too, if it is not told places
        assert torch.allclose(ours[seen], theirs[seen], atol=1e-5)
    texts = [m.generate(**rows, max_new_tokens=6, do_sample=False) for m in (base, model)]
    assert torch.equal(*texts)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == bool(base.config.tie_word_embeddings)
    assert {p.data_ptr() for p in model.parameters()}.isdisjoint(p.data_ptr() for p in base.parameters())


def test_places_are_found_with_and_without_a_space(tokenizer: Any) -> None:
    model = positional_model(llama(tokenizer), tokenizer, TASK, PLACES)
    ids = tokenizer("Ann: 12 and 345 =753", return_tensors="pt").input_ids
    tokens = [tokenizer.decode([i]) for i in ids[0].tolist()]
    places, operands = model.structural_ids(ids)[0, :, 1:].T.tolist()
    kept = [(t.strip(), p, o) for t, p, o in zip(tokens, places, operands, strict=True) if o != -1]
    # Units are 1; the opener of a reversed answer is 0, and a token that bounds counts with the number behind it.
    assert kept == [("1", 2, 1), ("2", 1, 1), ("3", 3, 2), ("4", 2, 2), ("5", 1, 2), ("=", 0, 3),
                    ("7", 1, 3), ("5", 2, 3), ("3", 3, 3)]  # fmt: skip
    assert " =" in tokens and len(model.config.answer_token_ids or []) == 2  # "=" and " ="


def test_text_without_numbers_is_read_as_before_whatever_the_biases_learn(tokenizer: Any) -> None:
    base = llama(tokenizer)
    model = positional_model(base, tokenizer, TASK, PLACES).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".encodings." in name:
                parameter.normal_(std=3.0)
        for text, same in (("In all, the farmer has apples.", True), ("The farmer has 12 apples.", False)):
            ids = tokenizer(text, return_tensors="pt").input_ids
            theirs, ours = base(ids).logits, model(ids).logits
            assert torch.allclose(ours, theirs, atol=1e-5) == same


TINY = """
title: tiny
summary: tiny
task: addition
parameters: {digits: [1, 3], pad: true, reverse: answer}
data: {size: 4}
base: BASE
adapter: {method: lora, r: 4}
models:
  plain: {}
  placed:
    modules_to_save: [encodings]
    positions: [{ids: significance, encoding: clipped, clip: 2, heads: [0, 1], window: [-1, 0], initial: [8.0, 0.0]}]
  whole: {method: none, positions: [{ids: significance, encoding: clipped, clip: 2}]}
encoding_lr_multiplier: {clipped: 30}
trainer:
  {max_steps: 60, per_device_train_batch_size: 4, save_steps: 4, learning_rate: 1e-2, use_cpu: true, disable_tqdm: true}
evaluation: {lengths: [3], size: 4}
presets: {cpu: {}}
"""


@pytest.fixture(scope="module")
def load(read_recipe_text: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """The tiny recipe on a base."""
    return lambda base, *settings: read_recipe_text(TINY.replace("BASE", str(base)), *settings)


def test_the_road_ends_at_whole_models_of_ours_beside_a_plain_adapter(
    load: Callable[..., Recipe], folder: Path, tmp_path: Path
) -> None:
    recipe = load(folder)
    check_it_fits(recipe)
    assert recipe.added_positions("plain") == [] and "positions" not in recipe.model_fields("placed")
    train_recipe(recipe, [0], tmp_path)
    assert (tmp_path / "plain-seed0" / "adapter_config.json").is_file()
    for name in ("placed", "whole"):
        made = tmp_path / f"{name}-seed0"
        assert (made / "modeling_positional.py").is_file() and not list(made.glob("adapter*"))
        model = AutoModelForCausalLM.from_pretrained(made, trust_remote_code=False)
        assert isinstance(model, PositionalForCausalLM)
        facts = json.loads((made / "training.json").read_text())
        assert facts["parameters"] == sum(p.numel() for p in model.parameters())
        assert (facts["trainable_parameters"] == facts["parameters"]) == (name == "whole")
    task = recipe.get_task()
    whole, four = tmp_path / "whole-seed0", list(task.generate("train", size=4)["prompt"])
    model: Any = load_model(whole)
    assert exact_matches(model, get_tokenizer(task, str(whole)), task, four) == [True] * 4  # by heart
    name = "model.layers.0.self_attn.q_proj.weight"
    placed = load_file(tmp_path / "placed-seed0" / "model.safetensors")
    assert torch.linalg.matrix_rank(placed[name] - load_file(folder / "model.safetensors")[name], rtol=1e-4) == 4
    trained = placed["model.encodings.1.table"]
    begun = torch.tensor([[-1000.0, 8.0, 0.0, -1000.0, -1000.0]]).expand_as(trained)
    assert torch.equal(trained < -999, begun < -999) and not torch.equal(trained, begun)
    assert evaluate_model(recipe, "placed", tmp_path / "placed-seed0")[0]["count"] == 4
    card = render_model_card(recipe, None, "placed", 0)
    assert "library_name: transformers" in card and "AutoPeft" not in card and f"starts from `{folder}`" in card
    assert "the model's code lies" in card


def test_an_interrupted_training_ends_bitwise_equal(
    load: Callable[..., Recipe], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            raise KeyboardInterrupt

    recipe = load(folder, "models.plain=null", "models.whole=null", "trainer.max_steps=8")
    train_recipe(recipe, [0], tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stopwatch, "on_step_end", interrupt)
        train_recipe(recipe, [0], tmp_path / "broken")
    train_recipe(recipe, [0], tmp_path / "broken")
    straight, broken = (
        load_file(tmp_path / run / "placed-seed0" / "model.safetensors") for run in ("straight", "broken")
    )
    assert straight.keys() == broken.keys() and all(torch.equal(straight[key], broken[key]) for key in straight)


@pytest.mark.parametrize(
    ("fields", "settings", "says"),
    [
        ({"attention_bias": True}, [], r"models.placed.positions: .* attention_bias is False, and the base's is True"),
        ({"hidden_act": "gelu"}, [], "whose hidden_act is 'silu', and the base's is 'gelu'"),
        ({}, ["models.placed.positions=[{ids: significanse, encoding: clipped}]"], "unknown .*'significanse'.*known"),
        ({}, ["models.placed.positions=[{ids: sequential, encoding: learned, size: 4}]"], "the table of 'learned' has"),
        ({}, ["models.placed.positions=[{ids: significance, encoding: clipped}]", "parameters.reverse=none",
              "parameters.pad=false"], "significance ids of the answer .* would change"),
        ({"attention_dropout": 0.1}, [], "whose attention_dropout is 0.0, and the base's is 0.1"),
        ({}, ["models.placed.modules_to_save=null"], "placed.positions: they would stay as drawn: set modules_to_save"),
        pytest.param({}, ["adapter.lora_bias=true"], "positions: the adapter cannot be merged into .*lora_bias",
                     marks=pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")),
        ({"tie_word_embeddings": True}, ["adapter.target_modules=[embed_tokens, q_proj]"], "are one matrix, to which"),
        ({}, ["parameters.format=index_hints"], "writes .* inside numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_before_anything_is_trained(
    fields: dict[str, Any], settings: list[str], says: str, load: Callable[..., Recipe], tokenizer: Any, tmp_path: Path
) -> None:
    llama(tokenizer, **fields).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=says) as caught:
        check_it_fits(load(tmp_path / "base", "models.plain=null", "models.whole=null", *settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["5", "abc", "{ids: sequential, encoding: t5}", "[t5]", "false"])
def test_positions_of_another_type_are_refused_on_loading(value: str, load: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match=r"tiny.models.placed.positions(\[0\])? must be of type (list|dict), not"):
        load("nowhere", f"models.placed.positions={value}")


def test_a_base_with_an_adapter_on_it_is_refused(load: Callable[..., Recipe], folder: Path, tmp_path: Path) -> None:
    train_recipe(load(folder, "models.placed=null", "models.whole=null", "trainer.max_steps=1"), [0], tmp_path)
    with pytest.raises(UserError, match=r"not the weights of a Llama .*: merge its adapter"):
        check_it_fits(load(tmp_path / "plain-seed0", "models.plain=null", "models.whole=null"))


def test_a_tokenizer_that_begins_every_text_with_a_space_is_refused() -> None:
    """As Llama 2's: between "=" and the answer stands a token that ends numbers, in training and generation alike."""
    symbols = ["<|end|>", "\u2581", *TASK.vocabulary]
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # type: ignore[assignment]
    spaced = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    config = positional_config(llama(spaced).config, spaced, TASK, PLACES)
    with pytest.raises(UserError, match=r"significance ids of the answer .* would change"):
        check_stable("places", config, spaced, TASK)


def test_a_tokenizer_that_joins_digits_has_no_places_for_them(tokenizer: Any) -> None:
    base = llama(tokenizer, vocab_size=len(tokenizer) + 1)
    joined = copy.deepcopy(tokenizer)
    joined.add_tokens(["12"])
    with pytest.raises(UserError, match=r"makes one token of '12'.* digit by digit"):
        positional_model(base, joined, TASK, PLACES)
    positional_model(base, joined, TASK, [{"ids": "sequential", "encoding": "t5"}])


def test_a_base_that_is_no_llama_takes_no_positions(load: Callable[..., Recipe], folder: Path, tmp_path: Path) -> None:
    train_recipe(load(folder, "models.plain=null", "models.placed=null", "trainer.max_steps=1"), [0], tmp_path)
    with pytest.raises(UserError, match=r"placed.positions: .* added to a Llama, and the base is a 'positional'"):
        check_it_fits(load(tmp_path / "whole-seed0", "models.plain=null", "models.whole=null"))
