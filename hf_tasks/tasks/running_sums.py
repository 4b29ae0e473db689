"""Many numbers, added one after the other: how many there are varies from row to row.

- A problem is held as in arithmetic.py: digits (rows, numbers, places), least significant first, and lengths (rows,
  numbers); behind a row's last number both are 0, which changes neither sum nor hash.
- A sum is of one split whatever the order of its numbers and however many zeros are among them, and of the same one in
  `addition`.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError
from hf_tasks.tasks.arithmetic import Addition, numbers_within
from hf_tasks.tasks.base import Problems, Task
from hf_tasks.tasks.checks import shortened, span
from hf_tasks.tasks.digits import draw_numbers, from_text, settle, widen
from hf_tasks.tasks.hashing import hash_places, mix64
from hf_tasks.tasks.text import Cells, text_array


@dataclass(frozen=True, kw_only=True)
class RunningSum(Task):
    """Add numbers one after the other and write the total after each.

    After the scratchpad of Cho et al. 2025 (arXiv 2410.15787), which begins with zeros and reverses totals alone.
    Numbers are written least significant digit first and zero-padded to one digit more than the last total may need, so
    that every number ends with a zero, however few or many are added. Every total is opened by an equals sign, as in a
    sum done in the head: 12 + 345 + 67 = 357 = 424.

    Example: 21000+54300+76000= -> 75300=42400   (operands=(2, 5), digits=(1, 4))

    Args:
        operands: (lo, hi), all counts of numbers equally likely; at least two.
        digits: (lo, hi) of the longest number of a row, all equally likely; the others have from lo to that many.
    """

    name: ClassVar[str] = "running_sum"
    length_parameter: ClassVar[str] = "operands"
    splits_of: ClassVar[str | None] = Addition.name

    operands: tuple[int, int] = (2, 5)
    digits: tuple[int, int] = (1, 10)

    def __post_init__(self) -> None:
        object.__setattr__(self, "operands", span("operands", self.operands))
        object.__setattr__(self, "digits", span("digits", self.digits))
        if self.operands[0] < 2:
            raise UserError(f"operands={[*self.operands]}: give [lo, hi] with integers 2 <= lo <= hi")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return (*"0123456789", "+", "=")

    def number_format(self) -> dict[str, Any]:
        return {
            "digits": "0123456789",
            "separators": ["+", "="],
            "fillers": [],
            "answer": "=",
            "reverse": "all",
            "answer_width": None,
        }

    @property
    def max_lengths(self) -> tuple[int, int]:
        count = self.operands[1]
        written = int(_width(np.full((1, count), self.digits[1]))[0]) + 1
        return count * written, (count - 1) * written - 1

    @property
    def columns(self) -> dict[str, str]:
        return {
            "prompt": "the numbers, up to where the first total begins",
            "answer": "the totals of the first two numbers, the first three, and so on",
            "format": "the text layout (always plain)",
            "operands": "how many numbers are added",
            "digits": "digits of the longest number",
        }

    @property
    def problem_count(self) -> int:
        low, high = self.operands
        numbers = numbers_within([self.digits])
        return (numbers ** (high + 1) - numbers**low) // (numbers - 1)

    def answer(self, prompt: str) -> str:
        return text_array(self._totals(self._parse(prompt)))[0].as_py()

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        (fewest, most), (low, high) = self.operands, self.digits
        counts = rng.integers(fewest, most + 1, count)
        longest = rng.integers(low, high + 1, count)
        lengths = low + (rng.random((count, most)) * (longest - low + 1)[:, None]).astype(np.int64)
        lengths[np.arange(count), rng.integers(0, counts)] = longest
        here = np.arange(most) < counts[:, None]
        digits = draw_numbers(rng, lengths, high) * here[:, :, None]
        return {"digits": digits, "lengths": lengths * here}

    def _hash(self, problems: Problems) -> np.ndarray:
        return mix64(hash_places(problems["digits"]).sum(axis=1) ^ self._salt)

    def _write(self, problems: Problems, split: str) -> dict[str, pa.Array]:
        del split
        lengths = problems["lengths"]
        values = [
            text_array(_written(problems["digits"], lengths, lengths > 0, "+", "=")),
            text_array(self._totals(problems)),
            pa.repeat("plain", len(lengths)),
            pa.array(np.count_nonzero(lengths, axis=1).astype(np.int32)),
            pa.array(lengths.max(axis=1).astype(np.int32)),
        ]
        return dict(zip(self.columns, values, strict=True))

    def _totals(self, problems: Problems) -> Cells:
        digits, lengths = problems["digits"], problems["lengths"]
        columns = np.cumsum(widen(digits, int(_width(lengths).max(initial=1))), axis=1, dtype=np.int32)[:, 1:]
        totals, _ = settle(columns.reshape(-1, columns.shape[2]))
        return _written(totals.reshape(columns.shape), lengths, lengths[:, 1:] > 0, "=", "\0")

    def _parse(self, prompt: str) -> Problems:
        if re.fullmatch(r"[0-9]+(\+[0-9]+)+=", prompt):
            numbers = prompt[:-1].split("+")
            widths = {*map(len, numbers)}
            if len(widths) == 1:  # before a matrix is made of them, which one long number would make wide for all
                digits, lengths = from_text(numbers)
                if widths == {*_width(lengths).tolist()}:
                    return {"digits": digits, "lengths": lengths}
        raise UserError(
            f"{shortened(prompt)} is not a prompt of {self.name}: give numbers with '+' between and '=' behind them, "
            "least significant digit first, zero-padded to one digit more than their sum may need"
        )


def _width(lengths: np.ndarray) -> np.ndarray:
    """Digits that hold the sum of numbers of such lengths, and one more, (rows, numbers) -> (rows,)."""
    most = np.count_nonzero(lengths, axis=1) - 1  # what is carried out of a place is at most one less than the numbers
    return lengths.max(axis=1) + np.char.str_len(most.astype(str)) + 1


def _written(digits: np.ndarray, lengths: np.ndarray, shown: np.ndarray, between: str, behind: str) -> Cells:
    """The shown ones of numbers (rows, numbers, places), all of the row's width, a sign behind each."""
    width = _width(lengths)
    digits = widen(digits, int(width.max(initial=1)))
    cells = (digits + np.uint8(ord("0"))) * (np.arange(digits.shape[2]) < width[:, None, None])
    last = shown & ~np.pad(shown[:, 1:], [(0, 0), (0, 1)])
    signs = np.where(last, ord(behind), ord(between)).astype(np.uint8)
    both = np.concatenate([cells, signs[:, :, None]], axis=2) * shown[:, :, None]
    return both.reshape(len(both), both.shape[1] * both.shape[2])
