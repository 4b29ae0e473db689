"""Each encoding against an outside truth: transformers' own code, or the paper's formula written again in numpy.

The tests call the hooks with explicit ids, as the model does; ABSENT ids have their own tests at the end.
"""

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import GPTNeoXConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as apply_partial_rotary
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.t5.modeling_t5 import T5Attention

from hf_tasks.models import ENCODINGS, modeling_positional
from hf_tasks.models.distance_attention import distance_attention, distances
from hf_tasks.models.position_encodings import PositionEncoding, Shape, alibi_slopes, position_encoding, rotate
from hf_tasks.models.position_ids import ABSENT

HEADS, HEAD_DIM, WIDTH = 3, 8, 24


def build(name: str, *, absent: bool = False, causal: bool = True, heads: int = HEADS, **options: Any) -> Any:
    """An encoding as the model builds and initialises it, its trainable numbers then drawn anew from U(0.1, 1)."""
    torch.manual_seed(0)
    shape = Shape(heads, HEAD_DIM, WIDTH, is_causal=causal, can_be_absent=absent, whole=True, std=0.02)
    encoding = ENCODINGS[name](shape, **options)
    encoding.reset_parameters()
    return encoding


def filled(encoding: Any) -> Any:
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.uniform_(0.1, 1.0)
    return encoding


