"""Arithmetic on numbers of any length: addition, subtraction, multiplication, modular addition, sums of products.

- A problem is its operands: digits (rows, operands, places), least significant first, and lengths (rows, operands).
- Its hash adds up the hashes of operands that may change places, so that a+b and b+a are one problem.
- The text is the business of layouts.py; a task says how to draw, hash and solve.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError
from hf_tasks.tasks.base import Problems, Task
from hf_tasks.tasks.carries import make_heavy, make_large
from hf_tasks.tasks.checks import as_tuple, choice, integer, is_span, listed, share, shortened
from hf_tasks.tasks.digits import (
    LARGEST_DIVISOR,
    at_least,
    column_sums,
    draw_below,
    draw_lengths,
    draw_numbers,
    horner,
    number_lengths,
    product_columns,
    remainder,
    settle,
    subtract,
    widen,
)
from hf_tasks.tasks.hard_sums import FAMILIES, SHORTEST, nines_plus_one
from hf_tasks.tasks.hashing import hash_name, hash_places, mix64, stream
from hf_tasks.tasks.layouts import LAYOUTS, Layout, Notation, Result

Span = tuple[int, int]
# Layouts that write any expression; the others are made for the sum of two numbers.
NUMBER_FORMATS: tuple[str, ...] = ("plain", "random_space", "index_hints")
SUM_FORMATS: tuple[str, ...] = (*NUMBER_FORMATS, "scratchpad", "recursive_scratchpad", "dialogue")
# Python writes integers of up to 4,300 digits as text, and a parameter must survive a trip through JSON.
MODULUS_BITS = 14_000


@dataclass(frozen=True, kw_only=True)
class ArithmeticTask(Task):
    """Operands, operators and an answer.

    Args:
        reverse: what is written least significant digit first: "none", "answer" or "all" (operands too).
        pad: False; True writes the operands with as many digits as the longest of the row, and the answer with as many
            as any answer to operands of that width may need; an int does the same for operands of that many digits.
        format: the text layout, see layouts.py.
    """

    length_parameter: ClassVar[str] = "digits"

    reverse: str = "none"
    pad: bool | int = False
    format: str = "plain"

    formats: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        choice("reverse", self.reverse, ("none", "answer", "all"))
        choice(f"format of {self.name}", self.format, self.formats)
        if not isinstance(self.pad, bool):
            integer("pad", self.pad, low=max(self.operand_places))
        if self.pad and not LAYOUTS[self.format].can_pad:
            raise UserError(f"pad={self.pad!r} cannot be combined with format={self.format!r}; set pad to false")
        self.layout.check_room()

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

    @property
    def longest(self) -> int:
        """The most digits of a number of a row."""
        return max(self.operand_places)

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
            "format": f"the text layout: {self.layout.description}",
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


def spans_of(digits: Any, operands: int) -> tuple[Span, ...]:
    """(lo, hi) of each operand, from one such pair for all of them or one for each.

    Raises:
        UserError: it is neither.
    """
    if is_span(digits):
        return (digits,) * operands
    if isinstance(digits, tuple) and len(digits) == operands and all(map(is_span, digits)):
        return digits
    raise UserError(
        f"digits={listed(digits)!r}: give [lo, hi] with integers 1 <= lo <= hi, "
        f"or such a pair for each of the {operands} operands"
    )


def numbers_within(spans: Sequence[Span]) -> int:
    """How many tuples of numbers have so many digits each."""
    return math.prod(10**high - (10 ** (low - 1) if low > 1 else 0) for low, high in spans)


@dataclass(frozen=True, kw_only=True)
class DigitsTask(ArithmeticTask):
    """Arithmetic whose operands are drawn by their number of digits.

    Args:
        digits: (lo, hi) for all operands, or one such pair for each.
        lengths: "balanced" (every tuple of operand lengths is equally likely), "paired" (the same in half of the rows,
            equally long operands in the other) or "range" (numbers uniform over all those with lo ... hi digits, nearly
            all of which have hi).
    """

    digits: Span | tuple[Span, ...] = (1, 10)
    lengths: str = "balanced"

    def __post_init__(self) -> None:
        object.__setattr__(self, "digits", as_tuple(self.digits))
        choice("lengths", self.lengths, ("balanced", "paired", "range"))
        spans_of(self.digits, len(self.operators) + 1)
        super().__post_init__()

    @property
    def spans(self) -> tuple[Span, ...]:
        """(lo, hi) of each operand."""
        return spans_of(self.digits, len(self.operators) + 1)

    @property
    def operand_places(self) -> tuple[int, ...]:
        return tuple(high for _, high in self.spans)

    @property
    def problem_count(self) -> int:
        return numbers_within(self.spans)

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
        carry_heavy: the share of rows made of stretches on which a carry travels, see carries.py (two operands).
    """

    name: ClassVar[str] = "addition"
    formats: ClassVar[tuple[str, ...]] = SUM_FORMATS

    operands: int = 2
    carry_heavy: float = 0.0

    def __post_init__(self) -> None:
        integer("operands", self.operands, low=2, high=26)
        share("carry_heavy", self.carry_heavy)
        super().__post_init__()
        if self.operands != 2 and self.carry_heavy:
            raise UserError(f"carry_heavy={self.carry_heavy} needs operands=2, not {self.operands}")
        if self.operands != 2 and self.format not in NUMBER_FORMATS:
            raise UserError(f"format={self.format!r} needs operands=2, not {self.operands}")

    @property
    def operators(self) -> tuple[str, ...]:
        return ("+",) * (self.operands - 1)

    @property
    def width_rule(self) -> tuple[int, int]:
        return 1, len(str(self.operands - 1))

    @property
    def answer_places(self) -> int:
        return max(self.operand_places) + self.width_rule[1]

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        problems = super()._draw(rng, count)
        return problems | {"digits": make_heavy(rng, problems["digits"], problems["lengths"], self.carry_heavy)}

    def _solve(self, digits: np.ndarray) -> tuple[Result, np.ndarray]:
        return _unsigned(column_sums(digits), self.width_rule[1])

    def _combine(self, hashes: np.ndarray) -> np.ndarray:
        return hashes.sum(axis=1)

    def hard_cases(self, size: int, seed: int = 0) -> dict[str, pa.Table]:
        """Families on which additions fail first, at these digits; see hard_sums.py.

        Returns:
            at most `size` rows each: `nines_plus_one` (of any split) and, of the test split, the families of
            `FAMILIES`. Operands below three digits leave too few problems for the latter. Nothing for more than two
            operands or for operands with digits of their own.
        """
        integer("size", size, low=0)
        (low, high), *others = self.spans
        if others != [(low, high)]:
            return {}
        digits = nines_plus_one(low, high, self._places)[:size]
        noise = stream(hash_name(self.name, seed, "nines_plus_one"), 0, 0).integers(0, 2**64, len(digits), np.uint64)
        problems = {"digits": digits, "lengths": number_lengths(digits), "noise": noise}
        tables = {"nines_plus_one": self._write_table(problems, "test")}
        return tables | {name: self._family(name, size, seed) for name in FAMILIES if high >= SHORTEST}

    def _family(self, name: str, size: int, seed: int) -> pa.Table:
        def draw(rng: np.random.Generator, count: int) -> Problems:
            digits = FAMILIES[name](rng, count, self.spans[0], self._places)
            return {"digits": digits, "lengths": number_lengths(digits)}

        key = hash_name(self.name, self.parameters(), "hard case", name, seed)
        return self._write_table(self._collect(draw, key, "test", 0, size), "test")


