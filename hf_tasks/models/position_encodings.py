"""Axis 2: how does an index enter attention?

What is unusual here:
- Three hooks: `embed` adds to the token embeddings, `turn` turns queries and keys, `bias` is added to the scores. A
  class says which of them it has; the model calls those, and never names an encoding.
- Every hook gets explicit ids of queries and keys, never lengths, so cached decoding and left padding are right by
  construction. Ids come from `position_ids` and may be ABSENT ("no place"): additive encodings then add a vector of
  their own or nothing, rotations do not turn, and score biases have three learned scalars a head (query absent, key
  absent, both), zero at first.
- Biases are computed in float32 whatever the dtype of the model, and their shape is (B or 1, heads of the pair, Q, K).
- An encoding that needs the content of queries and keys says `in_layers = True` and gets them (`bias_of_content`).
- Two ways round a bias of Q x K scores, for encodings that have them: `factors`, two thin matrices whose product is the
  bias, and `at`, the bias as a function of the distance alone. They say the same as `bias`; which one the model takes
  is a matter of speed.

To add one: write a final class here, decorate it with `@position_encoding("name")`. Its keyword-only arguments become
keys of a pair in `PositionalConfig.positions`. The contract tests find it by themselves; add a golden value from an
outside source.

This file is uploaded beside every checkpoint: it imports nothing but torch, transformers and its sibling files.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .position_ids import ABSENT, enter

CLOSED = -1000.0  # a bias that leaves a key no weight, in any of the number formats used


@dataclass(frozen=True)
class Shape:
    """What an encoding must know of its model.

    Attributes:
        heads: number of query heads that the pair applies to.
        head_dim: size of one head.
        hidden_size: width of the embeddings.
        is_causal: keys behind the query are invisible.
        can_be_absent: the ids of the pair can be ABSENT.
        whole: the ids are whole numbers.
        std: standard deviation of new weights.
    """

    heads: int
    head_dim: int
    hidden_size: int
    is_causal: bool
    can_be_absent: bool
    whole: bool
    std: float


ENCODINGS: dict[str, type["PositionEncoding"]] = {}


def position_encoding(name: str) -> Callable[[type["PositionEncoding"]], type["PositionEncoding"]]:
    """Enter a class in the registry of encodings under `name`."""
    return enter(ENCODINGS, name)


class PositionEncoding(nn.Module):
    """Base: the three hooks. Subclasses are final and take their fields as keyword-only arguments.

    Class attributes:
        embeds, turns, biases: which hooks the encoding has.
        in_layers: `bias` reads queries and keys, so it runs inside every layer.
        factored: where no key has a larger id than the query, the bias is a product of factors.
        by_distance: `bias` is a function of the signed distance query id - key id.
        whole_only: ids must be whole numbers.
        learnable: whether its parameters are trained unless a pair says otherwise; None where it has none.
    """

    embeds: ClassVar[bool] = False
    turns: ClassVar[bool] = False
    biases: ClassVar[bool] = False
    in_layers: ClassVar[bool] = False
    factored: ClassVar[bool] = False
    by_distance: ClassVar[bool] = False
    whole_only: ClassVar[bool] = False
    learnable: ClassVar[bool | None] = None
    weight: ClassVar[None] = None  # PEFT, merging, copies a `weight` of every module that was trained in full

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def embed(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """(B, S) ids and (B, S, hidden_size) embeddings -> what to add to them, (B or 1, S, hidden_size)."""
        raise NotImplementedError

    def turn(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, S) ids -> cosines and sines (B, 1, S, turned size), float32, halves in the order of `rotate_half`."""
        raise NotImplementedError

    def bias(self, query_ids: torch.Tensor, key_ids: torch.Tensor) -> torch.Tensor:
        """(B, Q) and (B, K) ids -> (B, heads, Q, K) float32, to be added to the scores."""
        raise NotImplementedError

    def at(self, distance: torch.Tensor) -> torch.Tensor:
        """Signed distances (B, Q, K), query id - key id -> the bias at them, (B, heads, Q, K) float32."""
        raise NotImplementedError

    def factors(self, query_ids: torch.Tensor, key_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, Q) and (B, K) ids -> u (B, heads, Q, r) and w (B, 1, K, r), float32: u w^T is the bias.

        It may differ from the bias by a constant of each row, which the softmax takes no notice of.
        """
        raise NotImplementedError

    def bias_of_content(
        self, key_ids: torch.Tensor, visible: torch.Tensor, query: torch.Tensor, key: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """As `bias`, from ids (B, K), what is visible (B or 1, 1, Q, K), queries and keys (B, heads, Q or K, D)."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Fill every parameter; called by the model's `_init_weights`, since models are built without storage."""


