"""What the commands `python -m hf_tasks.analysis.NAME --output FOLDER --seeds S ...` have in common."""

import argparse
import shlex
import sys
from pathlib import Path


def command(name: str, head: str | None, seeds: list[int]) -> argparse.ArgumentParser:
    """A parser of `--output` and `--seeds`.

    Args:
        name: of the module below hf_tasks.analysis. head: its docstring, whose first line is the description.
        seeds: where none are given.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m hf_tasks.analysis.{name}",
        description=(head or "").partition("\n")[0],
        epilog=f"Example: python -m hf_tasks.analysis.{name} --output runs/{name} --seeds 0",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of what is measured")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    return parser


def read(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """What was given, with the `command` in one string and the folder made: what cannot be written is to fail now."""
    given = parser.parse_args(arguments)
    given.command = shlex.join([*parser.prog.split(), *(sys.argv[1:] if arguments is None else arguments)])
    if min(given.seeds) < 0:
        parser.error(f"--seeds {min(given.seeds)}: give numbers from 0 on")
    try:
        given.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output {given.output}: {error.strerror}; give a folder")
    return given
