"""The builder of every generated task: its configs are the task registry, so a new task needs no new builder.

    python -m datasets_scripts.arithmetic --config addition --output data/addition --sizes train=100000 test=1000
    python -m datasets_scripts.arithmetic --corpus addition --output corpora/addition      # as it is published

    builder = Arithmetic(config_name="addition", parameters={"digits": [1, 20]}, sizes={"train": 10_000})
    builder.download_and_prepare(num_proc=2)
    data = builder.as_dataset("train")                # or, with nothing on disk: builder.as_streaming_dataset("train")

- What is published is the parquet folder that the command writes; see README.md for why.
- The builder itself and the command are in common.py.
"""

import sys
from collections.abc import Sequence
from typing import ClassVar

from datasets_scripts.common import Corpus, CorpusConfig, Generated, configs_of, run
from hf_tasks.tasks import TASKS

_TEN_DIGITS = {"digits": [1, 10], "lengths": "balanced", "carry_heavy": 0.5}
# Carries are as random operands make them.
_LONGER = {f"test_{digits}": {"digits": [digits, digits], "carry_heavy": 0.0} for digits in (20, 50, 100)}
# `padded_reversed` is what the recipe addition-extrapolation trains on.
CORPORA = {
    "addition": Corpus(
        task="addition",
        configs={
            "padded_reversed": CorpusConfig({**_TEN_DIGITS, "reverse": "answer", "pad": True}, _LONGER),
            "plain": CorpusConfig(_TEN_DIGITS, _LONGER),
        },
        sizes={"train": 120_000, "validation": 1_000, "test": 10_000},
        longer_size=1_000,
    )
}


class Arithmetic(Generated):
    """Every task of the registry."""

    BUILDER_CONFIGS: ClassVar = configs_of(TASKS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `common.run`."""
    return run("datasets_scripts.arithmetic", TASKS, CORPORA, arguments)


if __name__ == "__main__":
    sys.exit(main())