@dataclass(frozen=True, kw_only=True)
class AdditionInContext(Addition):
    """Add two natural numbers in short scenes in English, and bare, where they may be longer (Shen et al. 2023).

    A problem is of the split that it has in `addition`. Test rows have scenes of their own.

    Example: User: Compute 12 + 345. Assistant: The result is = -> 753   (reverse="answer")

    Args:
        dialogues: the share of rows that are scenes.
        dialogue_digits: (lo, hi) of the numbers in scenes; None: as `digits`.
    """

    name: ClassVar[str] = "addition_in_context"
    formats: ClassVar[tuple[str, ...]] = ("in_context",)
    splits_of: ClassVar[str | None] = Addition.name

    format: str = "in_context"
    dialogues: float = 0.5
    dialogue_digits: Span | None = None

    def __post_init__(self) -> None:
        share("dialogues", self.dialogues)
        if self.dialogue_digits is not None:
            object.__setattr__(self, "dialogue_digits", as_tuple(self.dialogue_digits))
            if not is_span(self.dialogue_digits):
                raise UserError(
                    f"dialogue_digits={listed(self.dialogue_digits)!r}: give [lo, hi] with integers 1 <= lo <= hi, "
                    "or null for the same as digits"
                )
        super().__post_init__()

    @property
    def operand_places(self) -> tuple[int, ...]:
        return tuple(max(high, (self.dialogue_digits or (1, 1))[1]) for high in super().operand_places)

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        bare = rng.random(count) >= self.dialogues
        inside = self.spans if self.dialogue_digits is None else (self.dialogue_digits,) * len(self.spans)
        drawn = (draw_lengths(rng, spans, count, self.lengths) for spans in (self.spans, inside))
        lengths = np.where(bare[:, None], *drawn)
        digits = make_heavy(rng, draw_numbers(rng, lengths, self._places), lengths, self.carry_heavy)
        return {"digits": digits, "lengths": lengths, "bare": bare}


