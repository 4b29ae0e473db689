"""LEGO: chains of group actions (Zhang et al. 2022, arXiv 2206.04301; their code: yizhangzzz/transformers-lego).

- A sentence is a set of clauses `a=+b;`: variable, element of a group, and what it acts on, which is another variable
  or a constant. The clauses of the main graph lead to what is asked; distractors hang on constants or on each other.
- A problem holds its clauses in topological order (rows, clauses): a parent has a smaller index than its children, so
  that values follow from left to right. The main graph comes first, then the distractors, then empty places.
  `order[p]` is the clause at place p of the text; all lists of the table are in the order of the text.
- The split hash adds up hashes of clauses: neither their order, nor the question, nor the format makes another problem.
- A format is a table of tokens (`Notation`); one writer lays out the tokens of all formats, and characters last. Names
  are chosen so that the longest token that fits is always the one that was written.
"""

import graphlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from math import comb, perm, prod
from string import ascii_lowercase
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_tasks.errors import UserError
from hf_tasks.tasks.base import Problems, Task
from hf_tasks.tasks.checks import as_tuple, choice, integer, is_span, listed, shortened, span
from hf_tasks.tasks.groups import Action, Group, Rows, as_rows, get_action, get_group
from hf_tasks.tasks.hashing import mix64, noise_integers
from hf_tasks.tasks.text import text_array

LARGEST_ALPHABET = 1000
GRAPHS = ("path", "star", "tree", "dag")
ORDERS = ("shuffled", "forward", "reverse")
READ_AT = ("variable", "end")
VARIABLE = "[a-z][0-9]*"


@dataclass(frozen=True)
class Notation:
    """The tokens of a format.

    Attributes:
        equals: between the variable and the element.
        elements: (G,), what is written before the reference.
        constants: (X,), the reference of a root for each point.
        times: between two parents; "" if nothing is.
        end: closes a clause.
        last: closes the last clause, if that is another token.
        question: before and after the variable that is asked for.
        values: (X,), the tokens of each point's name.
        comma: between the values of all clauses; "" if nothing is.
        roots_by_value: whether a root is written as the identity acting on its value.
        variable_last: whether what is computed stands before what it is called, `equals` between them.
    """

    equals: str
    elements: tuple[str, ...]
    constants: tuple[str, ...]
    times: str
    end: str
    question: tuple[str, str]
    values: tuple[tuple[str, ...], ...]
    comma: str
    last: str = ""
    roots_by_value: bool = False
    variable_last: bool = False


def _symbolic(group: Group, action: Action) -> Notation:
    """`a=+b;b=-1;a?`"""
    return Notation(
        equals="=",
        elements=group.names,
        constants=("1",) * len(action.names) if action.regular else action.names,
        times="",
        end=";",
        question=("", "?"),
        values=tuple((point,) for point in action.names),
        comma="",
    )


def _arrow(group: Group, action: Action) -> Notation:
    """`-1>b;+b>a;a?`: a causal model knows the value when it comes to the variable."""
    return replace(_symbolic(group, action), equals=">", variable_last=True)


def _words(group: Group, action: Action) -> Notation:
    """`a is plus b. b is minus 1. What is a?`"""
    signs = {"+": "plus", "-": "minus"}
    return replace(
        _symbolic(group, action),
        equals=" is ",
        elements=tuple(f"{signs[name]} " if name in signs else f"{name} of " for name in group.names),
        times=" times ",
        end=". ",
        question=("What is ", "?"),
        values=tuple((signs.get(point, point),) for point in action.names),
        comma=", ",
    )


def _code(group: Group, action: Action) -> Notation:
    """`a = +b` and `b = -1` and `print(a)`, a statement a line; signs print as Python prints them."""
    printed = {"+": ("1",), "-": ("-", "1")}
    return replace(
        _symbolic(group, action),
        equals=" = ",
        elements=tuple(name if name in printed else f"{name} * " for name in group.names),
        times=" * ",
        end="\n",
        question=("print(", ")\n"),
        values=tuple(printed.get(point, (point,)) for point in action.names),
        comma="\n",
    )


