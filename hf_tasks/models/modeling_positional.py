"""A transformer whose notion of position is a list of (ids, encoding) pairs.

What is unusual here:
- The model calls three hooks (embed, turn, bias) and names no encoding and no ids.
- Ids of all tokens seen so far, (B, S, pairs), travel as `structural_ids`. The model computes them from `input_ids`;
  `generate` hands over the whole sequence, so cached steps, beams and chunked prefill are keyed rightly. Where tokens
  alone cannot tell (embeddings, a hand-made cached step), pass `model.structural_ids(all_tokens, attention_mask)`.
- `position_ids` are refused: transformers reads numbers that fall as packed sequences and would cut the attention.
- Biases that do not depend on content are computed once and shared by all layers, unless a pair says `per_layer`.
- A bias need not become a mask of Q x K scores, which keeps the kernels that know the causal mask by themselves from
  being used. Where an encoding has factors, they are further coordinates of queries and keys; where all biases are
  functions of the distance alone and are trained on CPU, `distance_attention` takes their tables.
- Layers can be shared and applied again; a cache has a slot for every application.
- With `qkv_conv_kernel` a slot also holds the last raw queries, keys and values: transformers' "hybrid" slots, which a
  cache has if it is made for the config, as `generate` and `DynamicCache(config=model.config)` make it.

This file is uploaded beside every checkpoint: it imports nothing but torch, transformers and its sibling files.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_positional import GATED_ACTIVATIONS, Pair, PositionalConfig
from .distance_attention import distance_attention, distances
from .position_encodings import rotate
from .position_ids import DIGIT, FILLER, OTHER, SEPARATOR, Tokens

_AUTO_MAP = {
    "AutoConfig": "configuration_positional.PositionalConfig",
    "AutoModel": "modeling_positional.PositionalModel",
    "AutoModelForCausalLM": "modeling_positional.PositionalForCausalLM",
    "AutoModelForSequenceClassification": "modeling_positional.PositionalForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_positional.PositionalForTokenClassification",
}
_OPENS_ANSWER = 4  # bit of the token table: the answer begins behind this token


def repeat_heads(x: torch.Tensor, times: int) -> torch.Tensor:
    """(B, H, S, D) -> (B, H * times, S, D), each head `times` times in a row."""
    return x if times == 1 else x.repeat_interleave(times, dim=1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; the softmax is in float32. Returns (B, Q, H, D) and the weights (B, H, Q, K)."""
    key, value = repeat_heads(key, module.num_key_value_groups), repeat_heads(value, module.num_key_value_groups)  # type: ignore
    scores = query @ key.transpose(2, 3) * scaling
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@dataclass
class PositionState:
    """What the layers need to know of position in one forward pass.

    Attributes:
        query_ids, key_ids: ids of the new tokens and of all keys, (B or 1, Q or K), one tensor a pair.
        turns: (cosines, sines) and heads (None: all) for every pair that turns queries and keys.
        rising: whether no key that is seen has a larger id than its query, one entry a pair.
        factors: u (B or 1, H, Q, r) and w (B or 1, 1, K, r) whose products are biases, see `PositionEncoding.factors`.
        distances: (1, 1, 2 S - 1) if biases are to be tables of the distance, in this order, or None.
        bias: (B or 1, H, Q, K), or a table (1, H, 1, 2 S - 1), of the pairs whose biases all layers share, or None.
        visible: (B or 1, 1, Q, K) bool, or None where no pair reads content.
        scale: (B or 1, 1, Q, 1) factor of all logits, or None.
        real: (B or 1, Q) bool, False at new tokens that are padding; None where nothing reads it or all are real.
    """

    query_ids: list[torch.Tensor]
    key_ids: list[torch.Tensor]
    rising: list[bool]
    turns: list[tuple[tuple[torch.Tensor, torch.Tensor], list[int] | None]] = field(default_factory=list)
    factors: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    distances: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    visible: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    real: torch.Tensor | None = None

    def add(self, index: int, pair: Pair, encoding: Any, count: int) -> None:
        """Add the bias of a pair that does not read content to that of all `count` heads."""
        query_ids, key_ids = self.query_ids[index], self.key_ids[index]
        if pair.encoding.factored and self.rising[index]:
            left, right = encoding.factors(query_ids, key_ids)
            self.factors.append((add_to_heads(None, left, pair.heads, count), right))
        elif self.distances is not None:
            self.add_scores(encoding.at(self.distances), pair.heads, count)
        else:
            self.add_scores(encoding.bias(query_ids, key_ids), pair.heads, count)

    def add_scores(self, bias: torch.Tensor, heads: list[int] | None, count: int) -> None:
        """Add (B or 1, heads, Q, K) to the bias of all `count` heads."""
        self.bias = add_to_heads(self.bias, bias if self.scale is None else bias * self.scale, heads, count)


