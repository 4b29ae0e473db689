"""Sequence diagnostics that papers on positional encodings share: copy, reverse, sort, parity, sums of prefixes.

- A problem is a string over an alphabet, `cab=`; held as places (rows, length) with 1 for the alphabet's first
  character and 0 for "no character", so that strings of different lengths hash apart.
- A character is a token; nothing is written between them. Models may read the characters as the digits of a number,
  which is why `number_format` calls them so.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError
from hf_tasks.tasks.base import Problems, Task
from hf_tasks.tasks.checks import shortened, span
from hf_tasks.tasks.hashing import hash_places, mix64
from hf_tasks.tasks.text import Cells, join, literal, text_array


@dataclass(frozen=True, kw_only=True)
class SequenceTask(Task):
    """A string and what is to be made of it.

    Args:
        length: (lo, hi), all lengths equally likely.
        alphabet: two or more different ASCII characters, in the order by which `sort` sorts; all equally likely.
    """

    length: tuple[int, int] = (1, 20)
    alphabet: str = "abcdefghijklmnopqrstuvwxyz"

    # How the answer's places follow from the string's, see `number_format`.
    answer_width: ClassVar[tuple[int, int]] = (1, 0)
    reverse: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", span("length", self.length))
        text = self.alphabet
        good = isinstance(text, str) and text.isascii() and text.isprintable() and len(set(text)) == len(text) > 1
        if not good or "=" in text:
            raise UserError(f"alphabet={text!r}: give two or more different printable ASCII characters other than '='")

    @abstractmethod
    def _solve(self, places: np.ndarray) -> Cells:
        """The text of the answers, from places (rows, length)."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return (*self.alphabet, "=")

    def number_format(self) -> dict[str, Any]:
        return {
            "digits": self.alphabet,
            "separators": ["="],
            "fillers": [],
            "answer": "=",
            "reverse": self.reverse,
            "answer_width": list(self.answer_width),
        }

    @property
    def max_lengths(self) -> tuple[int, int]:
        m, c = self.answer_width
        return self.length[1] + 1, m * self.length[1] + c

    @property
    def columns(self) -> dict[str, str]:
        return {
            "prompt": "the string and an equals sign",
            "answer": "the one right continuation",
            "format": "the text layout (always plain)",
            "length": "characters of the string",
        }

    @property
    def problem_count(self) -> int:
        low, high = self.length
        size = len(self.alphabet)
        return (size ** (high + 1) - size**low) // (size - 1)

    def answer(self, prompt: str) -> str:
        problems = self._parse(prompt)
        return text_array(self._solve(problems["places"]))[0].as_py()

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        low, high = self.length
        lengths = rng.integers(low, high + 1, count)
        places = rng.integers(1, len(self.alphabet) + 1, (count, high), dtype=np.uint8)
        places *= np.arange(high) < lengths[:, None]
        return {"places": places, "lengths": lengths}

    def _hash(self, problems: Problems) -> np.ndarray:
        return mix64(hash_places(problems["places"]) ^ self._salt)

    @cached_property
    def _codes(self) -> np.ndarray:
        """The ASCII code of every place value; 0 stays 0, "no character"."""
        return np.frombuffer(b"\0" + self.alphabet.encode("ascii"), np.uint8)

    def _write(self, problems: Problems, split: str) -> dict[str, pa.Array]:
        del split
        places, lengths = problems["places"], problems["lengths"]
        values = [
            text_array(join(self._codes[places], literal("=", len(places)))),
            text_array(self._solve(places)),
            pa.repeat("plain", len(places)),
            pa.array(lengths.astype(np.int32)),
        ]
        return dict(zip(self.columns, values, strict=True))

    def _parse(self, prompt: str) -> Problems:
        if not re.fullmatch(f"[{re.escape(self.alphabet)}]+=", prompt):
            raise UserError(
                f"{shortened(prompt)} is not a prompt of {self.name}: give characters of {self.alphabet!r} and then '='"
            )
        places = np.array([[self.alphabet.index(character) + 1 for character in prompt[:-1]]], dtype=np.uint8)
        return {"places": places, "lengths": np.array([places.shape[1]])}


