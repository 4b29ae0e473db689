r"""A small part of C: statements, how they are written and read, and what they do.

    program    = { line }                                     one statement a line, two spaces a level
    line       = ["int "] NAME " = " expression ";"           `int` at the top level alone, once for every name
               | "if (" test ") {" program ["} else {" program] "}"
               | "while (" test ") {" program "}"
               | "for (int i = 0; i < " VALUE "; i++) {" program "}"      or j or k, as no loop around it counts with
               | 'printf("%d' [";"] '", ' NAME ");"
    expression = operand | "(" operand { operator operand } ") % M"       at most three operands
    test       = operand comparison operand
    operator   = " + " | " * " | " + M - "                    no product after a sum or a difference

- Every value is one of 0 ... M - 1. A difference is written `b + M - c`, because C's % keeps the sign of what it
  divides; and since products come first, operands taken from left to right are taken in C's order. No intermediate
  result leaves 0 ... M**3 with M <= 100, so that nothing overflows: every program has one meaning, in C and here.
- A statement holds its operands as C spells them: a name is a str, a value an int. `Spelling` turns both into text, and
  the shape of a program is the same text with other spellings: variables numbered as they are declared, counters by
  their level, every value a `#`.
- A clause is a line that assigns. Clauses are numbered as they stand in the text.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from hf_tasks.errors import UserError

NAMES = "abcdefghlmnopqrstuvwxyz"  # variables; i, j and k count the rounds of `for`
COUNTERS = "ijk"
COMPARISONS = ("<", ">", "<=", ">=", "==", "!=")
OPERATORS = ("+", "-", "*")
MOST_OPERANDS = 3
MOST_MODULUS = 100
MOST_NESTING = len(COUNTERS)
# What a text may ask of the interpreter; a program of the generator runs for some dozens of lines.
MOST_STEPS = 10_000

Operand = str | int


class Assign(NamedTuple):
    """`name = operands[0] operators[0] operands[1] ...;`"""

    clause: int
    name: str
    operands: tuple[Operand, ...]
    operators: str
    declares: bool


class If(NamedTuple):
    """`otherwise` is () where there is no `else`."""

    test: "Test"
    body: "Statements"
    otherwise: "Statements"


class While(NamedTuple):
    """`body` as long as `test` holds."""

    test: "Test"
    body: "Statements"


class For(NamedTuple):
    """`body` so many rounds, counted from 0 in `counter`."""

    counter: str
    rounds: int
    body: "Statements"


class Print(NamedTuple):
    """`printf` of one variable; `closing` is what it prints behind the value."""

    name: str
    closing: str


class Test(NamedTuple):
    """Two operands compared, as `if` and `while` ask it."""

    left: Operand
    comparison: str
    right: Operand


Statement = Assign | If | While | For | Print
Statements = tuple[Statement, ...]


def blocks(statement: Statement) -> tuple[Statements, ...]:
    """The blocks of a statement, as they stand in the text."""
    if isinstance(statement, If):
        return statement.body, statement.otherwise
    return (statement.body,) if isinstance(statement, While | For) else ()


def walk(statements: Statements) -> Iterator[Statement]:
    """Every statement of a program, as they stand in the text."""
    for statement in statements:
        yield statement
        for block in blocks(statement):
            yield from walk(block)


def nesting(statements: Statements) -> int:
    """How many blocks lie inside each other at most."""
    return max((1 + nesting(block) for statement in statements for block in blocks(statement)), default=0)


# Writing.


class Written(NamedTuple):
    """A text and, for every clause, where it starts, where its variable stands, and where it ends (excluded)."""

    text: str
    starts: list[int]
    reads: list[int]
    ends: list[int]


class Spelling:
    """How operands are written, and the pieces of text that hold the modulus.

    Args:
        operands: the text of every name and value.
        modulus: the text of M.
        as_shape: number counters by their level, and leave out what prints.
    """

    def __init__(self, operands: dict[Operand, str], modulus: str, as_shape: bool = False) -> None:
        self.operands, self.as_shape = operands, as_shape
        self.opening, self.closing = " = (", f") % {modulus};\n"
        self.operators = {"+": " + ", "*": " * ", "-": f" + {modulus} - "}

    @classmethod
    def of_c(cls, modulus: int) -> "Spelling":
        """As C has it."""
        names: dict[Operand, str] = {name: name for name in NAMES + COUNTERS}
        return cls(names | {value: str(value) for value in range(modulus)}, str(modulus))

    def write(self, statements: Statements) -> Written:
        """The text of a program. A clause is its line without the indentation, the line's end included."""
        written = Written("", [], [], [])
        lines: list[str] = []
        self._write(statements, "", lines, 0, written)
        return written._replace(text="".join(lines))

    def _write(self, statements: Statements, indent: str, lines: list[str], place: int, written: Written) -> int:
        """Append the lines of a block; returns how many characters all lines have."""
        spell = self.operands

        def add(line: str) -> int:
            lines.append(line)
            return place + len(line)

        for statement in statements:
            if isinstance(statement, Assign):
                head = f"{indent}int " if statement.declares else indent
                written.starts.append(place + len(indent))
                written.reads.append(place + len(head))
                place = add(f"{head}{spell[statement.name]}{self._expression(statement)}")
                written.ends.append(place)
                continue
            if isinstance(statement, Print):
                if not self.as_shape:
                    place = add(f'{indent}printf("%d{statement.closing}", {spell[statement.name]});\n')
                continue
            if isinstance(statement, For):
                if self.as_shape:
                    spell[statement.counter] = f"i{len(indent)}"
                i = spell[statement.counter]
                place = add(f"{indent}for (int {i} = 0; {i} < {spell[statement.rounds]}; {i}++) {{\n")
            else:
                word, (left, comparison, right) = "if" if isinstance(statement, If) else "while", statement.test
                place = add(f"{indent}{word} ({spell[left]} {comparison} {spell[right]}) {{\n")
            place = self._write(statement.body, indent + "  ", lines, place, written)
            if isinstance(statement, If) and statement.otherwise:
                place = add(f"{indent}}} else {{\n")
                place = self._write(statement.otherwise, indent + "  ", lines, place, written)
            place = add(f"{indent}}}\n")
        return place

    def _expression(self, statement: Assign) -> str:
        """What follows the variable, up to the line's end."""
        spell, operators, (first, *others) = self.operands, self.operators, statement.operands
        if not others:
            return f" = {spell[first]};\n"
        rest = [operators[sign] + spell[operand] for sign, operand in zip(statement.operators, others, strict=True)]
        return f"{self.opening}{spell[first]}{''.join(rest)}{self.closing}"


