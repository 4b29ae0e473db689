"""LEGO chains as they are published, labelled clause by clause for encoders.

    python -m datasets_scripts.lego --corpus lego --output corpora/lego
    python -m datasets_scripts.lego --config lego --output data/lego --sizes train=100000 test=1000

    builder = Lego(config_name="lego", parameters={"group": "D3", "query": False}, sizes={"train": 10_000})

- Every config has 12 clauses a sentence, shuffled, and marks the labels of the first six as told, as the official code
  trains (Zhang et al. 2022, arXiv 2206.04301); `bert` is its text, token for token.
- The longer splits need more variables than letters. The other configs draw from 100 names from the start, so that
  no variable of a longer sentence is one that training never saw.
"""

import sys
from collections.abc import Sequence
from typing import ClassVar

from datasets_scripts.common import Corpus, CorpusConfig, Generated, configs_of, run

_SENTENCES = {"clauses": [12, 12], "asked": [1, 6], "query": False}
_LONGER = {f"test_{clauses}": {"clauses": [clauses, clauses]} for clauses in (26, 100)}
CORPORA = {
    "lego": Corpus(
        task="lego",
        configs={
            "bert": CorpusConfig({**_SENTENCES, "format": "bert"}, {"test_26": _LONGER["test_26"]}),
            **{
                group.lower(): CorpusConfig({**_SENTENCES, "group": group, "alphabet": 100}, _LONGER)
                for group in ("Z2", "D3", "A5")
            },
        },
        sizes={"train": 120_000, "validation": 1_000, "test": 12_000},
        longer_size=1_000,
    )
}


class Lego(Generated):
    """LEGO alone."""

    BUILDER_CONFIGS: ClassVar = configs_of(["lego"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `common.run`."""
    return run("datasets_scripts.lego", ["lego"], CORPORA, arguments)


if __name__ == "__main__":
    sys.exit(main())