def scattered_ids(queries: int = 5, keys: int = 7, top: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of ids in no order, as place values are; some are equal."""
    torch.manual_seed(1)
    ids = torch.randint(0, top, (2, keys))
    return ids[:, -queries:], ids


def as_loops(
    query_ids: torch.Tensor, key_ids: torch.Tensor, heads: int, entry: Callable[[int, float, float], float]
) -> torch.Tensor:
    """(B, heads, Q, K) filled one by one with entry(head, query id, key id)."""
    rows = zip(query_ids.tolist(), key_ids.tolist(), strict=True)
    return torch.tensor([[[[entry(h, i, j) for j in keys] for i in queries] for h in range(heads)]
                         for queries, keys in rows])  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# Added to the embeddings


def test_learned_is_nn_embedding() -> None:
    encoding, ids = filled(build("learned", size=60)), scattered_ids()[1]
    embedding = nn.Embedding.from_pretrained(encoding.table.detach())
    assert torch.equal(encoding.embed(ids, torch.zeros(2, 7, WIDTH)), embedding(ids))


def test_learned_refuses_ids_past_its_table() -> None:
    encoding = build("learned", size=6)
    encoding.embed(torch.tensor([[5]]), torch.zeros(1, 1, WIDTH))
    with pytest.raises(ValueError, match=r"position id 6 is past the table of the encoding 'learned' \(size 6\)"):
        encoding.embed(torch.tensor([[6]]), torch.zeros(1, 1, WIDTH))


def test_sinusoidal_is_marians() -> None:
    # transformers' Marian: Vaswani et al. 2017, sines in the first half, cosines in the second, theta 10000.
    marian = MarianSinusoidalPositionalEmbedding(64, WIDTH)
    table, ids = marian.create_weight(), scattered_ids()[1]
    got = build("sinusoidal").embed(ids, torch.zeros(2, 7, WIDTH))
    torch.testing.assert_close(got, table[ids], atol=2e-5, rtol=0)


def test_random_tag_is_gaussian_fresh_for_a_sequence_and_shared_by_equal_ids() -> None:
    # Shen et al. 2023 (arXiv 2311.14737): fresh random tags in a part of the coordinates of every token.
    encoding = build("random_tag", tag_size=16, scale=2.0)
    ids, hidden = torch.arange(1000).repeat(4, 1), torch.zeros(4, 1000, WIDTH)
    still = encoding.eval().embed(ids, hidden)
    assert torch.equal(still, encoding.embed(ids, hidden)) and torch.equal(still[0], still[1])
    tags = encoding.train().embed(ids, hidden)
    assert not tags[..., :8].any()
    for block in (still[:1, :, 8:], tags[..., 8:]):
        # The mean of n draws is within 5 standard errors, 2 / sqrt(n); so is the deviation, 2 / sqrt(2 n).
        assert abs(block.mean()) < 5 * 2 / math.sqrt(block.numel())
        assert abs(block.std() - 2) < 5 * 2 / math.sqrt(2 * block.numel())
        flat = block.reshape(-1, 16)
        correlation = torch.corrcoef(flat.t()) - torch.eye(16)
        assert correlation.abs().max() < 5 / math.sqrt(len(flat))
        # Kolmogorov's distance to the normal distribution; 1.95 / sqrt(n) is passed once in a thousand.
        ordered = (flat.flatten().double() / 2).sort().values
        steps = torch.arange(1, len(ordered) + 1) / len(ordered)
        assert (torch.special.ndtr(ordered) - steps).abs().max() < 1.95 / math.sqrt(len(ordered))
    assert (tags[0] != tags[1]).any(dim=-1).all()
    same = encoding.embed(torch.tensor([[5, 9, 5]]), torch.zeros(1, 3, WIDTH))[0]
    assert torch.equal(same[0], same[2]) and not torch.equal(same[0], same[1])


# ----------------------------------------------------------------------------------------------------------------------
# Turning queries and keys

ROPES = [
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "default", "rope_theta": 100.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0,
     "beta_slow": 2.0, "attention_factor": 0.7, "truncate": False},
]  # fmt: skip


def llama_config(rope: dict, **fields: Any) -> LlamaConfig:
    original = rope.get("original_max_position_embeddings", 64)
    return LlamaConfig(max_position_embeddings=int(original * rope.get("factor", 1.0)), rope_parameters=rope, **fields)


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: "-".join(str(value) for value in list(rope.values())[:3]))
def test_rotary_is_llamas(rope: dict) -> None:
    llama = LlamaRotaryEmbedding(llama_config(rope, hidden_size=WIDTH, num_attention_heads=HEADS, head_dim=HEAD_DIM))
    ids = scattered_ids(7, 7, top=300)[1]
    query, key = torch.randn(2, 2, HEADS, 7, HEAD_DIM)
    wanted = apply_rotary_pos_emb(query, key, *llama(query, ids))
    cosines, sines = build("rotary", rope_parameters=rope).turn(ids)
    torch.testing.assert_close(rotate(query, cosines, sines), wanted[0])
    torch.testing.assert_close(rotate(key, cosines, sines), wanted[1])


def test_partial_rotary_is_gpt_neox() -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    config = GPTNeoXConfig(hidden_size=WIDTH, num_attention_heads=HEADS, rope_parameters=rope)
    query, key = torch.randn(2, 2, HEADS, 7, HEAD_DIM)
    ids = scattered_ids(7, 7)[1]
    wanted = apply_partial_rotary(query, key, *GPTNeoXRotaryEmbedding(config)(query, ids))
    cosines, sines = build("rotary", rope_parameters=rope).turn(ids)
    torch.testing.assert_close(rotate(query, cosines, sines), wanted[0])
    torch.testing.assert_close(rotate(key, cosines, sines), wanted[1])
    assert cosines.shape[-1] == HEAD_DIM // 2


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "unknown rope_type 'dynamic'; known: default, linear, llama3, yarn"),
        ({"rope_type": "linear"}, r"needed: \['factor'\]"),
        ({"theta": 3.0}, "known: .*'rope_theta'"),
        ({"partial_rotary_factor": 0.4}, "not 3 of head_dim 8: choose an even head_dim"),
        ({"partial_rotary_factor": 1.5}, "12 of head_dim 8"),
    ],
)
def test_rotary_refuses_what_it_cannot_honour(rope: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("rotary", rope_parameters=rope)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("rope", ROPES[1:5], ids=lambda rope: rope["rope_type"])
def test_a_whole_model_is_llama(
    rope: dict, implementation: str, tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    """Same weights, same logits: rotary, RMSNorm before each block, SwiGLU, grouped keys, untied embeddings."""
    ours = tiny_model(
        ("sequential", "rotary", {"rope_parameters": rope}),
        norm="rmsnorm",
        activation="swiglu",
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=False,
        norm_eps=1e-6,
        attn_implementation=implementation,
    )
    shared = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "pad_token_id")  # fmt: skip
    sizes = {name: getattr(ours.config, name) for name in shared}
    theirs = LlamaForCausalLM(llama_config(rope, rms_norm_eps=1e-6, attn_implementation=implementation, **sizes)).eval()
    names = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
    weights = {}
    for name in theirs.state_dict():
        mine = name
        for old, new in names.items():
            mine = mine.replace(old, new)
        weights[name] = ours.state_dict()[mine]
    theirs.load_state_dict(weights)
    assert len(weights) == len(ours.state_dict())
    tokens = encode("^12+34=640$", "_^12+34=640")
    mask = (tokens != 19).long()
    got, wanted = ours(tokens, mask).logits, theirs(tokens, mask).logits
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Added to the scores


@pytest.mark.parametrize("heads", [1, 4, 6, 12, 16])
def test_alibi_is_blooms(heads: int) -> None:
    keys = 9
    bloom = build_alibi_tensor(torch.ones(1, keys), heads, torch.float32).view(heads, keys)
    ids = torch.arange(keys)[None]
    got = build("alibi", heads=heads).bias(ids, ids)[0]
    # Bloom adds slope x key, which differs from -slope x (query - key) by a constant of each row.
    for query in range(keys):
        seen = slice(0, query + 1)
        wanted = bloom[:, seen] - bloom[:, query, None]
        torch.testing.assert_close(got[:, query, seen], wanted)


def test_alibi_slopes_of_the_paper() -> None:
    # Press et al. 2022 (arXiv 2108.12409), section 3: eight heads have 1/2, 1/4, ..., 1/256; sixteen begin at 2^-0.5.
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(16)[:2].tolist() == pytest.approx([2**-0.5, 0.5])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (16, 60)])
def test_t5_is_transformers_t5(causal: bool, buckets: int, max_distance: int) -> None:
    encoding = filled(build("t5", causal=causal, buckets=buckets, max_distance=max_distance))
    query_ids, key_ids = scattered_ids(40, 60, top=300)
    behind = key_ids[:, None, :] - query_ids[:, :, None]
    bucket = T5Attention._relative_position_bucket(behind, not causal, buckets, max_distance)
    wanted = encoding.table.t()[bucket].permute(0, 3, 1, 2)
    assert torch.equal(encoding.bias(query_ids, key_ids), wanted)
    # Distance 0 counts as the near side, so the first bucket of the far side is never met, here as there.
    met = set(range(buckets)) if causal else set(range(buckets)) - {buckets // 2}
    assert set(bucket.flatten().tolist()) == met


@pytest.mark.parametrize("clip", [1, 2, 16])
def test_clipped_is_shaws_by_loops(clip: int) -> None:
    # Shaw et al. 2018 (arXiv 1803.02155), section 3.2: clip(x, k) = max(-k, min(k, x)), one entry for each value.
    encoding = filled(build("clipped", clip=clip))
    ids = scattered_ids(top=12)
    table = encoding.table.tolist()
    wanted = as_loops(*ids, HEADS, lambda h, i, j: table[h][max(-clip, min(clip, i - j)) + clip])
    torch.testing.assert_close(encoding.bias(*ids), wanted)


def test_a_window_holds_the_first_scalars() -> None:
    encoding = build("clipped", clip=3, window=[0, 1], initial=[1.0, 2.0])
    assert encoding.table.tolist() == [[-1000.0, -1000.0, -1000.0, 1.0, 2.0, -1000.0, -1000.0]] * HEADS


def test_a_window_that_begins_closed_stays_closed(tiny_model: Callable[..., Any], encode: Callable[..., Any]) -> None:
    closed = {"clip": 2, "window": [-1, 1]}
    model = tiny_model(("significance", "clipped", closed), num_hidden_layers=1, fresh=True)
    # The second differs from the third place on, the third text at the second place, which is the next to come.
    tokens = encode("^123456+654321=7", "^918256+307421=7", "^123476+654321=7")
    last = model(tokens).logits[:, -1]
    assert torch.equal(last[0], last[1]) and not torch.allclose(last[0], last[2])
    last.square().sum().backward()
    ((name, table),) = [entry for entry in model.named_parameters() if entry[0].endswith("table")]
    assert "encodings" in name and not table.grad[:, [0, 4]].any() and table.grad[:, 1:4].any()


def test_match_by_loops() -> None:
    encoding = build("match", initial=1.5)
    ids = scattered_ids(top=4)
    torch.testing.assert_close(encoding.bias(*ids), as_loops(*ids, HEADS, lambda h, i, j: 1.5 * (i == j)))
    gain = filled(encoding).gain.tolist()
    torch.testing.assert_close(encoding.bias(*ids), as_loops(*ids, HEADS, lambda h, i, j: gain[h] * (i == j)))


@pytest.mark.parametrize("name", ["kerple_log", "kerple_power"])
def test_kerple_is_the_papers_formula(name: str) -> None:
    # Chi et al. 2022 (arXiv 2205.09921): -r1 log(1 + r2 |m - n|) and -r1 |m - n|^r2 with r2 in (0, 2].
    encoding = filled(build(name))
    with torch.no_grad():
        encoding.p[0], encoding.a[0] = -3.0, 1e-4  # the floor of both
        encoding.p[1] = 5.0  # the roof of the power
    p, a = (np.maximum(x.detach().numpy().astype(float), 0.01) for x in (encoding.p, encoding.a))
    ids = scattered_ids()
    if name == "kerple_log":
        wanted = as_loops(*ids, HEADS, lambda h, i, j: -p[h] * np.log(1 + a[h] * abs(i - j)))
    else:
        wanted = as_loops(*ids, HEADS, lambda h, i, j: -a[h] * abs(i - j) ** min(p[h], 2.0) if i != j else 0.0)
    torch.testing.assert_close(encoding.bias(*ids), wanted.float(), rtol=1e-5, atol=1e-5)


def test_kerple_is_drawn_as_in_the_paper() -> None:
    for name in ("kerple_log", "kerple_power"):
        encoding = build(name, heads=2000)
        for parameter, top in ((encoding.p, 2.0), (encoding.a, 1.0)):
            assert 0 <= parameter.min() < 0.02 * top and 0.98 * top < parameter.max() <= top


def test_fire_is_the_papers_formula() -> None:
    # Li et al. 2024 (arXiv 2310.04418), equation 19: f(psi(i - j) / psi(max(L, i))), psi(x) = log(c x + 1), with f an
    # MLP of one hidden ReLU layer; their listing adds 1e-6 below the bar. Causal ids, so that i >= j.
    encoding = filled(build("fire", width=5, threshold=20.0))
    w1, b1, w2, b2, c, scale = (
        x.detach().numpy().astype(float)
        for x in (encoding.hidden.weight[:, 0], encoding.hidden.bias, encoding.out.weight, encoding.out.bias,
                  encoding.c[0], encoding.scale[0])
    )  # fmt: skip
    encoding.hidden.bias.data.neg_()  # some of the hidden units are off
    b1 = -b1

    def psi(x: float) -> float:
        return math.log(float(c) * x + 1)

    def f(h: int, x: float) -> float:
        return float(w2[h] @ np.maximum(w1 * x + b1, 0) + b2[h])

    ids = torch.arange(60)[None]  # on both sides of the threshold
    length = float(scale) * 20.0
    wanted = as_loops(ids, ids, HEADS, lambda h, i, j: f(h, psi(max(i - j, 0)) / (psi(max(length, i)) + 1e-6)))
    seen = torch.ones(60, 60).tril().bool()
    torch.testing.assert_close(encoding.bias(ids, ids)[..., seen], wanted[..., seen].float(), rtol=1e-4, atol=1e-5)
    mirrored = as_loops(ids, ids, HEADS, lambda h, i, j: f(h, -psi(max(j - i, 0)) / (psi(max(length, i)) + 1e-6)))
    torch.testing.assert_close(encoding.bias(ids, ids)[..., ~seen], mirrored[..., ~seen].float(), rtol=1e-4, atol=1e-5)


def test_fire_starts_as_in_the_paper(tiny_model: Callable[..., Any]) -> None:
    # The linear layers inside it are not left to the model's own initialisation, which would shrink them to std 0.02.
    fire = tiny_model(("sequential", "fire"), fresh=True).model.encodings[0]
    assert fire.c.item() == pytest.approx(0.1) and fire.scale.item() == 1.0
    assert 0.8 < fire.hidden.weight.abs().max() <= 1.0 and fire.hidden.bias.abs().max() > 0.5
    assert 0.8 / math.sqrt(32) < fire.out.weight.abs().max() <= 1 / math.sqrt(32)


@pytest.mark.parametrize("size", [2, 4, 64])
def test_cope_is_the_papers_formula(size: int) -> None:
    # Golovneva et al. 2024 (arXiv 2405.18719), equations 3 to 6, by loops: g_ij = sigmoid(q_i k_j), p_ij = the sum of
    # g_it over t = j ... i, clipped to the table, and e[p] interpolated between whole positions.
    encoding = filled(build("cope", size=size))
    length, scaling = 9, HEAD_DIM**-0.5
    query, key = torch.randn(2, 1, HEADS, length, HEAD_DIM)
    table = encoding.table.detach().numpy().astype(float)
    wanted = np.zeros((HEADS, length, length))
    for h in range(HEADS):
        q, k = (x[0, h].numpy().astype(float) for x in (query, key))
        for i in range(length):
            for j in range(i + 1):
                p = min(sum(1 / (1 + math.exp(-(q[i] @ k[t]) * scaling)) for t in range(j, i + 1)), size - 1)
                low, high = math.floor(p), math.ceil(p)
                wanted[h, i, j] = q[i] @ ((p - low) * table[high] + (1 - p + low) * table[low])
    visible = torch.ones(length, length).tril().bool()
    got = encoding.bias_of_content(torch.arange(length)[None], visible[None, None], query, key, scaling)[0]
    wanted = torch.from_numpy(wanted).float()
    torch.testing.assert_close(got[:, visible], wanted[:, visible], rtol=1e-4, atol=1e-5)


def test_cope_counts_only_keys_with_a_place() -> None:
    encoding = filled(build("cope", size=16, absent=True))
    query, key = torch.randn(2, 1, HEADS, 6, HEAD_DIM)
    ids = torch.tensor([[0, ABSENT, 1, 2, ABSENT, 3]])
    visible = torch.ones(1, 1, 6, 6).tril().bool()
    kept = ids[0] != ABSENT
    got = encoding.bias_of_content(ids, visible, query, key, 1.0)[..., kept, :][..., kept]
    few = visible[..., kept, :][..., kept]
    wanted = encoding.bias_of_content(ids[:, kept], few, query[:, :, kept], key[:, :, kept], 1.0)
    torch.testing.assert_close(got[..., few[0, 0]], wanted[..., few[0, 0]])


# ----------------------------------------------------------------------------------------------------------------------
# What all of them keep

BIASES = [name for name, entry in ENCODINGS.items() if entry.biases and not entry.in_layers]
LEARNABLE = [name for name, entry in ENCODINGS.items() if entry.learnable is not None]


@pytest.mark.parametrize("name", BIASES)
def test_biases_of_absent_ids_are_three_scalars_a_head(name: str) -> None:
    query_ids, key_ids = torch.tensor([[3, ABSENT, 5]]), torch.tensor([[4, ABSENT, 3, ABSENT]])
    assert not build(name, absent=True).absent.any()
    encoding = filled(build(name, absent=True))
    got = encoding.bias(query_ids, key_ids)
    # With all ids present the same numbers come out as where none can be absent.
    present = filled(build(name))
    state = {key: value for key, value in encoding.state_dict().items() if key != "absent"}
    present.load_state_dict(state)
    torch.testing.assert_close(got[:, :, ::2, ::2], present.bias(query_ids[:, ::2], key_ids[:, ::2]))
    query, key, both = encoding.absent.unbind(1)
    for slot in (0, 2):
        assert torch.equal(got[0, :, 1, slot], query) and torch.equal(got[0, :, slot, 1], key)
    assert torch.equal(got[0, :, 1, 1], both) and torch.equal(got[0, :, 1, 3], both)


def test_absent_ids_add_nothing_and_do_not_turn() -> None:
    ids, hidden = torch.tensor([[ABSENT, 3]]), torch.ones(1, 2, WIDTH)
    for name, options in (("sinusoidal", {}), ("random_tag", {"tag_size": 8})):
        added = build(name, absent=True, **options).embed(ids, hidden)
        assert not added[0, 0].any() and added[0, 1].any()
    learned = filled(build("learned", absent=True, size=4))
    assert torch.equal(learned.embed(ids, hidden)[0], learned.table[[0, 4]])
    cosines, sines = build("rotary", absent=True).turn(ids)
    assert (cosines[0, 0, 0] == 1).all() and (sines[0, 0, 0] == 0).all() and sines[0, 0, 1].any()


@pytest.mark.parametrize("name", [name for name in ENCODINGS if name in ("rotary", *BIASES) and name != "fire"])
def test_relative_encodings_forget_a_common_shift(name: str) -> None:
    """FIRE is left out: it divides by the query's own id."""
    query_ids, key_ids = scattered_ids()
    if name in BIASES:
        encoding = filled(build(name))
        shifted = encoding.bias(query_ids + 100, key_ids + 100)
        assert torch.equal(encoding.bias(query_ids, key_ids), shifted)
    else:
        vectors = torch.randn(2, HEADS, 7, HEAD_DIM)
        turned, shifted = (rotate(vectors, *build(name).turn(key_ids + by)) for by in (0, 100))
        torch.testing.assert_close(turned @ turned.mT, shifted @ shifted.mT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name, entry in ENCODINGS.items() if entry.factored])
