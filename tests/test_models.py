"""The contract of the models, over every pair of the two registries, and what each field of the config does.

Weights are large and encodings filled at random (`tiny_model`), so that a part that is left out moves the logits by far
more than the tolerance. A new encoding, new ids or a new field is tested, or fails here, without a line added for it.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from samples import others
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DynamicCache,
)

from hf_tasks.models import (
    ENCODINGS,
    POSITION_IDS,
    PositionalConfig,
    PositionalForCausalLM,
    PositionalForSequenceClassification,
    PositionalForTokenClassification,
    PositionalModel,
    modeling_positional,
)
from hf_tasks.models.position_encodings import fields_of

Make = Callable[..., Any]

# Real numbers cannot index a table; everything else goes together.
REFUSED = {("random_float", encoding) for encoding in ("learned", "clipped", "random_tag")}
EVERY_PAIR = list(itertools.product(sorted(POSITION_IDS), sorted(ENCODINGS)))
every_pair = pytest.mark.parametrize(
    ("ids", "encoding"), [pair for pair in EVERY_PAIR if pair not in REFUSED], ids=lambda name: name
)

# Models that between them use every hook and every path of the attention.
COVER: dict[str, tuple[list[tuple], dict[str, Any]]] = {
    "added": ([("significance", "learned"), ("significance", "clipped", {"clip": 2})],
              {"attention_scaling": "log_length"}),
    "turned": ([("sequential", "rotary", {"heads": [0, 1]}), ("operand", "t5", {"heads": [1, 3]})],
               {"num_key_value_heads": 2, "norm": "rmsnorm", "activation": "swiglu"}),
    "content": ([("sequential", "cope"), ("token", "match", {"per_layer": True})],
                {"num_key_value_heads": 2, "share_layers": True, "input_injection": True}),
    "mixed": ([("random_float", "rotary"), ("clause", "match", {"scores": "off", "heads": [3]}),
               ("abacus", "random_tag", {"tag_size": 8}), ("segment", "fire")],
              {"parallel_block": True, "norm_position": "sandwich"}),
    "convolved": ([("sequential", "rotary"), ("significance", "t5")],
                  {"qkv_conv_kernel": 4, "num_key_value_heads": 2, "share_layers": True}),
}  # fmt: skip
COVER["others"] = (others(pairs for pairs, _ in COVER.values()), {})  # and every name of the registries
covered = pytest.mark.parametrize("name", COVER)


def cover(name: str, tiny_model: Make, **fields: Any) -> Any:
    pairs, usual = COVER[name]
    return mixing(tiny_model(*pairs, **{**usual, **fields}))


def mixing(model: Any) -> Any:
    """The model with random filters, if it has any: new ones mix nothing."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("conv.filters"):
                value.uniform_(-1.0, 1.0)
    return model


@pytest.fixture
def batch(encode: Make) -> torch.Tensor:
    """Two rows whose tokens are present, at distances, and absent under every kind of ids."""
    return encode("^12+34=444a", "b9a5 7+1=80")


@pytest.fixture
def padded(encode: Make) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of three lengths, padded on the left, and their mask."""
    tokens = encode("^12+33+505=", "___^1 1b+7=", "______^9+8=")
    return tokens, (tokens != 19).long()


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=2e-5)


def generate(model: Any, tokens: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Five greedy digits: the sequences and the logits they were chosen from.

    Digits alone, since another number behind the answer would be read from its right end, which looks ahead.
    """
    usual = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": list(range(10, 20))}
    output = model.generate(tokens, output_logits=True, return_dict_in_generate=True, **{**usual, **options})
    return output.sequences, torch.stack(output.logits, dim=1)


