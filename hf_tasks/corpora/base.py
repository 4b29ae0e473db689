"""What a corpus is: what is asked for each row, and what of an answer is kept.

- A corpus is pure: it draws parameters, writes the request, reads the answer. Who writes the answer is a `Writer`; how
  many are asked at a time, what is cached and when it stops is the job's business. Data flows one way:
  parameters -> Request -> Writer -> Reply -> `read` -> row.
- Row i of (corpus, seed) always asks for the same thing, whoever asks, in whatever order.
- Every axis is covered evenly: its values come in rounds, each round a new permutation, so that after n rows no value
  has been asked for more than once more than another; the pairing of axes is random.
- A row belongs to one split for ever: a hash of what it asks for decides, so no prompt is in two splits.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np

from hf_tasks.tasks.hashing import SPLITS, hash_name, split_codes, stream

Parameters = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One row that is asked for.

    Attributes:
        corpus: its name. index: number of the row. parameters: what the row is to be, JSON values.
        messages: of a chat, each with `role` and `content`.
        schema: JSON schema of the answer; None for plain text.
        max_tokens: of the answer.
    """

    corpus: str
    index: int
    parameters: Parameters
    messages: Sequence[Mapping[str, str]]
    schema: dict[str, Any] | None = None
    max_tokens: int = 1024

    @cached_property
    def prompt_hash(self) -> str:
        """16 hexadecimal digits of what is said to the writer."""
        return f"{hash_name(list(map(dict, self.messages)), self.schema):032x}"[:16]


@dataclass(frozen=True)
class Reply:
    """What a writer answered.

    Attributes:
        text: the answer. model: who wrote it, as the server says. finish_reason: "stop", "length", ...
        prompt_tokens, completion_tokens: as counted by the server, 0 where nothing is.
    """

    text: str
    model: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Rejected(Exception):  # noqa: N818  (an answer that is not kept is no error)
    """An answer that is not kept.

    Attributes:
        reason: a short name, by which rejections are counted ("missing_words"). detail: what exactly.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Writer(Protocol):
    """Who answers requests.

    Attributes:
        label: what rows and cards call it ("grammar", or the model's name).
        sampling: its settings (temperature, ...), JSON values; a column of every row, and part of the cache's key.
    """

    label: str
    sampling: dict[str, Any]

    async def write(self, request: Request, attempt: int) -> Reply:
        """Answer; another attempt at the same request may answer otherwise."""
        ...


class TemplateWriter(ABC):
    """A `Writer` that needs no model: the same request and attempt give the same answer.

    Attributes:
        version: of what it writes; to be raised when that changes, or caches of replies go on with the old.
    """

    label = "grammar"
    version: ClassVar[int] = 1

    def __init__(self) -> None:
        self.sampling: dict[str, Any] = {"writer": self.label, "version": self.version}

    async def write(self, request: Request, attempt: int) -> Reply:
        """Answer with what `compose` makes of the request's parameters."""
        seed = hash_name(request.corpus, request.index, request.parameters, attempt)
        return Reply(self.compose(request.parameters, stream(seed, 0, 0)), self.label)

    @abstractmethod
    def compose(self, parameters: Parameters, rng: np.random.Generator) -> str:
        """The answer; `rng` decides whatever the parameters leave open."""


class Corpus(ABC):
    """One corpus. A subclass states its axes and writes and reads one row."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def axes(self) -> dict[str, Sequence[str]]:
        """Axis -> its values, which rows cover evenly."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, str]:
        """Column that `read` makes -> what it holds, for the card."""

    @abstractmethod
    def request(self, index: int, parameters: Parameters) -> Request:
        """The request for a row that is to be so."""

    @abstractmethod
    def read(self, request: Request, text: str) -> Row:
        """The row's own columns out of an answer.

        Raises:
            Rejected: the answer is not kept.
        """

    @abstractmethod
    def text(self, row: Row) -> str:
        """What a language model trains on."""

    def parameters(self, index: int, seed: int) -> Parameters:
        """What row `index` is to be, JSON values: one value of each axis, unless a subclass adds to them."""
        return {axis: self.pick(axis, index, seed) for axis in self._axes}

    # For subclasses.

    def pick(self, axis: str, index: int, seed: int) -> str:
        """The value of an axis in a row."""
        values = self._axes[axis]
        turn, place = divmod(index, len(values))
        return values[int(_round(self.name, axis, seed, turn, len(values))[place])]

    @cached_property
    def _axes(self) -> dict[str, Sequence[str]]:
        """`axes`, made once: they are looked at for every row, and some have thousands of values."""
        return self.axes

    def rng(self, index: int, seed: int) -> np.random.Generator:
        """Randomness of one row, for what is no axis."""
        return stream(hash_name(self.name, "row", seed, index), 0, 0)


@lru_cache(maxsize=256)  # rows come in order, so that a round is drawn once
def _round(corpus: str, axis: str, seed: int, turn: int, count: int) -> np.ndarray:
    """The order in which an axis goes through its values in one round."""
    return stream(hash_name(corpus, "axis", axis, seed, turn), 0, 0).permutation(count)


def split_of(corpus: str, parameters: Parameters) -> str:
    """The split that a row belongs to, by a hash of what it is to be."""
    return SPLITS[int(split_codes(np.array([hash_name(corpus, parameters) & (2**64 - 1)], np.uint64))[0])]