def _bert(group: Group, action: Action) -> Notation:
    """`a = val b , b = val 1 ,`, as the official code writes it."""
    del group, action  # always Z2 on itself
    return Notation(
        equals=" = ",
        elements=("val ", "not "),
        constants=("0", "1"),
        times="",
        end=" , ",
        question=("", ""),
        values=(("0",), ("1",)),
        comma=" ",
        last=" ,",
        roots_by_value=True,
    )


def _in_line(cells: np.ndarray) -> np.ndarray:
    """All of a row's cells one after the other, (rows, ...) -> (rows, cells); -1 would not do for no rows."""
    return cells.reshape(len(cells), prod(cells.shape[1:]))


FORMATS = {"symbolic": _symbolic, "arrow": _arrow, "words": _words, "code": _code, "cot": _symbolic, "bert": _bert}


@dataclass(frozen=True, kw_only=True)
class Lego(Task):
    """Follow chains of group actions from clause to clause.

    Example: a=+b;b=-1;a? -> -   (clauses=(2, 2))

    Args:
        group: a name ("Z2", "D3", "A5", "Z2xD3", ...) or a Cayley table, see groups.py.
        action: what it acts on: "regular" (itself), "natural" (the points of its permutations) or a table.
        clauses: (lo, hi), the clauses of a sentence, distractors included; all numbers equally likely.
        depth: (lo, hi), how many of them make up the main graph; None: all. The length of the sentence and the depth of
            its chains are drawn apart.
        graph: of the main clauses: "path", "star" (all others hang on the root), "tree" (each hangs on an earlier one,
            all equally likely) or "dag" (the same, and half of those that can have two parents: `a=+bc;`).
        chains: independent components of the main graph, of equal size as nearly as possible.
        order: of the text: "shuffled", "forward" (a parent before its children; components alternate, and distractors
            stand anywhere) or "reverse".
        alphabet: how many variables there are: a ... z, a1 ... z1, a2 ...
        asked: the depths, from 1, of main clauses whose value training is told or the question asks for: "all",
            "second_half" (deeper than half of the sentence's longest chain) or (lo, hi).
        query: True: the prompt ends in a question for one variable, drawn from the asked ones. False: the answer is
            the values of all clauses in the order of the text.
        format: "symbolic", "arrow" (`-1>b;+b>a;`, the variable last), "words", "code" (Python, if the group is Z2 on
            itself and the order forward), "cot" (symbolic, and the answer is every clause that the value needs,
            resolved, by depth from the root on and, of equal depth, in the order of the text) or "bert" (token for
            token the official data under the tokenizer of bert-base-uncased).
        read_at: where a token classifier is to know the value of a clause: at its "variable", as the official code has
            it, or at its "end", where a causal model has seen all of it.
    """

    name: ClassVar[str] = "lego"
    length_parameter: ClassVar[str] = "clauses"

    group: str | Rows = "Z2"
    action: str | Rows = "regular"
    clauses: tuple[int, int] = (12, 12)
    depth: tuple[int, int] | None = None
    graph: str = "path"
    chains: int = 1
    order: str = "shuffled"
    alphabet: int = 26
    asked: str | tuple[int, int] = "all"
    query: bool = True
    format: str = "symbolic"
    read_at: str = "variable"

    # Parameters.

    def __post_init__(self) -> None:
        for name in ("group", "action"):
            object.__setattr__(self, name, as_rows(name, getattr(self, name)))
        object.__setattr__(self, "clauses", span("clauses", self.clauses))
        if self.depth is not None:
            object.__setattr__(self, "depth", span("depth", self.depth))
        choice("graph", self.graph, GRAPHS)
        choice("order", self.order, ORDERS)
        choice("format of lego", self.format, FORMATS)
        choice("read_at", self.read_at, READ_AT)
        integer("chains", self.chains, low=1)
        integer("alphabet", self.alphabet, low=1, high=LARGEST_ALPHABET)
        if not isinstance(self.query, bool):
            raise UserError(f"query={self.query!r}: give true or false")
        self._check_sizes()
        self._check_asked()
        if not self._action.regular and self.graph == "dag":  # the first half reads both tables, and so checks them
            raise UserError("graph='dag' multiplies the values of two parents: it needs action='regular'")
        if self.format == "cot" and not self.query:
            raise UserError("format='cot' resolves the clauses that lead to a question: it needs query=true")
        if self.format == "bert":
            self._check_official()

    def _check_sizes(self) -> None:
        low, high = self.clauses
        if self.alphabet < high:
            raise UserError(
                f"alphabet={self.alphabet}: sentences of {high} clauses need {high} variables; "
                f"give an alphabet of at least {high} or fewer clauses"
            )
        if self.depth is not None and self.depth[1] > low:
            raise UserError(
                f"depth={list(self.depth)}: the main graph has more clauses than the shortest sentence; "
                f"give a depth of at most {low} or at least {self.depth[1]} clauses, not {list(self.clauses)}"
            )
        if self.chains > self._main[0]:
            raise UserError(
                f"chains={self.chains}: each needs a clause of the main graph, which may have only {self._main[0]}"
            )

    def _check_asked(self) -> None:
        object.__setattr__(self, "asked", as_tuple(self.asked))
        if isinstance(self.asked, str):
            if self.asked in ("all", "second_half"):
                return
        elif is_span(self.asked):
            shortest, longest = self._longest_chains
            if self.asked[1] > longest:
                raise UserError(
                    f"asked={list(self.asked)}: no chain of these sentences has more than {longest} clauses; "
                    f"ask for depths up to {longest}"
                )
            if self.asked[0] > shortest:
                raise UserError(
                    f"asked={list(self.asked)}: some of these sentences have no chain of more than {shortest} clauses; "
                    f"ask from depth {shortest} or less on"
                )
            return
        raise UserError(f"asked={listed(self.asked)!r}: give 'all', 'second_half' or [lo, hi] with 1 <= lo <= hi")

    def _check_official(self) -> None:
        needed = {"group": "Z2", "action": "regular", "graph": "path", "chains": 1, "depth": None, "query": False}
        for name, value in needed.items():
            if (given := getattr(self, name)) != value:
                raise UserError(f"format='bert' needs {name}={value!r}, not {shortened(str(listed(given)))}")
        if self.alphabet > len(ascii_lowercase):
            raise UserError(f"format='bert' has single letters for variables: alphabet={self.alphabet} is more than 26")

    @property
    def _main(self) -> tuple[int, int]:
        """The fewest and most clauses of the main graph."""
        return self.depth or self.clauses

    @property
    def _longest_chains(self) -> tuple[int, int]:
        """How long the longest chain of a sentence is, at least and at most."""
        low, high = (-(-size // self.chains) for size in self._main)
        return (low if self.graph == "path" else min(low, 2)), (min(high, 2) if self.graph == "star" else high)

    @cached_property
    def _group(self) -> Group:
        return get_group(self.group)

    @cached_property
    def _action(self) -> Action:
        return get_action(self._group, self.action)

    # What a tokenizer, a model and a card are told.

    @cached_property
    def _notation(self) -> Notation:
        return FORMATS[self.format](self._group, self._action)

    @cached_property
    def _variables(self) -> tuple[str, ...]:
        letters = len(ascii_lowercase)
        return tuple(ascii_lowercase[i % letters] + str(i // letters or "") for i in range(self.alphabet))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        n = self._notation
        tokens = [*self._variables, n.equals, *n.elements, *n.constants, n.end, n.last]
        tokens += [n.times] if self.graph == "dag" else []
        tokens += n.question if self.query else [n.comma]
        tokens += [token for value in n.values for token in value]
        return tuple(dict.fromkeys(token for token in tokens if token))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("".join(value) for value in self._notation.values)

    @property
    def element_token(self) -> int:
        """Which token of a clause, from 0, is its element."""
        return 0 if self._notation.variable_last else 2

    def number_format(self) -> dict[str, Any]:
        return {
            "digits": "",
            "separators": [end for end in (self._notation.end, self._notation.last) if end],
            "fillers": [],
            "answer": self._notation.question[1] if self.query else None,
            "reverse": "none",
            "answer_width": None,
        }

    @property
    def max_lengths(self) -> tuple[int, int]:
        n, most = self._notation, self.clauses[1]
        names = sorted(map(len, self._variables), reverse=True)[:most]
        two = len(n.times) + names[0] if self.graph == "dag" else 0
        reference = max(names[0], *map(len, n.constants))
        clause = len(n.equals) + max(map(len, n.elements)) + reference + two + len(n.end)
        value = max(map(len, self.classes))
        question = len("".join(n.question)) + names[0] if self.query else 0
        if self.format == "cot":
            needed = self._main[1] if self.graph == "dag" else self._longest_chains[1]
            answer = sum(names[:needed]) + needed * (len(n.equals) + value + len(n.end))
        else:
            answer = value if self.query else most * (value + len(n.comma)) - len(n.comma)
        return sum(names) + most * clause + question, answer

    @property
    def columns(self) -> dict[str, str]:
        depth = "the depth of the variable that is asked for" if self.query else "the depth of the deepest asked clause"
        answer = "the value that is asked for" if self.query else "the values of all clauses"
        if self.format == "cot":
            answer = "the clauses that lead to the value that is asked for, resolved"
        known = " ".join(self.classes[:12]) + (" ..." if len(self.classes) > 12 else "")
        return {
            "prompt": "the clauses and a question" if self.query else "the clauses",
            "answer": answer,
            "format": f"the text layout (always {self.format})",
            "clauses": "clauses of the sentence, distractors included",
            "depth": depth,
            "labels": f"value of each clause, an index into the classes {known}",
            "read_positions": f"character of the prompt at which each clause is read out: its {self.read_at}",
            "clause_starts": "first character of each clause",
            "clause_ends": "the character behind each clause",
            "depths": "clauses that lead to each value, itself counted",
            "parents": "the clause that each is made from, -1 where it is a constant",
            "second_parents": "the second clause that each is made from, -1 where there is none",
            "asked": "whether training is told the value of each clause",
            "chains": "component of the main graph that each clause belongs to, -1 of distractors",
            "chain_positions": "place of each clause in its component, from 1, parents first",
            "elements": "the element of the group in each clause, an index into its table",
        }

    @property
    def problem_count(self) -> int:
        """How many sentences there are, questions aside: exact for one path without distractors, else a lower bound."""
        texts = len(set(self._notation.constants)) if not self._notation.roots_by_value else 1
        exact = self.graph == "path" and self.chains == 1 and self.depth is None
        ways = perm if exact else comb
        return sum(
            ways(self.alphabet, n) * self._group.order**n * texts * (perm(n) if self.order == "shuffled" else 1)
            for n in range(self.clauses[0], self.clauses[1] + 1)
        )

    # Problems.

    def _draw(self, rng: np.random.Generator, count: int) -> Problems:
        low, high = self.clauses
        clauses = rng.integers(low, high + 1, count)
        main = clauses if self.depth is None else rng.integers(self.depth[0], self.depth[1] + 1, count)
        parents, second_parents = self._draw_graph(rng, clauses, main)
        shape = parents.shape
        points, identity = len(self._action.names), self._group.identity
        return {
            "clauses": clauses,
            "main": main,
            "variables": rng.permuted(np.tile(np.arange(self.alphabet), (count, 1)), axis=1)[:, :high],
            "elements": rng.integers(0, self._group.order, shape),
            # A group that acts on itself begins at its identity; the element says all.
            "constants": rng.integers(0, points, shape) if not self._action.regular else np.full(shape, identity),
            "parents": parents,
            "second_parents": second_parents,
            "order": self._draw_order(rng, clauses, main),
        }

    def _draw_graph(
        self, rng: np.random.Generator, clauses: np.ndarray, main: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Parents and second parents of every clause, -1 where there is none; both (rows, clauses)."""
        shape = len(clauses), self.clauses[1]
        index = np.broadcast_to(np.arange(shape[1]), shape)
        place, chain = np.divmod(index, self.chains)  # components take turns
        first = second = np.full(shape, -1)
        if self.graph == "path":
            first = index - self.chains
        elif self.graph == "star":
            first = chain
        else:
            first = chain + self.chains * (rng.random(shape) * place).astype(np.int64)
        first = np.where(place == 0, -1, first)
        if self.graph == "dag":
            # Any earlier clause but the first parent: that many steps on from it, around the circle of `place` of them.
            steps = 1 + (rng.random(shape) * (place - 1)).astype(np.int64)
            other = chain + self.chains * ((first // self.chains + steps) % np.maximum(place, 1))
            second = np.where((place >= 2) & (rng.random(shape) < 0.5), other, -1)
        if self.depth is not None:
            among = index - main[:, None]
            hung = (rng.random(shape) * (among + 1)).astype(np.int64) - 1
            first = np.where(among < 0, first, np.where(hung < 0, -1, hung + main[:, None]))
            second = np.where(among < 0, second, -1)
        inside = index < clauses[:, None]
        return np.where(inside, first, -1), np.where(inside, second, -1)

    def _draw_order(self, rng: np.random.Generator, clauses: np.ndarray, main: np.ndarray) -> np.ndarray:
        """The clause at each place of the text, (rows, clauses); empty places stay at the end."""
        shape = len(clauses), self.clauses[1]
        places = np.arange(shape[1])
        order = np.argsort(np.where(places < clauses[:, None], rng.random(shape), 1), axis=1)
        if self.order == "shuffled":
            return order
        is_main = order < main[:, None]
        order = np.where(is_main, np.cumsum(is_main, axis=1), main[:, None] + np.cumsum(~is_main, axis=1)) - 1
        if self.order == "reverse":
            mirrored = clauses[:, None] - 1 - places
            order = np.take_along_axis(order, np.where(mirrored >= 0, mirrored, places), axis=1)
        return order

    def _hash(self, problems: Problems) -> np.ndarray:
        parents, variables = problems["parents"], problems["variables"]

        def name_of(indices: np.ndarray) -> np.ndarray:
            return np.take_along_axis(variables, np.maximum(indices, 0), axis=1)

        # Four numbers below 2**16 a clause; what it acts on is even for a constant and odd for a variable.
        reference = np.where(parents < 0, 2 * problems["constants"], 2 * name_of(parents) + 1)
        second = np.where(problems["second_parents"] < 0, 0, name_of(problems["second_parents"]) + 1)
        codes = np.zeros(parents.shape, np.uint64)
        for part in (variables + 1, problems["elements"], reference, second):
            codes = (codes << np.uint64(16)) | part.astype(np.uint64)
        inside = np.arange(parents.shape[1]) < problems["clauses"][:, None]
        return mix64((mix64(codes) * inside).sum(axis=1, dtype=np.uint64) ^ self._salt)

    def _solve(self, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
        """The value of every clause, a point, and its depth; both (rows, clauses) in topological order."""
        parents, second_parents = problems["parents"].T, problems["second_parents"].T
        elements, constants = problems["elements"].T, problems["constants"].T
        count, rows = parents.shape
        every = np.arange(rows)
        # One more line at the end, which is what the index -1 reads: no value acts as the identity, and has depth 0.
        values = np.full((count + 1, rows), self._group.identity)
        depths = np.zeros((count + 1, rows), np.int64)
        for i in range(count):
            below = np.where(parents[i] < 0, constants[i], values[parents[i], every])
            depth = depths[parents[i], every]
            if self.graph == "dag":
                below = self._group.table[below, values[second_parents[i], every]]
                depth = np.maximum(depth, depths[second_parents[i], every])
            values[i] = self._action.table[elements[i], below]
            depths[i] = depth + 1
        return values[:-1].T, depths[:-1].T

    def _is_asked(self, problems: Problems, depths: np.ndarray) -> np.ndarray:
        """Which clauses training is told, (rows, clauses) in topological order."""
        main = np.arange(depths.shape[1]) < problems["main"][:, None]
        if self.asked == "all":
            return main
        if self.asked == "second_half":
            return main & (depths > (depths * main).max(axis=1, keepdims=True) // 2)
        low, high = self.asked
        return main & (depths >= low) & (depths <= high)

    # Writing.

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Token -> its number in a layout; 0 is "no token here"."""
        return {token: number for number, token in enumerate(("", *self.vocabulary))}

    @cached_property
    def _characters(self) -> np.ndarray:
        """The ASCII codes of every token, (tokens, widest) uint8, filled up with zeros."""
        return np.array(["", *self.vocabulary], "S").view(np.uint8).reshape(len(self._ids), -1)

    def _numbers(self, tokens: tuple[str, ...]) -> np.ndarray:
        return np.array([self._ids[token] for token in tokens])

    def _text(self, tokens: np.ndarray) -> pa.StringArray:
        """Rows of tokens (rows, T) as strings."""
        return text_array(_in_line(self._characters[tokens]))

    def _sentence(self, problems: Problems) -> np.ndarray:
        """The tokens of every clause, (rows, clauses, slots) in the order of the text; the last slot closes it."""
        n, order = self._notation, problems["order"]
        variables = self._numbers(self._variables)[problems["variables"]]
        parents, elements, constants = problems["parents"], problems["elements"], problems["constants"]
        if n.roots_by_value:
            root = parents < 0
            constants = self._action.table[elements, constants]
            elements = np.where(root, self._group.identity, elements)
        above = np.take_along_axis(variables, np.maximum(parents, 0), axis=1)
        name: list[np.ndarray | int] = [variables, self._ids[n.equals]]
        slots: list[np.ndarray | int] = [
            self._numbers(n.elements)[elements],
            np.where(parents < 0, self._numbers(n.constants)[constants], above),
        ]
        if self.graph == "dag":
            second = problems["second_parents"]
            slots.append(np.where(second < 0, 0, self._ids[n.times]))
            slots.append(np.where(second < 0, 0, np.take_along_axis(variables, np.maximum(second, 0), axis=1)))
        slots = [*slots, *reversed(name)] if n.variable_last else [*name, *slots]
        slots.append(self._ids[n.end])
        tokens = np.empty((*order.shape, len(slots)), np.int64)
        for slot, values in enumerate(slots):
            tokens[:, :, slot] = np.take_along_axis(values, order, axis=1) if isinstance(values, np.ndarray) else values
        if n.last:
            tokens[np.arange(len(order)), problems["clauses"] - 1, -1] = self._ids[n.last]
        tokens *= (np.arange(order.shape[1]) < problems["clauses"][:, None])[:, :, None]
        return tokens

    def _prompt(self, problems: Problems, sentence: np.ndarray, query: np.ndarray) -> np.ndarray:
        """The tokens of the prompts, (rows, T): the sentence and the question for clause `query` (rows,)."""
        rows, tokens = len(sentence), _in_line(sentence)
        if not self.query:
            return tokens
        before, after = (self._ids[token] for token in self._notation.question)
        asked = self._numbers(self._variables)[problems["variables"][np.arange(rows), query]]
        return np.concatenate([tokens, np.stack([np.full(rows, before), asked, np.full(rows, after)], axis=1)], axis=1)

    def _answer(self, problems: Problems, values: np.ndarray, depths: np.ndarray, query: np.ndarray) -> np.ndarray:
        """The tokens of the answers, (rows, T)."""
        rows, n = np.arange(len(values)), self._notation
        names = self._value_tokens
        if not self.query:
            count = problems["clauses"][:, None, None]
            named = names[np.take_along_axis(values, problems["order"], axis=1)]
            comma = np.full((*values.shape, 1), self._ids[n.comma])
            tokens = np.concatenate([named, comma], axis=2)
            tokens *= np.arange(values.shape[1])[:, None] < count
            tokens[:, :, -1:] *= np.arange(values.shape[1])[:, None] < count - 1
            return _in_line(tokens)
        if self.format != "cot":
            return names[values[rows, query]]
        variables = self._numbers(self._variables)[problems["variables"]]
        ends = [np.full((*values.shape, 1), self._ids[token]) for token in (n.equals, n.end)]
        tokens = np.concatenate([variables[:, :, None], ends[0], names[values], ends[1]], axis=2)
        tokens *= self._needed(problems, query)[:, :, None]
        # A graph with two parents has many topological orders, and the text alone must say which is meant.
        turn = np.argsort(depths * values.shape[1] + np.argsort(problems["order"], axis=1), axis=1)
        return _in_line(np.take_along_axis(tokens, turn[:, :, None], axis=1))

    @cached_property
    def _value_tokens(self) -> np.ndarray:
        """The tokens of every point's name, (points, most)."""
        values = self._notation.values
        most = max(map(len, values))
        return np.array([[*self._numbers(value), *[0] * (most - len(value))] for value in values])

    def _needed(self, problems: Problems, query: np.ndarray) -> np.ndarray:
        """Which clauses lead to clause `query`, itself included: (rows, clauses) in topological order."""
        rows = np.arange(len(query))
        count = problems["parents"].shape[1]
        needed = np.zeros((len(query), count + 1), bool)  # the last column takes what the index -1 writes
        needed[rows, query] = True
        for i in reversed(range(count)):
            for parents in (problems["parents"][:, i], problems["second_parents"][:, i]):
                needed[rows, parents] |= needed[:, i]
        return needed[:, :-1]

    def _write(self, problems: Problems, split: str) -> dict[str, pa.Array]:
        del split
        values, depths = self._solve(problems)
        asked = self._is_asked(problems, depths)
        rows, (_, count) = np.arange(len(values)), values.shape
        chance = noise_integers(problems["noise"], count, 2**31)
        query = np.argmax(np.where(asked, chance, -1), axis=1)
        sentence = self._sentence(problems)
        widths = np.array([len(token) for token in self._ids])[sentence]
        ends = np.cumsum(widths.sum(axis=2), axis=1)
        starts = ends - widths.sum(axis=2)
        read_out = -1 if self.read_at == "end" else -2 if self._notation.variable_last else 0
        place = np.empty_like(problems["order"])
        np.put_along_axis(place, problems["order"], np.arange(count)[None], axis=1)
        is_main = np.arange(count) < problems["main"][:, None]
        turn, chain = np.divmod(np.arange(count), self.chains)
        among = np.where(is_main, turn, np.arange(count) - problems["main"][:, None])

        inside = np.arange(count) < problems["clauses"][:, None]
        offsets = pa.array(np.concatenate([[0], np.cumsum(problems["clauses"])]), pa.int32())

        def lists(entries: np.ndarray, kind: type = np.int32) -> pa.ListArray:
            """Entries in the order of the text, (rows, clauses), as lists of the clauses that there are."""
            return pa.ListArray.from_arrays(offsets, pa.array(entries[inside].astype(kind)))

        def of_text(entries: np.ndarray) -> np.ndarray:
            return np.take_along_axis(entries, problems["order"], axis=1)

        def place_of(parents: np.ndarray) -> np.ndarray:
            parents = of_text(parents)
            return np.where(parents < 0, -1, np.take_along_axis(place, np.maximum(parents, 0), axis=1))

        deepest = depths[rows, query] if self.query else (depths * asked).max(axis=1)
        columns = [
            self._text(self._prompt(problems, sentence, query)),
            self._text(self._answer(problems, values, depths, query)),
            pa.repeat(self.format, len(rows)),
            pa.array(problems["clauses"].astype(np.int32)),
            pa.array(deepest.astype(np.int32)),
            lists(of_text(values)),
            lists(starts + widths[:, :, :read_out].sum(axis=2)),
            lists(starts),
            lists(ends),
            lists(of_text(depths)),
            lists(place_of(problems["parents"])),
            lists(place_of(problems["second_parents"])),
            lists(of_text(asked), bool),
            lists(of_text(np.where(is_main, chain, -1))),
            lists(of_text(among + 1)),
            lists(of_text(problems["elements"])),
        ]
        return dict(zip(self.columns, columns, strict=True))

    # Reading.

    def answer(self, prompt: str) -> str:
        problems = self._parse(prompt)
        values, depths = self._solve(problems)
        return self._text(self._answer(problems, values, depths, problems["query"]))[0].as_py()

    def _parse(self, prompt: str) -> Problems:
        clauses, query = self._read(prompt)
        places = {variable: place for place, (variable, *_) in enumerate(clauses)}
        if len(places) < len(clauses):
            raise self._not_a_prompt(prompt, "a variable is defined twice")
        above: dict[int, list[int]] = {}
        for place, (_, _, *references) in enumerate(clauses):
            named = [name for name in references if name and name[0] in ascii_lowercase]
            if any(name not in places for name in named):
                raise self._not_a_prompt(prompt, "a variable is used that no clause defines")
            above[place] = [places[name] for name in named]
        if self.query and query not in places:
            raise self._not_a_prompt(prompt, "it asks for a variable that no clause defines")
        try:
            sequence = list(graphlib.TopologicalSorter(above).static_order())
        except graphlib.CycleError as error:
            raise self._not_a_prompt(prompt, "its clauses go round in a circle") from error
        problems = self._as_problem([clauses[place] for place in sequence], sequence, query)
        written = self._text(self._prompt(problems, self._sentence(problems), problems["query"]))[0].as_py()
        if written != prompt:
            raise self._not_a_prompt(prompt, f"the same clauses are written {shortened(written)}")
        return problems

    def _read(self, prompt: str) -> tuple[list[tuple[str, ...]], str]:
        """(variable, element, reference, second reference or "") of every clause in the text, and what is asked for."""
        clauses, position = [], 0
        while match := self._clause.match(prompt, position):
            clauses.append(tuple(match[name] or "" for name in ("variable", "element", "reference", "second")))
            position = match.end()
        question = self._question.fullmatch(prompt, position)
        if not clauses or question is None:
            raise self._not_a_prompt(prompt, "something is no clause")
        names = {name for variable, _, *references in clauses for name in (variable, *references)} | {question[1]}
        unknown = names - {*self._variables, *self._notation.constants, ""}
        if unknown:
            raise self._not_a_prompt(prompt, f"{min(unknown)!r} is none of its {self.alphabet} variables")
        return clauses, question[1]

    def _as_problem(self, clauses: list[tuple[str, ...]], sequence: list[int], query: str) -> Problems:
        """Clauses in topological order as a problem of one row; `sequence` says where each stands in the text."""
        index = {variable: i for i, (variable, *_) in enumerate(clauses)}
        variables = {name: i for i, name in enumerate(self._variables)}
        elements = {name: i for i, name in enumerate(self._notation.elements)}
        constants = {name: i for i, name in enumerate(self._notation.constants)}
        if self._action.regular and not self._notation.roots_by_value:
            constants = dict.fromkeys(constants, self._group.identity)
        columns = {
            "variables": [variables[clause[0]] for clause in clauses],
            "elements": [elements[clause[1]] for clause in clauses],
            "constants": [constants.get(clause[2], 0) for clause in clauses],
            "parents": [index.get(clause[2], -1) for clause in clauses],
            "second_parents": [index.get(clause[3], -1) for clause in clauses],
            "order": np.argsort(sequence),
        }
        problems = {name: np.array([values]) for name, values in columns.items()}
        if self._notation.roots_by_value:
            root = problems["parents"] < 0
            problems["elements"] = np.where(root, problems["constants"], problems["elements"])
            problems["constants"] = np.full_like(problems["constants"], self._group.identity)
        count = np.array([len(clauses)])
        return problems | {"clauses": count, "main": count, "query": np.array([index.get(query, 0)])}

    @cached_property
    def _clause(self) -> re.Pattern[str]:
        n = self._notation
        elements, constants, ends = (
            "|".join(map(re.escape, sorted({*names} - {""}, key=lambda name: (-len(name), name))))
            for names in (n.elements, n.constants, (n.end, n.last))
        )
        second = f"(?:{re.escape(n.times)}(?P<second>{VARIABLE}))?" if self.graph == "dag" else "(?P<second>)"
        equals, name = re.escape(n.equals), f"(?P<variable>{VARIABLE})"
        computed = f"(?P<element>{elements})(?P<reference>{VARIABLE}|{constants}){second}"
        clause = f"{computed}{equals}{name}" if n.variable_last else f"{name}{equals}{computed}"
        return re.compile(f"{clause}(?:{ends})")

    @cached_property
    def _question(self) -> re.Pattern[str]:
        before, after = map(re.escape, self._notation.question)
        return re.compile(f"{before}({VARIABLE}){after}" if self.query else "()")

    def _not_a_prompt(self, prompt: str, reason: str) -> UserError:
        n = self._notation
        computed = f"{n.elements[-1]}b"
        example = f"{computed}{n.equals}a{n.end}" if n.variable_last else f"a{n.equals}{computed}{n.end}"
        return UserError(
            f"{shortened(prompt)} is not a prompt of lego in format {self.format!r}: {reason}; "
            f"clauses look like {example!r}" + (" and a question ends them" if self.query else "")
        )
