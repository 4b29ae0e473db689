"""The models, entered into transformers' Auto classes and marked for upload.

Every file here but this one is uploaded beside every checkpoint, so they import one another with literal one-dot lines
(the Hub's loader reads them with a regular expression) and import nothing else of this package.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_positional import PositionalConfig
from .modeling_positional import (
    PositionalForCausalLM,
    PositionalForSequenceClassification,
    PositionalForTokenClassification,
    PositionalModel,
    read_tokens,
)
from .position_encodings import ENCODINGS
from .position_ids import POSITION_IDS

_HEADS = {
    AutoModel: PositionalModel,
    AutoModelForCausalLM: PositionalForCausalLM,
    AutoModelForSequenceClassification: PositionalForSequenceClassification,
    AutoModelForTokenClassification: PositionalForTokenClassification,
}

AutoConfig.register(PositionalConfig.model_type, PositionalConfig)
PositionalConfig.register_for_auto_class()
for _auto, _model in _HEADS.items():
    _auto.register(PositionalConfig, _model)
    _model.register_for_auto_class(_auto.__name__)

__all__ = [
    "ENCODINGS",
    "POSITION_IDS",
    "PositionalConfig",
    "PositionalForCausalLM",
    "PositionalForSequenceClassification",
    "PositionalForTokenClassification",
    "PositionalModel",
    "read_tokens",
]
