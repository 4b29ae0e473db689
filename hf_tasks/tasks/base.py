"""The task contract: what every generator and verifier of the project is.

- A task is a frozen dataclass of its parameters. Item i of (task, parameters, split, seed) is always the same, whatever
  `size`, `start`, process or global random state; it lies in block i // 8192, and a block is drawn from its own stream.
- A problem belongs to one split for ever: candidates are drawn freely, and a hash of the problem itself (not of its
  text, not of the seed) keeps those of the wanted split. Rows may repeat inside a split, but never across splits.
- Problems are dicts of arrays whose first axis is the row, so that this file can filter, slice and join them without
  knowing what is in them. A family supplies how to draw, hash, write and read them.
- A task whose prompts consist of clauses may label each of them: see `classes`. Places in a text are characters, so
  that they hold for any tokenizer.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError, unknown_name
from hf_tasks.tasks.checks import integer, listed
from hf_tasks.tasks.hashing import SPLIT_SHARES, SPLITS, hash_name, split_codes, stream

if TYPE_CHECKING:
    import datasets

BLOCK = 8192
# Four chunks of candidates hold 8294 +- 29 train rows, just over a block.
CHUNK = 2304
# A split that should get fewer problems than this would be the same few rows again and again.
FEWEST_PROBLEMS = 20
# How many chunks may pass without one row before a split counts as empty.
PATIENCE = 200
# Text is written in slices of at most this many characters, which bounds memory for long scratchpads.
CHARACTERS_AT_ONCE = 2**25

Problems = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator, int], Problems]


def take(problems: Problems, rows: np.ndarray | slice) -> Problems:
    """The chosen rows of every array."""
    return {key: values[rows] for key, values in problems.items()}


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A generator and its verifier. Fields are parameters; each has a default and survives a trip through JSON."""

    name: ClassVar[str]
    length_parameter: ClassVar[str] = "length"  # the parameter that says how long problems are
    splits_of: ClassVar[str | None] = None  # the task in which these problems have their splits, if not in this one
    hint_classes: ClassVar[Mapping[str, int]] = {}  # what `hints` gives, and how many values each takes

    def parameters(self) -> dict[str, Any]:
        """Every parameter, JSON-ready; `get_task(task.name, **task.parameters()) == task`."""
        return {key: listed(value) for key, value in asdict(self).items()}

    @property
    def longest(self) -> int:
        """The greatest length that a row can have, in what `length_parameter` counts."""
        return int(np.max(self.parameters()[self.length_parameter]))

    # What a family supplies.

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """Every token that prompts or answers of any split can hold, in a fixed order.

        A text is cut from the left into the longest tokens that fit, so the tokens of one text may be characters or
        words, and several characters may be one token.
        """

    @abstractmethod
    def number_format(self) -> dict[str, Any]:
        """What a model needs to read places from tokens.

        Returns:
            `digits` (the characters of a number), `separators` (characters that bound a number), `fillers` (characters
            to be skipped inside a number), `answer` (the character after which the answer begins, None if there is no
            such character), `reverse` ("none", "answer" or "all": what is written least significant first) and
            `answer_width`: [m, c] where the answer is zero-padded to m * (written width of the longest operand) + c
            digits, else None.
        """

    @property
    @abstractmethod
    def max_lengths(self) -> tuple[int, int]:
        """Upper bounds, in characters, of the longest prompt and the longest answer."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, str]:
        """One line about each column, in the order of the table."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The values that a clause of a prompt can have, if the task labels clauses; else ().

        Such a task has columns of lists, one entry a clause in the order of the text: `labels` (index into `classes`),
        `read_positions` (the character of the prompt at which a model is to know the value), `clause_starts` and
        `clause_ends` (the characters of the clause, the end excluded), `depths` (from 1: how many clauses lead to the
        value, itself counted), `parents` (the clause that the value is made from, -1 where there is none) and `asked`
        (whether training is told the value).
        """
        return ()

    @property
    def hint_steps(self) -> int:
        """How many steps the hints of the longest problem take.

        Raises:
            UserError: the task has no hints, or not as these parameters write it.
        """
        raise UserError(f"{self.name} has no hints")

    def hints(self, prompts: Sequence[str], steps: int) -> dict[str, np.ndarray]:
        """What an algorithm knows after each of its steps, and where: intermediate results to train on.

        Args:
            prompts: of this task. steps: how many to tell; behind the last of its own a problem stays as it is.

        Returns:
            for each name of `hint_classes` (rows, steps, characters): at the characters of prompt and answer, from
            which a model that reads so far can know it, the value; -100 at all others.
        """
        raise UserError(f"{self.name} has no hints")

    @property
    @abstractmethod
    def problem_count(self) -> int:
        """How many expressions these parameters can make."""

    @abstractmethod
    def answer(self, prompt: str) -> str:
        """The one right answer to a prompt.

        Raises:
            UserError: the prompt is not one of this task.
        """

    @abstractmethod
    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        """Draw `count` problems of any split."""

    @abstractmethod
    def _hash(self, problems: Problems) -> np.ndarray:
        """A 64-bit hash of each problem in canonical form, (rows,) uint64."""

    @abstractmethod
    def _write(self, problems: Problems, split: str) -> dict[str, pa.Array]:
        """The columns of the table. Layout choices may use `problems["noise"]`, a 64-bit number of the row."""

    @abstractmethod
    def _parse(self, prompt: str) -> Problems:
        """The problem of a prompt, as one row; UserError if the prompt is not one of this task."""

    # What the base makes of it.

    def table(self, split: str, size: int, seed: int = 0, start: int = 0) -> pa.Table:
        """Rows start ... start + size of a split, as Arrow columns (see `columns`).

        Raises:
            UserError: unknown split, a negative size or start, or a split too small to exist at these parameters.
        """
        self._check_request(split, seed, size, start)
        parts = []
        for block in range(start // BLOCK, max(math.ceil((start + size) / BLOCK), start // BLOCK + 1)):
            low, high = max(start - block * BLOCK, 0), min(start + size - block * BLOCK, BLOCK)
            parts.append(self._write_table(take(self._block(split, seed, block, high), slice(low, high)), split))
        return pa.concat_tables(parts).combine_chunks()

    def generate(self, split: str, size: int, seed: int = 0, start: int = 0) -> dict[str, list[Any] | np.ndarray]:
        """The same rows as `table`: numbers as numpy arrays, text and lists as Python's."""
        table = self.table(split, size, seed, start)
        return {
            name: column.to_numpy() if pa.types.is_primitive(column.type) else column.to_pylist()
            for name, column in zip(table.column_names, table.columns, strict=True)
        }

    def dataset(self, split: str, size: int, seed: int = 0) -> "datasets.Dataset":
        """The first `size` rows as a `datasets.Dataset` in memory."""
        import datasets

        return datasets.Dataset(self.table(split, size, seed))

    def iterable(self, split: str, seed: int = 0, num_shards: int = 16) -> "datasets.IterableDataset":
        """An endless stream of rows that can be sharded over processes and resumed with `state_dict`.

        Shard s yields blocks s, s + num_shards, ... and never ends, so that one process sees its first shard alone, and
        two processes never share a row. Resuming makes the rows already seen again, without handing them out.
        """
        import datasets

        integer("num_shards", num_shards, low=1)
        return datasets.IterableDataset.from_generator(
            _endless_rows,
            features=datasets.Features.from_arrow_schema(self.table(split, 0, seed).schema),
            gen_kwargs={"task": self, "split": split, "seed": seed, "step": num_shards, "shards": [*range(num_shards)]},
        )

    def hard_cases(self, size: int, seed: int = 0) -> dict[str, pa.Table]:
        """Named families of hard problems at these digits, at most `size` rows each; large ones of the test split."""
        del size, seed
        return {}

    def check(self, prompt: str, completion: str) -> bool:
        """Whether `completion` is exactly the right answer to `prompt`; False for anything that is no prompt."""
        try:
            return completion == self.answer(prompt)
        except UserError:
            return False

    def split_of(self, prompt: str) -> str:
        """The split that the problem of this prompt belongs to, whatever its text format.

        Raises:
            UserError: the prompt is not one of this task.
        """
        return SPLITS[int(split_codes(self._hash(self._parse(prompt)))[0])]

    def _check_request(self, split: str, seed: int, size: int, start: int) -> None:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        integer("size", size, low=0)
        integer("start", start, low=0)
        if not isinstance(seed, int):
            raise UserError(f"seed={seed!r}: give an integer")
        if min(self.problem_count, 10**9) * SPLIT_SHARES[split] < FEWEST_PROBLEMS:
            raise self._too_small(split)

    def _too_small(self, split: str) -> UserError:
        return UserError(
            f"{self.name} has only {self.problem_count} problems at these parameters, too few for a {split} split "
            f"({SPLIT_SHARES[split]:.0%} of them); widen {self.length_parameter} or whatever else makes more of them"
        )

    @cached_property
    def _salt(self) -> np.uint64:
        """What hashes of problems are mixed with; tasks of one salt have their problems in the same splits."""
        return np.uint64(hash_name(self.splits_of or self.name) % 2**64)

    def _block(self, split: str, seed: int, block: int, stop: int) -> Problems:
        """The first `stop` problems of a block."""
        key = hash_name(self.name, self.parameters(), split, seed)
        return self._collect(self._draw, key, split, block, stop)

    def _collect(self, draw: Draw, key: int, split: str, block: int, stop: int) -> Problems:
        """Draw candidates chunk by chunk until `stop` of them are of the split, and keep these."""
        parts: list[Problems] = []
        found = chunk = 0
        while found < stop or not parts:
            rng = stream(key, block, chunk)
            problems = draw(rng, CHUNK)
            problems["noise"] = rng.integers(0, 2**64, CHUNK, dtype=np.uint64)
            rows = np.flatnonzero(split_codes(self._hash(problems)) == SPLITS.index(split))
            parts.append(take(problems, rows))
            found, chunk = found + len(rows), chunk + 1
            if found == 0 and stop and chunk >= PATIENCE:
                raise self._too_small(split)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return take(joined, slice(0, stop))

    def _write_table(self, problems: Problems, split: str) -> pa.Table:
        rows = len(problems["noise"])
        step = max(1, CHARACTERS_AT_ONCE // sum(self.max_lengths))
        starts = range(0, max(rows, 1), step)
        return pa.concat_tables(pa.table(self._write(take(problems, slice(low, low + step)), split)) for low in starts)


def _endless_rows(task: Task, split: str, seed: int, step: int, shards: list[int]) -> Iterator[dict[str, Any]]:
    """Rows of blocks s, s + step, ... for the one shard s that `datasets` hands over."""
    (block,) = shards
    while True:
        yield from task.table(split, BLOCK, seed, start=block * BLOCK).to_pylist()
        block += step