def same_generation(got: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert torch.equal(got[0], wanted[0])
    close(got[1], wanted[1])


@pytest.fixture(autouse=True)
def no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests that need gradients have "gradient" in their name."""
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


# ----------------------------------------------------------------------------------------------------------------------
# Every pair of the two registries


@pytest.mark.parametrize(("ids", "encoding"), sorted(REFUSED))
def test_pairs_that_cannot_be_are_refused(ids: str, encoding: str, tiny_config: Make) -> None:
    with pytest.raises(ValueError, match=f"{ids} x {encoding}: the encoding needs whole ids, these ids are real"):
        tiny_config((ids, encoding))


@every_pair
def test_save_and_load_is_bitwise(
    ids: str, encoding: str, tiny_model: Make, batch: torch.Tensor, tmp_path: Path
) -> None:
    model = tiny_model((ids, encoding))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is PositionalForCausalLM
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    assert torch.equal(again.eval()(batch).logits, model(batch).logits)


@every_pair
def test_cached_generation_is_uncached(ids: str, encoding: str, tiny_model: Make, padded: Any) -> None:
    model, (tokens, mask) = tiny_model((ids, encoding)), padded
    cached = generate(model, tokens, attention_mask=mask)
    same_generation(cached, generate(model, tokens, attention_mask=mask, use_cache=False))


@every_pair
def test_a_hand_made_cached_loop_is_uncached(ids: str, encoding: str, tiny_model: Make, batch: torch.Tensor) -> None:
    model = tiny_model((ids, encoding))
    whole, start = model(batch).logits, 9  # behind both rows' =
    output = model(batch[:, :start], use_cache=True)
    close(output.logits, whole[:, :start])
    for t in range(start, batch.shape[1]):
        structural_ids = model.structural_ids(batch[:, : t + 1])
        cache = output.past_key_values
        output = model(batch[:, t : t + 1], past_key_values=cache, structural_ids=structural_ids)
        close(output.logits[:, 0], whole[:, t])


@every_pair
def test_left_padding_changes_nothing(ids: str, encoding: str, tiny_model: Make, padded: Any) -> None:
    model, (tokens, mask) = tiny_model((ids, encoding)), padded
    logits = model(tokens, mask).logits
    for row, length in enumerate(mask.sum(1).tolist()):
        close(logits[row, -length:], model(tokens[row : row + 1, -length:]).logits[0])


@every_pair
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_no_token_sees_a_later_one(
    ids: str, encoding: str, implementation: str, tiny_model: Make, encode: Make
) -> None:
    """Numbers with the most significant digit first look ahead by design: there only the answer's tokens change."""
    model = tiny_model((ids, encoding), attn_implementation=implementation)
    text = "^12+3a4=6407$"
    first, symbols = (text.index("=") + 1, "5$") if ids == "significance" else (1, "5+$a")
    changes = [(t, symbol) for t in range(first, len(text)) for symbol in symbols if symbol != text[t]]
    texts = [text[:t] + symbol + text[t + 1 :] for t, symbol in changes]
    plain, *changed = model(encode(text, *texts)).logits
    for (t, _), logits in zip(changes, changed, strict=True):
        close(logits[:t], plain[:t])
        assert not torch.allclose(logits[t:], plain[t:], atol=1e-3)


@every_pair
def test_eager_is_sdpa(ids: str, encoding: str, tiny_model: Make, padded: Any) -> None:
    tokens, mask = padded
    eager, sdpa = (tiny_model((ids, encoding), attn_implementation=name) for name in ("eager", "sdpa"))
    close(eager(tokens).logits, sdpa(tokens).logits)
    close(eager(tokens, mask).logits[mask.bool()], sdpa(tokens, mask).logits[mask.bool()])


@every_pair
def test_gradients_reach_every_parameter(ids: str, encoding: str, tiny_model: Make, batch: torch.Tensor) -> None:
    options = {} if ENCODINGS[encoding].learnable is None else {"learnable": True}
    if (ids, encoding) == ("randomized", "learned"):
        options["size"] = 2048  # the range that the ids are drawn from
    model = tiny_model((ids, encoding, options), fresh=True).train()
    torch.manual_seed(0)
    model(batch, labels=batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad and parameter.grad is not None and parameter.grad.any(), name


@every_pair
def test_a_long_sequence_runs_or_is_refused(ids: str, encoding: str, tiny_model: Make, encode: Make) -> None:
    model = tiny_model((ids, encoding), num_hidden_layers=1, num_attention_heads=2)
    tokens = encode("^" + "7" * 520 + "+1=")
    try:
        assert model(tokens).logits.isfinite().all()
    except ValueError as error:
        assert encoding == "learned" and "past the table of the encoding 'learned' (size 512)" in str(error)


@every_pair
def test_bf16_is_near_float32(ids: str, encoding: str, tiny_model: Make, batch: torch.Tensor) -> None:
    model = tiny_model((ids, encoding), initializer_range=0.02)
    wanted = model(batch).logits
    got = model.bfloat16()(batch).logits
    assert got.dtype == torch.bfloat16 and got.isfinite().all()
    assert (got.float() - wanted).abs().max() < 0.05 * wanted.abs().max()


@every_pair
def test_frozen_pairs_get_no_gradient_and_survive_reload(
    ids: str, encoding: str, tiny_model: Make, batch: torch.Tensor, tmp_path: Path
) -> None:
    if ENCODINGS[encoding].learnable is None:
        with pytest.raises(ValueError, match=r"learnable of the pair .* the encoding has no parameters"):
            tiny_model((ids, encoding, {"learnable": True}))
        return
    model = tiny_model((ids, encoding, {"learnable": False}))
    model.save_pretrained(tmp_path)
    logits = model(batch).logits
    for each in (model, PositionalForCausalLM.from_pretrained(tmp_path)):
        assert torch.equal(each(batch).logits, logits)
        each(batch, labels=batch).loss.backward()
        frozen = {name: value for name, value in each.state_dict(keep_vars=True).items() if "encodings" in name}
        assert frozen and not any(value.requires_grad for value in frozen.values())
        assert all(parameter.grad is not None for parameter in each.parameters())


# ----------------------------------------------------------------------------------------------------------------------
# The ways round a mask of scores: factors, and tables of the distance

BIASES = [name for name, entry in ENCODINGS.items() if entry.biases and not entry.in_layers]


def gradients(model: Any, tokens: torch.Tensor, padding: int = 0, **call: Any) -> list[torch.Tensor]:
    """Logits, and what the loss asks of every parameter; `padding` tokens on the left do not count."""
    model.zero_grad()
    real = torch.arange(tokens.shape[1]) >= padding
    if padding:
        call["attention_mask"] = real.long().expand_as(tokens)
    # The first real token is predicted from padding.
    labels = tokens.masked_fill(torch.arange(tokens.shape[1]) <= padding, -100)
    output = model(tokens, labels=labels, **call)
    output.loss.backward()
    return [output.logits[:, real].detach(), *(p.grad for p in model.parameters() if p.requires_grad)]


def same_gradients(sdpa: Any, eager: Any, tokens: torch.Tensor, **call: Any) -> None:
    for got, wanted in zip(gradients(sdpa, tokens, **call), gradients(eager, tokens, **call), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which ways the attention took, one entry an application of a layer."""
    taken: list[str] = []

    def spy(name: str, call: Make) -> Make:
        return lambda *args: taken.append(name) or call(*args)

    for name in ("distance_attention", "append_factors"):
        monkeypatch.setattr(modeling_positional, name, spy(name, getattr(modeling_positional, name)))
    return taken


@pytest.fixture
def long(encode: Make) -> torch.Tensor:
    """Two rows longer than the attention's blocks of queries."""
    return encode("^12+34=640a" * 7, "b9a5 7+1=80" * 7)


@pytest.mark.parametrize("encoding", BIASES)
@pytest.mark.parametrize("ids", ["sequential", "randomized", "clause", "significance"])
def test_gradients_are_those_of_the_mask(
    ids: str, encoding: str, tiny_model: Make, long: torch.Tensor, ways: list[str]
) -> None:
    options = {"learnable": True}
    sdpa, eager = (tiny_model((ids, encoding, options), attn_implementation=name) for name in ("sdpa", "eager"))
    same_gradients(sdpa, eager, long)
    wanted = []
    if ENCODINGS[encoding].factored and POSITION_IDS[ids].rises:
        wanted = ["append_factors"] * 2
    elif ENCODINGS[encoding].by_distance and ids == "sequential":
        wanted = ["distance_attention"] * 2
    assert ways == wanted


SLOPES, TABLE = ("sequential", "alibi", {"learnable": True}), ("sequential", "t5")


@pytest.mark.parametrize(
    ("pairs", "fields"),
    [
        ([TABLE, ("sequential", "clipped", {"per_layer": True})], {"num_key_value_heads": 2}),
        ([("sequential", "kerple_log", {"heads": [1, 2]}), TABLE, ("sequential", "rotary")], {}),
        ([("sequential", "match", {"heads": [3], "scores": "off"}), ("sequential", "cope", {"heads": [0]})], {}),
        ([TABLE, ("segment", "learned")], {"share_layers": True, "num_hidden_layers": 4, "qkv_conv_kernel": 3}),
        ([("sequential", "kerple_power")], {"attention_scaling": "log_length"}),
        ([SLOPES, TABLE], {"num_key_value_heads": 2}),
        ([SLOPES, ("significance", "clipped")], {"attention_scaling": "log_length"}),
        ([("clause", "alibi", {"heads": [1, 3], "per_layer": True}), SLOPES], {}),
        ([("random_float", "alibi", {"heads": [2], "scores": "off"}), TABLE], {"head_dim": 7}),
    ],
)
def test_gradients_of_lists_of_pairs_are_those_of_the_mask(
    pairs: list, fields: dict, tiny_model: Make, long: torch.Tensor
) -> None:
    sdpa, eager = (tiny_model(*pairs, attn_implementation=name, **fields) for name in ("sdpa", "eager"))
    same_gradients(sdpa, eager, long)
    same_gradients(sdpa, eager, long, padding=5)


def test_gradients_of_an_encoder_are_those_of_the_mask(tiny_model: Make, long: torch.Tensor, ways: list[str]) -> None:
    models = [
        tiny_model(SLOPES, TABLE, is_causal=False, kind=PositionalModel, attn_implementation=name)
        for name in ("sdpa", "eager")
    ]
    for model in models:
        model(long).last_hidden_state.square().mean().backward()
    for got, wanted in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-4, rtol=1e-4)
    assert ways == ["distance_attention"] * 2


def test_gradients_of_slopes_with_ids_or_masks_of_ones_own(
    tiny_model: Make, batch: torch.Tensor, ways: list[str]
) -> None:
    """Neither need let a query see smaller ids alone, which is where the factors stand for the bias."""
    sdpa, eager = (tiny_model(SLOPES, attn_implementation=name) for name in ("sdpa", "eager"))
    falling = torch.arange(11).flip(0)[None, :, None]
    same_gradients(sdpa, eager, batch, structural_ids=falling)
    prefix = torch.ones(1, 1, 11, 11, dtype=torch.bool).tril()
    prefix[..., :6] = True
    floats = torch.zeros(prefix.shape).masked_fill(~prefix, torch.finfo(torch.float32).min)
    same_gradients(sdpa, eager, batch, attention_mask=floats)
    assert not ways
    same_gradients(sdpa, eager, batch)
    assert ways


def test_dropout_and_inference_keep_the_mask(tiny_model: Make, batch: torch.Tensor, ways: list[str]) -> None:
    tiny_model(TABLE)(batch)
    with torch.enable_grad():
        tiny_model(TABLE, dropout=0.1).train()(batch)
        tiny_model(("sequential", "t5", {"learnable": False}))(batch)
        tiny_model(TABLE).bfloat16()(batch)
    assert not ways


def test_factors_are_exact_in_bf16() -> None:
    """Slopes are powers of 2 and places whole numbers, so that nothing is left to be rounded."""
    slopes = torch.tensor([0.5, 2.0**-8])[None, :, None, None].expand(1, -1, 3, 1)
    places = torch.tensor([[0, 255, 4097, 60_001]]).float()[:, None, :, None]
    states = (torch.zeros(2, 2, 3, 16), torch.zeros(2, 1, 4, 16), torch.ones(2, 1, 4, 16))
    for dtype in (torch.float32, torch.bfloat16):
        halves = tuple(x.to(dtype) for x in states)
        query, key, value = modeling_positional.append_factors(halves, [(slopes, places)], scaling=0.25)  # type: ignore[arg-type]
        assert query.dtype == key.dtype == dtype and query.shape[-1] == key.shape[-1] == value.shape[-1] == 24
        got = query.float() @ key.float().mT * 0.25
        assert torch.equal(got, (slopes @ places.mT).expand(2, -1, -1, -1))
        assert torch.equal(value[..., :16].float(), states[2]) and not value[..., 16:].any()


# ----------------------------------------------------------------------------------------------------------------------
# Keys of a pair


def attentions(model: Any, tokens: torch.Tensor, mask: torch.Tensor | None = None, layer: int = 0) -> torch.Tensor:
    """(B, heads, Q, K) weights; the inputs of layer 0 depend on no encoding but those added to the embeddings."""
    model.set_attn_implementation("eager")
    return model(tokens, mask, output_attentions=True).attentions[layer]


HEADED = [name for name, entry in ENCODINGS.items() if entry.turns or entry.biases]


@pytest.mark.parametrize("encoding", HEADED)
def test_heads_confine_a_pair(encoding: str, tiny_model: Make, batch: torch.Tensor) -> None:
    model, plain = tiny_model(("sequential", encoding, {"heads": [1, 3]})), tiny_model(("sequential", "none"))
    plain.load_state_dict(model.state_dict(), strict=False)
    got, without = attentions(model, batch), attentions(plain, batch)
    close(got[:, [0, 2]], without[:, [0, 2]])
    for head in (1, 3):
        assert not torch.allclose(got[:, head], without[:, head], atol=1e-3)


@pytest.mark.parametrize("key_heads", [2, 4])
def test_rotary_heads_turn_their_keys_and_no_others(key_heads: int, tiny_model: Make, batch: torch.Tensor) -> None:
    options = ({"heads": [2, 3]}, {})
    some, every = (tiny_model(("sequential", "rotary", o), num_key_value_heads=key_heads) for o in options)
    none = tiny_model(("sequential", "none"), num_key_value_heads=key_heads)
    got = attentions(some, batch)
    close(got[:, :2], attentions(none, batch)[:, :2])
    close(got[:, 2:], attentions(every, batch)[:, 2:])


@pytest.mark.parametrize("encoding", ["match", "clipped", "fire"])
def test_scores_off_leaves_the_biases_alone(encoding: str, tiny_model: Make, batch: torch.Tensor) -> None:
    model = tiny_model(("token", encoding, {"heads": [2], "scores": "off"}))
    ids = model.structural_ids(batch)[..., 0]
    bias = model.model.encodings[0].bias(ids, ids)[:, 0]
    hidden = torch.ones(bias.shape[1:]).triu(1).bool()
    close(attentions(model, batch)[:, 2], bias.masked_fill(hidden, -torch.inf).softmax(-1))
    on = tiny_model(("token", encoding, {"heads": [2], "scores": "on"}))
    close(attentions(model, batch)[:, [0, 1, 3]], attentions(on, batch)[:, [0, 1, 3]])
    assert not torch.allclose(attentions(model, batch)[:, 2], attentions(on, batch)[:, 2], atol=1e-3)


def test_yaml_booleans_mean_on_and_off(tiny_config: Make) -> None:
    pairs = [tiny_config(("token", "match", {"scores": s})).pairs()[0].scores for s in ("on", True, "off", False)]
    assert pairs == [True, True, False, False]


@pytest.mark.parametrize("encoding", [n for n, entry in ENCODINGS.items() if entry.biases and not entry.in_layers])
def test_per_layer_gives_every_layer_parameters_of_its_own(
    encoding: str, tiny_model: Make, batch: torch.Tensor
) -> None:
    shared = tiny_model(("significance", encoding))
    own = tiny_model(("significance", encoding, {"per_layer": True}))
    own.load_state_dict(shared.state_dict(), strict=False)
    encodings = [layer.self_attn.encodings[0] for layer in own.model.layers]
    for each in encodings:
        each.load_state_dict(shared.model.encodings[0].state_dict())
    close(own(batch).logits, shared(batch).logits)
    for value in encodings[1].state_dict().values():
        value.mul_(3)
    close(attentions(own, batch, layer=0), attentions(shared, batch, layer=0))
    assert not torch.allclose(attentions(own, batch, layer=1), attentions(shared, batch, layer=1), atol=1e-3)


def test_a_list_of_pairs_adds_up(tiny_model: Make, batch: torch.Tensor) -> None:
    """Two match pairs with gains g and h are one with g + h; the order of pairs is without meaning."""
    two = tiny_model(("token", "match", {"initial": 1.0}), ("token", "match", {"initial": 0.5}), fresh=True)
    one = tiny_model(("token", "match", {"initial": 1.5}), fresh=True)
    close(two(batch).logits, one(batch).logits)
    pairs = [("sequential", "rotary"), ("token", "match", {"initial": 2.0}), ("segment", "alibi")]
    close(tiny_model(*pairs, fresh=True)(batch).logits, tiny_model(*pairs[::-1], fresh=True)(batch).logits)


def test_frozen_biases_are_the_maps_of_lego(tiny_model: Make) -> None:
    """The local and the association map of LEGO (arXiv 2206.04301), as its published code builds them.

    A head without scores is the softmax of its biases, so a weight w over a floor f is the bias log(1 + w/f).
    Association leaves the token itself out: its match is taken away again by a match of places.
    """
    weights, floor = [1, 2, 4, 2, 1], 1e-3
    band, match = [0.0, *(math.log1p(w / floor) for w in weights), 0.0], math.log1p(1 / floor)
    fixed = {"learnable": False, "scores": "off"}
    model = tiny_model(
        ("sequential", "rotary"),
        ("sequential", "clipped", {"clip": 3, "initial": band, "heads": [0], **fixed}),
        ("token", "match", {"initial": match, "heads": [1], **fixed}),
        ("sequential", "match", {"initial": -match, "heads": [1], **fixed}),
        is_causal=False, kind=PositionalModel, fresh=True, num_hidden_layers=3,
    )  # fmt: skip
    symbols = "^abcd=+-1;_"
    texts = ["^b=-a;d=+c;a=-1;c=+b;", "_____^c=+a;a=-1;b=-c;", "^a=+1;b=-a;__________"]
    tokens = torch.tensor([[symbols.index(symbol) for symbol in text] for text in texts])
    mask = (tokens != symbols.index("_")).long()
    for layer in range(3):
        got = attentions(model, tokens, mask, layer)
        for row, text in enumerate(texts):
            ids, real = np.array([*text.strip("_")]), mask[row].bool().numpy()
            local, association = np.full((2, len(ids), len(ids)), floor)
            for offset, weight in zip(range(-2, 3), weights, strict=True):
                local += weight * np.eye(len(ids), k=offset)
            association += (ids[:, None] == ids) & ~np.eye(len(ids), dtype=bool)
            for head, wanted in enumerate((local, association)):
                found = got[row, head].numpy()
                np.testing.assert_allclose(found[real][:, real], wanted / wanted.sum(1, keepdims=True), rtol=1e-5)
                assert not found[real][:, ~real].any()


def test_ids_of_pairs_of_real_and_whole_numbers_stay_apart(tiny_model: Make, batch: torch.Tensor) -> None:
    model = tiny_model(("random_float", "rotary"), ("significance", "learned"), ("token", "clipped"))
    assert model.structural_ids(batch).is_floating_point()
    alone = tiny_model(("significance", "learned"), ("token", "clipped"), fresh=True)
    ids = alone.structural_ids(batch)
    assert torch.equal(alone(batch, structural_ids=ids.float()).logits, alone(batch).logits)
    assert torch.equal(model.structural_ids(batch)[..., 1:].long(), ids)
    assert model(batch).logits.isfinite().all()


# ----------------------------------------------------------------------------------------------------------------------
# Every field of the config, of the ids and of the encodings does something or is refused

LOOPED = {"share_layers": True, "num_hidden_layers": 4, "num_loops": 2}
SCALED = {"attention_scaling": "log_length"}
PLAIN = {"reversed_numbers": "none"}
# Field -> what the others are set to, then the value that must make a difference. The texts hold `a` (14) and `b` (15).
FIELDS: dict[str, tuple[dict[str, Any], Any]] = {
    "vocab_size": ({}, 21),
    "hidden_size": ({}, 48),
    "intermediate_size": ({}, 40),
    "num_hidden_layers": ({}, 3),
    "num_attention_heads": ({}, 2),
    "num_key_value_heads": ({}, 2),
    "head_dim": ({}, 12),
    "positions": ({}, [{"ids": "token", "encoding": "match"}]),
    "norm": ({}, "rmsnorm"),
    "norm_position": ({}, "post"),
    "norm_eps": ({}, 0.5),
    "activation": ({}, "relu"),
    "parallel_block": ({}, True),
    "share_layers": ({}, True),
    "num_loops": (LOOPED, 4),
    "input_injection": (LOOPED, True),
    "start_noise": ({**LOOPED, "input_injection": True}, 0.5),
    "start_noise_share": ({**LOOPED, "input_injection": True, "start_noise": 0.5}, 0.4),
    "is_causal": ({}, False),
    "qkv_conv_kernel": ({}, 3),
    "attention_scaling": ({}, "log_length"),
    "attention_scaling_length": (SCALED, 7),
    "dropout": ({}, 0.3),
    "initializer_range": ({}, 0.1),
    "digit_token_ids": ({}, list(range(9))),
    "separator_token_ids": ({}, [10, 12, 14, 17, 18]),
    "filler_token_ids": ({}, [13, 14]),
    "answer_token_ids": ({}, [10]),
    "reversed_numbers": ({}, "all"),
    "answer_width": (PLAIN, [2, 1]),
    "use_cache": ({}, False),
    "tie_word_embeddings": ({}, False),
    "pad_token_id": ({}, 14),
    "bos_token_id": ({}, 3),
    "eos_token_id": ({}, 4),
    "output_hidden_states": ({}, True),
    "dtype": ({}, "bfloat16"),
    "id2label": ({}, {0: "x", 1: "y", 2: "z"}),
    "problem_type": ({}, "multi_label_classification"),
}
REFUSED_FIELDS = {"is_encoder_decoder": True, "chunk_size_feed_forward": 4, "return_dict": False}
# They say what a checkpoint is and are read by no model.
LABELS_ONLY = {"architectures", "label2id", "transformers_version"}


def behaviour(config: PositionalConfig, batch: torch.Tensor) -> list[Any]:
    """What a user of the models can see: outputs, shapes, drawn dropout, gradients' absence, generated text."""
    seen: list[Any] = []
    heads = [AutoModel, AutoModelForTokenClassification]
    for auto in [*heads, AutoModelForCausalLM] if config.is_causal else heads:
        torch.manual_seed(0)
        model = mixing(auto.from_config(config)).eval()
        output = model(batch)
        seen += [type(output), len(output), output[0]]
        seen.append(type(model.train()(batch)))
        torch.manual_seed(0)
        seen.append(model(batch)[0])
    if config.is_causal:
        settings = model.generation_config
        seen += [settings.bos_token_id, settings.eos_token_id, settings.pad_token_id]
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    labels = torch.nn.functional.one_hot(torch.tensor([0, 1]), config.num_labels).to(classifier.dtype)
    if config.problem_type is None:
        labels = torch.tensor([0, 1])
    output = classifier(batch, labels=labels)
    return [*seen, output.loss, output.logits]


def differs(one: list[Any], other: list[Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, atol=1e-4)
        return type(a) is type(b) and a == b

    return len(one) != len(other) or not all(same(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(PositionalConfig)])
def test_every_field_of_the_config_matters(field: str, tiny_config: Make, encode: Make) -> None:
    if field in LABELS_ONLY:
        return
    pairs = [("significance", "learned"), ("segment", "learned"), ("sequential", "rotary")]
    if field in REFUSED_FIELDS:
        with pytest.raises(ValueError, match=f"{field} .* is not supported"):
            tiny_config(*pairs, **{field: REFUSED_FIELDS[field]})
        return
    usual, value = FIELDS[field]
    batch = encode("^192+3a4=640a", "b95 7+19=980b")
    before = behaviour(tiny_config(*pairs, **usual), batch)
    assert not differs(before, behaviour(tiny_config(*pairs, **usual), batch)), "the outputs are not repeatable"
    config = tiny_config(*pairs, **{**usual, field: value})
    assert differs(before, behaviour(config, batch))


# (name, field) -> an alternative; None: the field's effect is a refusal, tested where the class is.
OPTIONS: dict[tuple[str, str], Any] = {
    ("learned", "size"): None,
    ("sinusoidal", "theta"): 100.0,
    ("random_tag", "tag_size"): 8,
    ("random_tag", "scale"): 2.0,
    ("rotary", "rope_parameters"): {"rope_theta": 100.0},
    ("t5", "buckets"): 8,
    ("t5", "max_distance"): 20,
    ("clipped", "clip"): 2,
    ("clipped", "window"): [0, 2],
    ("clipped", "initial"): [float(distance) for distance in range(-16, 17)],
    ("match", "initial"): 2.0,
    ("fire", "width"): 8,
    ("fire", "threshold"): 3.0,
    ("cope", "size"): 3,
    ("randomized", "max_length"): 128,
    ("randomized", "eval_length"): 64,
    ("random_float", "max_value"): 64.0,
    ("random_float", "eval_length"): 64,
    ("abacus", "max_offset"): 40,
    ("significance", "max_offset"): 40,
    ("interleaved", "max_offset"): 40,
}


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name, entry in [*POSITION_IDS.items(), *ENCODINGS.items()] for field in fields_of(entry)],
)
def test_every_field_of_a_pair_matters(name: str, field: str, tiny_model: Make, encode: Make) -> None:
    value = OPTIONS[name, field]
    if value is None:
        return
    pair = (name, "sinusoidal") if name in POSITION_IDS else ("sequential", name)
    tokens = encode("^123456789+12345678901=640")
    fresh = field in ("window", "initial", "threshold")

    def logits(options: dict, training: bool) -> torch.Tensor:
        model = tiny_model((*pair, options), fresh=fresh).train(training)
        torch.manual_seed(0)
        return model(tokens).logits

    training = field == "max_offset"
    assert torch.equal(logits({}, training), logits({}, training))
    assert not torch.allclose(logits({}, training), logits({field: value}, training), atol=1e-4)
    if training:  # an offset is drawn in training only
        assert torch.equal(logits({}, False), logits({field: value}, False))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hiden_size": 3}, "unknown field of PositionalConfig 'hiden_size'; known: .*hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, not 0"),
        ({"hidden_size": 34}, "hidden_size 34 is no multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"activation": "swigloo"}, "unknown activation 'swigloo'; known: .*swiglu"),
        ({"norm": "batchnorm"}, "norm"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"num_loops": 2}, "num_loops 2 needs share_layers: true"),
        ({"share_layers": True, "num_hidden_layers": 4, "num_loops": 3}, "num_loops above 1 .*not 3 for"),
        ({"share_layers": True, "num_loops": 1}, "num_loops above 1 .*not 1"),
        ({"input_injection": True}, "input_injection .* needs share_layers: true"),
        ({"start_noise": -1.0}, "start_noise must be 0 or more, not -1.0"),
        ({"start_noise_share": 0.0}, r"start_noise_share must be in \(0, 1\], not 0.0"),
        ({"start_noise_share": 0.5}, "start_noise_share 0.5 needs start_noise above 0"),
        ({"start_noise": 1.0}, "start_noise 1.0 drowns .* needs input_injection: true"),
        ({"parallel_block": True, "norm_position": "post"}, "norm_position must be pre or sandwich, not post"),
        ({"answer_width": [1]}, r"answer_width is two numbers \(times, plus\), not \[1\]"),
        ({"digit_token_ids": [3, 20]}, r"digit_token_ids \[20\] are no tokens: vocab_size is 20"),
        ({"separator_token_ids": [-1]}, r"separator_token_ids \[-1\] are no tokens"),
        ({"qkv_conv_kernel": 1}, "qkv_conv_kernel must be at least 2, or null for none, not 1"),
        ({"qkv_conv_kernel": 4, "is_causal": False}, "qkv_conv_kernel of an encoder .* must be odd, not 4"),
    ],
)
def test_bad_fields_are_refused_in_one_line(fields: dict, message: str, tiny_config: Make) -> None:
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=message):
        tiny_config(("sequential", "none"), **fields)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({}, "needs the keys ids and encoding"),
        ({"ids": "sequential"}, "needs the keys ids and encoding"),
        ({"ids": "seq", "encoding": "rotary"}, "unknown position ids 'seq'; known: abacus, clause"),
        ({"ids": "token", "encoding": "rope"}, "unknown position encoding 'rope'; known: .*rotary"),
        ({"ids": "token", "encoding": "match", "clip": 2}, "unknown key of the pair token x match 'clip'; .*initial"),
        ({"ids": "token", "encoding": "clipped", "clip": "2"}, "clip of the pair token x clipped must be int, not '2'"),
        ({"ids": "token", "encoding": "clipped", "clip": True}, "must be int, not True"),
        ({"ids": "token", "encoding": "clipped", "clip": 0}, "clip .* must be at least 1, not 0"),
        ({"ids": "token", "encoding": "clipped", "initial": 1.0}, r"must be list\[float\] \| None, not 1.0"),
        (
            {"ids": "token", "encoding": "clipped", "initial": [1, "2"]},
            r"must be list\[float\] \| None, not \[1, '2'\]",
        ),
        (
            {"ids": "token", "encoding": "clipped", "initial": [1, 2]},
            "needs 33 numbers for the distances -16 to 16, not 2",
        ),
        (
            {"ids": "token", "encoding": "clipped", "window": [1, 2], "initial": [1.0]},
            "needs 2 numbers for the distances 1 to 2, not 1",
        ),
        *(
            (
                {"ids": "token", "encoding": "clipped", "window": window},
                r"needs \[low, high\] between -16 and 16, not \[",
            )
            for window in ([1], [2, 1], [0, 17], [-17, 0], [0, 1, 2])
        ),
        ({"ids": "abacus", "encoding": "none", "max_offset": -1}, "max_offset .* must be at least 0, not -1"),
        ({"ids": "token", "encoding": "match", "heads": [4]}, r"rising head numbers from 0 to 3, not \[4\]"),
        ({"ids": "token", "encoding": "match", "heads": [1, 1]}, "rising head numbers"),
        ({"ids": "token", "encoding": "match", "heads": []}, "rising head numbers"),
        ({"ids": "token", "encoding": "learned", "heads": [1]}, "embeddings are shared by all heads"),
        ({"ids": "token", "encoding": "match", "learnable": "no"}, "learnable .* must be true or false"),
        ({"ids": "token", "encoding": "match", "per_layer": 1}, "per_layer .* must be true or false"),
        ({"ids": "token", "encoding": "rotary", "per_layer": True}, "per_layer .* is for score biases"),
        ({"ids": "token", "encoding": "cope", "per_layer": False}, "is per_layer always"),
        ({"ids": "token", "encoding": "match", "scores": "none"}, "scores .* must be on or off, not 'none'"),
        ({"ids": "token", "encoding": "rotary", "scores": "off"}, "leaves its heads no scores"),
        ({"ids": "token", "encoding": "cope", "scores": "off"}, "leaves its heads no scores"),
    ],
)
def test_bad_pairs_are_refused_in_one_line(pair: dict, message: str, tiny_config: Make) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(positions=[pair])


