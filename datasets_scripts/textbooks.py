"""Textbook-style corpora as they are published: several corpora in one dataset, from a mix in YAML.

    python -m datasets_scripts.textbooks --corpus textbooks --output corpora/textbooks
    python -m datasets_scripts.textbooks --mix mine.yaml --output corpora/mine

    builder = Textbooks(config_name="tinystories", rows=2_000, seed=0)

- The command does all of it: generate, execute, clean, decontaminate, card, parquet. The first line above needs no
  network, no server and no GPU.
- Killed, it goes on with the same command; see `hf_tasks.corpora.build`. The key of a server stands in the environment.
- The builder has the corpora that a grammar writes, alone; they take seconds, and are made anew for each cache.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.builder import Key

from datasets_scripts.common import VERSION
from hf_tasks.corpora import GRAMMARS
from hf_tasks.corpora.build import build, source_hash
from hf_tasks.corpora.mix import Mix, Part, load_mix, mix_names
from hf_tasks.dataset import finished_splits
from hf_tasks.errors import UserError

INTERRUPTED = 130


@dataclass
class TextbooksConfig(datasets.BuilderConfig):
    """One corpus that a grammar writes. The fields may be overridden by keyword at the builder.

    Attributes:
        rows: to ask for; some are dropped on the way.
        seed: of what is asked for.
    """

    rows: int = 2_000
    seed: int = 0


class Textbooks(datasets.ArrowBasedBuilder):
    """Stories, worked examples and exercises by a grammar, as a `datasets` builder, to be instantiated directly."""

    config: TextbooksConfig
    BUILDER_CONFIG_CLASS = TextbooksConfig
    BUILDER_CONFIGS: ClassVar = [TextbooksConfig(name=name, version=VERSION) for name in GRAMMARS]

    def __init__(self, *args: Any, hash: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, hash=hash or source_hash(), **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=GRAMMARS[self.config.name].__doc__ or "", license="apache-2.0")

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        name, part = self.config.name, Part(rows=self.config.rows, writer="grammar")
        mix = Mix(name=name, title=name, summary="", parts={name: part}, seed=self.config.seed)
        with tempfile.TemporaryDirectory() as folder:
            build(mix, folder)
            tables = {
                made_by["split"]: pa.concat_tables(map(_read, sorted((Path(folder) / path).glob("*.parquet"))))
                for path, made_by in finished_splits(Path(folder)).items()
            }
        return [datasets.SplitGenerator(name=split, gen_kwargs={"table": table}) for split, table in tables.items()]

    def _generate_tables(self, table: pa.Table) -> Iterator[tuple[Key, pa.Table]]:
        yield Key(0, 0), table


def _read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a mix as a folder of parquet files with its card; returns the exit code, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets_scripts.textbooks",
        description=(main.__doc__ or "").partition(";")[0],
        epilog="Example: python -m datasets_scripts.textbooks --corpus textbooks --output corpora/textbooks",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", help=f"a mix of the package: {', '.join(mix_names())}")
    what.add_argument("--mix", help="a mix of your own, a .yaml file; hf_tasks/corpora/mix.py says what it holds")
    parser.add_argument("--output", required=True, help="the folder to write")
    parser.add_argument("--tasks", type=int, default=1, help="processes that clean at a time; 1 if not given")
    options = parser.parse_args(arguments)
    command = shlex.join([*parser.prog.split(), *(sys.argv[1:] if arguments is None else arguments)])
    try:
        if options.mix is not None and not options.mix.endswith((".yaml", ".yml")):
            raise UserError(f"--mix takes a .yaml file, not {options.mix!r}; the package's own go by --corpus")
        report = build(load_mix(options.mix or options.corpus), options.output, command, options.tasks)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing is lost: the same command continues", file=sys.stderr)
        return INTERRUPTED
    _print(report)
    print(f'wrote {options.output}; load it with load_dataset("{options.output}", "{next(iter(report["parts"]))}")')
    return 0


def _print(report: dict[str, Any]) -> None:
    """What became of each part, in a line. Rows without an answer are asked for again by the next run."""
    for name, part in report["parts"].items():
        steps = part["steps"]
        dropped = [f"{reason} {count}" for step in steps for reason, count in step["dropped"].items()]
        print(f"{name}: {steps[-1]['kept']} of {steps[0]['rows']} rows; dropped: {', '.join(dropped) or 'none'}")
    print(f"{sum(report['seconds'].values()):.0f} s")


if __name__ == "__main__":
    sys.exit(main())