@dataclass(frozen=True, kw_only=True)
class Subtraction(DigitsTask):
    """Subtract one natural number from another; the answer may be negative.

    The sign belongs to the number: it is written before it and, where the answer is reversed, after it. Padding counts
    digits and leaves the sign out.

    Example: 345-1012= -> -667   (digits=(1, 4))

    Args:
        carry_heavy: the share of rows made of stretches on which a borrow travels, see carries.py.
    """

    name: ClassVar[str] = "subtraction"
    formats: ClassVar[tuple[str, ...]] = (*NUMBER_FORMATS, "complement")

    carry_heavy: float = 0.0

    def __post_init__(self) -> None:
        share("carry_heavy", self.carry_heavy)
        super().__post_init__()

    @property
    def operators(self) -> tuple[str, ...]:
        return ("-",)

    @property
    def width_rule(self) -> tuple[int, int]:
        return 1, 0

    @property
    def answer_places(self) -> int:
        return max(self.operand_places)

    @property
    def signed(self) -> bool:
        return True

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        problems = super()._draw(rng, count)
        digits = make_heavy(rng, problems["digits"], problems["lengths"], self.carry_heavy, borrow=True)
        return problems | {"digits": digits}

    def _solve(self, digits: np.ndarray) -> tuple[Result, np.ndarray]:
        difference, negative, chain = subtract(digits[:, 0], digits[:, 1])
        return Result(difference, negative), chain

    def _combine(self, hashes: np.ndarray) -> np.ndarray:
        return hashes[:, 0] + mix64(~hashes[:, 1])


