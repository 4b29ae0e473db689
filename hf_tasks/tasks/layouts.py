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
from string import ascii_letters
from typing import ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError
from hf_tasks.tasks.base import Problems
from hf_tasks.tasks.checks import shortened
from hf_tasks.tasks.dialogues import HELD_OUT, SCENES, SEEN
from hf_tasks.tasks.digits import from_text, number_lengths, product_columns, settle
from hf_tasks.tasks.hashing import mix64, noise_integers
from hf_tasks.tasks.text import Cells, interleave, join, literal, text_array

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
    answer_mark: str | None = "="
    can_pad: ClassVar[bool] = True
    number_pattern: ClassVar[str] = "[0-9]+"

    def __init__(self, notation: Notation) -> None:
        self.notation = notation
        numbers = [f"({self.number_pattern})"] * len(notation.longest)
        operators = [*map(re.escape, notation.operators), "="]
        self.pattern = re.compile("".join(n + o for n, o in zip(numbers, operators, strict=True)))

    # What a task, a model and a tokenizer ask.

    def check_room(self) -> None:
        """Refuse, with a UserError, numbers too long to be written in this layout."""

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
        """Add the row's own choices; every layout needs `width`, the digits its operands are padded to (0: none)."""
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
        notation = self.notation
        return UserError(
            f"{shortened(prompt)} is not a prompt of the format {self.name!r} with {len(notation.longest)} operands, "
            f"operators {' '.join(notation.operators)}, reverse={notation.reverse!r} and pad={notation.pad!r}"
        )


class RandomSpace(Layout):
    """`1 2   3+4  5=`: up to three spaces between digits of the prompt (Shen et al. 2023), none in the answer."""

    name = "random_space"
    description = "0 to 3 random spaces between the digits of the prompt"
    fillers = " "
    number_pattern = "[0-9](?: {0,3}[0-9])*"
    most_spaces: ClassVar[int] = 3

    def written(self, digits: int) -> int:
        return digits + self.most_spaces * (digits - 1)

    def dress_prompt(self, problems: Problems, digits: np.ndarray, written: np.ndarray, operand: int) -> Cells:
        cells = super().dress_prompt(problems, digits, written, operand)
        inside = np.zeros(cells.shape, bool)
        inside[:, :-1] = (cells[:, :-1] != 0) & (cells[:, 1:] != 0)
        noise = mix64(problems["noise"] + np.uint64(operand + 1))
        spaces = noise_integers(noise, cells.shape[1], self.most_spaces + 1) * inside
        return interleave(cells, (np.arange(self.most_spaces) < spaces[:, :, None]) * np.uint8(ord(" ")))

    def undress(self, group: str) -> str:
        return group.replace(" ", "")


class IndexHints(Layout):
    """`b1c2+b4c5=b5c7`: a letter before each digit, the same one for the same place (Zhou et al. 2024, arXiv
    2402.09371).

    Letters follow the alphabet from the top place down. Where they start is random, with room for the longest answer
    that operands of this width can have, so that the letters of the prompt do not tell how long its answer is.
    """

    name = "index_hints"
    description = "a letter before every digit, equal letters for equal places"
    fillers = ascii_letters
    number_pattern = "(?:[a-zA-Z][0-9])+"

    def check_room(self) -> None:
        needed = self.letters(max(self.notation.longest))
        if needed > len(ascii_letters):
            raise UserError(
                f"format='index_hints' needs {needed} letters at these digits and has {len(ascii_letters)}; "
                "lower the digits (or the pad) or choose another format"
            )

    def letters(self, width: int) -> int:
        """How many letters operands of this width and their answer take."""
        return max(width, self.notation.answer_places(width))

    def written(self, digits: int) -> int:
        return 2 * digits

    @property
    def longest_answer(self) -> int:
        return 2 * self.notation.longest_answer + self.notation.signed

    def choose(self, problems: Problems, split: str) -> Problems:
        problems = super().choose(problems, split)
        width = np.maximum(problems["lengths"].max(axis=1), problems["width"])
        m, c = self.notation.width_rule
        needed = np.maximum(width, m * width + c)
        starts = np.maximum(len(ascii_letters) - needed + 1, 1)
        start = (mix64(problems["noise"]) % starts.astype(np.uint64)).astype(np.int64)
        return problems | {"units_letter": start + needed - 1}

    def dress_prompt(self, problems: Problems, digits: np.ndarray, written: np.ndarray, operand: int) -> Cells:
        del operand
        return self.hinted(problems, digits, written, self.notation.reverse == "all")

    def dress_answer(self, problems: Problems, digits: np.ndarray, written: np.ndarray) -> Cells:
        return self.hinted(problems, digits, written, self.notation.reverse != "none")

    def hinted(self, problems: Problems, digits: np.ndarray, written: np.ndarray, reverse: bool) -> Cells:
        """Numbers with the letter of its place before every digit."""
        cells = self.number(digits, written, reverse=True)
        letter = np.maximum(problems["units_letter"][:, None] - np.arange(digits.shape[1]), 0)
        hints = np.frombuffer(ascii_letters.encode(), np.uint8)[letter] * (cells != 0)
        return interleave(hints, cells) if reverse else interleave(hints[:, ::-1], cells[:, ::-1])

    def undress(self, group: str) -> str:
        return group[1::2]

    def read(self, groups: Sequence[str], prompt: str) -> Problems:
        problems = super().read(groups, prompt)
        hints = [group[::2] if self.notation.reverse == "all" else group[-2::-2] for group in groups]
        units = ascii_letters.index(hints[0][0])
        downwards = ascii_letters[units::-1]
        room = units + 1 >= self.letters(max(map(len, hints)))
        if not room or not all(downwards.startswith(hint) for hint in hints):
            raise self.not_a_prompt(prompt)
        return problems | {"units_letter": np.array([units])}


