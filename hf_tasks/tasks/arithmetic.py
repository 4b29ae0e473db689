"""Arithmetic on numbers of any length: addition, subtraction, multiplication, modular addition, sums of products.

- A problem is its operands: digits (rows, operands, places), least significant first, and lengths (rows, operands).
- Its hash adds up the hashes of operands that may change places, so that a+b and b+a are one problem.
- The text is the business of layouts.py; a task says how to draw, hash and solve.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError
from hf_tasks.tasks.base import Problems, Task
from hf_tasks.tasks.digits import draw_lengths, draw_numbers, settle
from hf_tasks.tasks.checks import as_tuple, choice, integer, is_integer, is_span, listed
from hf_tasks.tasks.hashing import hash_name, hash_places, mix64
from hf_tasks.tasks.layouts import LAYOUTS, Layout, Notation, Result

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ArithmeticTask(Task):
    """Operands, operators and an answer.

    Args:
        reverse: what is written least significant digit first: "none", "answer" or "all" (operands too).
        pad: False; True writes the operands with as many digits as the longest of the row, and the answer with as many as
            any answer to operands of that width may need; an int does the same for operands of that many digits.
        format: the text layout, see layouts.py.
    """

    reverse: str = "none"
    pad: bool | int = False
    format: str = "plain"

    formats: ClassVar[tuple[str, ...]] = ("plain",)

    def __post_init__(self) -> None:
        choice("reverse", self.reverse, ("none", "answer", "all"))
        choice(f"format of {self.name}", self.format, self.formats)
        if not isinstance(self.pad, bool):
            integer("pad", self.pad, low=max(self.operand_places))
        if self.pad and not LAYOUTS[self.format].can_pad:
            raise UserError(f"pad={self.pad!r} cannot be combined with format={self.format!r}; set pad to false")

    # What a task supplies.

    @property
    @abstractmethod
    def operators(self) -> tuple[str, ...]:
        """The characters between the operands."""

    @property
    @abstractmethod
    def operand_places(self) -> tuple[int, ...]:
        """The most digits of each operand."""

    @property
    @abstractmethod
    def width_rule(self) -> tuple[int, int]:
        """(m, c): any answer to operands of w digits fits in m * w + c digits."""

    @property
    @abstractmethod
    def answer_places(self) -> int:
        """The most digits of an answer that is not padded."""

    @property
    def signed(self) -> bool:
        """Whether answers can be negative."""
        return False

    @abstractmethod
    def _solve(self, digits: np.ndarray) -> tuple[Result, np.ndarray]:
        """Answers, in `width_rule` places, and carry chains (rows,) of operands (rows, operands, places)."""

    @abstractmethod
    def _combine(self, hashes: np.ndarray) -> np.ndarray:
        """One hash for a problem from those of its operands, (rows, operands) -> (rows,)."""

    # What follows from it.

    @cached_property
    def layout(self) -> Layout:
        """How this task is written."""
        longest = (max(self.operand_places),) * len(self.operand_places) if self.pad is True else self.operand_places
        longest = (int(self.pad),) * len(longest) if self.pad > 1 else longest
        m, c = self.width_rule
        notation = Notation(
            operators=self.operators,
            longest=longest,
            longest_answer=m * max(longest) + c if self.pad else self.answer_places,
            width_rule=self.width_rule,
            signed=self.signed,
            reverse=self.reverse,
            pad=self.pad,
        )
        return LAYOUTS[self.format](notation)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self.layout.vocabulary

    @property
    def max_lengths(self) -> tuple[int, int]:
        return self.layout.longest_prompt, self.layout.longest_answer

    def number_format(self) -> dict[str, Any]:
        return {
            "digits": "0123456789",
            "separators": self.layout.separators,
            "fillers": list(self.layout.fillers),
            "answer": self.layout.answer_mark,
            "reverse": self.reverse,
            "answer_width": list(self.width_rule) if self.pad else None,
        }

    @property
    def columns(self) -> dict[str, str]:
        names = ascii_lowercase[: len(self.operand_places)]
        return {
            "prompt": "the problem, up to where the answer begins",
            "answer": "the one right continuation",
            "format": "the text layout",
            **{f"digits_{name}": f"digits of operand {name}, without leading zeros" for name in names},
            "carry_chain": "longest run of neighbouring places that each hand a carry (or borrow) to the next",
        }

    def answer(self, prompt: str) -> str:
        problems = self._parse(prompt)
        result, _ = self._solve(problems["digits"])
        return self.layout.answer(problems, result)[0].as_py()

    def _parse(self, prompt: str) -> Problems:
        return self.layout.parse(prompt)

    def _hash(self, problems: Problems) -> np.ndarray:
        return mix64(self._combine(hash_places(problems["digits"])) ^ self._salt)

    @cached_property
    def _salt(self) -> np.uint64:
        return np.uint64(hash_name(self.name) % 2**64)

    def _write(self, problems: Problems, split: str) -> dict[str, pa.Array]:
        problems = self.layout.choose(problems, split)
        result, chain = self._solve(problems["digits"])
        lengths = problems["lengths"].astype(np.int32)
        values = [
            self.layout.prompt(problems),
            self.layout.answer(problems, result),
            pa.repeat(self.format, len(chain)),
            *(pa.array(lengths[:, operand]) for operand in range(lengths.shape[1])),
            pa.array(chain, pa.int32()),
        ]
        return dict(zip(self.columns, values, strict=True))


@dataclass(frozen=True, kw_only=True)
class DigitsTask(ArithmeticTask):
    """Arithmetic whose operands are drawn by their number of digits.

    Args:
        digits: (lo, hi) for all operands, or one such pair for each.
        lengths: "balanced" (every tuple of operand lengths is equally likely) or "range" (numbers uniform over all those
            with lo ... hi digits, nearly all of which have hi).
    """

    digits: Span | tuple[Span, ...] = (1, 10)
    lengths: str = "balanced"

    def __post_init__(self) -> None:
        object.__setattr__(self, "digits", as_tuple(self.digits))
        choice("lengths", self.lengths, ("balanced", "range"))
        each = isinstance(self.digits, tuple) and len(self.digits) == len(self.operators) + 1
        if not is_span(self.digits) and not (each and all(map(is_span, self.digits))):
            raise UserError(
                f"digits={listed(self.digits)!r}: give [lo, hi] with integers 1 <= lo <= hi, "
                f"or such a pair for each of the {len(self.operators) + 1} operands"
            )
        super().__post_init__()

    @property
    def spans(self) -> tuple[Span, ...]:
        """(lo, hi) of each operand."""
        shared = isinstance(self.digits[0], int)
        return (self.digits,) * (len(self.operators) + 1) if shared else self.digits  # type: ignore[return-value]

    @property
    def operand_places(self) -> tuple[int, ...]:
        return tuple(high for _, high in self.spans)

    @property
    def problem_count(self) -> int:
        count = 1
        for low, high in self.spans:
            count *= 10**high - (10 ** (low - 1) if low > 1 else 0)
        return count

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        lengths = draw_lengths(rng, self.spans, count, self.lengths)
        return {"digits": draw_numbers(rng, lengths, self._places), "lengths": lengths}

    @property
    def _places(self) -> int:
        return max(*self.operand_places, int(self.pad))


@dataclass(frozen=True, kw_only=True)
class Addition(DigitsTask):
    """Add two or more natural numbers.

    Example: 0012+0345= -> 75300   (digits=(1, 4), reverse="answer", pad=4)

    Args:
        operands: how many numbers are added.
    """

    name: ClassVar[str] = "addition"
    formats: ClassVar[tuple[str, ...]] = tuple(LAYOUTS)

    operands: int = 2

    def __post_init__(self) -> None:
        integer("operands", self.operands, low=2, high=26)
        super().__post_init__()

    @property
    def operators(self) -> tuple[str, ...]:
        return ("+",) * (self.operands - 1)

    @property
    def width_rule(self) -> tuple[int, int]:
        return 1, len(str(self.operands - 1))

    @property
    def answer_places(self) -> int:
        return max(self.operand_places) + self.width_rule[1]

    def _solve(self, digits: np.ndarray) -> tuple[Result, np.ndarray]:
        columns = np.pad(digits.sum(axis=1, dtype=np.int64), [(0, 0), (0, self.width_rule[1])])
        total, chain = settle(columns)
        return Result(total, np.zeros(len(total), bool)), chain

    def _combine(self, hashes: np.ndarray) -> np.ndarray:
        return hashes.sum(axis=1)