@dataclass(frozen=True, kw_only=True)
class Multiplication(DigitsTask):
    """Multiply two natural numbers. The time of a row grows with the product of the numbers of digits.

    Example: 012*345= -> 041400   (digits=(1, 3), reverse="answer", pad=True)

    Args:
        carry_heavy: the share of rows of large digits, see carries.py.
    """

    name: ClassVar[str] = "multiplication"
    formats: ClassVar[tuple[str, ...]] = NUMBER_FORMATS
    hint_classes: ClassVar[Mapping[str, int]] = {
        "ones": 10, "tens": 9, "total": 12, "subtotal": 20, "sum": 10, "carry": 3, "multiplier": 11, "end": 2
    }  # fmt: skip

    carry_heavy: float = 0.0

    def __post_init__(self) -> None:
        share("carry_heavy", self.carry_heavy)
        super().__post_init__()

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        problems = super()._draw(rng, count)
        return problems | {"digits": make_large(rng, problems["digits"], problems["lengths"], self.carry_heavy)}

    @property
    def hint_steps(self) -> int:
        """Three a digit of the wider operand, behind three that fetch the first."""
        self._check_hints()
        return 3 * max(self.operand_places) + 3

    def _check_hints(self) -> None:
        if (self.format, self.reverse, self.pad) != ("plain", "all", True):
            raise UserError(
                f"hints of multiplication need format='plain', reverse='all' and pad=True, not {self.format!r}, "
                f"{self.reverse!r} and {self.pad!r}"
            )

    def hints(self, prompts: Sequence[str], steps: int) -> dict[str, np.ndarray]:
        """Horner's rule, a digit of the first operand every three steps from the highest on; see `digits.horner`.

        `multiplier` stands at the first operand, whose digits move up to the operator, which has the one at hand; all
        others where the digit of their place is to be written next.
        """
        self._check_hints()
        widths = np.array([prompt.index("*") for prompt in prompts])
        found = {name: np.full((len(prompts), steps, 4 * widths.max() + 2), -100) for name in self.hint_classes}
        for width in np.unique(widths).tolist():
            rows = np.flatnonzero(widths == width)
            text = np.array([[*prompts[row].encode()] for row in rows.tolist()]) - ord("0")
            for name, told in horner(text[:, :width], text[:, width + 1 : 2 * width + 1], steps).items():
                start = 0 if name == "multiplier" else 2 * width + 1
                found[name][rows, :, start : start + told.shape[2]] = told
        return found

    @property
    def operators(self) -> tuple[str, ...]:
        return ("*",)

    @property
    def width_rule(self) -> tuple[int, int]:
        return 2, 0

    @property
    def answer_places(self) -> int:
        return sum(self.operand_places)

    def _solve(self, digits: np.ndarray) -> tuple[Result, np.ndarray]:
        return _unsigned(product_columns(digits[:, 0], digits[:, 1]), 0)

    def _combine(self, hashes: np.ndarray) -> np.ndarray:
        return hashes.sum(axis=1)


@dataclass(frozen=True, kw_only=True)
class SumOfProducts(DigitsTask):
    """Multiply two pairs of natural numbers and add the products, as in Bubeck et al. 2023 (arXiv 2303.12712).

    Example: 12*3+40*50= -> 2036   (digits=(1, 2))
    """

    name: ClassVar[str] = "sum_of_products"
    formats: ClassVar[tuple[str, ...]] = (*NUMBER_FORMATS, "steps")

    @property
    def operators(self) -> tuple[str, ...]:
        return ("*", "+", "*")

    @property
    def width_rule(self) -> tuple[int, int]:
        return 2, 1

    @property
    def answer_places(self) -> int:
        a, b, c, d = self.operand_places
        return max(a + b, c + d) + 1

    def _solve(self, digits: np.ndarray) -> tuple[Result, np.ndarray]:
        a, b, c, d = (digits[:, operand] for operand in range(4))
        return _unsigned(product_columns(a, b) + product_columns(c, d), 1)

    def _combine(self, hashes: np.ndarray) -> np.ndarray:
        return mix64(hashes[:, :2].sum(axis=1)) + mix64(hashes[:, 2:].sum(axis=1))


