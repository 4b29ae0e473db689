"""Task -> tokenizer.

- The vocabulary is the task's, plus four special tokens: characters, so that digits are tokens of their own, and where
  a task has longer tokens (`R1`, ` is `) the longest one that fits.
- It is a plain `PreTrainedTokenizerFast`: `AutoTokenizer` loads it anywhere without remote code.
- It pads on the left, as generation needs, and puts <bos> before the text; <eos>, which ends an answer, is added by
  training.
- It carries the task's `number_format`, which `PositionalConfig.from_tokenizer` turns into digit and separator ids.
"""

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_tasks.tasks import Task

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"


def build_tokenizer(task: Task) -> PreTrainedTokenizerFast:
    """A tokenizer with the task's vocabulary.

    The literal text "<eos>" inside data stays text (its characters, or <unk>): special tokens are split on purpose.
    """
    symbols = [PAD, BOS, EOS, UNKNOWN, *task.vocabulary]
    backend = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token=UNKNOWN))
    # Oniguruma takes the first alternative that fits. Its dot stops at a newline; this class does not.
    longer = sorted((symbol for symbol in task.vocabulary if len(symbol) > 1), key=lambda symbol: -len(symbol))
    pattern = "|".join([*map(re.escape, longer), r"[\s\S]"])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")  # type: ignore[assignment]
    backend.decoder = decoders.Fuse()  # type: ignore[assignment]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, symbols.index(BOS))]
    )  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        number_format=task.number_format(),
    )