def add_to_heads(total: torch.Tensor | None, bias: torch.Tensor, heads: list[int] | None, count: int) -> torch.Tensor:
    """Add (B, heads, ...) of some heads to the (B, count, ...) of all."""
    if heads is not None:
        rows = [bias[:, heads.index(h)] if h in heads else torch.zeros_like(bias[:, 0]) for h in range(count)]
        bias = torch.stack(rows, dim=1)
    return bias if total is None else total + bias


def turn_heads(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: list[int] | None) -> torch.Tensor:
    """Turn all heads of (B, H, S, D), or the named ones."""
    turned = rotate(x, cos, sin)
    if heads is None:
        return turned
    chosen = torch.tensor([h in heads for h in range(x.shape[1])], device=x.device)
    return torch.where(chosen[:, None, None], turned, x)


def append_factors(
    states: tuple[torch.Tensor, ...], factors: list[tuple[torch.Tensor, torch.Tensor]], scaling: float
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (B, H, S, D) with further coordinates, whose products are biases."""
    query, key, value = states
    left = torch.cat([u / scaling for u, _ in factors], dim=-1)
    right = torch.cat([w for _, w in factors], dim=-1)
    if query.dtype != torch.float32:  # three numbers of 8 bits hold one of 24
        rest, parts = right, []
        for _ in range(3):
            parts.append(rest.to(query.dtype))
            rest = rest - parts[-1]
        left, right = left.repeat(1, 1, 1, 3), torch.cat(parts, dim=-1)
    width = query.shape[-1]
    spare = -(width + left.shape[-1]) % 8  # what fused kernels ask for
    query, key = (
        nn.functional.pad(torch.cat([x, f.to(x.dtype).expand(*x.shape[:3], -1)], dim=-1), (0, spare))
        for x, f in ((query, left), (key, right))
    )
    return query, key, nn.functional.pad(value, (0, query.shape[-1] - width))


def build_norm(config: PositionalConfig) -> nn.Module:
    """LayerNorm or RMSNorm, by the config."""
    kind = nn.LayerNorm if config.norm == "layernorm" else nn.RMSNorm
    return kind(config.hidden_size, eps=config.norm_eps)


class ShortConvolution(nn.Module):
    """Queries, keys and values mixed with those of the tokens beside them, every channel by a filter of its own."""

    def __init__(self, config: PositionalConfig, sizes: list[int]) -> None:
        super().__init__()
        assert config.qkv_conv_kernel is not None
        self.sizes, self.kernel = sizes, config.qkv_conv_kernel
        self.behind = 0 if config.is_causal else self.kernel // 2  # how many tokens behind it a token sees
        self.filters = nn.Parameter(torch.empty(self.kernel, sum(sizes)))

    def reset_parameters(self) -> None:
        """1 at the token itself, 0 elsewhere: at first nothing is mixed."""
        fresh = torch.zeros_like(self.filters)
        fresh[-1 - self.behind] = 1.0
        init.copy_(self.filters, fresh)

    def forward(
        self, states: list[torch.Tensor], real: torch.Tensor | None, past_key_values: Cache | None, depth: int
    ) -> tuple[torch.Tensor, ...]:
        """(B, Q, size) of new tokens, raw -> the same, convolved; padding and what is before it counts as zero."""
        raw, length = torch.cat(states, dim=-1), states[0].shape[1]
        if real is not None:
            raw = torch.where(real[..., None], raw, 0.0)
        if past_key_values is not None:  # it gives what it kept of the past, more or less than is needed, and the new
            new = raw.transpose(1, 2)
            raw = past_key_values.update_conv_state(new, depth, conv_kernel_size=self.kernel - 1).transpose(1, 2)
        window = length + self.kernel - 1
        raw = nn.functional.pad(raw, (0, 0, self.kernel - 1 - self.behind, self.behind))[:, -window:]
        # Written out, it is no slower than conv1d and leaves every head's coordinates side by side.
        filters = self.filters.to(raw.dtype)
        mixed = sum(filters[shift] * raw[:, shift : shift + length] for shift in range(self.kernel))
        return mixed.split(self.sizes, dim=-1)  # type: ignore[union-attr]


class PositionalAttention(nn.Module):
    """Multi-head attention with the biases of `per_layer` pairs."""

    def __init__(self, config: PositionalConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim: int = config.head_dim  # type: ignore[assignment]
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads  # type: ignore[operator]
        self.scaling = self.head_dim**-0.5
        self.is_causal = config.is_causal
        width, queries = config.hidden_size, config.num_attention_heads * self.head_dim
        keys = config.num_key_value_heads * self.head_dim  # type: ignore[operator]
        self.q_proj = nn.Linear(width, queries, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(queries, width, bias=False)
        self.conv = ShortConvolution(config, [queries, keys, keys]) if config.qkv_conv_kernel else None
        self.pairs = config.pairs()
        self.own = [i for i, pair in enumerate(self.pairs) if pair.per_layer]
        self.encodings: Any = nn.ModuleList(self.pairs[i].build(config) for i in self.own)
        silent = {h for pair in self.pairs if not pair.scores for h in pair.heads or range(config.num_attention_heads)}
        self.scored = [float(h not in silent) for h in range(config.num_attention_heads)] if silent else None

    def _with_own(self, state: PositionState, query: torch.Tensor, key: torch.Tensor) -> PositionState:
        """The state with the biases of this layer beside those that all share."""
        if not self.own:
            return state
        state, count = replace(state, factors=[*state.factors]), query.shape[1]
        for index, encoding in zip(self.own, self.encodings, strict=True):
            pair = self.pairs[index]
            if not encoding.in_layers:
                state.add(index, pair, encoding, count)
                continue
            chosen = slice(None) if pair.heads is None else pair.heads
            keys = repeat_heads(key, self.num_key_value_groups)[:, chosen]
            assert state.visible is not None
            bias = encoding.bias_of_content(state.key_ids[index], state.visible, query[:, chosen], keys, self.scaling)
            state.add_scores(bias, pair.heads, count)
        return state

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        state: PositionState,
        depth: int,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, Q, hidden_size) -> the same, and the weights where the implementation gives them."""
        shape = hidden_states.shape[:-1]
        states: Any = [projection(hidden_states) for projection in (self.q_proj, self.k_proj, self.v_proj)]
        if self.conv is not None:
            states = self.conv(states, state.real, past_key_values, depth)
        query, key, value = (x.view(*shape, -1, self.head_dim).transpose(1, 2) for x in states)
        for (cos, sin), heads in state.turns:
            query = turn_heads(query, cos, sin, heads)
            shared = None if heads is None else sorted({h // self.num_key_value_groups for h in heads})
            key = turn_heads(key, cos, sin, shared)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, depth)
        state = self._with_own(state, query, key)
        if self.scored is not None:
            query = query * torch.tensor(self.scored, dtype=query.dtype, device=query.device)[:, None, None]
        if state.factors:
            query, key, value = append_factors((query, key, value), state.factors, self.scaling)
        if state.scale is not None:
            query = query * state.scale.to(query.dtype)
        output, weights = self._attend(query, key, value, attention_mask, state, **kwargs)
        output = output[..., : self.head_dim]
        return self.o_proj(output.reshape(*shape, -1)), weights

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        state: PositionState,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, H, Q or K, D) -> (B, Q, H, D), and the weights where the implementation gives them."""
        bias = state.bias
        if bias is not None and state.distances is not None:
            key, value = (repeat_heads(x, self.num_key_value_groups) for x in (key, value))
            mixed = distance_attention(query, key, value, bias[0, :, 0], self.scaling, self.is_causal)
            return mixed.transpose(1, 2), None
        chosen: Any = self.config._attn_implementation
        if bias is not None:
            bias = bias.to(query.dtype)
            if chosen == "flex_attention":  # its score function indexes the batch
                bias = bias.expand(len(query), -1, -1, -1)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(chosen, eager_attention_forward)
        return attend(
            self,
            query,
            key,
            value,
            attention_mask,
            position_bias=bias,
            scaling=self.scaling,
            dropout=self.config.dropout if self.training else 0.0,
            **kwargs,
        )


class PositionalMLP(nn.Module):
    """Two layers, or the gated three."""

    def __init__(self, config: PositionalConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        gated = config.activation in GATED_ACTIVATIONS
        self.gate_proj = nn.Linear(width, inner, bias=False) if gated else None  # type: ignore[arg-type]
        self.up_proj = nn.Linear(width, inner, bias=not gated)  # type: ignore[arg-type]
        self.down_proj = nn.Linear(inner, width, bias=not gated)  # type: ignore[arg-type]
        self.activation = ACT2FN[GATED_ACTIVATIONS.get(config.activation, config.activation)]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, S, hidden_size) -> the same."""
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(hidden_states)))
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class PositionalLayer(GradientCheckpointingLayer):
    """Attention and MLP, with the norms before, behind or on both sides of each."""

    def __init__(self, config: PositionalConfig) -> None:
        super().__init__()
        before, behind = config.norm_position != "post", config.norm_position != "pre"
        self.parallel = config.parallel_block
        self.self_attn = PositionalAttention(config)
        self.mlp = PositionalMLP(config)
        self.attention_norm = build_norm(config) if before else None
        self.attention_post_norm = build_norm(config) if behind else None
        self.mlp_norm = build_norm(config) if before and not self.parallel else None
        self.mlp_post_norm = build_norm(config) if behind else None
        self.dropout = nn.Dropout(config.dropout)
        # "post" normalises the sum of branch and residual stream, "sandwich" the branch alone.
        self.sum_first = config.norm_position == "post"

    def _join(self, residual: torch.Tensor, branch: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
        if self.training:
            branch = self.dropout(branch)
        if norm is None:
            return residual + branch
        return norm(residual + branch) if self.sum_first else residual + norm(branch)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        state: PositionState,
        depth: int,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, Q, hidden_size) -> the same; `depth` is the slot of this application in the cache."""
        normed = hidden_states if self.attention_norm is None else self.attention_norm(hidden_states)
        attended, _ = self.self_attn(normed, attention_mask, state, depth, past_key_values, **kwargs)
        if self.parallel:
            hidden_states = self._join(hidden_states, attended, self.attention_post_norm)
            return self._join(hidden_states, self.mlp(normed), self.mlp_post_norm)
        hidden_states = self._join(hidden_states, attended, self.attention_post_norm)
        normed = hidden_states if self.mlp_norm is None else self.mlp_norm(hidden_states)
        return self._join(hidden_states, self.mlp(normed), self.mlp_post_norm)


class TokenTable(nn.Module):
    """What each token is to `position_ids`: one look-up. Not stored; refilled in `_init_weights`."""

    def __init__(self, config: PositionalConfig) -> None:
        super().__init__()
        self.config = config
        self.kinds = nn.Buffer(torch.zeros(config.vocab_size, dtype=torch.long), persistent=False)

    def compute(self) -> torch.Tensor:
        """(vocab_size,) kinds, with the bit `_OPENS_ANSWER` where the answer begins."""
        kinds = torch.full((self.config.vocab_size,), OTHER, dtype=torch.long, device="cpu")
        for kind, name in ((FILLER, "filler"), (SEPARATOR, "separator"), (DIGIT, "digit")):
            kinds[getattr(self.config, f"{name}_token_ids") or []] = kind
        kinds[self.config.answer_token_ids or []] += _OPENS_ANSWER
        return kinds

    def forward(self, input_ids: torch.Tensor, real: torch.Tensor) -> Tokens:
        """(B, S) tokens and which of them are real -> what ids are read from."""
        kinds = torch.where(real, self.kinds[input_ids], OTHER)
        width = self.config.answer_width
        return Tokens(
            ids=input_ids,
            kind=kinds % _OPENS_ANSWER,
            answer=kinds >= _OPENS_ANSWER,
            real=real,
            reverse=self.config.reversed_numbers,
            answer_width=None if width is None else (width[0], width[1]),
        )


def read_tokens(config: PositionalConfig, input_ids: torch.Tensor, real: torch.Tensor) -> Tokens:
    """What a model of this config reads its ids from, without the model: (B, S) tokens and which of them are real."""
    table = TokenTable(config)
    table.kinds.copy_(table.compute())
    return table(input_ids, real)


@auto_docstring
class PositionalPreTrainedModel(PreTrainedModel):
    config: PositionalConfig  # type: ignore[assignment]
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["PositionalLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": PositionalLayer, "attentions": PositionalAttention}  # noqa: RUF012

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As the base, with an entry for every head, so that any checkpoint serves AutoModel and its kin remotely."""
        self.config.auto_map = dict(_AUTO_MAP)
        super().save_pretrained(*args, **kwargs)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As the base; the new tokens are neither digits nor separators unless the config says so."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        table: Any = self.base_model.tokens
        table.kinds = table.compute().to(table.kinds.device)
        return embeddings

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        # No isinstance for encodings: a config loaded from the Hub has its own copy of their file, so other classes.
        if hasattr(module, "bias_of_content") or isinstance(module, ShortConvolution):
            module.reset_parameters()
        elif isinstance(module, TokenTable):
            init.copy_(module.kinds, module.compute())


