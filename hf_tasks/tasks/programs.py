r"""Programs in a small part of C (see c_language.py), and what they do.

- A prompt is the body of `main`, real C, one statement a line; `c_source` wraps it into a file that compiles and prints
  the answer, byte for byte. All variables are declared first and every value is one of 0 ... modulus - 1, a token each.
- Which split a program belongs to is decided by its shape alone: statements, operators, nesting and which variables
  stand where, the variables numbered as they are declared. Neither other constants (the modulus among them), nor other
  names, nor another question can move it to another split.
- Clauses are the lines that assign. Their labels are values after the *last* execution of the line; depths and parents
  follow the data of that execution through loops and branches, while the tests of branches and loops do not count.
- Programs are drawn one by one in plain Python; those that run for too long or miss the wanted depth are drawn again.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError, unknown_name
from hf_tasks.tasks.base import Problems, Task
from hf_tasks.tasks.c_generator import Author, ShapeCount
from hf_tasks.tasks.c_language import (
    COMPARISONS,
    COUNTERS,
    MOST_MODULUS,
    MOST_NESTING,
    MOST_OPERANDS,
    MOST_STEPS,
    NAMES,
    OPERATORS,
    Assign,
    For,
    If,
    Print,
    Reader,
    Run,
    Spelling,
    Statements,
    While,
    nesting,
    run,
    shape,
    walk,
)
from hf_tasks.tasks.checks import as_tuple, choice, integer, is_integer, is_span, listed, shortened, span
from hf_tasks.tasks.hashing import hash_name

TARGETS = ("value", "output", "trace", "changes", "labels")
STATEMENTS = ("straight", "if", "for", "while")


@dataclass(frozen=True, kw_only=True)
class Programs(Task):
    r"""Say what a C program does.

    Args:
        lines: (lo, hi), lines of the program's text, closing brackets included and the question of "value" excluded.
        target: what is asked.
            "value": the prompt ends in `printf("%d", b);`, the answer is what it prints, the last value of b.
            "output": some lines are `printf("%d;", b);`, the answer is all that is printed, `3;7;`.
            "trace": the answer is every variable declared so far and its value, after every assignment that is executed
                (other lines change nothing): `a3;a3b7;a4b7;`.
            "changes": the same with the assigned variable alone: `a3;b7;a4;`.
            "labels": the answer is the last value of every line that assigns, in the text's order, `-` for a line that
                is never executed: `4;7;-;`. For encoders, which train on the column `labels`.
        statements: which of "straight" (assignments, always needed), "if", "for", "while".
        variables: (lo, hi), how many variables a program has.
        alphabet: how many names there are to choose from: the first letters other than i, j and k.
        nesting: (lo, hi), how many blocks lie in each other, at most 3.
        operands: the most operands of an expression, 2 or 3.
        operators: which of "+", "-", "*".
        modulus: values are 0 ... modulus - 1.
        rounds: a loop runs at most so often each time.
        steps: at most so many lines are executed (assignments, prints, heads of blocks as often as they are evaluated);
            None: four times as many as `lines` allows in the text.
        depth: (lo, hi), data-flow depth of the program: of the deepest value that a line leaves; None: as it comes.
        asked: "all", or (lo, hi): depths of the lines that training is told (column `asked`), and of the value that
            target "value" asks for.

    Example: int a = 3;\nint b = (a * 2 + 5) % 10;\nprintf("%d", b);\n -> 1   (lines=(2, 2), variables=(2, 2))
    """

    name: ClassVar[str] = "programs"
    length_parameter: ClassVar[str] = "lines"

    lines: tuple[int, int] = (6, 12)
    target: str = "value"
    statements: tuple[str, ...] = STATEMENTS
    variables: tuple[int, int] = (2, 4)
    alphabet: int = 8
    nesting: tuple[int, int] = (0, 2)
    operands: int = 3
    operators: tuple[str, ...] = OPERATORS
    modulus: int = 10
    rounds: int = 4
    steps: int | None = None
    depth: tuple[int, int] | None = None
    asked: str | tuple[int, int] = "all"

    def __post_init__(self) -> None:
        for name in ("lines", "variables"):
            object.__setattr__(self, name, span(name, getattr(self, name)))
        choice("target", self.target, TARGETS)
        for name, known in (("statements", STATEMENTS), ("operators", OPERATORS)):
            object.__setattr__(self, name, _some_of(name, getattr(self, name), known))
        integer("alphabet", self.alphabet, low=1, high=len(NAMES))
        integer("operands", self.operands, low=2, high=MOST_OPERANDS)
        integer("modulus", self.modulus, low=2, high=MOST_MODULUS)
        if self.steps is not None:
            integer("steps", self.steps, low=self.lines[0] + (self.target == "value"), high=MOST_STEPS)
        integer("rounds", self.rounds, low=2)
        object.__setattr__(self, "nesting", _nesting(self.nesting))
        object.__setattr__(self, "asked", as_tuple(self.asked))
        if self.asked != "all" and not is_span(self.asked):
            raise UserError(f"asked={listed(self.asked)!r}: give 'all' or [lo, hi] with integers 1 <= lo <= hi")
        if self.depth is not None:
            object.__setattr__(self, "depth", span("depth", self.depth))
        self._check_together()

    def _check_together(self) -> None:
        if "straight" not in self.statements:
            raise UserError(f"statements={listed(self.statements)!r}: add 'straight', which blocks are filled with")
        if self.variables[1] > self.alphabet:
            raise UserError(f"variables={listed(self.variables)!r}: these are more names than alphabet={self.alphabet}")
        if self.nesting[0] and self.statements == ("straight",):
            raise UserError(f"nesting={listed(self.nesting)!r} needs 'if', 'for' or 'while' among the statements")
        if "while" in self.statements and self.operators == ("*",):
            raise UserError("operators=['*']: 'while' needs '+' or '-' to come to its end")
        if "while" in self.statements and self.variables[1] < 2:
            raise UserError(f"variables={listed(self.variables)!r}: 'while' needs two, one to test and one to assign")
        if "for" in self.statements and self.rounds >= self.modulus:
            raise UserError(f"rounds={self.rounds}: 'for' counts in values, so give less than modulus={self.modulus}")
        if self.lines[0] < self._shortest:
            raise UserError(
                f"lines={listed(self.lines)!r}: variables, nesting and target need at least {self._shortest} lines"
            )
        for name in ("depth", "asked"):
            value = getattr(self, name)
            if isinstance(value, tuple) and value[1] > self.most_steps:
                raise UserError(
                    f"{name}={listed(value)!r}: at most {self.most_steps} lines are executed, so no value is deeper"
                )

    @property
    def most_steps(self) -> int:
        """The most lines that a program executes, a question included."""
        once = self.lines[1] + (self.target == "value")
        limit = min(MOST_STEPS, 4 * self.lines[1]) if self.steps is None else self.steps
        return limit if {"for", "while"} & {*self.statements} else min(limit, once)

    @property
    def asked_depths(self) -> tuple[int, int]:
        """The depths of the lines that training is told, and of what target "value" asks for."""
        return self.asked if isinstance(self.asked, tuple) else (1, MOST_STEPS)

    @property
    def _shortest(self) -> int:
        """The fewest lines that hold the variables, the nesting and, for "output", one line that prints."""
        return self.variables[0] + self.nested_lines(self.nesting[0]) + (self.target == "output")

    def nested_lines(self, levels: int) -> int:
        """The fewest lines of so many blocks in each other; every `while` ends in a line of its own."""
        return levels and levels * (2 if {"if", "for"} & {*self.statements} else 3) + 1

    # What a tokenizer and a model are told.

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.modulus)))

    @property
    def _names(self) -> str:
        return NAMES[: self.alphabet]

    @property
    def _levels(self) -> int:
        """How many blocks lie in each other at most."""
        room = self.lines[1] - self.variables[0] - (self.target == "output")
        fitting = [level for level in range(MOST_NESTING + 1) if self.nested_lines(level) <= room]
        return min(self.nesting[1], fitting[-1]) if self.statements != ("straight",) else 0

    @property
    def vocabulary(self) -> tuple[str, ...]:
        has = self._levels and {*self.statements}
        spelling = Spelling.of_c(self.modulus)
        signs = [spelling.operators[operator] for operator in self.operators]
        tokens = [*self._names, *self.classes, "int ", " = ", ";\n", spelling.opening, *signs, spelling.closing]
        if has:
            tokens += ["  ", "}\n"]
        if has and "if" in has:
            tokens += ["if (", "} else {\n"]
        if has and "while" in has:
            tokens += ["while ("]
        if has and {"if", "while"} & has:
            tokens += [") {\n", *(f" {comparison} " for comparison in self._comparisons)]
        if has and "for" in has:
            tokens += [text for i in COUNTERS for text in (i, f"for (int {i} = 0; {i} < ", f"; {i}++) {{\n")]
        tokens += {"value": ['printf("%d", ', ");\n"], "output": ['printf("%d;", ', ");\n"]}.get(self.target, [])
        tokens += {"value": [], "labels": [";", "-"]}.get(self.target, [";"])
        return tuple(tokens)

    @property
    def _comparisons(self) -> tuple[str, ...]:
        if "if" in self.statements:
            return COMPARISONS
        return tuple({"+": "<", "-": ">"}[operator] for operator in self.operators if operator != "*")

    def number_format(self) -> dict[str, Any]:
        # Whatever ends a line bounds it, and so does the ";" of an answer. Values are whole tokens, without digits.
        ends = [token for token in self.vocabulary if token.endswith("\n") or token == ";"]
        return {
            "digits": [],
            "separators": ends,
            "fillers": [],
            "answer": None,
            "reverse": "none",
            "answer_width": None,
        }

    @property
    def max_lengths(self) -> tuple[int, int]:
        spelling, width = Spelling.of_c(self.modulus), len(str(self.modulus - 1))
        sign = max(len(spelling.operators[operator]) for operator in self.operators)
        line = len(f"a{spelling.opening}{spelling.closing}") + self.operands * width + (self.operands - 1) * sign
        head = len("for (int i = 0; i < ; i++) {\n") + width
        lines, variables = self.lines[1], self.variables[1]
        # Of every nesting: a head and a bracket for each level, and all other lines as deep as can be.
        prompt = variables * len("int ") + max(
            (lines - 2 * level) * max(line, level and head)
            + (lines - 2 * level - self.variables[0]) * 2 * level
            + level * (head + len("}\n") + 2 * (level - 1))
            for level in range(self._levels + 1)
        )
        question = len('printf("%d", a);\n') if self.target == "value" else 0
        answer = {
            "value": width,
            "output": (self.most_steps - self.variables[0]) * (width + 1),
            "trace": self.most_steps * (variables * (1 + width) + 1),
            "changes": self.most_steps * (width + 2),
            "labels": lines * (width + 1),
        }[self.target]
        return prompt + question, answer

    @property
    def columns(self) -> dict[str, str]:
        return {
            "prompt": "the body of a C program's main",
            "answer": "the one right continuation, see the parameter `target`",
            "format": "the text layout (always c)",
            "lines": "lines of the program, the question excluded",
            "depth": "data-flow depth of the value that is asked for; with another target, of the deepest asked one",
            "nesting": "how many blocks lie in each other",
            "steps": "executed lines: assignments, prints, and heads of blocks as often as they are evaluated",
            "branches": "how many `if` the program has",
            "loops": "how many `for` and `while` the program has",
            "labels": "of every line that assigns, the value after its last execution; -100 if it is never executed",
            "read_positions": "of every line that assigns, the character that is the assigned variable",
            "clause_starts": "of every line that assigns, its first character behind the indentation",
            "clause_ends": "of every line that assigns, the character behind its end",
            "depths": "of every line that assigns, the data-flow depth of its last value; 0 if it is never executed",
            "parents": "of every line that assigns, the one that gave its deepest operand its value; -1 without one",
            "executions": "of every line that assigns, how often it is executed",
            "asked": "of every line that assigns, whether training is told its value",
        }

    @cached_property
    def problem_count(self) -> int:
        """How many shapes of programs there are at these parameters, before depth and steps choose among them."""
        return ShapeCount(self).total()

    # Reading.

    def answer(self, prompt: str) -> str:
        problems = self._parse(prompt)
        return self._answer(problems["statements"][0], problems["traces"][0])

    def c_source(self, prompt: str) -> str:
        """A whole C program that prints the answer to this prompt and nothing else.

        Raises:
            UserError: the prompt is not one of this task.
        """
        clauses = iter([s for s in walk(self._parse(prompt)["statements"][0]) if isinstance(s, Assign)])
        reader, names, lines, total = Reader(self.modulus), "", [], 0
        for line in prompt[:-1].split("\n"):
            lines.append(line)
            if not reader.assign.fullmatch(line.strip(" ")):
                continue
            clause = next(clauses)
            names += clause.name * clause.declares
            shown = {"trace": names, "changes": clause.name}.get(self.target)
            if shown:
                text = "".join(f"{name}%d" for name in shown)
                lines.append(f'printf("{text};", {", ".join(shown)});')
            elif self.target == "labels":
                lines.append(f"last[{clause.clause}] = {clause.name};")
            total += 1
        if self.target == "labels":
            lines = [
                f"int last[{total}];",
                f"for (int n = 0; n < {total}; n++) last[n] = -1;",
                *lines,
                f'for (int n = 0; n < {total}; n++) last[n] < 0 ? printf("-;") : printf("%d;", last[n]);',
            ]
        return "\n".join(["#include <stdio.h>", "", "int main(void) {", *lines, "return 0;", "}", ""])

    def _parse(self, prompt: str) -> Problems:
        try:
            statements = Reader(self.modulus).read(prompt)
            self._check_prints(statements)
            return _rows([(statements, run(statements, self.modulus))])
        except UserError as error:
            raise UserError(f"{shortened(prompt)} is not a prompt of {self.name}: {error}") from error

    def _check_prints(self, statements: Statements) -> None:
        closings = [statement.closing for statement in walk(statements) if isinstance(statement, Print)]
        if self.target == "value":
            if closings != [""] or not isinstance(statements[-1], Print):
                raise UserError("target 'value' has one question, printf(\"%d\", ...); in the last line")
        elif self.target == "output":
            if not closings or {*closings} != {";"}:
                raise UserError("target 'output' has lines printf(\"%d;\", ...); and no other question")
        elif closings:
            raise UserError(f"target {self.target!r} prints nothing")

    def _hash(self, problems: Problems) -> np.ndarray:
        hashes = [hash_name(self.name, shape(statements)) % 2**64 for statements in problems["statements"]]
        return np.array(hashes, dtype=np.uint64)

    # Writing.

    def _answer(self, statements: Statements, trace: Run) -> str:
        if self.target in ("value", "output"):
            return "".join(trace.printed)
        if self.target == "changes":
            return "".join(f"{name}{value};" for _, name, value in trace.events)
        if self.target == "labels":
            return "".join("-;" if value < 0 else f"{value};" for value in trace.values)
        states, state = [], {}
        for _, name, value in trace.events:
            state[name] = value
            states.append("".join([f"{name}{value}" for name, value in state.items()]))
        return ";".join([*states, ""])

    def _write(self, problems: Problems, split: str) -> dict[str, pa.Array]:
        del split
        spelling = Spelling.of_c(self.modulus)
        low, high = self.asked_depths
        columns: dict[str, list[Any]] = {name: [] for name in self.columns}
        for statements, trace in zip(problems["statements"], problems["traces"], strict=True):
            text, starts, reads, ends = spelling.write(statements)
            kinds = [*map(type, walk(statements))]
            asked = [low <= depth <= high for depth in trace.depths]
            if self.target == "value":
                depth = trace.origins[statements[-1].name][0]
            else:
                depth = max((d for d, told in zip(trace.depths, asked, strict=True) if told), default=0)
            row = (
                text,
                self._answer(statements, trace),
                "c",
                text.count("\n") - (self.target == "value"),
                depth,
                nesting(statements),
                trace.steps,
                kinds.count(If),
                kinds.count(For) + kinds.count(While),
                [value if value >= 0 else -100 for value in trace.values],
                reads,
                starts,
                ends,
                trace.depths,
                trace.parents,
                trace.executions,
                asked,
            )
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
        return {name: pa.array(values, _column_type(name)) for name, values in columns.items()}

    # Drawing.

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        author = Author(self, rng)
        return _rows([author.program() for _ in range(count)])


TEXTS = ("prompt", "answer", "format")
SCALARS = ("lines", "depth", "nesting", "steps", "branches", "loops")


def _column_type(name: str) -> pa.DataType:
    if name in TEXTS:
        return pa.string()
    return pa.int32() if name in SCALARS else pa.list_(pa.bool_() if name == "asked" else pa.int32())


def _rows(programs: list[tuple[Statements, Run]]) -> Problems:
    """Programs and their traces as arrays of objects."""
    return {
        "statements": np.fromiter((statements for statements, _ in programs), dtype=object, count=len(programs)),
        "traces": np.fromiter((trace for _, trace in programs), dtype=object, count=len(programs)),
    }


def _some_of(name: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    """One or more of the known strings, in the order of these."""
    value = as_tuple(value)
    if not isinstance(value, tuple) or not value:
        raise UserError(f"{name}={listed(value)!r}: give a list of some of {', '.join(map(repr, known))}")
    for item in value:
        if item not in known:
            raise unknown_name(f"item of {name}", item, known)
    return tuple(item for item in known if item in value)


def _nesting(value: Any) -> tuple[int, int]:
    """(lo, hi) with 0 <= lo <= hi <= 3."""
    value = as_tuple(value)
    good = isinstance(value, tuple) and len(value) == 2 and all(map(is_integer, value))
    if not good or not 0 <= value[0] <= value[1] <= MOST_NESTING:
        raise UserError(f"nesting={listed(value)!r}: give [lo, hi] with integers 0 <= lo <= hi <= {MOST_NESTING}")
    return value
