"""Draws programs in the C of c_language.py, one at a time, and counts how many shapes they can have.

- Every choice takes the next of a stream of uniform numbers, which numpy makes thousands at a time.
- Loops end by construction. `for` counts to a constant. `while (a < L)` ends in `a = (a + s) % M;` and nothing else in
  it assigns a; with L + s <= M that sum never wraps, and with L <= s * rounds it is taken at most `rounds` times from
  any a. Downwards it is the mirror image.
- What cannot be built is drawn again: programs that run too long, or whose nesting or data-flow depth is out of bounds.
  Where a depth is wanted, operands are steered towards it by the depths that the text alone suggests.
"""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from hf_tasks.errors import UserError
from hf_tasks.tasks.c_language import (
    COMPARISONS,
    COUNTERS,
    NAMES,
    Assign,
    For,
    If,
    Operand,
    Print,
    Run,
    Statement,
    Statements,
    Test,
    While,
    nesting,
    run,
)
from hf_tasks.tasks.checks import listed

if TYPE_CHECKING:
    from hf_tasks.tasks.programs import Programs

# How often a program may be drawn again before its parameters count as impossible.
TRIES = 2000
# Chances: of a block where one fits, of `else` where it fits, of a line that prints; of an initial value that is a
# constant, of an assignment of a constant or of a lone variable, of an operand or a test against a constant.
BLOCK, ELSE, PRINT = 0.4, 0.5, 0.25
DECLARE_CONSTANT, ASSIGN_CONSTANT, COPY, LITERAL, TEST_LITERAL = 0.5, 0.1, 0.1, 0.3, 0.6


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(4096).tolist()