def test_rotary_turns_all_heads_that_share_a_key_or_none(tiny_config: Make) -> None:
    with pytest.raises(ValueError, match="2 query heads share a key head, so turn all of them or none"):
        tiny_config(("sequential", "rotary", {"heads": [0]}), num_key_value_heads=2)


def test_settings_made_while_loading_are_checked(tiny_model: Make, tmp_path: Path) -> None:
    tiny_model(("sequential", "none")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_attention_heads 3"):
        PositionalForCausalLM.from_pretrained(tmp_path, num_attention_heads=3)


# ----------------------------------------------------------------------------------------------------------------------
# Generation and calls by hand


@covered
def test_beams_are_uncached_beams(name: str, tiny_model: Make, padded: Any) -> None:
    model, (tokens, mask) = cover(name, tiny_model), padded
    options = {"attention_mask": mask, "num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5,
               "suppress_tokens": list(range(10, 20))}  # fmt: skip
    with_cache, without = (model.generate(tokens, use_cache=use, **options) for use in (True, False))
    assert torch.equal(with_cache, without)


@covered
def test_chunked_prefill_is_plain(name: str, tiny_model: Make, padded: Any) -> None:
    model, (tokens, mask) = cover(name, tiny_model), padded
    plain = generate(model, tokens, attention_mask=mask)
    for size in (1, 3, 4):  # 4 cuts numbers in two
        same_generation(generate(model, tokens, attention_mask=mask, prefill_chunk_size=size), plain)


@covered
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_static_cache_is_a_dynamic_one(name: str, implementation: str, tiny_model: Make, padded: Any) -> None:
    model, (tokens, mask) = cover(name, tiny_model, attn_implementation=implementation), padded
    plain = generate(model, tokens, attention_mask=mask)
    same_generation(generate(model, tokens, attention_mask=mask, cache_implementation="static"), plain)
    same_generation(generate(model, tokens[:1], cache_implementation="static"), generate(model, tokens[:1]))


@covered
def test_prompt_lookup_is_greedy(name: str, tiny_model: Make, encode: Make) -> None:
    model, tokens = cover(name, tiny_model), encode("^12+12+12+12=")
    options = {"max_new_tokens": 9, "do_sample": False}
    assert torch.equal(model.generate(tokens, prompt_lookup_num_tokens=3, **options), model.generate(tokens, **options))


@covered
def test_generation_continues_from_a_cache(name: str, tiny_model: Make, padded: Any) -> None:
    model, (tokens, mask) = cover(name, tiny_model), padded
    plain = generate(model, tokens, attention_mask=mask)
    cache = model(tokens[:, :-1], mask[:, :-1], structural_ids=model.structural_ids(tokens, mask)).past_key_values
    same_generation(generate(model, tokens, attention_mask=mask, past_key_values=cache), plain)
    cache = model(tokens[:, :-1], mask[:, :-1]).past_key_values
    with pytest.raises(ValueError, match=r"structural_ids of shape .* do not hold 11 tokens"):
        generate(model, tokens[:, -1:], attention_mask=mask, past_key_values=cache)


def test_an_assistant_changes_nothing(tiny_model: Make, encode: Make) -> None:
    """Both caches are cut back where the two disagree; for once the assistant is good at guessing, for once not."""
    model, tokens = cover("convolved", tiny_model), encode("^12+12+12+12=")
    options = {"max_new_tokens": 9, "do_sample": False}
    plain = model.generate(tokens, **options)
    for assistant in (cover("convolved", tiny_model), cover("convolved", tiny_model, qkv_conv_kernel=2)):
        assert torch.equal(model.generate(tokens, assistant_model=assistant, **options), plain)


def test_sampling_in_training_mode_draws_nothing(tiny_model: Make, batch: torch.Tensor) -> None:
    model = tiny_model(("randomized", "rotary")).train()
    same_generation(generate(model, batch), generate(model.eval(), batch))


def test_calls_that_cannot_know_their_places_are_refused(tiny_model: Make, batch: torch.Tensor) -> None:
    model = tiny_model(("significance", "learned"), ("sequential", "rotary"))
    cache = model(batch, use_cache=True).past_key_values
    for message, call in {
        "a cached step does not show the tokens before it": {"input_ids": batch[:, :1], "past_key_values": cache},
        r"structural_ids of shape \(2, 1, 2\) do not hold 12 tokens": {
            "input_ids": batch[:, :1],
            "past_key_values": cache,
            "structural_ids": model.structural_ids(batch[:, :1]).expand(2, -1, -1),
        },
        r"structural_ids of shape \(1, 11, 1\) .* under 2 pairs": {
            "input_ids": batch,
            "structural_ids": torch.zeros(1, 11, 1, dtype=torch.long),
        },
        "position_ids are not read": {"input_ids": batch, "position_ids": torch.zeros_like(batch)},
        "position ids 'significance' are read from tokens": {"inputs_embeds": torch.zeros(2, 11, 32)},
        "give input_ids or inputs_embeds": {},
        "one of the two": {"input_ids": batch, "inputs_embeds": torch.zeros(2, 11, 32)},
    }.items():
        with pytest.raises(ValueError, match=message):
            model(**call)
    with pytest.raises(ValueError, match="inputs_embeds"):
        model.generate(inputs_embeds=torch.zeros(2, 11, 32), max_new_tokens=2)


def test_embeddings_with_ids_are_tokens(tiny_model: Make, padded: Any) -> None:
    tokens, mask = padded
    model = tiny_model(("significance", "learned"), ("sequential", "rotary"))
    embeds = model.get_input_embeddings()(tokens)
    ids = model.structural_ids(tokens, mask)
    wanted = model(tokens, mask).logits
    assert torch.equal(model(inputs_embeds=embeds, attention_mask=mask, structural_ids=ids).logits, wanted)
    blind = tiny_model(("sequential", "rotary"), ("random_float", "t5"))
    embeds = blind.get_input_embeddings()(tokens)
    assert torch.equal(blind(inputs_embeds=embeds, attention_mask=mask).logits, blind(tokens, mask).logits)


# ----------------------------------------------------------------------------------------------------------------------
# The body: heads, blocks, loops, scaling


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("encoding", ["none", "rotary", "t5", "cope"])
def test_grouped_keys_are_repeated_keys(encoding: str, implementation: str, tiny_model: Make, padded: Any) -> None:
    tokens, mask = padded
    few = tiny_model(("sequential", encoding), num_key_value_heads=2, attn_implementation=implementation)
    many = tiny_model(("sequential", encoding), attn_implementation=implementation)
    state = few.state_dict()
    for name, value in state.items():
        if "k_proj" in name or "v_proj" in name:
            state[name] = value.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    many.load_state_dict(state)
    close(few(tokens, mask).logits[mask.bool()], many(tokens, mask).logits[mask.bool()])
    same_generation(generate(few, tokens, attention_mask=mask), generate(many, tokens, attention_mask=mask))


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize(
    ("position", "parallel"),
    [("pre", False), ("post", False), ("sandwich", False), ("pre", True), ("sandwich", True)],
)
def test_blocks_are_what_their_names_say(
    position: str, parallel: bool, norm: str, tiny_model: Make, batch: torch.Tensor
) -> None:
    model = tiny_model(("sequential", "rotary"), norm=norm, norm_position=position, parallel_block=parallel)
    layer = model.model.layers[0]
    assert type(model.model.norm) is {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}[norm]
    for module in layer.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.weight.uniform_(0.5, 2.0)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, module in {"layer": layer, "attention": layer.self_attn, "mlp": layer.mlp}.items():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: seen.update(
                {name: (inputs[0], output[0] if isinstance(output, tuple) else output)}
            )
        )
    model(batch)
    (x, out), (into_attention, a), (into_mlp, m) = seen["layer"], seen["attention"], seen["mlp"]
    n1, p1, n2, p2 = layer.attention_norm, layer.attention_post_norm, layer.mlp_norm, layer.mlp_post_norm
    match position, parallel:
        case "pre", False:
            mid = x + a
            wanted = [n1(x), n2(mid), mid + m]
        case "post", False:
            mid = p1(x + a)
            wanted = [x, mid, p2(mid + m)]
        case "sandwich", False:
            mid = x + p1(a)
            wanted = [n1(x), n2(mid), mid + p2(m)]
        case "pre", True:
            wanted = [n1(x), n1(x), x + a + m]
        case _:
            wanted = [n1(x), n1(x), x + p1(a) + p2(m)]
    for got, expected in zip((into_attention, into_mlp, out), wanted, strict=True):
        close(got, expected)


