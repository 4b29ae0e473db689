"""Configuration of the positional models.

What is unusual here:
- Position is a list of pairs (ids, encoding) out of two registries, each pair a flat dictionary that survives JSON.
- Unknown fields are refused, in the config and in a pair: the base class would store a typo and say nothing.
- `num_hidden_layers` counts applications of a layer, as in ALBERT: shared layers keep it, so caches stay true.
- The config knows which tokens are digits, separators, fillers and the answer's opener; `from_tokenizer` fills them in.

This file is uploaded beside every checkpoint.
"""

import types
import typing
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

from .position_encodings import ENCODINGS, PositionEncoding, Shape, fields_of
from .position_ids import POSITION_IDS, PositionIds

GATED_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}

# What the base class takes beyond its declared fields, when it loads or converts a config. Anything else is a typo.
_BASE_EXTRAS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "torch_dtype",
}


@dataclass(frozen=True)
class Pair:
    """One (ids, encoding) pair of a model, checked.

    Attributes:
        ids: computes the ids.
        encoding: class of the encoding; `build` makes its module.
        options: keyword arguments of the encoding.
        heads: query heads that it applies to; None: all.
        learnable: False: its parameters are frozen.
        scores: False: the product of queries and keys is taken out of its heads, the biases alone remain.
        per_layer: every layer has parameters of its own.
    """

    ids: PositionIds
    encoding: type[PositionEncoding]
    options: dict[str, Any]
    heads: list[int] | None
    learnable: bool
    scores: bool
    per_layer: bool

    def build(self, config: "PositionalConfig") -> PositionEncoding:
        """The encoding's module; if the pair is frozen, what it would train are buffers."""
        shape = Shape(
            heads=config.num_attention_heads if self.heads is None else len(self.heads),
            head_dim=config.head_dim,  # type: ignore[arg-type]
            hidden_size=config.hidden_size,
            is_causal=config.is_causal,
            can_be_absent=self.ids.can_be_absent,
            whole=self.ids.whole,
            std=config.initializer_range,
        )
        encoding = self.encoding(shape, **self.options)
        if not self.learnable:
            _freeze(encoding)
        return encoding