@position_encoding("none")
class NoEncoding(PositionEncoding):
    """Nothing (NoPE): order is known from the causal mask alone (Kazemnejad et al. 2023, arXiv 2305.19466)."""


# ----------------------------------------------------------------------------------------------------------------------
# Added to the embeddings


@position_encoding("learned")
class Learned(PositionEncoding):
    """A table of vectors, one an id, as GPT-2 has it (`wpe`); its first row is "no place".

    Args:
        size: number of ids; larger ones are refused.
    """

    embeds = True
    whole_only = True
    learnable = True

    def __init__(self, shape: Shape, *, size: int = 512) -> None:
        super().__init__(shape)
        self.size = size
        self.table = nn.Parameter(torch.empty(size + shape.can_be_absent, shape.hidden_size))

    def reset_parameters(self) -> None:
        init.normal_(self.table, std=self.shape.std)

    def embed(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        # Compiled, the check would break the graph; there the look-up itself fails on CPU and asserts on CUDA.
        if not torch.compiler.is_compiling() and ids.device.type != "meta" and int(ids.max()) >= self.size:
            raise ValueError(
                f"position id {int(ids.max())} is past the table of the encoding 'learned' (size {self.size}): "
                "train with a larger size (and max_offset), or choose an encoding without a table"
            )
        return functional.embedding(ids + self.shape.can_be_absent, self.table)


@position_encoding("sinusoidal")
class Sinusoidal(PositionEncoding):
    """Sines and cosines of geometrically spaced periods (Vaswani et al. 2017), halves side by side; absent adds 0.

    Args:
        theta: longest period / (2 pi).
    """

    embeds = True

    def __init__(self, shape: Shape, *, theta: float = 10000.0) -> None:
        super().__init__(shape)
        if shape.hidden_size % 2:
            raise ValueError(f"'sinusoidal' needs an even hidden_size, not {shape.hidden_size}")
        self.theta = theta

    def embed(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        half = self.shape.hidden_size // 2
        powers = torch.arange(half, device=ids.device, dtype=torch.float32) / half
        angles = ids[..., None].float() * torch.exp(powers * -math.log(self.theta))
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return torch.where((ids == ABSENT)[..., None], 0.0, waves).to(hidden.dtype)


@position_encoding("random_tag")
class RandomTag(PositionEncoding):
    """A random vector for each id and each sequence, in the last `tag_size` coordinates (Shen et al. 2023, 2311.14737).

    Training draws anew for every sequence; equal ids share a tag. The values are a hash of (draw, id, coordinate), so
    evaluation (draw 0) is deterministic, any id has a tag, and cached decoding needs no memory of earlier draws.

    Args:
        tag_size: how many coordinates carry the tag.
        scale: standard deviation of each.
    """

    embeds = True
    whole_only = True

    def __init__(self, shape: Shape, *, tag_size: int = 32, scale: float = 1.0) -> None:
        super().__init__(shape)
        if not 2 <= tag_size <= shape.hidden_size or tag_size % 2:
            raise ValueError(f"tag_size must be even and at most hidden_size {shape.hidden_size}, not {tag_size}")
        self.tag_size, self.scale = tag_size, scale

    def embed(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        draw = torch.zeros(len(hidden), 1, 1, dtype=torch.long, device=ids.device)
        if self.training:
            draw = torch.randint(1, 2**31, draw.shape, device=ids.device)
        coordinate = torch.arange(self.tag_size, device=ids.device)
        bits = _scramble(_scramble(draw + (ids[..., None] + 1) * 0x9E3779B1) + coordinate * 0x85EBCA77)
        even, odd = ((bits.float() + 0.5) / 2**31).chunk(2, dim=-1)  # (0, 1)
        radius = (-2 * even.log()).clamp(min=0).sqrt()  # Box-Muller
        tags = torch.cat([radius * (odd * math.tau).cos(), radius * (odd * math.tau).sin()], dim=-1) * self.scale
        tags = torch.where((ids == ABSENT)[..., None], 0.0, tags)
        return functional.pad(tags, (self.shape.hidden_size - self.tag_size, 0)).to(hidden.dtype)


def _scramble(x: torch.Tensor) -> torch.Tensor:
    """A hash of whole numbers to 0 ... 2**31 - 1: multiply and shift, twice, in 64 bits without overflow."""
    x = x & 0x7FFFFFFF
    for factor in (0x7FEB352D, 0x846CA68B & 0x7FFFFFFF):
        x = ((x ^ (x >> 15)) * factor) & 0x7FFFFFFF
    return x ^ (x >> 16)


# ----------------------------------------------------------------------------------------------------------------------
# Turning queries and keys


# rope_type -> the keys that it needs, and those it may have; transformers reads no others and says nothing of them.
_ROPE_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, set()),
    "yarn": (
        {"factor", "original_max_position_embeddings"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
}


@position_encoding("rotary")
class Rotary(PositionEncoding):
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864), with transformers' `rope_parameters`; absent is not turned.

    Args:
        rope_parameters: transformers' dictionary: `rope_type` (default, linear, llama3, yarn), `rope_theta`,
            `partial_rotary_factor` and what the type needs. Types whose angles change with the length (dynamic,
            longrope) are refused: keys in the cache would have been turned by other angles.
    """

    turns = True

    def __init__(self, shape: Shape, *, rope_parameters: dict | None = None) -> None:
        super().__init__(shape)
        self.rope = {"rope_type": "default", "rope_theta": 10000.0, **(rope_parameters or {})}
        if self.rope["rope_type"] not in _ROPE_KEYS:
            raise ValueError(f"unknown rope_type {self.rope['rope_type']!r}; known: {', '.join(_ROPE_KEYS)}")
        needed, optional = _ROPE_KEYS[self.rope["rope_type"]]
        known = {"rope_type", "rope_theta", "partial_rotary_factor", *needed, *optional}
        if not needed <= self.rope.keys() <= known:
            raise ValueError(
                f"rope_parameters of type {self.rope['rope_type']!r} are {sorted(self.rope)}; "
                f"needed: {sorted(needed)}, known: {sorted(known)}"
            )
        self.turned = int(shape.head_dim * self.rope.get("partial_rotary_factor", 1.0))
        if self.turned % 2 or not 0 < self.turned <= shape.head_dim:
            raise ValueError(
                f"'rotary' turns pairs of coordinates, not {self.turned} of head_dim {shape.head_dim}: "
                "choose an even head_dim and partial_rotary_factor"
            )
        frequencies, self.factor = self._compute()
        # No buffer: `model.to(torch.bfloat16)` would round it, and far ids would turn by wrong angles.
        self.frequencies: list[float] = frequencies.tolist()

    def _compute(self) -> tuple[torch.Tensor, float]:
        if self.rope["rope_type"] == "default":
            powers = torch.arange(0, self.turned, 2, device="cpu").float() / self.turned
            return 1.0 / self.rope["rope_theta"] ** powers, 1.0
        original = self.rope.get("original_max_position_embeddings", 2048)
        stand_in = SimpleNamespace(
            rope_parameters={"partial_rotary_factor": 1.0, **self.rope},
            standardize_rope_params=lambda: None,
            head_dim=self.shape.head_dim,
            hidden_size=self.shape.hidden_size,
            num_attention_heads=self.shape.heads,
            max_position_embeddings=int(original * self.rope.get("factor", 1.0)),
        )
        with torch.device("cpu"):  # models are built under the meta device, which has no numbers
            return ROPE_INIT_FUNCTIONS[self.rope["rope_type"]](stand_in, torch.device("cpu"))  # type: ignore[arg-type]

    def turn(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frequencies = torch.tensor(self.frequencies, dtype=torch.float32, device=ids.device)
        if self.shape.can_be_absent:
            ids = torch.where(ids == ABSENT, 0, ids)
        angles = ids[:, None, :, None].float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos() * self.factor, angles.sin() * self.factor


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turn the first coordinates of (B, H, S, D) by (B, 1, S, turned); the rest stays. Halves are paired (GPT-NeoX)."""
    turned = cosines.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat([rotate(x[..., :turned], cosines, sines), x[..., turned:]], dim=-1)
    left, right = x.chunk(2, dim=-1)
    return x * cosines.to(x.dtype) + torch.cat([-right, left], dim=-1) * sines.to(x.dtype)


# ----------------------------------------------------------------------------------------------------------------------
# Added to the scores


class ScoreBias(PositionEncoding):
    """Base of the biases: signed distances in, (B, heads, Q, K) out; three learned scalars where an id is absent."""

    biases = True
    learnable = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.absent = nn.Parameter(torch.empty(shape.heads, 3)) if shape.can_be_absent else None

    def reset_parameters(self) -> None:
        if self.absent is not None:
            init.zeros_(self.absent)

    def between(self, query_ids: torch.Tensor, key_ids: torch.Tensor) -> torch.Tensor:
        """The bias where both ids are present: (B, Q, 1) and (B, 1, K) -> (B, heads, Q, K), float32."""
        return self.at(query_ids - key_ids)

    def bias(self, query_ids: torch.Tensor, key_ids: torch.Tensor) -> torch.Tensor:
        query_ids, key_ids = query_ids[:, :, None], key_ids[:, None, :]
        bias = self.between(query_ids, key_ids)
        if self.absent is None:
            return bias
        missing = _missing(query_ids, key_ids)
        return torch.where((missing > 0)[:, None], _look_up(self.absent, (missing - 1).clamp(min=0)), bias)


class TableBias(ScoreBias):
    """Base of the biases that are a learned scalar a head and class of distances."""

    by_distance = True
    table: nn.Parameter

    def index(self, distance: torch.Tensor) -> torch.Tensor:
        """Signed distances -> which entry of the table, (heads, entries), is theirs."""
        raise NotImplementedError

    def at(self, distance: torch.Tensor) -> torch.Tensor:
        return _look_up(self.table, self.index(distance))

    def bias(self, query_ids: torch.Tensor, key_ids: torch.Tensor) -> torch.Tensor:
        if self.absent is None:
            return super().bias(query_ids, key_ids)
        query_ids, key_ids = query_ids[:, :, None], key_ids[:, None, :]
        # The scalars of absent ids are further entries: one look-up a head in place of two and a choice.
        missing = _missing(query_ids, key_ids)
        index = torch.where(missing > 0, self.table.shape[1] - 1 + missing, self.index(query_ids - key_ids))
        return _look_up(torch.cat([self.table, self.absent], dim=1), index)


def _missing(query_ids: torch.Tensor, key_ids: torch.Tensor) -> torch.Tensor:
    """(B, Q, 1) and (B, 1, K) -> 0 where both are present, 1 without the query, 2 without the key, 3 without both."""
    return (query_ids == ABSENT).long() + 2 * (key_ids == ABSENT).long()


def _look_up(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(heads, N) table and (B, Q, K) index -> (B, heads, Q, K), float32."""
    # One gather along the last axis: on CPU an embedding of rows as short as these takes 20 times as long.
    flat = index.flatten(1)[:, None].expand(-1, len(table), -1)
    return table.float().expand(len(index), -1, -1).gather(2, flat).unflatten(2, index.shape[1:])


def _per_head(values: torch.Tensor) -> torch.Tensor:
    return values.float()[:, None, None]


def alibi_slopes(heads: int) -> torch.Tensor:
    """2^(-8h/H) for a power of two; else those of the next lower power, then every second one of the next higher."""
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (h + 1) / lower) for h in range(lower)]
    slopes += [2.0 ** (-4.0 * (2 * h + 1) / lower) for h in range(heads - lower)]
    return torch.tensor(slopes, dtype=torch.float32)


@position_encoding("alibi")
class Alibi(ScoreBias):
    """-slope x distance (Press et al. 2022, arXiv 2108.12409), the slopes of BLOOM; `learnable: true` trains them."""

    learnable = False
    factored = True
    by_distance = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.slopes = nn.Parameter(torch.empty(shape.heads))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        init.copy_(self.slopes, alibi_slopes(self.shape.heads))

    def at(self, distance: torch.Tensor) -> torch.Tensor:
        return -_per_head(self.slopes) * distance.abs().float()[:, None]

    def factors(self, query_ids: torch.Tensor, key_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # -slope (i - j) is slope x j, and a constant of row i.
        return _per_head(self.slopes).expand(1, -1, query_ids.shape[1], 1), key_ids.float()[:, None, :, None]


@position_encoding("t5")
class T5(TableBias):
    """A scalar a head and bucket, exact up to half of the buckets, then logarithmic (Raffel et al. 2020, 1910.10683).

    Args:
        buckets: number of buckets; a model that is not causal has half of them for either side.
        max_distance: where the last bucket begins.
    """

    def __init__(self, shape: Shape, *, buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__(shape)
        self.both_sides = not shape.is_causal
        self.exact = buckets // (4 if self.both_sides else 2)
        if self.exact < 1 or max_distance <= self.exact:
            raise ValueError(f"'t5' needs 4 buckets and more, max_distance beyond {self.exact}, not {max_distance}")
        self.buckets, self.max_distance = buckets, max_distance
        self.table = nn.Parameter(torch.empty(shape.heads, buckets))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        init.normal_(self.table, std=self.shape.std)

    def index(self, distance: torch.Tensor) -> torch.Tensor:
        ahead = distance < 0
        distance = (distance.abs() if self.both_sides else distance.clamp(min=0)).float()
        side = self.buckets // (2 if self.both_sides else 1)
        far = torch.log(distance.clamp(min=1) / self.exact) / math.log(self.max_distance / self.exact)
        far = (self.exact + (far * (side - self.exact)).long()).clamp(max=side - 1)
        bucket = torch.where(distance < self.exact, distance.long(), far)
        return bucket + ahead.long() * side * self.both_sides


@position_encoding("clipped")
class Clipped(TableBias):
    """A learned scalar a head and signed distance, distances clipped: Shaw et al. 2018 (1803.02155) in scalar form.

    Args:
        clip: distances beyond it, on either side, share the scalar at `clip`.
        window: [low, high], the distances query - key at which a head sees; from -clip to clip unless given, and an end
            at clip takes in all that lies beyond. At other distances the scalar begins at `CLOSED`, which leaves
            neither weight nor gradient beside a key that is seen: one in the window, or one without a place.
        initial: the scalars before training, for the distances of the window; zeros unless given.
    """

    whole_only = True

    def __init__(
        self, shape: Shape, *, clip: int = 16, window: list[int] | None = None, initial: list[float] | None = None
    ) -> None:
        super().__init__(shape)
        if clip < 1:
            raise ValueError(f"'clipped' needs a clip of at least 1, not {clip}")
        window = [-clip, clip] if window is None else window
        if len(window) != 2 or not -clip <= window[0] <= window[1] <= clip:
            raise ValueError(f"window of 'clipped' needs [low, high] between {-clip} and {clip}, not {window}")
        low, high = window
        seen = high - low + 1
        if initial is not None and len(initial) != seen:
            raise ValueError(
                f"initial of 'clipped' needs {seen} numbers for the distances {low} to {high}, not {len(initial)}"
            )
        self.clip, self.initial = clip, [CLOSED] * (2 * clip + 1)
        self.initial[low + clip : high + clip + 1] = initial or [0.0] * seen
        self.table = nn.Parameter(torch.empty(shape.heads, 2 * clip + 1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        init.copy_(self.table, torch.tensor(self.initial, dtype=torch.float32).expand_as(self.table))

    def index(self, distance: torch.Tensor) -> torch.Tensor:
        return distance.clamp(-self.clip, self.clip) + self.clip


@position_encoding("match")
class Match(ScoreBias):
    """A learned scalar a head where query and key have the same id, 0 elsewhere.

    Over tokens it is the association map of Zhang et al. 2022 (arXiv 2206.04301), as a bias; over places, as one, ours.

    Args:
        initial: the scalar before training.
    """

    by_distance = True

    def __init__(self, shape: Shape, *, initial: float = 0.0) -> None:
        super().__init__(shape)
        self.initial = initial
        self.gain = nn.Parameter(torch.empty(shape.heads))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        init.constant_(self.gain, self.initial)

    def at(self, distance: torch.Tensor) -> torch.Tensor:
        return _per_head(self.gain) * (distance == 0)[:, None]


class _Kerple(ScoreBias):
    """Two positive scalars a head, p and a (Chi et al. 2022, arXiv 2205.09921), drawn evenly, kept >= 0.01."""

    by_distance = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.p, self.a = nn.Parameter(torch.empty(shape.heads)), nn.Parameter(torch.empty(shape.heads))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        init.uniform_(self.p, 0.0, 2.0)
        init.uniform_(self.a, 0.0, 1.0)

    def positive(self) -> tuple[torch.Tensor, torch.Tensor]:
        return _per_head(self.p).clamp(min=0.01), _per_head(self.a).clamp(min=0.01)


@position_encoding("kerple_log")
class KerpleLog(_Kerple):
    """-p log(1 + a distance), the logarithmic kernel of KERPLE (arXiv 2205.09921, equation 3)."""

    def at(self, distance: torch.Tensor) -> torch.Tensor:
        p, a = self.positive()
        return -p * torch.log1p(a * distance.abs().float()[:, None])


@position_encoding("kerple_power")
class KerplePower(_Kerple):
    """-a distance^p with p at most 2, the power kernel of KERPLE (arXiv 2205.09921)."""

    def at(self, distance: torch.Tensor) -> torch.Tensor:
        p, a = self.positive()
        distance = distance.abs().float()[:, None]
        # 0^p has no finite slope in p at p = 0; distance 0 is taken out before the power.
        power = torch.where(distance > 0, distance.clamp(min=1e-6) ** p.clamp(max=2.0), 0.0)
        return -a * power


class _FloatLinear(nn.Module):
    """A linear layer in float32. No `nn.Linear`, so that PEFT's "all-linear" passes encodings by."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.empty(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight.float(), self.bias.float())


@position_encoding("fire")
class Fire(ScoreBias):
    """A small network of the progressively scaled distance (FIRE, Li et al. 2024, arXiv 2310.04418, equation 19).

    f(log(c d + 1) / log(c max(i, L) + 1)) with distance d = i - j, query id i, learned c and threshold L. A negative
    distance, which no causal sequence has but place values do, keeps its sign.

    Args:
        width: hidden size of the network.
        threshold: L before training.
    """

    def __init__(self, shape: Shape, *, width: int = 32, threshold: float = 512.0) -> None:
        super().__init__(shape)
        self.threshold = threshold
        self.hidden, self.out = _FloatLinear(1, width), _FloatLinear(width, shape.heads)
        self.c, self.scale = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for layer in (self.hidden, self.out):  # the default of torch, as in the paper's listing
            bound = layer.weight.shape[1] ** -0.5
            init.uniform_(layer.weight, -bound, bound)
            init.uniform_(layer.bias, -bound, bound)
        init.constant_(self.c, 0.1)
        init.ones_(self.scale)

    def between(self, query_ids: torch.Tensor, key_ids: torch.Tensor) -> torch.Tensor:
        distance = (query_ids - key_ids).float()
        c, threshold = self.c.float().abs(), (self.scale.float() * self.threshold).abs()
        far = torch.maximum(query_ids.float().abs(), threshold)
        ratio = distance.sign() * torch.log1p(c * distance.abs()) / (torch.log1p(c * far) + 1e-6)
        return self.out(functional.relu(self.hidden(ratio[..., None]))).permute(0, 3, 1, 2)


@position_encoding("cope")
class Cope(PositionEncoding):
    """Contextual positions (Golovneva et al. 2024, arXiv 2405.18719): gates counted back from the query.

    p_ij = sum over t = j ... i of sigmoid(score_it), clipped; the bias is q_i . e[p_ij], interpolated between whole
    positions. Only keys that have a place are counted, so ids choose what is counted and never how far.

    Args:
        size: number of positions; larger counts share the last.
    """

    biases = True
    in_layers = True
    learnable = True

    def __init__(self, shape: Shape, *, size: int = 64) -> None:
        super().__init__(shape)
        if not shape.is_causal:
            raise ValueError("'cope' counts back from the query, so it needs is_causal: true")
        self.size = size
        self.table = nn.Parameter(torch.empty(size, shape.head_dim))

    def reset_parameters(self) -> None:
        init.zeros_(self.table)

    def bias_of_content(
        self, key_ids: torch.Tensor, visible: torch.Tensor, query: torch.Tensor, key: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        query, key = query.float(), key.float()
        counted = visible & (key_ids != ABSENT)[:, None, None, :]
        gates = torch.where(counted, torch.sigmoid(query @ key.transpose(2, 3) * scaling), 0.0)
        count = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=self.size - 1)
        below = count.detach().floor()
        fields = query @ self.table.float().t()  # (B, heads, Q, size)
        low, high = fields.gather(-1, below.long()), fields.gather(-1, count.detach().ceil().long())
        return torch.lerp(low, high, count - below)


def fields_of(entry: type) -> dict[str, tuple[Any, Any]]:
    """The keys that a registered class adds to a pair: name -> (type, default), read off its keyword-only arguments."""
    return {
        name: (parameter.annotation, parameter.default)
        for name, parameter in inspect.signature(entry).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
