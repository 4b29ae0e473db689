"""The builder of every generated task: its configs are the task registry, so a new task needs no new builder.

    python -m datasets_scripts.arithmetic --config addition --output data/addition --sizes train=100000 test=1000
    python -m datasets_scripts.arithmetic --corpus addition --output corpora/addition      # as it is published

    builder = Arithmetic(config_name="addition", parameters={"digits": [1, 20]}, sizes={"train": 10_000})
    builder.download_and_prepare(num_proc=2)
    data = builder.as_dataset("train")                # or, with nothing on disk: builder.as_streaming_dataset("train")

- `datasets` keys its cache by name, config and version and would hand out old rows after a change of the generator; the
  hash of the generator's sources, added here, is one more folder of the cache path.
- Rows come in batches named by their first row, and a batch is the same whoever makes it: any `num_proc` gives the same
  rows in the same order.
- What is published is the parquet folder that the command writes; see README.md for why. A corpus is a folder of
  several configs, each with test splits beyond the lengths of its training rows.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa
from datasets.builder import Key

from hf_tasks.dataset import check_sizes, source_hash, write_dataset
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.tasks import TASKS, get_task
from hf_tasks.tasks.base import BLOCK
from hf_tasks.tasks.hashing import SPLITS

VERSION = datasets.Version("1.0.0")  # of the columns and their meaning; the sources have their hash
DEFAULT_SIZES = {"train": 100_000, "validation": 1_000, "test": 10_000}

_TEN_DIGITS = {"digits": [1, 10], "lengths": "balanced", "carry_heavy": 0.5}
# Task -> config -> parameters. `padded_reversed` is what the recipe addition-extrapolation trains on.
CORPORA: dict[str, dict[str, dict[str, Any]]] = {
    "addition": {"padded_reversed": {**_TEN_DIGITS, "reverse": "answer", "pad": True}, "plain": _TEN_DIGITS},
}
CORPUS_SIZES = {"train": 120_000, "validation": 1_000, "test": 10_000}
LONGER = (20, 50, 100)  # digits of the splits test_20, ..., in which carries are as random operands make them
LONGER_SIZE = 1_000


@dataclass
class ArithmeticConfig(datasets.BuilderConfig):
    """One task of the registry. `name` is the task; the fields may be overridden by keyword at the builder.

    Attributes:
        parameters: parameters of the task that differ from their defaults.
        sizes: split -> number of rows.
        seed: the seed of every split.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_SIZES))
    seed: int = 0


class Arithmetic(datasets.ArrowBasedBuilder):
    """Generated tasks as a `datasets` builder, to be instantiated directly."""

    config: ArithmeticConfig
    BUILDER_CONFIG_CLASS = ArithmeticConfig
    BUILDER_CONFIGS: ClassVar = [ArithmeticConfig(name=name, version=VERSION) for name in TASKS]

    def __init__(self, *args: Any, hash: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, hash=hash or source_hash(), **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        task = get_task(self.config.name, **self.config.parameters)
        schema = task.table("train", size=0).schema
        return datasets.DatasetInfo(
            description=task.__doc__ or "", license="apache-2.0", features=datasets.Features.from_arrow_schema(schema)
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        check_sizes(self.config.sizes)
        return [
            datasets.SplitGenerator(
                name=split, gen_kwargs={"split": split, "size": size, "starts": list(range(0, size, BLOCK))}
            )
            for split, size in self.config.sizes.items()
        ]

    def _generate_tables(self, split: str, size: int, starts: list[int]) -> Iterator[tuple[Key, pa.Table]]:
        task = get_task(self.config.name, **self.config.parameters)
        for batch, start in enumerate(starts):
            yield Key(batch, 0), task.table(split, min(BLOCK, size - start), self.config.seed, start)


def write_corpus(name: str, output: str | Path, command: str = "") -> Path:
    """Write every config and split of a corpus that is published; see `hf_tasks.dataset.write_dataset`.

    Raises:
        UserError: an unknown corpus, and as `write_dataset`.
    """
    if name not in CORPORA:
        raise unknown_name("corpus", name, CORPORA)
    for config, parameters in CORPORA[name].items():
        write_dataset(get_task(name, **parameters), output, CORPUS_SIZES, command=command, config=config)
        for digits in LONGER:
            task = get_task(name, **{**parameters, "digits": [digits, digits], "carry_heavy": 0.0})
            write_dataset(task, output, {"test": LONGER_SIZE}, command=command, config=config, name=f"test_{digits}")
    return Path(output)


def parse_sizes(settings: Sequence[str]) -> dict[str, int]:
    """`["train=1000", "test=100"]` as a dictionary; UserError on anything else."""
    sizes = {}
    for setting in settings:
        split, _, size = setting.partition("=")
        if not size.isdecimal():
            raise UserError(
                f"size {setting!r} is not of the form SPLIT=ROWS, as in train=1000; splits: {', '.join(SPLITS)}"
            )
        sizes[split] = int(size)
    return sizes


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one config as a folder of parquet files with its card; returns the exit code, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m datasets_scripts.arithmetic", description=main.__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", help=f"a task: {', '.join(TASKS)}")
    what.add_argument("--corpus", help=f"all configs and splits of what is published: {', '.join(CORPORA)}")
    parser.add_argument("--output", required=True, help="the folder to write")
    defaults = [f"{split}={rows}" for split, rows in DEFAULT_SIZES.items()]
    parser.add_argument(
        "--sizes", nargs="+", metavar="SPLIT=ROWS", help=f"of a config; {' '.join(defaults)} if not given"
    )
    parser.add_argument("--seed", type=int, help="of a config; 0 if not given")
    options = parser.parse_args(arguments)
    command = shlex.join([*parser.prog.split(), *(sys.argv[1:] if arguments is None else arguments)])
    try:
        if options.corpus is not None:
            if options.sizes is not None or options.seed is not None:
                raise UserError(
                    f"corpus {options.corpus!r} has sizes and a seed of its own: leave --sizes and --seed out"
                )
            folder = write_corpus(options.corpus, options.output, command)
        else:
            sizes = parse_sizes(options.sizes or defaults)
            folder = write_dataset(get_task(options.config), options.output, sizes, options.seed or 0, command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f'wrote {folder}; load it with load_dataset("{folder}")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