@strict
class PositionalConfig(PreTrainedConfig):
    r"""Everything about a positional model.

    Args:
        vocab_size: number of tokens.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim:
            the usual sizes; `intermediate_size` is 4 x `hidden_size` unless given.
        positions: pairs, each a dictionary with the keys `ids` and `encoding` (names out of the registries), the
            fields of both, and at will `heads` (list of head numbers), `learnable` (train its parameters?), `scores`
            ("on" or "off": take the query-key product out of these heads) and `per_layer` (own parameters in every
            layer, for biases).
        norm: "layernorm" or "rmsnorm". norm_position: "pre", "post" or "sandwich" (both). norm_eps: their epsilon.
        activation: any name of transformers' `ACT2FN`, or the gated "swiglu" and "geglu".
        parallel_block: attention and MLP read the same normalised input and are added together (phi-1).
        share_layers: one set of layers applied again. num_loops: how many times; `num_hidden_layers` unless given, so
            that one layer serves all depths (ALBERT). input_injection: the embeddings are added again before each loop.
            start_noise: standard deviation of what is added, in training, to the state that the first loop begins with,
            so that loops must come to the answer from any state: without it a chain of guesses about what is not yet
            known can hold out against what comes to be known. start_noise_share: of the sequences that begin so, each
            time anew; what takes long to learn at all needs some that do not.
        is_causal: False makes an encoder.
        qkv_conv_kernel: width of a depthwise convolution along the sequence over queries, keys and values, one filter
            a channel and no bias, before they are turned (Primer's MDHA, So et al. 2021, arXiv 2109.08668; the first
            abstract of LEGO, arXiv 2206.04301v1, reports an edge of such maps on programs). A decoder's ends at the
            token itself, an encoder's is centred on it and has odd width. A new filter is 1 at the token itself and 0
            elsewhere, so that a new model is one without it. None: no convolution.
        attention_scaling: "none", or "log_length": all logits (scores and biases) are multiplied by
            log(1 + visible keys) / log(1 + attention_scaling_length), so that attention does not dilute as sequences
            grow. (The 1 keeps the logits of a first token from vanishing.)
        dropout: on embeddings, attention weights and both residual branches.
        digit_token_ids, separator_token_ids, filler_token_ids, answer_token_ids: which tokens are digits, bound
            numbers, are to be skipped inside numbers, and open the answer. reversed_numbers: which numbers are written
            least significant digit first. answer_width: (m, c) if an answer that is not reversed has m x the longest
            operand + c digits.

    Raises:
        ValueError: an unknown field or name, or settings that contradict each other; one line that says which.
    """

    model_type = "positional"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  (a class attribute of the base)

    vocab_size: int = 32
    hidden_size: int = 128
    intermediate_size: int | None = None
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    positions: list[dict[str, Any]] | None = None
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_position: Literal["pre", "post", "sandwich"] = "pre"
    norm_eps: float = 1e-5
    activation: str = "gelu"
    parallel_block: bool = False
    share_layers: bool = False
    num_loops: int | None = None
    input_injection: bool = False
    start_noise: float = 0.0
    start_noise_share: float = 1.0
    is_causal: bool = True
    qkv_conv_kernel: int | None = None
    attention_scaling: Literal["none", "log_length"] = "none"
    attention_scaling_length: int = 20
    dropout: float = 0.0
    initializer_range: float = 0.02
    digit_token_ids: list[int] | None = None
    separator_token_ids: list[int] | None = None
    filler_token_ids: list[int] | None = None
    answer_token_ids: list[int] | None = None
    reversed_numbers: Literal["none", "answer", "all"] = "none"
    answer_width: list[int] | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in _BASE_EXTRAS:
                raise unknown("field of PositionalConfig", name, [f.name for f in fields(self)])
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.positions is None:
            self.positions = [{"ids": "sequential", "encoding": "learned"}]
        if self.num_loops is None:
            self.num_loops = self.num_hidden_layers if self.share_layers else 1
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Refuse settings that contradict each other; the model asks again, as `from_pretrained` sets fields late."""
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads", "head_dim", "num_loops", "attention_scaling_length"):  # fmt: skip
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        given = f"num_attention_heads {self.num_attention_heads}"
        if self.head_dim == self.hidden_size // self.num_attention_heads:
            fits = self.hidden_size % self.num_attention_heads == 0
            _require(fits, f"hidden_size {self.hidden_size} is no multiple of {given}: change one, or give head_dim")
        fits = self.num_attention_heads % self.num_key_value_heads == 0  # type: ignore[operator]
        _require(fits, f"{given} is no multiple of num_key_value_heads {self.num_key_value_heads}")
        known = self.activation in GATED_ACTIVATIONS or self.activation in ACT2FN
        if not known:
            raise unknown("activation", self.activation, [*GATED_ACTIVATIONS, *ACT2FN])
        _require(0 <= self.dropout < 1, f"dropout must be in [0, 1), not {self.dropout}")
        if self.share_layers:
            fits = self.num_loops > 1 and self.num_hidden_layers % self.num_loops == 0  # type: ignore[operator]
            given = f"not {self.num_loops} for num_hidden_layers {self.num_hidden_layers}"
            _require(fits, f"share_layers needs num_loops above 1 that divides num_hidden_layers, {given}")
        else:
            _require(self.num_loops == 1, f"num_loops {self.num_loops} needs share_layers: true")
            _require(not self.input_injection, "input_injection adds the embeddings again before every loop: it needs "
                                               "share_layers: true")  # fmt: skip
        _require(self.start_noise >= 0, f"start_noise must be 0 or more, not {self.start_noise}")
        share = self.start_noise_share
        _require(0 < share <= 1, f"start_noise_share must be in (0, 1], not {share}")
        _require(share == 1 or self.start_noise > 0, f"start_noise_share {share} needs start_noise above 0")
        fits = not self.start_noise or self.input_injection
        _require(fits, f"start_noise {self.start_noise} drowns what only the first loop sees: it needs "
                       "input_injection: true")  # fmt: skip
        fits = not (self.parallel_block and self.norm_position == "post")
        _require(fits, "parallel_block reads one normalised input: norm_position must be pre or sandwich, not post")
        kernel = self.qkv_conv_kernel
        _require(kernel is None or kernel >= 2, f"qkv_conv_kernel must be at least 2, or null for none, not {kernel}")
        fits = kernel is None or self.is_causal or kernel % 2 == 1
        _require(fits, f"qkv_conv_kernel of an encoder is centred on a token, so it must be odd, not {kernel}")
        for name in ("digit", "separator", "filler", "answer"):
            beyond = [i for i in getattr(self, f"{name}_token_ids") or [] if not 0 <= i < self.vocab_size]
            _require(not beyond, f"{name}_token_ids {beyond} are no tokens: vocab_size is {self.vocab_size}")
        # Fields of the base class that nothing here reads; with return_dict false transformers' own heads break too.
        for name, only in (("is_encoder_decoder", False), ("chunk_size_feed_forward", 0), ("return_dict", True)):
            value = getattr(self, name)
            _require(value == only, f"{name} {value} is not supported by these models: leave it {only}")
        width = self.answer_width
        _require(width is None or len(width) == 2, f"answer_width is two numbers (times, plus), not {width}")
        _require(bool(self.positions), "positions names no pair; for none at all: {ids: sequential, encoding: none}")
        self.pairs()

    @property
    def layer_types(self) -> list[str]:
        """What transformers' caches read: a "hybrid" slot holds the state of a convolution beside keys and values."""
        return ["full_attention" if self.qkv_conv_kernel is None else "hybrid"] * self.num_hidden_layers

    def pairs(self) -> list[Pair]:
        """The pairs of `positions`, checked against the registries and against this config."""
        return [_pair(spec, self) for spec in self.positions or []]

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **kwargs: Any) -> "PositionalConfig":
        """A config for this tokenizer: its size, its special tokens, and which of its tokens are digits and separators.

        Tokenizers of `hf_tasks.build_tokenizer` carry a `number_format` that says so. Any other has the ten digits and
        + - * / % = , ; as far as they are tokens, and numbers with the most significant digit first.
        """
        style = tokenizer.init_kwargs.get("number_format") or {"digits": "0123456789", "separators": "+-*/%=,;"}
        vocabulary = tokenizer.get_vocab()

        def ids_of(symbols: Any) -> list[int]:
            return sorted(vocabulary[symbol] for symbol in symbols or () if symbol in vocabulary)

        specials = [i for i in {tokenizer.bos_token_id, tokenizer.eos_token_id} if i is not None]
        found = {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "digit_token_ids": ids_of(style.get("digits")),
            "separator_token_ids": sorted({*ids_of(style.get("separators")), *specials}),
            "filler_token_ids": ids_of(style.get("fillers")),
            "answer_token_ids": ids_of(style.get("answer")),
            "reversed_numbers": style.get("reverse", "none"),
            "answer_width": style.get("answer_width"),
        }
        return cls(**{**found, **kwargs})