def _sum_steps(problems: Problems, result: Result, reverse: bool) -> Cells:
    """`carry+a+b:sum,` for every place of two operands, (rows, places, 9); those above the longer one are empty."""
    a, b = problems["digits"][:, 0], problems["digits"][:, 1]
    total = result.digits[:, : a.shape[1]]
    # Modulo 10 the sum of a place is a + b + carry, which leaves 0 or 1 for the carry.
    carry = (total + 20 - a - b) % 10
    tens = ((a + b + carry) >= 10) * np.uint8(ord("1"))
    units, zero = total + np.uint8(48), np.uint8(48)
    plus, colon, comma = (np.full(a.shape, ord(mark), np.uint8) for mark in "+:,")
    sums = [units, tens] if reverse else [tens, units]
    steps = np.stack([carry + zero, plus, a + zero, plus, b + zero, colon, *sums, comma], axis=2)
    return steps * _open_places(problems)[:, :, None]


def _open_places(problems: Problems) -> np.ndarray:
    """Which places the longer operand of a row has, (rows, places) bool."""
    return np.arange(problems["digits"].shape[2]) < problems["lengths"].max(axis=1)[:, None]


class Scratchpad(Layout):
    """`39+85=0+9+5:14,1+3+8:12,:124`: every place as carry+a+b:sum, lowest first, and then the answer.

    With `reverse` the sums of the steps and the answer are written least significant digit first.
    """

    name = "scratchpad"
    description = "carry+a+b:sum for every place, lowest first, then the sum"
    symbols = ":,"
    can_pad = False

    @property
    def longest_answer(self) -> int:
        return 9 * max(self.notation.longest) + 1 + self.notation.longest_answer

    def answer(self, problems: Problems, result: Result) -> pa.Array:
        steps = _sum_steps(problems, result, self.notation.reverse != "none")
        steps = steps.reshape(len(steps), 9 * steps.shape[1])
        return text_array(join(steps, literal(":", len(steps)), self.signed_number(problems, result)))


class RecursiveScratchpad(Layout):
    """`239+821=0+9+1:01,:0,32+28=1+3+2:6,:06,2+8=0+2+8:01,:060,:` (Shen et al. 2023), here with reverse="answer".

    A step is carry+a+b:sum, the places of the answer so far, and what remains of both operands, which is always written
    least significant digit first; the shorter operand is filled up with zeros. The last step's sum carries the top
    digit. With reverse="none" the sums and the answer so far are written most significant digit first.
    """

    name = "recursive_scratchpad"
    description = "carry+a+b:sum, the answer so far and the remaining operands, for every place"
    symbols = ":,"
    can_pad = False

    @property
    def longest_answer(self) -> int:
        n = max(self.notation.longest)
        steps, so_far, remaining = 11 * n, n * (n + 1) // 2, n * (n - 1) + 2 * (n - 1)
        return steps + so_far + remaining + 1

    def answer(self, problems: Problems, result: Result) -> pa.Array:
        reverse = self.notation.reverse != "none"
        steps, is_open = _sum_steps(problems, result, reverse), _open_places(problems)
        places = is_open.shape[1]
        a, b = ((problems["digits"][:, operand] + np.uint8(48)) * is_open for operand in (0, 1))
        answer = result.digits + np.uint8(48)
        parts = []
        for place in range(places):
            here = is_open[:, place, None]
            more = is_open[:, place + 1, None] if place + 1 < places else np.zeros_like(here)
            so_far = answer[:, : place + 1] if reverse else answer[:, place::-1]
            parts += [steps[:, place], here * np.uint8(ord(":")), here * so_far, here * np.uint8(ord(","))]
            parts += [a[:, place + 1 :], more * np.uint8(ord("+")), b[:, place + 1 :]]
            parts += [more * np.uint8(ord("=")), (here & ~more) * np.uint8(ord(":"))]
        return text_array(join(*parts))


