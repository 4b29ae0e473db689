"""One split of a task by many processes: each writes a share of the shards, and then one finishes.

- A shard is a function of the request and its number, so the bytes are those of `hf-tasks generate` in one process,
  whoever wrote them; that command is what the provenance names.
- Two stages of datatrove, the second behind the first, under any of its executors: `local.py`, `slurm.py` and
  `on_ray.py` choose one. All processes need a common disk, and the same version of this package.
- A finished task is never done again, and an unfinished one goes on behind its last whole shard: the same command
  continues, whatever was killed. Logs, statistics and completions lie in OUTPUT.logs, by a hash of the request.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_tasks.corpora.steps import PipelineStep, Stage, chain
from hf_tasks.dataset import check_sizes, shard_rows, write_dataset
from hf_tasks.errors import UserError
from hf_tasks.strict import parse_settings
from hf_tasks.tasks import get_task
from hf_tasks.tasks.hashing import hash_name


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
        task, parameters: as for `get_task`. split, size, seed, output: as for `write_dataset`.
        command: the one that writes the same in one process.
    """

    task: str
    parameters: dict[str, Any]
    split: str
    size: int
    seed: int
    output: str
    command: str

    def write(self, share: tuple[int, int] | None = None) -> None:
        """Write a share of the shards; without one, all that is missing, statistics and card."""
        task = get_task(self.task, **self.parameters)
        write_dataset(task, self.output, {self.split: self.size}, self.seed, self.command, share=share)

    @property
    def shards(self) -> int:
        """How many there are, and so how many tasks can be of use."""
        return -(-self.size // shard_rows(get_task(self.task, **self.parameters)))


class WriteShare(PipelineStep):
    """Writes every world-size-th shard, from that of the rank on."""

    type = "💽 - WRITER"
    name = "shards of a generated split"

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the share of a rank."""
        self.job.write((rank, world_size))


class Finish(PipelineStep):
    """Makes a split of the shards, and writes the card; what is missing is written first."""

    type = "💽 - WRITER"
    name = "statistics and card of a generated split"

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Finish, in one task."""
        self.job.write()


def stages(job: Job, tasks: int) -> list[Stage]:
    """The pipelines: shares in `tasks` tasks, then the finish."""
    logs = Path(f"{job.output}.logs") / f"{hash_name(asdict(job), tasks):032x}"
    return [
        Stage("shares", [WriteShare(job)], tasks, logs / "shares"),
        Stage("finish", [Finish(job)], 1, logs / "finish"),
    ]


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """The options that every launcher has; the arguments of `hf-tasks generate`, and --tasks."""
    example = f"Example: python -m datasets_scripts.launch.{module} addition --size 100000 --output shared/addition"
    prog = f"python -m datasets_scripts.launch.{module}"
    made = argparse.ArgumentParser(prog=prog, description=description, epilog=example)
    made.add_argument("task", help="a task; see: hf-tasks list tasks")
    made.add_argument("--size", type=int, required=True, help="number of rows")
    made.add_argument("--output", required=True, help="the folder to write, on a disk that all processes see")
    made.add_argument("--split", default="train", help="train (the default), validation or test")
    made.add_argument("--seed", type=int, default=0, help="seed of the rows; 0 if not given")
    made.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="parameters of the task")
    made.add_argument("--tasks", type=int, help="shares of the work; one a shard if not given")
    return made


def job_of(options: argparse.Namespace) -> Job:
    """The job that the options ask for.

    Raises:
        UserError: an unknown task or parameter, a wrong split or size.
    """
    parameters = parse_settings(options.set)
    get_task(options.task, **parameters)
    check_sizes({options.split: options.size})
    words = ["hf-tasks", "generate", options.task, "--split", options.split, "--size", str(options.size)]
    words += ["--seed", str(options.seed), "--output", options.output]
    words += ["--set", *options.set] if options.set else []
    output = str(Path(options.output).resolve())
    return Job(options.task, parameters, options.split, options.size, options.seed, output, shlex.join(words))


def launch(
    options: argparse.Namespace, executor: Callable[..., Any], settings: Callable[[argparse.Namespace], dict[str, Any]]
) -> int:
    """Run the job of the options under an executor; returns the exit code, 2 for a user's mistake.

    Args:
        options: of `parser`. executor: a class of datatrove. settings: options -> more of its arguments.
    """
    try:
        job = job_of(options)
        tasks = job.shards if options.tasks is None else options.tasks
        if tasks < 1:
            raise UserError(f"--tasks is {tasks}; give 1 or more, {job.shards} at most are of use")
        chain(stages(job, tasks), executor, **settings(options)).run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


Arguments = Sequence[str] | None  # of a command line; None: those of this process
