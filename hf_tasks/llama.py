"""A Llama of transformers -> one of our models with the same weights, and more pairs of ids and encodings.

- Its rotary positions become the first pair, and what is added stands beside them. Where no token has a place under the
  added ids, as in prose without digits and operators, biases move no weight of attention: the text is read as before.
- Digits, operators and the token behind which the answer stands are found among the tokens of its own tokenizer.
"""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_tasks.errors import UserError
from hf_tasks.models import PositionalConfig, PositionalForCausalLM
from hf_tasks.tasks import Task

_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
_BOUNDS = {*"+-*/%="}  # of what may bound a number; commas and letters stay without a place


def positional_config(
    config: Any, tokenizer: PreTrainedTokenizerBase, task: Task, positions: list[dict[str, Any]]
) -> PositionalConfig:
    """The configuration of `positional_model`; takes no weights.

    Args:
        config: of the base.
        tokenizer: of the base.
        task: says which way its numbers are written.
        positions: pairs to be added, as in `PositionalConfig.positions`.

    Raises:
        UserError: the base is no Llama or has parts that our layers have not, a pair is refused, or it needs places of
            digits where a token holds several.
    """
    if not isinstance(config, LlamaConfig):
        raise UserError(f"positions are added to a Llama, and the base is a {config.model_type!r}: leave them out")
    plain = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0}
    for field, only in plain.items():
        if (value := getattr(config, field)) != only:
            raise UserError(f"positions are added to a Llama whose {field} is {only!r}, and the base's is {value!r}")
    # transformers keeps an old name of `rope_type`, and its Llama reads no partial factor of the default type.
    rope: Any = config.rope_parameters
    unread = {"type"} | ({"partial_rotary_factor"} if rope["rope_type"] == "default" else set())
    rope = {key: value for key, value in rope.items() if key not in unread}
    rotary = {"ids": "sequential", "encoding": "rotary", "rope_parameters": rope}
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "initializer_range", "tie_word_embeddings", "pad_token_id",
            "bos_token_id", "eos_token_id")  # fmt: skip
    texts = {i: str(tokenizer.decode([i])).strip() for i in sorted(tokenizer.get_vocab().values())}
    try:
        widened = PositionalConfig(
            positions=[rotary, *positions],
            norm="rmsnorm",
            norm_eps=config.rms_norm_eps,
            activation="swiglu",
            **{field: getattr(config, field) for field in same},
            **_number_tokens(texts, task),
        )
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(" ".join(str(error).split())) from error
    style = task.number_format()
    merged = [text for text in texts.values() if len(text) > 1 and {*text} <= {*style["digits"]}]
    places = any(pair.ids.needs == "digit_token_ids" for pair in widened.pairs())
    if places and style["fillers"]:
        raise UserError(
            f"the task writes {style['fillers'][0]!r} inside numbers, and no place of a digit is found across it: take "
            "another format"
        )
    if places and merged:
        raise UserError(
            f"the base's tokenizer makes one token of {merged[0]!r}, whose digits have places of their own: take a "
            "base that writes digit by digit, or ids that need no digits"
        )
    return widened


def positional_model(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, positions: list[dict[str, Any]]
) -> PositionalForCausalLM:
    """A Llama's weights, copied, with `positions` beside its rotary ones; what these learn is drawn as in a new model.

    Raises:
        UserError: as `positional_config`, or weights that are none of a Llama, as those of an adapter on it.
    """
    model = PositionalForCausalLM(positional_config(base.config, tokenizer, task, positions))
    weights = {".".join(_NORMS.get(part, part) for part in name.split(".")): w for name, w in base.state_dict().items()}
    loaded = model.load_state_dict(weights, strict=False)
    if odd := [*loaded.unexpected_keys, *(key for key in loaded.missing_keys if ".encodings." not in key)]:
        raise UserError(f"the base has not the weights of a Llama ({odd[0]}): merge its adapter, or take another")
    return model


def _number_tokens(texts: dict[int, str], task: Task) -> dict[str, Any]:
    """Which tokens, given without spaces, make up numbers, as fields of a `PositionalConfig`."""
    style = task.number_format()

    def tokens_of(symbols: Any) -> list[int]:
        return [i for i, text in texts.items() if text in symbols]

    answer = {style["answer"]} - {None}
    return {
        "digit_token_ids": tokens_of({*style["digits"]}),
        "separator_token_ids": tokens_of({*style["separators"]} & _BOUNDS | answer),
        "answer_token_ids": tokens_of(answer),
        "reversed_numbers": style["reverse"],
        "answer_width": style["answer_width"],
    }
