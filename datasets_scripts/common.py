"""What the builders share: generated tasks as a `datasets` builder, corpora that are published, and the command.

- `datasets` keys its cache by name, config and version and would hand out old rows after a change of the generator; the
  hash of the generator's sources, added here, is one more folder of the cache path.
- Rows come in batches named by their first row, and a batch is the same whoever makes it: any `num_proc` gives the same
  rows in the same order.
- A corpus is a folder of several configs, each with test splits beyond the lengths of its training rows.
"""

import argparse
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from hf_tasks.dataset import check_sizes, source_hash, write_card, write_dataset
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.tasks import get_task
from hf_tasks.tasks.base import BLOCK
from hf_tasks.tasks.hashing import SPLITS

VERSION = datasets.Version("1.0.0")  # of the columns and their meaning; the sources have their hash
DEFAULT_SIZES = {"train": 100_000, "validation": 1_000, "test": 10_000}


@dataclass
class GeneratedConfig(datasets.BuilderConfig):
    """One task of the registry. `name` is the task; the fields may be overridden by keyword at the builder.

    Attributes:
        parameters: parameters of the task that differ from their defaults.
        sizes: split -> number of rows.
        seed: the seed of every split.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_SIZES))
    seed: int = 0


def configs_of(tasks: Collection[str]) -> list[GeneratedConfig]:
    """The configs of a builder of these tasks."""
    return [GeneratedConfig(name=name, version=VERSION) for name in tasks]


class Generated(datasets.ArrowBasedBuilder):
    """Generated tasks as a `datasets` builder, to be instantiated directly; a subclass has their configs."""

    config: GeneratedConfig
    BUILDER_CONFIG_CLASS = GeneratedConfig

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


@dataclass(frozen=True)
class CorpusConfig:
    """One config of a corpus.

    Attributes:
        parameters: of the task, for the splits in `sizes` of the corpus.
        longer: name of a further split of test problems -> the parameters in which it differs.
    """

    parameters: dict[str, Any]
    longer: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Corpus:
    """What is published as one dataset.

    Attributes:
        task: the task of all its configs.
        configs: by name.
        sizes: split -> number of rows, of every config.
        longer_size: rows of every longer split.
    """

    task: str
    configs: dict[str, CorpusConfig]
    sizes: dict[str, int]
    longer_size: int


def write_corpus(corpora: Mapping[str, Corpus], name: str, output: str | Path, command: str = "") -> Path:
    """Write every config and split of a corpus that is published; see `hf_tasks.dataset.write_dataset`.

    Raises:
        UserError: an unknown corpus, and as `write_dataset`.
    """
    if name not in corpora:
        raise unknown_name("corpus", name, corpora)
    corpus = corpora[name]
    for config, made_of in corpus.configs.items():
        task = get_task(corpus.task, **made_of.parameters)
        write_dataset(task, output, corpus.sizes, command=command, config=config, card=False)
        for split, different in made_of.longer.items():
            task = get_task(corpus.task, **{**made_of.parameters, **different})
            longer = {"test": corpus.longer_size}
            write_dataset(task, output, longer, command=command, config=config, name=split, card=False)
    write_card(Path(output))
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


def run(module: str, tasks: Collection[str], corpora: Mapping[str, Corpus], arguments: Sequence[str] | None) -> int:
    """Write one config as a folder of parquet files with its card; returns the exit code, 2 for a user's mistake.

    Args:
        module: the script, as `python -m` names it.
        tasks: what `--config` may name.
        corpora: what `--corpus` may name.
        arguments: of the command line; None: those of this process.
    """
    description = (run.__doc__ or "").partition("\n")[0]
    example = f"Example: python -m {module} --config {next(iter(tasks))} --output data --sizes train=1000 test=100"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description, epilog=example)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", help=f"a task: {', '.join(tasks)}")
    what.add_argument("--corpus", help=f"all configs and splits of what is published: {', '.join(corpora)}")
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
            folder = write_corpus(corpora, options.corpus, options.output, command)
        else:
            if options.config not in tasks:
                raise unknown_name("task", options.config, tasks)
            sizes = parse_sizes(options.sizes or defaults)
            folder = write_dataset(get_task(options.config), options.output, sizes, options.seed or 0, command)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f'wrote {folder}; load it with load_dataset("{folder}")')
    return 0