def unknown(kind: str, name: Any, known: list[str]) -> ValueError:
    """The error for a name that nobody reads, with the names that somebody does."""
    return ValueError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


def _freeze(encoding: nn.Module) -> None:
    """Turn parameters into buffers: `from_pretrained` sets `requires_grad` on every parameter that it loads."""
    for module in encoding.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


_PAIR_KEYS = {"ids", "encoding", "heads", "learnable", "scores", "per_layer"}


def _pair(spec: dict[str, Any], config: PositionalConfig) -> Pair:
    for key, registry in (("ids", POSITION_IDS), ("encoding", ENCODINGS)):
        _require(isinstance(spec, dict) and key in spec, f"a pair of positions needs the keys ids and encoding: {spec}")
        if spec[key] not in registry:
            raise unknown({"ids": "position ids", "encoding": "position encoding"}[key], spec[key], list(registry))
    ids_class, encoding = POSITION_IDS[spec["ids"]], ENCODINGS[spec["encoding"]]
    name = f"{spec['ids']} x {spec['encoding']}"
    ids_fields, encoding_fields = fields_of(ids_class), fields_of(encoding)
    for key in spec.keys() - _PAIR_KEYS:
        if key not in {**ids_fields, **encoding_fields}:
            raise unknown(f"key of the pair {name}", key, [*_PAIR_KEYS, *ids_fields, *encoding_fields])
        _check_type(f"{key} of the pair {name}", spec[key], *{**ids_fields, **encoding_fields}[key])
    _check_fit(name, ids_class, encoding, config)
    pair = Pair(
        ids=ids_class(**{key: spec[key] for key in ids_fields.keys() & spec.keys()}),
        encoding=encoding,
        options={key: spec[key] for key in encoding_fields.keys() & spec.keys()},
        heads=_heads(name, spec.get("heads"), encoding, config),
        learnable=_learnable(name, spec.get("learnable"), encoding),
        scores=_scores(name, spec.get("scores", "on"), encoding),
        per_layer=bool(encoding.in_layers or spec.get("per_layer", False)),
    )
    _require(isinstance(spec.get("per_layer", False), bool), f"per_layer of the pair {name} must be true or false")
    _require(pair.encoding.biases or not pair.per_layer, f"per_layer of the pair {name} is for score biases")
    _require(spec.get("per_layer", True) or not encoding.in_layers, f"{name} is per_layer always: it reads the content")
    # Building on the meta device costs nothing and lets the encoding check its own options.
    with torch.device("meta"):
        pair.build(config)
    return pair