_ERASED: dict[Operand, str] = dict.fromkeys(range(MOST_MODULUS), "#")


def shape(statements: Statements) -> str:
    """The program with all names replaced by numbers, every value erased and nothing printed."""
    names = [statement.name for statement in statements if isinstance(statement, Assign) and statement.declares]
    numbers: dict[Operand, str] = {name: f"v{index}" for index, name in enumerate(names)}
    return Spelling(_ERASED | numbers, "#", as_shape=True).write(statements).text


# Reading.

_NAME, _VALUE = f"[{NAMES}]", "(?:0|[1-9][0-9]?)"
_OPERAND = f"(?:[a-z]|{_VALUE})"
_TEST = re.compile(rf"(if|while) \(({_OPERAND}) (<|>|<=|>=|==|!=) ({_OPERAND})\) \{{")
_FOR = re.compile(rf"for \(int ([{COUNTERS}]) = 0; \1 < ({_VALUE}); \1\+\+\) \{{")
_PRINT = re.compile(rf'printf\("%d(;?)", ({_NAME})\);')


class Reader:
    """Reads the lines of a program of one modulus back, strictly: any other spelling is an error.

    Raises:
        UserError: from `read`, naming the first line that is wrong.
    """

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus
        less = rf" \+ {modulus} - "
        self.assign = re.compile(
            rf"(int )?({_NAME}) = (?:({_OPERAND})|"
            rf"\(({_OPERAND}(?: \* {_OPERAND})*(?:(?: \+ |{less}){_OPERAND})*)\) % {modulus});"
        )
        # A value that ends in M's digits cannot be mistaken for M: spaces stand around both.
        self.operator = re.compile(rf"(?:( \* )|{less}|( \+ ))")

    def read(self, text: str) -> Statements:
        if not text.endswith("\n"):
            raise UserError("the text does not end in a line's end")
        self.lines = text[:-1].split("\n")
        self.line = self.clause = 0
        self.declared: list[str] = []
        self.counters: list[str] = []
        statements = self._block(0)
        if self.line < len(self.lines):
            raise self._wrong("closes no block")
        return statements

    def _wrong(self, why: str) -> UserError:
        line = self.lines[self.line] if self.line < len(self.lines) else ""
        return UserError(f"line {self.line + 1}, {line[:60]!r}, {why}")

    def _block(self, level: int) -> Statements:
        """The statements up to the line that closes the block, or to the end of the text."""
        indent, statements = "  " * level, []
        while self.line < len(self.lines):
            line = self.lines[self.line]
            if level and line.startswith(indent[2:] + "}"):
                break
            if not line.startswith(indent) or line[len(indent) :].startswith((" ", "}")):
                raise self._wrong(f"does not stand in a block at {len(indent)} spaces")
            statements.append(self._statement(line[len(indent) :], level))
        if level and not statements:
            raise self._wrong("leaves a block empty")
        return tuple(statements)

    def _statement(self, line: str, level: int) -> Statement:
        if match := self.assign.fullmatch(line):
            return self._assign(level, *match.groups())
        if match := _PRINT.fullmatch(line):
            name = self._variable(match[2])
            self.line += 1
            return Print(name, match[1])
        if level == MOST_NESTING and line.endswith("{"):
            raise self._wrong(f"opens a block inside {MOST_NESTING} others, which is too deep")
        if match := _TEST.fullmatch(line):
            test = Test(self._operand(match[2]), match[3], self._operand(match[4]))
            body = self._body(level)
            if match[1] == "while":
                self._close(level)
                return While(test, body)
            otherwise = self._body(level) if self._at("  " * level + "} else {") else ()
            self._close(level)
            return If(test, body, otherwise)
        if match := _FOR.fullmatch(line):
            counter, rounds = match[1], self._value(match[2])
            if counter in self.counters:
                raise self._wrong(f"counts with {counter!r}, as a loop around it does")
            self.counters.append(counter)
            body = self._body(level)
            self.counters.pop()
            self._close(level)
            return For(counter, rounds, body)
        raise self._wrong(f"is no statement of this part of C with modulus {self.modulus}")

    def _body(self, level: int) -> Statements:
        """The block that the present line opens."""
        self.line += 1
        return self._block(level + 1)

    def _at(self, line: str) -> bool:
        return self.line < len(self.lines) and self.lines[self.line] == line

    def _assign(self, level: int, declares: str | None, name: str, alone: str | None, several: str | None) -> Assign:
        if alone is not None:
            operands, operators = (self._operand(alone),), ""
        else:
            assert several is not None
            first, *rest = self.operator.split(several)
            # `split` gives the two groups and then the operand that follows them.
            operators = "".join("*" if rest[i] else "+" if rest[i + 1] else "-" for i in range(0, len(rest), 3))
            operands = tuple(map(self._operand, [first, *rest[2::3]]))
            if not 2 <= len(operands) <= MOST_OPERANDS:
                raise self._wrong(f"has {len(operands)} operands in brackets; give 2 to {MOST_OPERANDS}")
        if not declares:
            self._variable(name)
        elif level or name in self.declared:
            raise self._wrong("declares inside a block" if level else f"declares {name!r} again")
        else:
            self.declared.append(name)
        self.line += 1
        self.clause += 1
        return Assign(self.clause - 1, name, operands, operators, bool(declares))

    def _close(self, level: int) -> None:
        if not self._at("  " * level + "}"):
            raise self._wrong("should close a block")
        self.line += 1

    def _variable(self, name: str) -> str:
        if name not in self.declared:
            raise self._wrong(f"uses {name!r}, which is not declared")
        return name

    def _value(self, text: str) -> int:
        if int(text) >= self.modulus:
            raise self._wrong(f"holds {text}; values are below {self.modulus}")
        return int(text)

    def _operand(self, text: str) -> Operand:
        if text[0] in "0123456789":
            return self._value(text)
        return text if text in self.counters else self._variable(text)


