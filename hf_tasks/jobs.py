"""Models of a recipe side by side, each in a process of its own with its share of the cores.

- So small networks gain little by a second thread. What comes out is what comes out one after the other, to the bit
  where a process has the same number of threads.
- A model that starts from another one is trained by the process that trained that one, behind it.
- The processes end with the one that began them, even where that was killed: or the same command, given again, would
  be a second one at the same checkpoints.
"""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import rich
import torch
from tqdm.auto import tqdm

from hf_tasks.errors import UserError
from hf_tasks.evaluate import evaluate_model
from hf_tasks.recipe import TEXT, Experiment
from hf_tasks.train import Bar, train_model


def chains(recipe: Experiment) -> list[list[str]]:
    """The names of a recipe's models in its order, those that start from one another together."""
    chain_of: dict[str, list[str]] = {}
    for name in recipe.models:
        start = recipe.section(name).start_from
        chain_of[name] = [] if start is None else chain_of[start]
        chain_of[name].append(name)
    return [chain for name, chain in chain_of.items() if chain[0] == name]


def side_by_side(recipe: Any, seeds: list[int], output: Path, jobs: int, measured: bool) -> None:
    """Train every model with every seed that does not stand yet, several at a time.

    Args:
        recipe: from `load_recipe`, checked.
        seeds, output: as in `run.train_recipe`.
        jobs: how many at a time.
        measured: evaluate each where it was trained, so that `evaluate` finds its cells.

    Raises:
        UserError, OSError: as in `train_model`; or a process was killed.
    """
    if recipe.head == TEXT:
        from hf_tasks.text.sources import recipe_tokenizer

        recipe_tokenizer(recipe, output)  # writes every corpus that is read in training, which several at once must not
    threads = max(1, torch.get_num_threads() // jobs)
    torch.set_num_threads(threads)  # so that the results name what their models had
    context = multiprocessing.get_context("spawn")
    todo, mistakes, lock = context.SimpleQueue(), context.SimpleQueue(), context.RLock()
    shared = recipe, output, measured and recipe.head != TEXT, threads, todo, mistakes, lock
    workers = [context.Process(target=_work, args=(place, *shared)) for place in range(jobs)]
    try:
        for worker in workers:
            worker.start()
        for item in [*((chain, seed) for seed in seeds for chain in chains(recipe)), *[None] * jobs]:
            todo.put(item)
        at_work: dict[Any, Any] = {worker.sentinel: worker for worker in workers}
        while at_work:
            for sentinel in wait(list(at_work)):
                worker = at_work.pop(sentinel)
                worker.join()
                if worker.exitcode:
                    raise _mistake(mistakes, worker.exitcode)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
                worker.join()


def _mistake(mistakes: Any, code: int) -> Exception:
    if not mistakes.empty():
        return mistakes.get()
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return UserError(f"a process of --jobs {ended}; the same command continues, with fewer jobs if memory was short")


def _work(
    place: int, recipe: Any, output: Path, measured: bool, threads: int, todo: Any, mistakes: Any, lock: Any
) -> None:
    """Train what is to do until nothing is left, or with exit code 1 to the first mistake."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all; the first process says what there is to say
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # type: ignore[union-attr]
    torch.set_num_threads(threads)
    tqdm.set_lock(lock)
    Bar.place = place
    rich.get_console().quiet = True  # bars of several evaluations cannot share a terminal
    while (item := todo.get()) is not None:
        names, seed = item
        try:
            for name in names:
                folder = train_model(recipe, name, seed, output)
                if measured:
                    evaluate_model(recipe, name, folder)
        except (UserError, OSError) as error:
            mistakes.put(error)
            sys.exit(1)