def _check_type(what: str, value: Any, wanted: Any, default: Any) -> None:
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    right = any(_is_a(value, option) for option in options)
    _require(right, f"{what} must be {getattr(wanted, '__name__', wanted)}, not {value!r}")
    if wanted is int:
        _require(value >= min(default, 1), f"{what} must be at least {min(default, 1)}, not {value}")


def _is_a(value: Any, wanted: Any) -> bool:
    if typing.get_origin(wanted) is list:
        return isinstance(value, list) and all(_is_a(item, *typing.get_args(wanted)) for item in value)
    kinds = (int, float) if wanted is float else wanted
    return isinstance(value, kinds) and (wanted is bool or not isinstance(value, bool))


def _check_fit(name: str, ids: type[PositionIds], encoding: type[PositionEncoding], config: PositionalConfig) -> None:
    if ids.needs is not None:
        _require(bool(getattr(config, ids.needs)), f"{name} reads {ids.needs}, which is empty: build the config with "
                                                   "PositionalConfig.from_tokenizer, or give it")  # fmt: skip
    _require(ids.whole or not encoding.whole_only, f"{name}: the encoding needs whole ids, these ids are real numbers")


def _heads(name: str, heads: Any, encoding: type[PositionEncoding], config: PositionalConfig) -> list[int] | None:
    if heads is None:
        return None
    total, groups = config.num_attention_heads, config.num_attention_heads // config.num_key_value_heads  # type: ignore
    rising = isinstance(heads, list) and bool(heads) and sorted(set(heads)) == heads
    right = rising and 0 <= heads[0] <= heads[-1] < total
    _require(right, f"heads of the pair {name} must be rising head numbers from 0 to {total - 1}, not {heads}")
    _require(encoding.turns or encoding.biases, f"heads of the pair {name}: embeddings are shared by all heads")
    if encoding.turns and groups > 1:
        whole = {h // groups for h in heads}
        fits = len(heads) == len(whole) * groups
        _require(fits, f"heads of the pair {name}: {groups} query heads share a key head, so turn all of them or none")
    return heads


def _learnable(name: str, learnable: Any, encoding: type[PositionEncoding]) -> bool:
    _require(learnable is None or isinstance(learnable, bool), f"learnable of the pair {name} must be true or false")
    if encoding.learnable is None:
        _require(not learnable, f"learnable of the pair {name}: the encoding has no parameters")
    return bool(encoding.learnable) if learnable is None else learnable


def _scores(name: str, scores: Any, encoding: type[PositionEncoding]) -> bool:
    # YAML reads a bare `off` as false and `on` as true.
    _require(scores in ("on", "off", True, False), f"scores of the pair {name} must be on or off, not {scores!r}")
    off = scores in ("off", False)
    fits = not off or (encoding.biases and not encoding.in_layers)
    _require(fits, f"scores: off of the pair {name} leaves its heads no scores: only a bias can stand in for them")
    return not off


__all__ = ["PositionalConfig"]