# What a program does.


class Event(NamedTuple):
    """An executed clause: its number, its variable and the value that this has now."""

    clause: int
    name: str
    value: int


class Run:
    """The trace of a program, and what it says about every clause at its last execution.

    Attributes:
        events: every executed clause, in the order of execution.
        printed: the output, piece by piece.
        steps: executed lines: assignments, prints and every evaluation of the head of a block.
        values, depths, parents: of every clause at its last execution; -1, 0 and -1 for one that never ran. The depth
            is 1 where no operand is a variable and else one more than that of the deepest operand, and the parent is
            the clause that gave this operand its value (of equally deep ones, the first). Counters count as values.
        executions: how often every clause ran.
        origins: for every variable, depth of its present value and the clause that gave it.
    """

    def __init__(self, clauses: int, modulus: int, most_steps: int) -> None:
        self.events: list[Event] = []
        self.printed: list[str] = []
        self.steps = 0
        self.values, self.depths, self.parents = [-1] * clauses, [0] * clauses, [-1] * clauses
        self.executions = [0] * clauses
        self.origins: dict[Operand, tuple[int, int]] = {}
        self.modulus, self.most_steps = modulus, most_steps
        # Values stand for themselves, so that an operand is looked up without asking what it is.
        self.memory: dict[Operand, int] = {value: value for value in range(modulus)}

    def step(self) -> None:
        self.steps += 1
        if self.steps > self.most_steps:
            raise UserError(f"the program runs for more than {self.most_steps} lines")

    def execute(self, statements: Statements) -> None:
        """Run the statements one after the other.

        Raises:
            UserError: more than `most_steps` lines have been executed.
        """
        for statement in statements:
            self.step()
            if isinstance(statement, Assign):
                self._assign(statement)
            elif isinstance(statement, If):
                self.execute(statement.body if self._holds(statement.test) else statement.otherwise)
            elif isinstance(statement, For):
                for turn in range(statement.rounds):
                    self.memory[statement.counter] = turn
                    self.execute(statement.body)
                    self.step()
            elif isinstance(statement, While):
                while self._holds(statement.test):
                    self.execute(statement.body)
                    self.step()
            else:
                self.printed.append(f"{self.memory[statement.name]}{statement.closing}")

    def _assign(self, statement: Assign) -> None:
        clause, name, operands, operators, _ = statement
        memory, origins = self.memory, self.origins
        value = memory[operands[0]]
        for operator, operand in zip(operators, operands[1:], strict=True):
            if operator == "+":
                value += memory[operand]
            elif operator == "*":
                value *= memory[operand]
            else:
                value += self.modulus - memory[operand]
        memory[name] = value = value % self.modulus
        depth, parent = 0, -1
        for operand in operands:
            if operand in origins and origins[operand][0] > depth:
                depth, parent = origins[operand]
        origins[name] = depth + 1, clause
        self.values[clause], self.depths[clause], self.parents[clause] = value, depth + 1, parent
        self.executions[clause] += 1
        self.events.append(Event(clause, name, value))

    def _holds(self, test: Test) -> bool:
        left, comparison, right = self.memory[test.left], test.comparison, self.memory[test.right]
        if comparison == "<":
            return left < right
        if comparison == ">":
            return left > right
        if comparison == "==":
            return left == right
        if comparison == "!=":
            return left != right
        return left <= right if comparison == "<=" else left >= right


def run(statements: Statements, modulus: int, most_steps: int = MOST_STEPS) -> Run:
    """Execute a program; UserError if it runs for more than `most_steps` lines."""
    trace = Run(sum(isinstance(statement, Assign) for statement in walk(statements)), modulus, most_steps)
    trace.execute(statements)
    return trace