def _check_cache(cache: Cache) -> None:
    kept = bool(cache.layers) and all(hasattr(layer, "update_conv_state") for layer in cache.layers)
    if not kept or cache.offloading:  # offloading moves the state and does not wait for it
        raise ValueError(
            f"qkv_conv_kernel needs a cache with a state that this {type(cache).__name__} does not keep: make it with "
            "DynamicCache(config=model.config) or StaticCache(config=model.config, ...), not offloaded, not quantized"
        )


@auto_docstring
class PositionalModel(PositionalPreTrainedModel):
    def __init__(self, config: PositionalConfig) -> None:
        config.check()
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.dropout = nn.Dropout(config.dropout)
        self.tokens = TokenTable(config)
        self.pairs = config.pairs()
        self.encodings: Any = nn.ModuleList(
            nn.Identity() if pair.per_layer else pair.build(config) for pair in self.pairs
        )
        self.layers = nn.ModuleList(
            PositionalLayer(config)
            for _ in range(config.num_hidden_layers // config.num_loops)  # type: ignore[operator]
        )
        self.norm = build_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    def structural_ids(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        draw: bool = False,
    ) -> torch.Tensor:
        """The ids of every token under every pair, (B or 1, S, pairs); 1 where they are the same for all rows.

        Args:
            input_ids: all tokens, (B, S), those in the cache included.
            attention_mask: (B, S), 0 on padding; None: no padding.
            inputs_embeds: (B, S, hidden_size) in place of `input_ids`, if no pair reads tokens.
            draw: draw random ids anew (training), else the deterministic ones.

        Raises:
            ValueError: a pair reads tokens and there are none.
        """
        like = input_ids if input_ids is not None else inputs_embeds
        assert like is not None
        if attention_mask is not None:
            real = attention_mask.bool()
        else:
            real = torch.ones(len(like) if draw else 1, like.shape[1], dtype=torch.bool, device=like.device)
        tokens = blind = Tokens(ids=None, kind=None, answer=None, real=real)
        if input_ids is not None and any(pair.ids.from_tokens for pair in self.pairs):
            tokens = self.tokens(input_ids, real)
        columns = []
        for pair, spec in zip(self.pairs, self.config.positions or [], strict=True):
            if pair.ids.from_tokens and input_ids is None:
                raise ValueError(
                    f"position ids {spec['ids']!r} are read from tokens, and inputs_embeds has none: pass "
                    "structural_ids=model.structural_ids(input_ids, attention_mask), or ids of your own"
                )
            columns.append(pair.ids(tokens if pair.ids.from_tokens else blind, draw))
        return torch.stack(torch.broadcast_tensors(*columns), dim=-1)

    def _state(self, ids: torch.Tensor, past: Any, queries: int, keys: int, plain: bool) -> PositionState:
        """Split the ids of all tokens into those of the new ones and those of all keys of the cache.

        `plain`: ids and mask are the model's own, so that ids that rise do, and no query sees behind itself.
        """
        if not torch.compiler.is_compiling():
            wanted = (int(past) + queries, len(self.pairs))
            if ids.ndim != 3 or ids.shape[1] < wanted[0] or ids.shape[2] != wanted[1]:
                raise ValueError(
                    f"structural_ids of shape {tuple(ids.shape)} do not hold {wanted[0]} tokens (the cached ones "
                    f"included) under {wanted[1]} pairs: pass model.structural_ids(all_tokens, attention_mask)"
                )
        slots = torch.arange(queries, device=ids.device) + past
        if ids.shape[1] < keys:  # a cache of fixed size: slots not yet filled are masked, any id will do
            ids = nn.functional.pad(ids, (0, 0, 0, keys - ids.shape[1]))
        # One pair with real ids makes the whole tensor real; tables are indexed by whole ones.
        columns = [c.long() if p.ids.whole else c for c, p in zip(ids.unbind(-1), self.pairs, strict=True)]
        # Only sdpa has something to gain; the others show what it must come to.
        faster = plain and self.config.is_causal and self.config._attn_implementation == "sdpa"
        rising = [faster and pair.ids.rises for pair in self.pairs]
        return PositionState([c.index_select(1, slots) for c in columns], [c[:, :keys] for c in columns], rising)

    def _distances(self, state: PositionState, embeds: torch.Tensor) -> torch.Tensor | None:
        """What `PositionState.distances` is to be, where every query sees all new tokens up to itself and no others."""
        # On CUDA and compiled, a mask that needs a gradient has fused kernels; on CPU one that needs none has.
        trained = torch.is_grad_enabled() and embeds.device.type == "cpu" and not torch.compiler.is_compiling()
        if not trained or self.config._attn_implementation != "sdpa":
            return None
        if embeds.dtype != torch.float32 or (self.training and self.config.dropout > 0):
            return None
        left = [
            (pair, ids)
            for pair, ids, rising in zip(self.pairs, state.key_ids, state.rising, strict=True)
            if pair.encoding.biases and not (pair.encoding.factored and rising)
        ]
        slots = torch.arange(embeds.shape[1])
        fits = (
            self.config.attention_scaling == "none"
            and any(pair.learnable for pair, _ in left)
            and all(pair.encoding.by_distance and not pair.ids.can_be_absent for pair, _ in left)
            and all(torch.equal(ids, slots.expand_as(ids)) for _, ids in left)
        )
        return distances(len(slots), embeds.device)[None, None] if fits else None

    def _visible(self, mask: torch.Tensor | None, past: Any, queries: int, keys: int) -> torch.Tensor:
        """(B or 1, 1, Q, K) bool from a mask of two or four dimensions, or none."""
        device = self.embed_tokens.weight.device
        if mask is not None and mask.ndim == 4:
            return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        seen = torch.ones(1, 1, 1, keys, dtype=torch.bool, device=device)
        if mask is not None:
            padded = nn.functional.pad(mask.bool(), (0, max(0, keys - mask.shape[1])))[:, :keys]
            seen = padded[:, None, None, :]
        if self.config.is_causal:
            slots = torch.arange(queries, device=device) + past
            seen = seen & (torch.arange(keys, device=device) <= slots[:, None])
        return seen

    def _real(self, mask: torch.Tensor | None, past: Any, queries: int, keys: int) -> torch.Tensor | None:
        """(B or 1, Q) bool from a mask of two or four dimensions: which new tokens are no padding; None: all."""
        if mask is None:
            return None
        slots = torch.arange(queries, device=mask.device) + past
        if mask.ndim == 2:
            return mask.bool().index_select(1, slots)
        seen = self._visible(mask, past, queries, keys)[:, 0].expand(-1, queries, -1)  # padding does not see itself
        return seen.gather(-1, slots[:, None].expand(len(seen), -1, -1))[..., 0]

    def _prepare(
        self, state: PositionState, mask: torch.Tensor | None, past: Any, queries: int, keys: int
    ) -> PositionState:
        """Everything about position that the layers share."""
        if self.config.attention_scaling == "log_length":
            count = self._visible(mask, past, queries, keys).sum(-1, keepdim=True)
            state.scale = torch.log1p(count.float()) / math.log1p(self.config.attention_scaling_length)
        for index, (pair, encoding) in enumerate(zip(self.pairs, self.encodings, strict=True)):
            if pair.per_layer:
                continue
            if encoding.turns:
                state.turns.append((encoding.turn(state.query_ids[index]), pair.heads))
            if encoding.biases:
                state.add(index, pair, encoding, self.config.num_attention_heads)
        if any(pair.encoding.in_layers for pair in self.pairs):
            state.visible = self._visible(mask, past, queries, keys)
        if self.config.qkv_conv_kernel is not None:
            state.real = self._real(mask, past, queries, keys)
        return state

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        structural_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        r"""
        structural_ids (`torch.Tensor` of shape `(batch or 1, tokens seen so far, pairs)`, *optional*):
            Position ids of every token, those in the cache included, one column a pair of `config.positions`. Computed
            from `input_ids` when absent, which takes the whole sequence.
        """
        if kwargs.pop("position_ids", None) is not None:
            raise ValueError("position_ids are not read: positions come from the tokens. Pass structural_ids instead")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of the two")
        embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None and self.config.is_causal:
            past_key_values = DynamicCache(config=self.config)
        if past_key_values is not None and self.config.qkv_conv_kernel is not None:
            _check_cache(past_key_values)
        queries = embeds.shape[1]
        past: Any = 0 if past_key_values is None else past_key_values.get_seq_length()
        keys = queries if past_key_values is None else past_key_values.get_mask_sizes(queries, 0)[0]

        plain = structural_ids is None and (attention_mask is None or attention_mask.ndim == 2)
        if structural_ids is None:
            structural_ids = self._ids_of_call(input_ids, inputs_embeds, attention_mask, past_key_values, past)
        if self.config.is_causal:
            mask = create_causal_mask(self.config, embeds, attention_mask, past_key_values)
        else:
            mask = create_bidirectional_mask(self.config, embeds, attention_mask)
        state = self._state(structural_ids, past, queries, keys, plain)
        if mask is None and queries == keys:
            state.distances = self._distances(state, embeds)
        self._prepare(state, attention_mask, past, queries, keys)
        for pair, encoding, ids in zip(self.pairs, self.encodings, state.query_ids, strict=True):
            if pair.encoding.embeds:
                embeds = embeds + encoding.embed(ids, embeds)
        embeds = self.dropout(embeds)
        hidden_states = embeds
        if self.training and self.config.start_noise:
            size = torch.full_like(embeds[:, :1, :1], self.config.start_noise)
            if self.config.start_noise_share < 1:
                size = size * (torch.rand_like(size) < self.config.start_noise_share)
            hidden_states = hidden_states + size * torch.randn_like(hidden_states)
        for depth in range(self.config.num_hidden_layers):
            index = depth % len(self.layers)
            if self.config.input_injection and depth and index == 0:
                hidden_states = hidden_states + embeds
            hidden_states = self.layers[index](
                hidden_states, mask, state, depth, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _ids_of_call(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        past: Any,
    ) -> torch.Tensor:
        """The ids when the caller gave none: only a call without a past can tell them."""
        if past_key_values is not None and not torch.compiler.is_compiling() and past:
            raise ValueError(
                "a cached step does not show the tokens before it: pass structural_ids="
                "model.structural_ids(all_tokens, attention_mask), or use generate, which does"
            )
        if attention_mask is not None and attention_mask.ndim != 2:
            attention_mask = None
        return self.structural_ids(input_ids, attention_mask, inputs_embeds, draw=self.training)


@auto_docstring
class PositionalForCausalLM(PositionalPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: PositionalConfig) -> None:
        if not config.is_causal:
            raise ValueError("a causal language model needs is_causal: true; an encoder takes a classification head")
        super().__init__(config)
        self.model = PositionalModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def structural_ids(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """As `PositionalModel.structural_ids`."""
        return self.model.structural_ids(input_ids, attention_mask)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        structural_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        r"""
        structural_ids (`torch.Tensor` of shape `(batch or 1, tokens seen so far, pairs)`, *optional*):
            Position ids of every token, those in the cache included; computed from `input_ids` when absent.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            structural_ids=structural_ids,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(
        self, input_ids: torch.LongTensor, *args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Add the ids of the whole sequence, which `input_ids` is here, before it is cut down to the new tokens."""
        base: Any = super()
        inputs = base.prepare_inputs_for_generation(input_ids, *args, attention_mask=attention_mask, **kwargs)
        if inputs.get("structural_ids") is None and inputs.get("input_ids") is not None:
            inputs["structural_ids"] = self._ids_of_prompt(input_ids, attention_mask)
        return inputs

    @staticmethod
    def create_masks_for_generate(
        config: PositionalConfig,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        **kwargs: Any,
    ) -> Any:
        """One mask for all layers, where transformers would make one for every type of layer."""
        return create_causal_mask(config, inputs_embeds, attention_mask, past_key_values)

    def _ids_of_prompt(self, input_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        # A mask of another length means that tokens are missing, which the model refuses.
        fits = mask is not None and mask.shape == input_ids.shape
        return self.structural_ids(input_ids, mask if fits else None)

    def _prefill(self, input_ids: Any, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any) -> Any:
        # Chunked prefill shows `prepare_inputs_for_generation` one chunk at a time; a number may lie across two.
        if generation_config.prefill_chunk_size is None or model_kwargs.get("structural_ids") is not None:
            return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]
        model_kwargs["structural_ids"] = self._ids_of_prompt(input_ids, model_kwargs.get("attention_mask"))
        outputs = super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]
        del model_kwargs["structural_ids"]
        return outputs


class PositionalForSequenceClassification(GenericForSequenceClassification, PositionalPreTrainedModel):
    """Classifies the vector of the last real token."""

    def __init__(self, config: PositionalConfig) -> None:
        # Not the generic constructor: it asks AutoModel for the body, which strangers' processes do not know.
        PositionalPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = PositionalModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)  # type: ignore[arg-type]
        self.post_init()


class PositionalForTokenClassification(GenericForTokenClassification, PositionalPreTrainedModel):
    """Classifies the vector of every token."""

    def __init__(self, config: PositionalConfig) -> None:
        PositionalPreTrainedModel.__init__(self, config)  # as above
        self.num_labels = config.num_labels
        self.model = PositionalModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()


__all__ = [
    "PositionalForCausalLM",
    "PositionalForSequenceClassification",
    "PositionalForTokenClassification",
    "PositionalModel",
    "PositionalPreTrainedModel",
]