def test_factors_are_the_bias_but_for_a_constant_of_each_row(name: str) -> None:
    encoding, ids = filled(build(name)), scattered_ids(7, 7)[1].sort(dim=1).values
    left, right = encoding.factors(ids, ids)
    assert left.shape[:3] in {(1, HEADS, 7), (2, HEADS, 7)} and right.shape[:3] == (2, 1, 7)
    apart = (left @ right.mT - encoding.bias(ids, ids)).masked_fill(~torch.ones(7, 7).tril().bool(), torch.nan)
    first = apart[..., :1].expand_as(apart)
    torch.testing.assert_close(apart[~apart.isnan()], first[~apart.isnan()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, entry in ENCODINGS.items() if entry.by_distance])
def test_the_bias_at_a_distance_is_the_bias(name: str) -> None:
    encoding, ids = filled(build(name)), torch.arange(9)[None]
    table, bias = encoding.at(distances(9, ids.device)[None, None])[0, :, 0], encoding.bias(ids, ids)[0]
    for query, key in itertools.product(range(9), range(9)):
        assert torch.equal(table[:, query - key + 8], bias[:, query, key])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_distance_attention_is_a_mask_given_to_pytorchs(length: int, causal: bool) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 3, length, 8) for _ in range(3)] + [torch.randn(3, 2 * length - 1)]
    query, key, value, table = (leaf.requires_grad_() for leaf in leaves)
    place = torch.arange(length)
    mask = table[:, place[:, None] - place + length - 1]
    if causal:
        mask = mask.masked_fill(place > place[:, None], -torch.inf)
    wanted = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[None], scale=0.3)
    got = distance_attention(query, key, value, table, 0.3, causal)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(got)
    for a, b in zip(*(torch.autograd.grad(x, leaves, direction) for x in (got, wanted)), strict=True):
        torch.testing.assert_close(a, b, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_distance_attention_has_the_numeric_gradients(causal: bool) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(1, 2, 67, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    table = torch.randn(2, 133, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, v, t: distance_attention(q, k, v, t, 0.7, causal), (*leaves, table), fast_mode=True
    )


@pytest.mark.parametrize("name", LEARNABLE)
def test_gradients_are_the_numeric_ones(name: str) -> None:
    """The derivative in a random direction of all parameters, against a central difference."""
    encoding = filled(build(name, absent=True))
    query_ids, key_ids = scattered_ids()
    query_ids[0, 0] = key_ids[0, 1] = key_ids[1, 2] = ABSENT
    query, key = torch.randn(2, 2, HEADS, 7, HEAD_DIM)
    weight = torch.randn(2, HEADS, 7, 7) if encoding.in_layers else torch.randn(2, HEADS, 5, 7)
    if encoding.embeds:
        weight = torch.randn(2, 7, WIDTH)

    def loss() -> torch.Tensor:
        if encoding.embeds:
            value = encoding.embed(key_ids, torch.zeros(2, 7, WIDTH))
        elif encoding.in_layers:
            visible = torch.ones(1, 1, 7, 7).tril().bool()
            value = encoding.bias_of_content(key_ids, visible, query, key, 1.0)
        else:
            value = encoding.bias(query_ids, key_ids)
        return (value * weight).double().sum()

    parameters = list(encoding.requires_grad_().parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]
    gradients = torch.autograd.grad(loss(), parameters)
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
    step, values = 1e-3, []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, by in zip(parameters, direction, strict=True):
                parameter += sign * step * by
            values.append(loss().item())
            for parameter, by in zip(parameters, direction, strict=True):
                parameter -= sign * step * by
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("name", BIASES)
def test_biases_are_float32_in_a_bf16_model(name: str) -> None:
    half = filled(build(name, absent=True)).bfloat16()
    full = build(name, absent=True)
    full.load_state_dict(half.state_dict())
    ids = (torch.tensor([[1000, 3, ABSENT]]), torch.tensor([[999, 1000, ABSENT, 3]]))
    assert half.bias(*ids).dtype == torch.float32
    assert torch.equal(half.bias(*ids), full.bias(*ids))


def test_rotary_angles_are_exact_in_a_bf16_model() -> None:
    ids = torch.arange(2000)[None]
    for half, full in zip(build("rotary").bfloat16().turn(ids), build("rotary").turn(ids), strict=True):
        assert torch.equal(half, full)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("random_tag", {"tag_size": 7}, "tag_size must be even and at most hidden_size 24, not 7"),
        ("random_tag", {"tag_size": 26}, "at most hidden_size 24, not 26"),
        ("t5", {"buckets": 1}, "'t5' needs 4 buckets and more"),
        ("t5", {"max_distance": 16}, "max_distance beyond 16"),
        ("clipped", {"clip": 0}, "clip of at least 1, not 0"),
        ("cope", {"causal": False}, "it needs is_causal: true"),
    ],
)
def test_options_that_cannot_work_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_sinusoidal_refuses_an_odd_width(tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="'sinusoidal' needs an even hidden_size, not 33"):
        tiny_config(("sequential", "sinusoidal"), hidden_size=33, num_attention_heads=1)


def test_an_encoding_is_registered_once_and_has_its_hooks() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        position_encoding("alibi")(ENCODINGS["alibi"])
    hooks = {"embeds": ["embed"], "turns": ["turn"], "biases": ["bias", "bias_of_content"], "factored": ["factors"],
             "by_distance": ["at"]}  # fmt: skip
    for name, entry in ENCODINGS.items():
        for flag, methods in hooks.items():
            written = any(getattr(entry, method) is not getattr(PositionEncoding, method) for method in methods)
            assert getattr(entry, flag) == written, (name, flag)


def test_the_model_names_no_encoding() -> None:
    source = inspect.getsource(modeling_positional)
    assert not [name for name in ENCODINGS if f'"{name}"' in source and name != "none"]
