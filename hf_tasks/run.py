"""The whole road of a recipe, and its three steps: train, evaluate, and the card.

- An output folder belongs to one recipe, preset and set of changes, kept in its `recipe.yaml`; another run is refused.
  Seeds may be added: `results.json` covers every finished run in the folder.
- Every step finds what stands and does the rest, so the same command continues after any interruption.
- Of several processes (`torchrun`) all train, and the first evaluates, alone.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from hf_tasks.errors import UserError
from hf_tasks.files import write_text
from hf_tasks.recipe import Experiment, run_name
from hf_tasks.strict import read_yaml

Row = tuple[str, int, Path]


def claim(recipe: Experiment, output: Path) -> None:
    """Make the folder this recipe's, or see that it is.

    Raises:
        UserError: the folder holds another run, or something else altogether.
    """
    mine, record = recipe.to_dict(), output / "recipe.yaml"
    if record.is_file():
        theirs = read_yaml(record.read_text(), str(record))
        changed = sorted(differences(theirs, yaml.safe_load(yaml.safe_dump(mine))))
        if not changed:
            return
        # A run that was refused before its first checkpoint leaves nothing that could be lost.
        if any(output.glob("*-seed*")) or any(output.glob(".training/*/checkpoint-*")):
            raise UserError(
                f"{str(output)!r} holds another run: {'; '.join(changed[:3])}; choose another --output, or delete it"
            )
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{str(output)!r} is in use by something else; choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    write_text(record, recipe.to_yaml())


def differences(theirs: Any, mine: Any, where: str = "") -> list[str]:
    """Where two nested values differ, as `key.key is X there, Y here`."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = [*theirs, *(key for key in mine if key not in theirs)]
        below = [differences(theirs.get(k), mine.get(k), f"{where}.{k}".lstrip(".")) for k in keys]
        return [line for lines in below for line in lines]
    return [] if theirs == mine else [f"{where} is {theirs!r} there, {mine!r} here"]


def finished_runs(recipe: Experiment, output: Path) -> list[Row]:
    """Every complete model in the folder, models in the recipe's order, seeds rising."""
    endings = {folder.name.rpartition("-seed")[2] for folder in output.glob("*-seed*") if folder.is_dir()}
    seeds = {int(ending) for ending in endings if ending.isdecimal()}
    rows = [(name, seed, output / run_name(name, seed)) for name in recipe.models for seed in sorted(seeds)]
    return [row for row in rows if row[2].is_dir()]


def leave_group() -> bool:
    """Take leave of the processes that `torchrun` started beside this one; whether this is the first, which goes on."""
    from accelerate.state import AcceleratorState, PartialState

    group = PartialState()
    first = group.is_main_process
    if group.num_processes > 1:
        group.wait_for_everyone()
        group.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):  # else the next state would wait for them
            os.environ.pop(name, None)
    return first


def train_recipe(recipe: Experiment, seeds: list[int], output: Path, jobs: int = 1, measured: bool = False) -> None:
    """Train every model with every seed that does not stand yet, `jobs` at a time; see jobs.py.

    Raises:
        UserError: seeds or jobs out of range, a recipe that does not fit, or a folder of something else.
    """
    from accelerate import PartialState

    from hf_tasks.jobs import side_by_side
    from hf_tasks.train import WORKSHOP, check_it_fits, train

    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise UserError(f"seed {seed} is not from 0 to 2**32 - 1")
    if jobs < 1 or (jobs > 1 and PartialState().num_processes > 1):
        raise UserError(f"--jobs is {jobs}: give 1 or more, and 1 under torchrun, whose processes share a model")
    check_it_fits(recipe)  # first, so that a refused recipe claims no folder
    with PartialState().main_process_first():
        claim(recipe, output)
    if jobs > 1:
        side_by_side(recipe, seeds, output, jobs, measured)
    else:
        train(recipe, seeds, output)
    if PartialState().is_main_process:
        with suppress(OSError):  # not empty: others are at work there
            (output / WORKSHOP).rmdir()


def evaluate_recipe(recipe: Experiment, output: Path) -> dict[str, Any]:
    """Evaluate what is trained and write `results.json`, `results.png` and the cards.

    Returns:
        the content of `results.json`; nothing, at once, in every process but the first.

    Raises:
        UserError: nothing is trained yet.
    """
    from hf_tasks.cards import write_cards
    from hf_tasks.evaluate import evaluate

    if not leave_group():
        return {}
    if output.exists():
        claim(recipe, output)
    runs = finished_runs(recipe, output)
    if not runs:
        raise UserError(f"{str(output)!r} holds no trained model of {recipe.name}; first: hf-tasks train {recipe.name}")
    results = evaluate(recipe, runs, output)
    write_cards(recipe, results, output)
    return results


def run_recipe(recipe: Experiment, seeds: list[int], output: Path, jobs: int = 1) -> dict[str, Any]:
    """Train, evaluate and describe; the content of `results.json` comes back."""
    train_recipe(recipe, seeds, output, jobs, measured=True)
    return evaluate_recipe(recipe, output)