@dataclass(frozen=True, kw_only=True)
class ModularAddition(ArithmeticTask):
    """Add two numbers modulo a third, which is fixed and not written in the prompt.

    The numbers are residues, as in Power et al. 2022 (arXiv 2201.02177), or have digits of their own, as in Jelassi et
    al. 2023 (arXiv 2306.15400). A pair of operands is of one split for every modulus. With `pad` the answer has as many
    digits as the modulus - 1.

    Example: 95+17= -> 15   (modulus=97)

    Args:
        modulus: an integer of any size; with `digits` at most 10**17.
        digits: (lo, hi), or one such pair for each operand, all lengths equally likely; None: operands are residues,
            uniform below the modulus.
    """

    name: ClassVar[str] = "modular_addition"
    formats: ClassVar[tuple[str, ...]] = NUMBER_FORMATS

    modulus: int = 97
    digits: Span | tuple[Span, ...] | None = None

    def __post_init__(self) -> None:
        integer("modulus", self.modulus, low=2)
        if self.modulus.bit_length() > MODULUS_BITS:
            raise UserError(f"modulus has {self.modulus.bit_length()} bits: give one of at most {MODULUS_BITS}")
        object.__setattr__(self, "digits", as_tuple(self.digits))
        if self.digits is not None:
            spans_of(self.digits, 2)
            if self.modulus > LARGEST_DIVISOR:
                raise UserError(f"modulus={self.modulus} with digits: give one of at most 10**17, or leave digits out")
        super().__post_init__()

    @cached_property
    def _bound(self) -> np.ndarray:
        """The digits of the modulus, least significant first."""
        value, digits = self.modulus, []
        while value:
            value, digit = divmod(value, 10)
            digits.append(digit)
        return np.array(digits, dtype=np.uint8)

    @property
    def operators(self) -> tuple[str, ...]:
        return ("+",)

    @property
    def operand_places(self) -> tuple[int, ...]:
        if self.digits is None:
            return self.answer_places, self.answer_places
        return tuple(high for _, high in spans_of(self.digits, 2))

    @property
    def width_rule(self) -> tuple[int, int]:
        return 0, self.answer_places

    @cached_property
    def answer_places(self) -> int:
        # The modulus - 1 is a digit shorter than the modulus where that is a power of ten.
        return len(self._bound) - (int(self._bound[-1]) == 1 and not self._bound[:-1].any())

    @property
    def problem_count(self) -> int:
        return self.modulus**2 if self.digits is None else numbers_within(spans_of(self.digits, 2))

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        if self.digits is not None:
            lengths = draw_lengths(rng, spans_of(self.digits, 2), count, "balanced")
            return {"digits": draw_numbers(rng, lengths, max(*self.operand_places, int(self.pad))), "lengths": lengths}
        digits = draw_below(rng, self._bound, 2 * count).reshape(count, 2, -1)
        return {"digits": widen(digits, int(self.pad)), "lengths": number_lengths(digits)}

    def _solve(self, digits: np.ndarray) -> tuple[Result, np.ndarray]:
        total, chain = settle(np.pad(column_sums(digits), [(0, 0), (0, 1)]))
        if self.digits is None:
            total = widen(total, len(self._bound))
            bound = np.broadcast_to(widen(self._bound, total.shape[1]), total.shape)
            less, below, _ = subtract(total, bound)
            residue = np.where(below[:, None], total, less)[:, : self.answer_places]
        else:
            residue = remainder(total, self.modulus, self.answer_places)
        return Result(residue, np.zeros(len(residue), bool)), chain

    def _parse(self, prompt: str) -> Problems:
        problems = super()._parse(prompt)
        digits = widen(problems["digits"][0], len(self._bound))
        if self.digits is None and at_least(digits, widen(self._bound, digits.shape[1])).any():
            raise UserError(f"{shortened(prompt)} is not a prompt of {self.name}: an operand is not below the modulus")
        return problems

    def _combine(self, hashes: np.ndarray) -> np.ndarray:
        return hashes.sum(axis=1)


def _unsigned(columns: np.ndarray, more: int) -> tuple[Result, np.ndarray]:
    """Column sums (rows, places) carried into digits with so many places more, and the carry chains."""
    digits, chain = settle(np.pad(columns, [(0, 0), (0, more)]))
    return Result(digits, np.zeros(len(digits), bool)), chain