class Complement(Layout):
    """`345-1012=9333-:667`: the difference modulo 10^w, w the longer operand's digits; its sign; its size.

    Every digit follows from what stands at its place and the one below, also where the sign is not known yet, which
    hangs on the highest places. It is written "+" if it is not negative. With reverse="all" the example is
    `543-2101=3339-:766`. The colon is where the last number is looked for from: to ids of place value the sign stands
    behind the number before it.
    """

    name = "complement"
    description = "the difference modulo a power of ten, its sign, its size"
    symbols = "+:"

    @property
    def longest_answer(self) -> int:
        return max(self.notation.longest) + 2 + self.notation.longest_answer

    def answer(self, problems: Problems, result: Result) -> pa.Array:
        below = np.where(result.negative[:, None], 9 - result.digits.astype(np.int32), result.digits)
        below[:, 0] += result.negative
        remainder, _ = settle(below)
        width = np.maximum(problems["lengths"].max(axis=1), problems["width"])
        size = np.where(problems["width"] > 0, width, number_lengths(result.digits))
        sign = np.where(result.negative, ord("-"), ord("+")).astype(np.uint8)[:, None]
        first, second = (self.dress_answer(problems, *number) for number in ((remainder, width), (result.digits, size)))
        return text_array(join(first, sign, literal(":", len(first)), second))


class Steps(Layout):
    """`12*3+40*50=36+2000=2036`: both products, and then their sum; each as the answer is written."""

    name = "steps"
    description = "both products, then their sum"
    can_pad = False

    @property
    def longest_answer(self) -> int:
        a, b, c, d = self.notation.longest
        return a + b + 1 + c + d + 1 + self.notation.longest_answer

    def answer(self, problems: Problems, result: Result) -> pa.Array:
        parts = []
        for operand, mark in ((0, "+"), (2, "=")):
            first, second = (problems["digits"][:, operand + i] for i in (0, 1))
            product, _ = settle(product_columns(first, second))
            parts += [self.dress_answer(problems, product, number_lengths(product)), literal(mark, len(product))]
        return text_array(join(*parts, self.signed_number(problems, result)))


class Dialogue(Layout):
    """A sum inside a short scene in English, see dialogues.py; the answer is the number alone.

    A sum that is written least significant digit first is announced by "=" behind the scene: to whoever reads the
    text, and to position ids, which must know where such a number begins.
    """

    name = "dialogue"
    description = "a sum inside a short scene in English; test rows have scenes of their own"
    can_pad = False

    def __init__(self, notation: Notation) -> None:
        super().__init__(notation)
        self.answer_mark = None if notation.reverse == "none" else "="
        number, self.mark = f"({self.number_pattern})", self.answer_mark or ""
        patterns = (re.escape(scene + self.mark) for scene in SCENES)
        self.patterns = [re.compile(p.replace(r"\{a\}", number).replace(r"\{b\}", number)) for p in patterns]

    @property
    def separators(self) -> list[str]:
        return sorted({*"".join(scene.format(a="", b="") for scene in SCENES), *self.mark})

    @property
    def longest_prompt(self) -> int:
        longest = max(len(scene.format(a="", b="")) for scene in SCENES)
        return longest + len(self.mark) + sum(self.notation.longest)

    def choose(self, problems: Problems, split: str) -> Problems:
        first, count = (len(SEEN), len(HELD_OUT)) if split == "test" else (0, len(SEEN))
        scene = first + noise_integers(problems["noise"], 1, count)[:, 0]
        return super().choose(problems, split) | {"scene": scene}

    def prompt(self, problems: Problems) -> pa.Array:
        operands = (problems["digits"][:, operand] for operand in (0, 1))
        lengths = problems["lengths"].T
        reverse = self.notation.reverse == "all"
        texts = (text_array(self.number(*pair, reverse)).to_pylist() for pair in zip(operands, lengths, strict=True))
        rows = zip(problems["scene"], *texts, strict=True)
        return pa.array([SCENES[scene].format(a=a, b=b) + self.mark for scene, a, b in rows], pa.string())

    def parse(self, prompt: str) -> Problems:
        for scene, pattern in enumerate(self.patterns):
            if match := pattern.fullmatch(prompt):
                return self.read(match.groups(), prompt) | {"scene": np.array([scene])}
        raise self.not_a_prompt(prompt)


class InContext(Dialogue):
    """Scenes, and `A+B=` where the problem says that it is `bare`."""

    name = "in_context"
    description = "a sum inside a short scene in English, or bare; test rows have scenes of their own"

    @property
    def separators(self) -> list[str]:
        return sorted({*super().separators, *Layout(self.notation).separators})

    def choose(self, problems: Problems, split: str) -> Problems:
        return {"bare": np.zeros(len(problems["noise"]), bool)} | super().choose(problems, split)

    def prompt(self, problems: Problems) -> pa.Array:
        texts = (prompts.to_pylist() for prompts in (Layout.prompt(self, problems), super().prompt(problems)))
        rows = zip(problems["bare"], *texts, strict=True)
        return pa.array([sum_ if bare else scene for bare, sum_, scene in rows], pa.string())

    def parse(self, prompt: str) -> Problems:
        if self.pattern.fullmatch(prompt):
            return Layout.parse(self, prompt) | {"bare": np.ones(1, bool)}
        return super().parse(prompt)


LAYOUTS: dict[str, type[Layout]] = {
    layout.name: layout
    for layout in (
        Layout,
        RandomSpace,
        IndexHints,
        Scratchpad,
        RecursiveScratchpad,
        Complement,
        Steps,
        Dialogue,
        InContext,
    )
}