@dataclass(frozen=True, kw_only=True)
class Copy(SequenceTask):
    """Write the string again.

    Example: cab= -> cab   (length=(1, 5))
    """

    name: ClassVar[str] = "copy"

    def _solve(self, places: np.ndarray) -> Cells:
        return self._codes[places]


@dataclass(frozen=True, kw_only=True)
class Reverse(SequenceTask):
    """Write the string from its end.

    Example: cab= -> bac   (length=(1, 5))
    """

    name: ClassVar[str] = "reverse"
    reverse: ClassVar[str] = "answer"

    def _solve(self, places: np.ndarray) -> Cells:
        return self._codes[places[:, ::-1]]


@dataclass(frozen=True, kw_only=True)
class Sort(SequenceTask):
    """Write the characters in the order of the alphabet, as often as they occur.

    Example: cabc= -> abcc   (length=(1, 5))
    """

    name: ClassVar[str] = "sort"

    def _solve(self, places: np.ndarray) -> Cells:
        return self._codes[np.sort(places, axis=1)]


@dataclass(frozen=True, kw_only=True)
class PrefixSum(SequenceTask):
    """Write the sum of every prefix modulo the size of the alphabet, whose characters count from 0 on.

    Example: 2718= -> 2908   (length=(1, 5))
    """

    name: ClassVar[str] = "prefix_sum"

    alphabet: str = "0123456789"

    def _solve(self, places: np.ndarray) -> Cells:
        sums = np.cumsum(np.maximum(places, 1) - 1, axis=1, dtype=np.int64) % len(self.alphabet)
        return self._codes[np.where(places > 0, 1 + sums, 0)]


@dataclass(frozen=True, kw_only=True)
class Parity(SequenceTask):
    """Say whether the alphabet's second character occurs an even ("0") or odd ("1") number of times.

    The answer is written with the alphabet's own two characters, the first one for even.

    Example: 0110100= -> 1   (length=(1, 8))
    """

    name: ClassVar[str] = "parity"
    answer_width: ClassVar[tuple[int, int]] = (0, 1)
    hint_classes: ClassVar[Mapping[str, int]] = {"parity": 2}

    alphabet: str = "01"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_two(self)

    def _solve(self, places: np.ndarray) -> Cells:
        return self._codes[1 + (places == 2).sum(axis=1, keepdims=True) % 2]

    @property
    def hint_steps(self) -> int:
        """One a character, and one for the equals sign."""
        return self.length[1] + 1

    def hints(self, prompts: Sequence[str], steps: int) -> dict[str, np.ndarray]:
        """The parity of the characters that end with each, of one more every step; `=` takes that of the last.

        So what a character has is made from itself and from what the token before it had a step ago.
        """
        widths = np.array([len(prompt) - 1 for prompt in prompts])
        told = np.full((len(prompts), steps, widths.max() + 2), -100)
        for width in np.unique(widths).tolist():
            rows = np.flatnonzero(widths == width)
            ones = np.concatenate([self._parse(prompts[row])["places"] for row in rows.tolist()]) == 2
            state = np.zeros_like(ones)
            for step in range(steps):
                if step:
                    told[rows, step, width] = state[:, -1]
                state = np.pad(state, [(0, 0), (1, 0)])[:, :-1] ^ ones
                told[rows, step, :width] = state
        return {"parity": told}


@dataclass(frozen=True, kw_only=True)
class PrefixParity(PrefixSum):
    """Say the parity of every prefix: `parity` step by step, the last character being its answer.

    Example: 0110100= -> 0100111   (length=(1, 8))
    """

    name: ClassVar[str] = "prefix_parity"
    splits_of: ClassVar[str | None] = Parity.name  # a string is of one split for both

    alphabet: str = "01"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_two(self)


def _check_two(task: SequenceTask) -> None:
    if len(task.alphabet) != 2:
        raise UserError(f"alphabet={task.alphabet!r}: {task.name} needs exactly two characters")