@pytest.mark.parametrize("injection", [False, True])
@pytest.mark.parametrize("loops", [2, 4])
def test_shared_layers_are_an_unrolled_stack(
    loops: int, injection: bool, tiny_model: Make, batch: torch.Tensor
) -> None:
    pairs = [("significance", "clipped"), ("sequential", "cope"), ("segment", "learned")]
    fields = {"share_layers": True, "num_loops": loops, "input_injection": injection}
    looped = tiny_model(*pairs, num_hidden_layers=4, **fields)
    stack = tiny_model(*pairs, num_hidden_layers=4)
    assert len(looped.model.layers) == 4 // loops
    stack.load_state_dict(looped.state_dict(), strict=False)
    embedded: list[torch.Tensor] = []
    for depth, layer in enumerate(stack.model.layers):
        layer.load_state_dict(looped.model.layers[depth % (4 // loops)].state_dict())
        if depth == 0:
            layer.register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0]))
        elif injection and depth % (4 // loops) == 0:
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] + embedded[-1], *inputs[1:]))
    close(looped(batch).logits, stack(batch).logits)
    same_generation(generate(looped, batch[:, :9]), generate(looped, batch[:, :9], use_cache=False))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("encoding", ["none", "t5"])
def test_log_length_scales_all_logits(encoding: str, causal: bool, tiny_model: Make, padded: Any) -> None:
    """Softmax of f x logits from the unscaled weights: with w = softmax(s), softmax(f s) = softmax(f log w)."""
    tokens, mask = padded
    kinds = {"kind": PositionalModel, "is_causal": causal, "attention_scaling_length": 7}
    scaled = tiny_model(("sequential", encoding), attention_scaling="log_length", **kinds)
    plain = tiny_model(("sequential", encoding), **kinds)
    got, weights = attentions(scaled, tokens, mask), attentions(plain, tokens, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        for query in range(length):
            seen = query + 1 if causal else length
            factor = torch.log(torch.tensor(1.0 + seen)) / torch.log(torch.tensor(8.0))
            keys = slice(tokens.shape[1] - length, tokens.shape[1] - length + seen)
            spot = tokens.shape[1] - length + query
            wanted = (weights[row, :, spot, keys].log() * factor).softmax(-1)
            close(got[row, :, spot, keys], wanted)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("encoding", ["none", "t5", "clipped", "alibi", "rotary"])
def test_an_encoder_sees_both_sides_and_no_padding(
    encoding: str, implementation: str, tiny_model: Make, encode: Make
) -> None:
    fields = {"is_causal": False, "kind": PositionalModel, "attn_implementation": implementation}
    model = tiny_model(("significance", encoding), ("sequential", "rotary"), **fields)
    tokens = encode("^12+34=640$")
    plain = model(tokens).last_hidden_state
    assert model(tokens).past_key_values is None
    changed = model(encode("^12+34=645$")).last_hidden_state
    assert not torch.allclose(changed[:, 0], plain[:, 0], atol=1e-3)
    for padded in (encode("___^12+34=640$"), encode("^12+34=640$___")):
        mask = (padded != 19).long()
        close(model(padded, mask).last_hidden_state[mask.bool()], plain[0])


KERNELS = [(True, 2), (True, 3), (True, 4), (False, 3), (False, 5)]
kernels = pytest.mark.parametrize(("causal", "kernel"), KERNELS)


def convolved(causal: bool, kernel: int | None, tiny_model: Make, **fields: Any) -> Any:
    fields = {"is_causal": causal, "qkv_conv_kernel": kernel, "num_key_value_heads": 2, **fields}
    return tiny_model(("sequential", "rotary"), ("segment", "t5"), kind=PositionalModel, **fields)


@kernels
def test_a_convolution_is_a_weighted_sum_of_neighbours(
    causal: bool, kernel: int, tiny_model: Make, padded: Any
) -> None:
    attention = mixing(convolved(causal, kernel, tiny_model)).layers[0].self_attn
    states = [torch.randn(3, 11, size) for size in (32, 16, 16)]
    got = torch.cat(attention.conv(states, padded[1].bool(), None, 0), dim=-1)
    raw, filters = torch.cat(states, dim=-1) * padded[1][..., None], attention.conv.filters
    wanted = torch.zeros_like(raw)
    first = 1 - kernel if causal else -(kernel // 2)
    for t, shift in itertools.product(range(11), range(kernel)):
        if 0 <= t + first + shift < 11:
            wanted[:, t] += filters[shift] * raw[:, t + first + shift]
    close(got, wanted)


@kernels
def test_a_new_convolution_mixes_nothing(causal: bool, kernel: int, tiny_model: Make, padded: Any) -> None:
    (tokens, mask), real = padded, padded[1].bool()
    new, without = (convolved(causal, k, tiny_model)(tokens, mask).last_hidden_state for k in (kernel, None))
    close(new[real], without[real])
    mixed = mixing(convolved(causal, kernel, tiny_model))(tokens, mask).last_hidden_state
    assert not torch.allclose(mixed[real], without[real], atol=1e-2)


@kernels
def test_gradients_reach_new_filters(causal: bool, kernel: int, tiny_model: Make, batch: torch.Tensor) -> None:
    model = convolved(causal, kernel, tiny_model).train()
    model(batch).last_hidden_state[..., 0].sum().backward()
    for layer in model.layers:
        assert layer.self_attn.conv.filters.grad.abs().amin() > 0
        assert layer.self_attn.q_proj.weight.grad.any()


@kernels
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_is_nothing_to_a_convolution(
    causal: bool, kernel: int, implementation: str, tiny_model: Make, encode: Make
) -> None:
    model = mixing(convolved(causal, kernel, tiny_model, attn_implementation=implementation))
    plain = model(encode("^12+34=640$")).last_hidden_state[0]
    for text in ("___^12+34=640$", "^12+34=640$___"):
        tokens = encode(text)
        mask = tokens != 19
        square = mask[:, None, None, :].expand(1, 1, 14, 14)
        square = square.tril() if causal else square
        floats = torch.zeros(square.shape).masked_fill(~square, torch.finfo(torch.float32).min)
        for each in (mask.long(), floats, *([square] if implementation == "sdpa" else [])):
            ids = model.structural_ids(tokens, mask)
            close(model(tokens, each, structural_ids=ids).last_hidden_state[mask], plain)


@pytest.mark.parametrize("kernel", [2, 3, 6])
@pytest.mark.parametrize("steps", [[1] * 11, [4, 1, 6], [2, 9], [10, 1], [1, 2, 3, 5]])
def test_a_convolution_keeps_what_the_next_step_needs(
    steps: list[int], kernel: int, tiny_model: Make, padded: Any
) -> None:
    model, (tokens, mask) = mixing(convolved(True, kernel, tiny_model)), padded
    wanted, ids = model(tokens, mask).last_hidden_state, model.structural_ids(tokens, mask)
    cache, seen = None, 0
    for step in steps:
        new, whole = slice(seen, seen + step), slice(seen + step)
        output = model(
            tokens[:, new], mask[:, whole], past_key_values=cache, structural_ids=ids[:, whole], use_cache=True
        )
        cache, seen = output.past_key_values, seen + step
        real = mask[:, new].bool()
        close(output.last_hidden_state[real], wanted[:, new][real])


@kernels
def test_a_convolution_survives_saving_and_half_precision(
    causal: bool, kernel: int, tiny_model: Make, batch: torch.Tensor, tmp_path: Path
) -> None:
    model = mixing(convolved(causal, kernel, tiny_model))
    wanted = model(batch).last_hidden_state
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert again.config.qkv_conv_kernel == kernel and torch.equal(again(batch).last_hidden_state, wanted)
    for got in (model.bfloat16()(batch), PositionalModel.from_pretrained(tmp_path, dtype="bfloat16").eval()(batch)):
        assert got.last_hidden_state.dtype == torch.bfloat16
        assert (got.last_hidden_state.float() - wanted).abs().mean() < 0.05 * wanted.abs().mean()


def test_a_cache_without_a_place_for_the_convolution_is_refused(tiny_model: Make, batch: torch.Tensor) -> None:
    model = cover("convolved", tiny_model)
    with pytest.raises(ValueError, match="qkv_conv_kernel needs a cache with a state that this DynamicCache does not"):
        model(batch, past_key_values=DynamicCache())
    cache = model(batch, past_key_values=DynamicCache(config=model.config)).past_key_values
    with pytest.raises(ValueError, match="a cached step does not show the tokens before it"):
        model(batch[:, :1], past_key_values=cache)


def test_an_encoder_is_no_language_model(tiny_model: Make) -> None:
    with pytest.raises(ValueError, match="a causal language model needs is_causal"):
        tiny_model(("sequential", "none"), is_causal=False)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_classification_heads(causal: bool, side: str, tiny_model: Make, encode: Make) -> None:
    texts = ["^12+34=64", "^9+8=7"]
    pad = str.rjust if side == "left" else str.ljust
    tokens = encode(*(pad(text, 9, "_") for text in texts))
    mask = (tokens != 19).long()
    fields = {"is_causal": causal, "id2label": {0: "no", 1: "yes", 2: "maybe"}}
    pairs = [("significance", "clipped"), ("sequential", "rotary")]

    whole = tiny_model(*pairs, kind=PositionalForSequenceClassification, **fields)
    got = whole(tokens, mask, labels=torch.tensor([2, 0]))
    alone = torch.cat([whole(encode(text)).logits for text in texts])
    close(got.logits, alone)
    assert got.logits.shape == (2, 3)
    close(got.loss, nn.functional.cross_entropy(alone, torch.tensor([2, 0])))

    each = tiny_model(*pairs, kind=PositionalForTokenClassification, **fields)
    labels = torch.arange(18).view(2, 9) % 3
    got = each(tokens, mask, labels=labels.masked_fill(mask == 0, -100))
    alone = torch.cat([each(encode(text)).logits[0] for text in texts])
    close(got.logits[mask.bool()], alone)
    close(got.loss, nn.functional.cross_entropy(alone, labels[mask.bool()]))


def test_the_loss_is_that_of_the_next_token(tiny_model: Make, batch: torch.Tensor) -> None:
    model = tiny_model(("sequential", "rotary"))
    labels = batch.masked_fill(torch.arange(11) < 7, -100)
    output = model(batch, labels=labels)
    wanted = nn.functional.cross_entropy(output.logits[:, :-1].reshape(-1, 20), labels[:, 1:].reshape(-1))
    close(output.loss, wanted)
    close(model(batch, logits_to_keep=3).logits, output.logits[:, -3:])


@covered
def test_outputs_are_recorded(name: str, tiny_model: Make, batch: torch.Tensor) -> None:
    model = cover(name, tiny_model, kind=PositionalModel, attn_implementation="eager", num_hidden_layers=4)
    output = model(batch, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 5 and len(output.attentions) == 4
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    weights = torch.stack(output.attentions)
    assert weights.shape == (4, 2, 4, 11, 11) and not weights.triu(1).any()
    close(weights.sum(-1), torch.ones(4, 2, 4, 11))


def test_dropout_is_on_in_training_alone(tiny_model: Make, batch: torch.Tensor) -> None:
    dropped, plain = (tiny_model(("token", "t5"), dropout=rate) for rate in (0.5, 0.0))
    assert torch.equal(dropped(batch).logits, plain(batch).logits)
    assert not torch.equal(dropped.train()(batch).logits, dropped(batch).logits)


def test_start_noise_is_on_the_first_state_in_training_alone(tiny_model: Make, batch: torch.Tensor) -> None:
    fields = {"kind": PositionalModel, "share_layers": True, "num_loops": 2, "input_injection": True}
    noisy, plain = (tiny_model(("token", "t5"), start_noise=noise, **fields) for noise in (3.0, 0.0))
    assert torch.equal(noisy(batch).last_hidden_state, plain(batch).last_hidden_state)
    before = [model.train()(batch, output_hidden_states=True).hidden_states[0] for model in (noisy, plain)]
    assert 2.5 < (before[0] - before[1]).std() < 3.5


def test_start_noise_may_be_on_a_share_of_the_sequences(tiny_model: Make, batch: torch.Tensor) -> None:
    fields = {"kind": PositionalModel, "share_layers": True, "num_loops": 2, "input_injection": True}
    noisy, plain = (tiny_model(("token", "t5"), **fields, **noise) for noise in
                    ({"start_noise": 1.0, "start_noise_share": 0.25}, {}))  # fmt: skip
    many = batch[:1].repeat(400, 1)
    before = [model.train()(many, output_hidden_states=True).hidden_states[0] for model in (noisy, plain)]
    moved = (before[0] != before[1]).flatten(1)
    assert torch.equal(moved.any(1), moved.all(1)) and 60 < moved.any(1).sum() < 140


@covered
def test_gradients_survive_activation_checkpointing(name: str, tiny_model: Make, batch: torch.Tensor) -> None:
    model = cover(name, tiny_model).train()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model(batch, labels=batch, use_cache=False).loss.backward()
        return [parameter.grad for parameter in model.parameters() if parameter.requires_grad]

    plain = gradients()
    model.activation_checkpointing_enable()
    for got, wanted in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(got, wanted)


def test_new_tokens_have_no_place(tiny_model: Make, batch: torch.Tensor, encode: Make) -> None:
    model = tiny_model(("significance", "learned"))
    before = model(batch).logits
    model.resize_token_embeddings(24, mean_resizing=False)
    close(model(batch).logits[..., :20], before)
    grown = torch.cat([batch[:1, :5], torch.tensor([[22]])], dim=1)
    assert model.structural_ids(grown)[0, :, 0].tolist() == [3, 2, 1, 2, 1, -1]


def test_config_reads_the_tokenizer(tiny_config: Make) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: i for i, symbol in enumerate(["_", "^", "$", "=", "+", *"9876543210", "x", " "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="_"))
    special = {"pad_token": "_", "bos_token": "^", "eos_token": "$"}
    plain = PositionalConfig.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))
    assert (plain.vocab_size, plain.pad_token_id, plain.bos_token_id, plain.eos_token_id) == (17, 0, 1, 2)
    assert plain.digit_token_ids == list(range(5, 15)) and plain.separator_token_ids == [1, 2, 3, 4]
    assert not plain.filler_token_ids and not plain.answer_token_ids and plain.reversed_numbers == "none"
    style = {"digits": "0123", "separators": "+=", "fillers": " x", "answer": "=", "reverse": "answer",
             "answer_width": [1, 1]}  # fmt: skip
    told = PreTrainedTokenizerFast(tokenizer_object=tokenizer, number_format=style, **special)
    config = PositionalConfig.from_tokenizer(told, hidden_size=64)
    assert config.digit_token_ids == [11, 12, 13, 14] and config.filler_token_ids == [15, 16]
    assert config.answer_token_ids == [3] and config.reversed_numbers == "answer" and config.answer_width == [1, 1]
    assert config.hidden_size == 64


# ----------------------------------------------------------------------------------------------------------------------
# Compilers


@covered
def test_compiles_without_a_break(name: str, tiny_model: Make, padded: Any) -> None:
    """The whole graph is traced; the slow twin below also lets inductor write the code."""
    model, (tokens, mask) = cover(name, tiny_model), padded
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    close(compiled(tokens, mask, use_cache=False).logits, model(tokens, mask, use_cache=False).logits)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@covered
def test_compiled_gradients_are_eager_gradients(name: str, tiny_model: Make, batch: torch.Tensor) -> None:
    model = cover(name, tiny_model)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    losses = [each(batch, labels=batch, use_cache=False).loss for each in (model, compiled)]
    close(losses[1], losses[0])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wanted, got = (torch.autograd.grad(loss, parameters) for loss in losses)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [n if n == "turned" else pytest.param(n, marks=pytest.mark.slow) for n in COVER])
def test_flex_is_eager_and_sees_nothing_later(name: str, tiny_model: Make, padded: Any) -> None:
    """One small fixed shape: each costs a g++ compile, and shapes that vary break inductor's C++ on CPU."""
    torch.compiler.reset()
    tokens, mask = padded
    flex, eager = (cover(name, tiny_model, attn_implementation=kind) for kind in ("flex_attention", "eager"))
    got, wanted = (model(tokens, mask, use_cache=False).logits for model in (flex, eager))
    close(got[mask.bool()], wanted[mask.bool()])
    changed = flex(torch.cat([tokens[:, :-1], tokens[:, :1]], dim=1), mask, use_cache=False).logits
    close(changed[:, :-1][mask[:, :-1].bool()], got[:, :-1][mask[:, :-1].bool()])
