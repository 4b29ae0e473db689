"""C programs as they are published, each config with its own question.

    python -m datasets_scripts.programs --corpus programs --output corpora/programs
    python -m datasets_scripts.programs --config programs --output data/programs --sizes train=100000 test=1000

    builder = Programs(config_name="programs", parameters={"target": "trace"}, sizes={"train": 10_000})

- All configs hold programs of 6 to 12 lines with blocks in at most two levels. The longer splits have twice as many
  lines, or blocks in three levels, and no token that training lacks.
- Splits differ in the structure of their programs, in every config alike: no program of a test split is one of training
  with other names or other constants.
"""

import sys
from collections.abc import Sequence
from typing import ClassVar

from datasets_scripts.common import Corpus, CorpusConfig, Generated, configs_of, run
from hf_tasks.tasks.programs import TARGETS

_LONGER = {"test_24": {"lines": [24, 24]}, "test_nested": {"lines": [12, 16], "nesting": [3, 3]}}
CORPORA = {
    "programs": Corpus(
        task="programs",
        configs={target: CorpusConfig({"target": target}, _LONGER) for target in TARGETS},
        sizes={"train": 100_000, "validation": 1_000, "test": 5_000},
        longer_size=1_000,
    )
}


class Programs(Generated):
    """Programs alone."""

    BUILDER_CONFIGS: ClassVar = configs_of(["programs"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `common.run`."""
    return run("datasets_scripts.programs", ["programs"], CORPORA, arguments)


if __name__ == "__main__":
    sys.exit(main())