class Author:
    """Writes one program after the other.

    Args:
        task: whose parameters are kept to.
        rng: where all chance comes from.
    """

    def __init__(self, task: "Programs", rng: np.random.Generator) -> None:
        self.task = task
        self.uniform: Callable[[], float] = partial(next, _uniforms(rng))
        kinds = {"if": If, "for": For, "while": While}
        self.kinds = [kind for word, kind in kinds.items() if word in task.statements]
        # Products come first, so that operands are taken from left to right; see c_language.py.
        self.sums = [sign for sign in task.operators if sign != "*"]
        self.second = {sign: task.operators if sign == "*" else self.sums for sign in task.operators}

    def below(self, high: int) -> int:
        """An integer from 0 to high, which is left out."""
        return int(self.uniform() * high)

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self.uniform() * (high + 1 - low))

    def program(self) -> tuple[Statements, Run]:
        """A program with its question, and its trace.

        Raises:
            UserError: none of many drafts fits the parameters.
        """
        task = self.task
        for _ in range(TRIES):
            statements = self._draft()
            if nesting(statements) < task.nesting[0]:
                continue
            try:
                trace = run(statements, task.modulus, task.most_steps)
                question = self._question(trace)
                trace.execute(question)
            except UserError:  # it runs for too many lines
                continue
            if self._is_wanted(trace, question):
                return statements + question, trace
        spans = {name: listed(getattr(task, name)) for name in ("lines", "nesting", "depth", "asked", "steps")}
        raise UserError(
            f"none of {TRIES} programs in a row fitted the parameters of {task.name}; widen one of "
            + ", ".join(f"{name}={value}" for name, value in spans.items())
        )

    def _question(self, trace: Run) -> tuple[Print, ...]:
        """What target "value" prints at the end: a variable of the depth that is asked for, if there is one."""
        if self.task.target != "value":
            return ()
        low, high = self.task.asked_depths
        names = [name for name in self.declared if low <= trace.origins[name][0] <= high]
        names = [name for name in names if trace.origins[name][0] == self.goal] or names or self.declared
        return (Print(names[self.below(len(names))], ""),)

    def _is_wanted(self, trace: Run, question: tuple[Print, ...]) -> bool:
        """Whether the program, and the value that is asked for, are as deep as they should be."""
        task = self.task
        if task.depth is not None and not task.depth[0] <= max(trace.depths) <= task.depth[1]:
            return False
        low, high = task.asked_depths
        return all(low <= trace.origins[statement.name][0] <= high for statement in question)

    def _draft(self) -> Statements:
        """A program without its question; `goal` is the depth that it is steered to."""
        task, closing = self.task, self.task.target == "output"
        lines = self.between(*task.lines) - closing
        room = lines - task.nested_lines(task.nesting[0])
        variables = self.between(task.variables[0], min(task.variables[1], room))
        self.levels = self.between(*task.nesting)
        while task.nested_lines(self.levels) > lines - variables or (self.levels and not self.kinds):
            self.levels -= 1
        wanted = task.depth or (task.asked_depths if task.target == "value" and task.asked != "all" else None)
        self.goal = wanted and self.between(wanted[0], max(wanted[0], min(wanted[1], lines)))

        self.clause = 0
        self.declared: list[str] = []
        self.counters: list[str] = []
        self.frozen: list[str] = []  # what the loops around this line test
        self.guesses: dict[Operand, int] = {}  # the depths of variables, as if every line ran once
        self.left = lines
        names = list(NAMES[: task.alphabet])
        statements: list[Statement] = []
        for _ in range(variables):
            name = names.pop(self.below(len(names)))
            statements.append(self._assign(name, declares=True))
            self.declared.append(name)
        statements += self._block(lines - variables, 0, self.levels)
        if closing:
            statements.append(self._print())
        return tuple(statements)

    def _block(self, lines: int, level: int, inside: int) -> Statements:
        """So many lines of text, with at least `inside` blocks that lie in each other where that can be built."""
        statements: list[Statement] = []
        while lines:
            needed = self.task.nested_lines(inside)
            # The first or a later statement may hold what has to lie inside, as long as a later one has room.
            holds = inside > 0 and (lines < needed + 3 or self.uniform() < 0.5)
            most = lines if holds else lines - needed
            least = max(1, self.task.nested_lines(inside - 1)) if holds else 1
            if level < self.levels and (self.uniform() < BLOCK or (inside and lines <= needed)):
                kinds = [kind for kind in self.kinds if self._fits(kind, least, most)]
            else:
                kinds = []
            if kinds:
                kind = kinds[self.below(len(kinds))]
                opened = inside - 1 if holds else 0
                statement, used = self._opened(kind, least, most, level, opened)
                inside = 0 if holds else inside
            else:
                statement, used = self._straight(), 1
            statements.append(statement)
            lines -= used
        return tuple(statements)

    def _fits(self, kind: type[Statement], least: int, most: int) -> bool:
        """Whether a block with a body of at least `least` lines can be written in `most` lines."""
        return most >= least + 3 and len(self._free()) >= 2 if kind is While else most >= least + 2

    def _opened(self, kind: type[Statement], least: int, most: int, level: int, inside: int) -> tuple[Statement, int]:
        """A block, and how many lines it has."""
        size = self.between(least, most - (3 if kind is While else 2))
        if kind is While:
            return self._while(size, level, inside), size + 3
        if kind is For:
            return self._for(size, level, inside), size + 2
        rest = most - 2 - size
        other = self.between(1, rest - 1) if rest >= 2 and self.uniform() < ELSE else 0
        test = self._test()
        body = self._block(size, level + 1, inside)
        return If(test, body, self._block(other, level + 1, 0)), size + 2 + (other and other + 1)

    def _for(self, size: int, level: int, inside: int) -> For:
        unused = [counter for counter in COUNTERS if counter not in self.counters]
        counter, rounds = unused[self.below(len(unused))], self.between(2, self.task.rounds)
        self.counters.append(counter)
        body = self._block(size, level + 1, inside)
        self.counters.pop()
        return For(counter, rounds, body)

    def _while(self, size: int, level: int, inside: int) -> While:
        """`size` lines and one that leads to the loop's end."""
        free, modulus = self._free(), self.task.modulus
        name, sign = free[self.below(len(free))], self.sums[self.below(len(self.sums))]
        step = self.between(1, max(1, modulus // 3))
        top = min(modulus - step, step * self.task.rounds)
        limit = self.between(top // 2 + 1, top)  # a low limit would let most loops run not once
        test = Test(name, "<", limit) if sign == "+" else Test(name, ">", modulus - 1 - limit)
        self.frozen.append(name)
        body = self._block(size, level + 1, inside)
        self.frozen.pop()
        self.guesses[name] += 1
        last = Assign(self.clause, name, (name, step), sign, False)
        self.clause += 1
        return While(test, (*body, last))

    def _straight(self) -> Assign | Print:
        if self.task.target == "output" and self.uniform() < PRINT:
            return self._print()
        free = self._free()
        return self._assign(free[self.below(len(free))], declares=False)

    def _free(self) -> list[str]:
        """The variables that may be assigned here."""
        return [name for name in self.declared if name not in self.frozen] if self.frozen else self.declared

    def _print(self) -> Print:
        return Print(self.declared[self.below(len(self.declared))], ";")

    def _test(self) -> Test:
        """A comparison that can come out either way."""
        left = self.declared[self.below(len(self.declared))]
        comparison = COMPARISONS[self.below(len(COMPARISONS))]
        others = [name for name in self.declared + self.counters if name != left]
        if others and self.uniform() >= TEST_LITERAL:
            return Test(left, comparison, others[self.below(len(others))])
        low, high = {"<": (1, 1), ">=": (1, 1), ">": (0, 2), "<=": (0, 2)}.get(comparison, (0, 1))
        return Test(left, comparison, self.between(low, self.task.modulus - high))

    def _assign(self, name: str, declares: bool) -> Assign:
        operands, operators = self._expression(name, DECLARE_CONSTANT if declares else ASSIGN_CONSTANT)
        guesses = self.guesses
        guesses[name] = 1 + max([guesses.get(operand, 0) for operand in operands])
        self.left -= 1
        clause = Assign(self.clause, name, operands, operators, declares)
        self.clause += 1
        return clause

    def _expression(self, name: str, constant: float) -> tuple[tuple[Operand, ...], str]:
        """What may be assigned to a variable: a value, another variable, or operands with at least one variable."""
        task, readable = self.task, self.declared + self.counters
        deepest = None
        if self.goal is not None and self.declared:
            guesses, goal = self.guesses, self.goal
            readable = [operand for operand in readable if guesses.get(operand, 0) < goal]
            top = max(self.declared, key=lambda operand: guesses[operand])
            if self.uniform() * max(self.left, 1) < goal - guesses[top]:
                deepest = top
        if not readable or (deepest is None and self.uniform() < constant):
            return (self.below(task.modulus),), ""
        if self.uniform() < COPY:
            others = [operand for operand in readable if operand != name]
            if deepest != name and others:
                return (deepest or others[self.below(len(others))],), ""
        signs = task.operators[self.below(len(task.operators))]
        if task.operands == 3 and self.second[signs] and self.uniform() < 0.5:
            signs += self.second[signs][self.below(len(self.second[signs]))]
        operands: list[Operand] = [
            self.between(1, task.modulus - 1) if self.uniform() < LITERAL else readable[self.below(len(readable))]
            for _ in range(len(signs) + 1)
        ]
        if deepest is not None or all(isinstance(operand, int) for operand in operands):
            operands[self.below(len(operands))] = deepest or readable[self.below(len(readable))]
        return tuple(operands), signs


class ShapeCount:
    """How many shapes of programs the generator can write at a task's parameters, whatever they run for.

    Lines that print count as lines, though they are no part of a shape.
    """

    def __init__(self, task: "Programs") -> None:
        self.task = task

    def total(self) -> int:
        """How many there are, of all lengths together."""
        task = self.task
        lines = task.lines[1] - (task.target == "output")
        sums = 0
        for variables in range(task.variables[0], min(task.variables[1], lines) + 1):
            declarations = 1
            for known in range(variables):
                declarations *= self._expressions(known, known)
            bodies = self._bodies(lines - variables, variables, task.nesting[1])
            if task.nesting[0]:
                fewer = self._bodies(lines - variables, variables, task.nesting[0] - 1)
                bodies = [many - few for many, few in zip(bodies, fewer, strict=True)]
            shortest = max(task.lines[0] - (task.target == "output") - variables, 0)
            sums += declarations * sum(bodies[shortest:])
        return sums

    @cached_property
    def _signs(self) -> list[int]:
        """How many ways there are to write the operators between two operands, and between three."""
        operators, sums = self.task.operators, [sign for sign in self.task.operators if sign != "*"]
        three = sum(len(operators if sign == "*" else sums) for sign in operators)
        return [len(operators), three if self.task.operands == 3 else 0]

    def _expressions(self, readable: int, copied: int) -> int:
        """Shapes of an expression with so many readable names, of which so many may be assigned alone."""
        operands = readable + 1  # all values are one
        return 1 + copied + sum(ways * (operands**n - 1) for n, ways in enumerate(self._signs, 2))

    def _bodies(self, lines: int, variables: int, levels: int) -> list[int]:
        """Shapes of a block of 0, 1, ... lines in which `levels` more blocks may lie in each other."""
        return self._block(lines, variables, levels, counters=0, frozen=0)

    def _block(self, lines: int, variables: int, levels: int, counters: int, frozen: int) -> list[int]:
        task, readable, free = self.task, variables + counters, variables - frozen
        # Shapes of one statement of so many lines.
        statement = [0, free * self._expressions(readable, readable - 1)] + [0] * lines
        if levels and lines > 2:
            inner = partial(self._block, lines - 2, variables, levels - 1)
            if "if" in task.statements:
                tests = variables * readable * len(COMPARISONS)  # on the right: a value or another name
                bodies = inner(counters=counters, frozen=frozen)
                for size in range(1, lines - 1):
                    statement[size + 2] += tests * bodies[size]
                    for other in range(1, lines - 2 - size):
                        statement[size + other + 3] += tests * bodies[size] * bodies[other]
            if "for" in task.statements:
                bodies = inner(counters=counters + 1, frozen=frozen)
                for size in range(1, lines - 1):
                    statement[size + 2] += bodies[size]
            if "while" in task.statements and free >= 2:
                ways = free * len([sign for sign in task.operators if sign != "*"])
                bodies = inner(counters=counters, frozen=frozen + 1)
                for size in range(1, lines - 2):
                    statement[size + 3] += ways * bodies[size]
        blocks = [1]
        for total in range(1, lines + 1):
            blocks.append(sum(statement[size] * blocks[total - size] for size in range(1, total + 1)))
        return blocks
