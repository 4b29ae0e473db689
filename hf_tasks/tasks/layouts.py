"""How an arithmetic problem is written down, and read back.

- `LAYOUTS` holds one class a format. The base class writes `A+B=` and its answer; a layout overrides what differs.
- Every layout can be read back: `parse` undoes `prompt`, and from a parsed prompt `answer` writes the one right answer.
- Numbers are matrices with the least significant digit first; only `number` knows the order in which they are written.
- A row's own choices (spaces, first hint letter, template) come from its noise and are kept in the problem's arrays, so
  that prompt and answer agree on them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError
from hf_tasks.tasks.base import Problems
from hf_tasks.tasks.digits import from_text, number_lengths
from hf_tasks.tasks.text import Cells, join, literal, text_array

DIGITS = "0123456789"


@dataclass(frozen=True)
class Notation:
    """What a layout has to know about its task.

    Attributes:
        operators: the characters between the operands.
        longest: the most digits that each operand is written with.
        longest_answer: the most digits of an answer that is not padded.
        width_rule: (m, c): an answer to operands of w written digits fits in m * w + c digits.
        signed: whether answers can be negative.
        reverse: "none", "answer" or "all".
        pad: False, True (to the longest operand of the row) or a width.
    """

    operators: tuple[str, ...]
    longest: tuple[int, ...]
    longest_answer: int
    width_rule: tuple[int, int]
    signed: bool
    reverse: str
    pad: bool | int

    def answer_places(self, width: int) -> int:
        """Digits that hold any answer to operands of `width` digits."""
        return self.width_rule[0] * width + self.width_rule[1]


@dataclass(frozen=True)
class Result:
    """Answers of all rows: digits (rows, places) least significant first, and whether each is negative (rows,)."""

    digits: np.ndarray
    negative: np.ndarray


class Layout:
    """`A+B=` and the answer: the format "plain", and what the others start from."""

    name: ClassVar[str] = "plain"
    description: ClassVar[str] = "digits and operators alone"
    fillers: ClassVar[str] = ""
    symbols: ClassVar[str] = ""
    answer_mark: ClassVar[str | None] = "="
    can_pad: ClassVar[bool] = True
    number_pattern: ClassVar[str] = "[0-9]+"

    def __init__(self, notation: Notation) -> None:
        self.notation = notation
        numbers = [f"({self.number_pattern})"] * len(notation.longest)
        operators = [*map(re.escape, notation.operators), "="]
        self.pattern = re.compile("".join(n + o for n, o in zip(numbers, operators, strict=True)))

    # What a model and a tokenizer ask.

    @property
    def separators(self) -> list[str]:
        """Characters that bound a number, in a fixed order."""
        return [*dict.fromkeys((*self.notation.operators, "=", *("-" * self.notation.signed), *self.symbols))]

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return (*DIGITS, *self.separators, *self.fillers)

    def written(self, digits: int) -> int:
        """The most characters that a number of so many digits takes in a prompt."""
        return digits

    @property
    def longest_prompt(self) -> int:
        return sum(map(self.written, self.notation.longest)) + len(self.notation.longest)

    @property
    def longest_answer(self) -> int:
        return self.notation.longest_answer + self.notation.signed

    # Writing.

    def choose(self, problems: Problems, split: str) -> Problems:
        """Add the row's own choices; every layout needs `width`, the digits to which its operands are padded (0: none)."""
        lengths = problems["lengths"]
        pad = self.notation.pad
        width = lengths.max(axis=1) if pad is True else np.full(len(lengths), int(pad))
        return problems | {"width": width}

    def prompt(self, problems: Problems) -> pa.Array:
        """The text before the answer."""
        return text_array(self.expression(problems))

    def answer(self, problems: Problems, result: Result) -> pa.Array:
        """The text after the prompt."""
        return text_array(self.signed_number(problems, result))

    def expression(self, problems: Problems) -> Cells:
        """The operands and operators, up to and with "="."""
        digits, lengths = problems["digits"], problems["lengths"]
        parts = []
        for operand, operator in enumerate((*self.notation.operators, "=")):
            written = np.maximum(lengths[:, operand], problems["width"])
            parts += [self.dress_prompt(problems, digits[:, operand], written, operand), literal(operator, len(digits))]
        return join(*parts)

    def signed_number(self, problems: Problems, result: Result) -> Cells:
        """The answer as a number; a sign is part of it, so that reversed answers end with it."""
        m, c = self.notation.width_rule
        padded = m * problems["width"] + c
        written = np.where(problems["width"] > 0, padded, number_lengths(result.digits))
        number = self.dress_answer(problems, result.digits, written)
        if not self.notation.signed:
            return number
        sign = (result.negative * np.uint8(ord("-")))[:, None]
        return join(number, sign) if self.notation.reverse != "none" else join(sign, number)

    def dress_prompt(self, problems: Problems, digits: np.ndarray, written: np.ndarray, operand: int) -> Cells:
        """One operand as it stands in the prompt."""
        del problems, operand
        return self.number(digits, written, self.notation.reverse == "all")

    def dress_answer(self, problems: Problems, digits: np.ndarray, written: np.ndarray) -> Cells:
        """The digits of the answer."""
        del problems
        return self.number(digits, written, self.notation.reverse != "none")

    @staticmethod
    def number(digits: np.ndarray, written: np.ndarray, reverse: bool) -> Cells:
        """Numbers written with so many digits each, in either order."""
        cells = (digits + np.uint8(ord("0"))) * (np.arange(digits.shape[1]) < written[:, None])
        return cells if reverse else cells[:, ::-1]

    # Reading.

    def parse(self, prompt: str) -> Problems:
        """The one-row problem of a prompt, with its choices.

        Raises:
            UserError: the prompt is not of this form.
        """
        match = self.pattern.fullmatch(prompt)
        if match is None:
            raise self.not_a_prompt(prompt)
        return self.read(match.groups(), prompt)

    def read(self, groups: Sequence[str], prompt: str) -> Problems:
        """The problem whose operands were written as `groups`."""
        numbers = [self.undress(group) for group in groups]
        numbers = numbers if self.notation.reverse == "all" else [number[::-1] for number in numbers]
        digits, lengths = from_text(numbers)
        problems = self.choose({"digits": digits, "lengths": lengths, "noise": np.zeros(1, np.uint64)}, "train")
        written = np.maximum(lengths, problems["width"][:, None])[0]
        if [*map(len, numbers)] != written.tolist():
            raise self.not_a_prompt(prompt)
        return problems

    def undress(self, group: str) -> str:
        """The digits alone of a number as it stands in a prompt."""
        return group

    def not_a_prompt(self, prompt: str) -> UserError:
        shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
        return UserError(
            f"{shown!r} is not a prompt of the format {self.name!r} with operators {' '.join(self.notation.operators)}, "
            f"reverse={self.notation.reverse!r} and pad={self.notation.pad!r}"
        )


LAYOUTS: dict[str, type[Layout]] = {layout.name: layout for layout in (Layout,)}
