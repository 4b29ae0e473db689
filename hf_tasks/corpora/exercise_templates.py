"""Exercises that no model wrote: one behaviour composed of typed blocks, its docstring, solution and tests.

- An exercise is a pipeline `source -> filters -> map -> end`, as in "the sum of the squares of those numbers in
  `scores` that are even". Filters stand before the map and never behind it, so that English says what Python does.
- A block is a phrase and an expression; every end has beside its code a reference of its own, from which the expected
  values of the tests come. So a test can fail: the solution's loop and the reference are written independently.
- A topic narrows the blocks down, the difficulty says how many filters and maps there are (0, 1 or 2). Names of
  functions and arguments come from outside and mean nothing to the behaviour.
"""

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

INT, STR = "int", "str"
DIFFICULTIES = ("easy", "medium", "hard")  # so many filters and maps: 0, 1, 2
TESTS = 5
VOWELS = "aeiouAEIOU"
_WORDS = (
    "apple", "banana", "cherry", "level", "Kayak", "stone", "OTTER", "window", "eye", "river", "UNCLE", "maple",
    "noon", "Garden", "ice", "orange", "table", "Anna", "lamp", "SUN", "echo", "basket", "wolf", "Radar", "kite",
    "ocean", "tree", "Idea", "moon", "stats", "bread", "civic", "ink", "PLUM", "yard",
)  # fmt: skip
_TEXT = "aeioubcdfgklmnprstAEIOUBDKMRT0123456789 .-"
_TRIES = 50
_ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}


@dataclass(frozen=True)
class Source:
    """Where items come from: the argument's type, what items are called, an expression that goes through them."""

    argument: str  # its type
    kind: str  # of an item
    phrase: str
    through: str
    item: str
    name: str | None = None  # of the argument; None for the noun of the exercise
    natural: bool = False  # items are never negative


@dataclass(frozen=True)
class Block:
    """A filter ("are even"), a map ("squares") or a key of groups, with its expression in {x} and perhaps {k}."""

    phrase: str
    code: str
    takes: tuple[str, ...] = (INT,)  # names of sources, or kinds of items
    gives: str | None = None  # None: what it takes
    signed: bool = False  # says something about negative numbers


@dataclass(frozen=True)
class End:
    """What is made of the items.

    Attributes:
        phrase: of a whole sentence, with {items}, {k} and {nth}.
        body: lines that end with a return, in terms of the list `items`.
        reference: the same as a function of (items, k). loop: (first lines, lines for an {item}, result) instead.
        gives: the type of the result, {t} is that of an item. mapped: False if a map before it would change nothing.
    """

    phrase: str
    body: tuple[str, ...]
    reference: Callable[[list, int], Any]
    gives: str
    takes: tuple[str, ...] = (INT, STR)
    loop: tuple[tuple[str, ...], tuple[str, ...], str] | None = None
    mapped: bool = True


SOURCES = {
    "numbers": Source("list[int]", INT, "numbers in `{a}`", "{a}", "number"),
    "words": Source("list[str]", STR, "words in `{a}`", "{a}", "word"),
    "text": Source("str", STR, "characters of `{a}`", "{a}", "letter", name="text"),
    "digits": Source("int", INT, "digits of the natural number `{a}`", "map(int, str({a}))", "digit", "n", True),
    "range": Source("int", INT, "whole numbers from 1 to `{a}`", "range(1, {a} + 1)", "number", "n", True),
    "divisors": Source(
        "int", INT, "divisors of the positive number `{a}`",
        "(number for number in range(1, {a} + 1) if {a} % number == 0)", "divisor", "n", True,
    ),
    "keys": Source("dict[str, int]", STR, "keys of `{a}`", "{a}", "word"),
    "values": Source("dict[str, int]", INT, "values of `{a}`", "{a}.values()", "number"),
    "rows": Source(
        "list[list[int]]", INT, "numbers in all rows of `{a}`", "(number for row in {a} for number in row)", "entry"
    ),
}  # fmt: skip
FILTERS = {
    "even": Block("are even", "{x} % 2 == 0"),
    "odd": Block("are odd", "{x} % 2 == 1"),
    "positive": Block("are positive", "{x} > 0", signed=True),
    "negative": Block("are negative", "{x} < 0", signed=True),
    "near": Block("are at most {k} away from zero", "abs({x}) <= {k}", signed=True),
    "above": Block("are greater than {k}", "{x} > {k}"),
    "below": Block("are smaller than {k}", "{x} < {k}"),
    "divisible": Block("are divisible by {k}", "{x} % {k} == 0"),
    "indivisible": Block("are not divisible by {k}", "{x} % {k} != 0"),
    "long": Block("are longer than {k} letters", "len({x}) > {k}", ("words", "keys")),
    "short": Block("are shorter than {k} letters", "len({x}) < {k}", ("words", "keys")),
    "vowel start": Block("start with a vowel", f'{{x}}[0] in "{VOWELS}"', ("words", "keys")),
    "consonant start": Block("do not start with a vowel", f'{{x}}[0] not in "{VOWELS}"', ("words", "keys")),
    "mirrored": Block(
        "read the same backwards, whatever the case", "{x}.lower() == {x}.lower()[::-1]", ("words", "keys")
    ),
    "contains e": Block("contain an 'e'", '"e" in {x}', ("words", "keys")),
    "contains a": Block("contain an 'a'", '"a" in {x}', ("words", "keys")),
    "capitals": Block("are written in capitals", "{x}.isupper()", ("words", "keys", "text")),
    "small": Block("are written in small letters", "{x}.islower()", ("words", "keys", "text")),
    "vowels": Block("are vowels", f'{{x}} in "{VOWELS}"', ("text",)),
    "consonants": Block("are consonants", f'{{x}}.isalpha() and {{x}} not in "{VOWELS}"', ("text",)),
    "digits": Block("are digits", "{x}.isdigit()", ("text",)),
    "letters": Block("are letters", "{x}.isalpha()", ("text",)),
    "no letters": Block("are no letters", "not {x}.isalpha()", ("text",)),
    "no spaces": Block("are no spaces", '{x} != " "', ("text",)),
}
MAPS = {
    "squares": Block("squares", "{x} * {x}"),
    "cubes": Block("cubes", "{x} ** 3"),
    "doubles": Block("doubles", "2 * {x}"),
    "multiples": Block("{k}-fold values", "{k} * {x}"),
    "halves": Block("halves, rounded down, ", "{x} // 2"),
    "last digits": Block("last decimal digits", "abs({x}) % 10"),
    "remainders": Block("remainders after division by {k}", "{x} % {k}"),
    "absolute": Block("absolute values", "abs({x})", signed=True),
    "opposites": Block("opposites", "-{x}"),
    "distances": Block("distances from {k}", "abs({x} - {k})"),
    "lengths": Block("lengths", "len({x})", ("words", "keys"), INT),
    "vowel counts": Block("numbers of vowels", f'sum(c in "{VOWELS}" for c in {{x}})', ("words", "keys"), INT),
    "mirror images": Block("mirror images", "{x}[::-1]", ("words", "keys")),
    "first letters": Block("first letters", "{x}[0]", ("words", "keys")),
    "last letters": Block("last letters", "{x}[-1]", ("words", "keys")),
    "upper": Block("upper-case forms", "{x}.upper()", ("words", "keys", "text")),
    "lower": Block("lower-case forms", "{x}.lower()", ("words", "keys", "text")),
    "codes": Block("character codes", "ord({x})", ("text",), INT),
    "repeats": Block("doubled forms", "{x} * 2", ("words", "keys", "text")),
}
KEYS = {
    "remainder": Block("their remainder after division by {k}", "{x} % {k}"),
    "last digit": Block("their last decimal digit", "abs({x}) % 10"),
    "parity": Block("their parity (0 for even, 1 for odd)", "{x} % 2"),
    "first letter": Block("their first character", "{x}[0]", (STR,), STR),
    "length": Block("their length", "len({x})", (STR,), INT),
    "lower": Block("their lower-case form", "{x}.lower()", (STR,), STR),
}


def _running(step: Callable[[Any, Any], Any]) -> Callable[[list, int], list]:
    def reference(items: list, _: int) -> list:
        return [items[0], *(_fold(step, items[: k + 1]) for k in range(1, len(items)))] if items else []

    return reference


def _fold(step: Callable[[Any, Any], Any], items: list) -> Any:
    return items[0] if len(items) == 1 else step(_fold(step, items[:-1]), items[-1])


ENDS = {
    "sum": End(
        "Return the sum of {items}.", ("return sum(items)",), lambda i, _: sum(i), INT, (INT,),
        (("total = 0",), ("total += {item}",), "total"),
    ),
    "product": End(
        "Return the product of {items} (1 if there are none).", ("return math.prod(items)",),
        lambda i, _: _fold(lambda a, b: a * b, [1, *i]), INT, (INT,),
        (("product = 1",), ("product *= {item}",), "product"),
    ),
    "count": End(
        "Return the number of {items}.", ("return len(items)",), lambda i, _: len(i), INT,
        loop=(("count = 0",), ("count += 1",), "count"), mapped=False,
    ),
    "distinct": End(
        "Return how many different values there are among {items}.", ("return len(set(items))",),
        lambda i, _: len(Counter(i)), INT, loop=(("seen = set()",), ("seen.add({item})",), "len(seen)"),
    ),
    "mean": End(
        "Return the mean of {items}, or 0.0 if there are none.",
        ("if not items:", "    return 0.0", "return sum(items) / len(items)"),
        lambda i, _: sum(i) / max(1, len(i)), "float", (INT,),
        (("total, count = 0, 0",), ("total += {item}", "count += 1"), "total / count if count else 0.0"),
    ),
    "largest": End(
        "Return the largest of {items}, or 0 if there are none.", ("return max(items, default=0)",),
        lambda i, _: sorted(i)[-1] if i else 0, INT, (INT,),
        (("best = None",), ("if best is None or {item} > best:", "    best = {item}"), "0 if best is None else best"),
    ),
    "smallest": End(
        "Return the smallest of {items}, or 0 if there are none.", ("return min(items, default=0)",),
        lambda i, _: sorted(i)[0] if i else 0, INT, (INT,),
        (("best = None",), ("if best is None or {item} < best:", "    best = {item}"), "0 if best is None else best"),
    ),
    "spread": End(
        "Return the difference between the largest and the smallest of {items}, or 0 if there are none.",
        ("return max(items) - min(items) if items else 0",), lambda i, _: sorted(i)[-1] - sorted(i)[0] if i else 0,
        INT, (INT,),
    ),
    "second largest": End(
        "Return the second largest of the different values among {items}, or 0 if there are fewer than two.",
        ("different = sorted(set(items))", "return different[-2] if len(different) > 1 else 0"),
        lambda i, _: max((x for x in i if x < max(i)), default=0), INT, (INT,),
    ),
    "alternating": End(
        "Return the alternating sum (first minus second plus third ...) of {items}.",
        ("return sum(items[::2]) - sum(items[1::2])",), lambda i, _: sum(x * (-1) ** n for n, x in enumerate(i)), INT,
        (INT,), (("total, sign = 0, 1",), ("total += sign * ({item})", "sign = -sign"), "total"),
    ),
    "running total": End(
        "Return the list of the running totals of {items}.",
        ("totals = []", "for item in items:", "    totals.append(item + (totals[-1] if totals else 0))",
         "return totals"),
        _running(lambda a, b: a + b), "list[int]", (INT,),
        (("total, totals = 0, []",), ("total += {item}", "totals.append(total)"), "totals"),
    ),
    "running maximum": End(
        "Return the list of the running maxima of {items}.",
        ("maxima = []", "for item in items:", "    maxima.append(max(item, maxima[-1]) if maxima else item)",
         "return maxima"),
        _running(max), "list[int]", (INT,),
    ),
    "running minimum": End(
        "Return the list of the running minima of {items}.",
        ("return [min(items[: k + 1]) for k in range(len(items))]",), _running(min), "list[int]", (INT,),
    ),
    "differences": End(
        "Return the list of differences between neighbours (the later minus the earlier) among {items}.",
        ("return [later - earlier for earlier, later in zip(items, items[1:])]",),
        lambda i, _: [i[n + 1] - i[n] for n in range(len(i) - 1)], "list[int]", (INT,),
    ),
    "rises": End(
        "Return how often a value is followed by a greater one among {items}.",
        ("return sum(later > earlier for earlier, later in zip(items, items[1:]))",),
        lambda i, _: len([n for n in range(1, len(i)) if i[n] > i[n - 1]]), INT, (INT,),
    ),
    "list": End(
        "Return a list of {items}, in order.", ("return items",), lambda i, _: [*i], "list[{t}]",
        loop=(("found = []",), ("found.append({item})",), "found"),
    ),
    "reversed": End(
        "Return a list of {items}, in reverse order.", ("return items[::-1]",),
        lambda i, _: [i[-n] for n in range(1, len(i) + 1)], "list[{t}]",
        loop=(("found = []",), ("found.insert(0, {item})",), "found"),
    ),
    "ascending": End(
        "Return a sorted list of {items}, in ascending order.", ("return sorted(items)",),
        lambda i, _: list(np.sort(np.array(i, object))), "list[{t}]",
    ),
    "descending": End(
        "Return a sorted list of {items}, in descending order.", ("return sorted(items, reverse=True)",),
        lambda i, _: list(np.sort(np.array(i, object)))[::-1], "list[{t}]",
    ),
    "unique": End(
        "Return a list without duplicates of {items}, each where it occurs first.",
        ("found = []", "for item in items:", "    if item not in found:", "        found.append(item)", "return found"),
        lambda i, _: list(dict.fromkeys(i)), "list[{t}]",
    ),
    "counts": End(
        "Return a dictionary that says how often each value occurs among {items}.",
        ("return {item: items.count(item) for item in items}",), lambda i, _: dict(Counter(i)), "dict[{t}, int]",
        loop=(("counts = {}",), ("counts[{item}] = counts.get({item}, 0) + 1",), "counts"),
    ),
    "repeated": End(
        "Return a sorted list of the values that occur more than once among {items}.",
        ("return sorted({item for item in items if items.count(item) > 1})",),
        lambda i, _: sorted(x for x, n in Counter(i).items() if n > 1), "list[{t}]",
    ),
    "most common": End(
        "Return the most frequent value among {items}, the earliest of several; None if there are none.",
        ("return max(items, key=items.count, default=None)",),
        lambda i, _: Counter(i).most_common(1)[0][0] if i else None, "{t} | None",
    ),
    "first": End(
        "Return the first of {items}, or None if there are none.", ("return items[0] if items else None",),
        lambda i, _: next(iter(i), None), "{t} | None",
    ),
    "last": End(
        "Return the last of {items}, or None if there are none.", ("return items[-1] if items else None",),
        lambda i, _: next(iter(reversed(i)), None), "{t} | None",
        loop=(("found = None",), ("found = {item}",), "found"),
    ),
    "position": End(
        "Return the index of the largest (the earliest of several) in the list of {items}, or -1 if there are none.",
        ("return items.index(max(items)) if items else -1",),
        lambda i, _: min((n for n, x in enumerate(i) if all(x >= y for y in i)), default=-1), INT, (INT,),
    ),
    "every kth": End(
        "Return a list of every {nth} of {items}, beginning with the first.", ("return items[::{k}]",),
        lambda i, k: [x for n, x in enumerate(i) if n % k == 0], "list[{t}]",
    ),
    "head": End(
        "Return a list of the first {k} of {items}, or of all if there are fewer.", ("return items[:{k}]",),
        lambda i, k: [x for n, x in enumerate(i) if n < k], "list[{t}]",
    ),
    "tail": End(
        "Return a list of the last {k} of {items}, or of all if there are fewer.", ("return items[-{k}:]",),
        lambda i, k: [x for n, x in enumerate(i) if n >= len(i) - k], "list[{t}]",
    ),
    "chunks": End(
        "Return the list of {items}, cut into lists of {k}; the last one may be shorter.",
        ("return [items[start : start + {k}] for start in range(0, len(items), {k})]",),
        lambda i, k: [[x for n, x in enumerate(i) if n // k == c] for c in range((len(i) + k - 1) // k)],
        "list[list[{t}]]",
    ),
    "rotated": End(
        "Return a list of {items}, rotated: the first {k} of them go to the end, one after the other.",
        ("for _ in range({k}):", "    items = items[1:] + items[:1]", "return items"),
        lambda i, k: [i[(n + k) % len(i)] for n in range(len(i))], "list[{t}]",
    ),
    "pairs": End(
        "Return the list of pairs of neighbours among {items}, as tuples.", ("return list(zip(items, items[1:]))",),
        lambda i, _: [(i[n], i[n + 1]) for n in range(len(i) - 1)], "list[tuple[{t}, {t}]]",
    ),
    "numbered": End(
        "Return the list of pairs (place, value) of {items}; places count from 1.",
        ("return list(enumerate(items, start=1))",), lambda i, _: [(n + 1, i[n]) for n in range(len(i))],
        "list[tuple[int, {t}]]",
    ),
    "is sorted": End(
        "Return whether {items} are in ascending order (equal neighbours are allowed).",
        ("return items == sorted(items)",),
        lambda i, _: not [n for n in range(1, len(i)) if i[n] < i[n - 1]], "bool",
    ),
    "is mirrored": End(
        "Return whether the list of {items} reads the same backwards.", ("return items == items[::-1]",),
        lambda i, _: all(i[n] == i[-1 - n] for n in range(len(i))), "bool",
    ),
    "all different": End(
        "Return whether all of {items} are different.", ("return len(set(items)) == len(items)",),
        lambda i, _: max(Counter(i).values(), default=1) == 1, "bool",
    ),
    "joined": End(
        "Return {items}, joined by hyphens.", ('return "-".join(items)',),
        lambda i, _: _fold(lambda a, b: a + "-" + b, i) if i else "", STR, (STR,),
    ),
    "glued": End(
        "Return {items}, written one after the other without spaces between them.", ('return "".join(items)',),
        lambda i, _: _fold(lambda a, b: a + b, ["", *i]), STR, (STR,),
        (('written = ""',), ("written += {item}",), "written"),
    ),
    "longest": End(
        "Return the longest of {items}, the earliest of several; an empty string if there are none.",
        ('return max(items, key=len, default="")',),
        lambda i, _: sorted(i, key=lambda x: -len(x))[0] if i else "", STR, ("words", "keys"),
        (('best = ""',), ("if len({item}) > len(best):", "    best = {item}"), "best"),
    ),
    "shortest": End(
        "Return the shortest of {items}, the earliest of several; an empty string if there are none.",
        ('return min(items, key=len, default="")',),
        lambda i, _: sorted(i, key=len)[0] if i else "", STR, ("words", "keys"),
    ),
    "earliest": End(
        "Return that of {items} which comes first by character codes, or an empty string if there are none.",
        ('return min(items, default="")',), lambda i, _: sorted(i)[0] if i else "", STR, (STR,),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """What a topic narrows down; an empty tuple leaves a choice free."""

    sources: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()


# A topic, and which exercises belong to it. Topics "with" a filter or a map have one even where they are easy.
TOPICS = {
    "summing numbers": Topic(ends=("sum",)),
    "multiplying numbers": Topic(ends=("product",)),
    "counting": Topic(ends=("count",)),
    "counting different values": Topic(ends=("distinct",)),
    "averages": Topic(ends=("mean",)),
    "largest and smallest": Topic(ends=("largest", "smallest")),
    "ranges of values": Topic(ends=("spread",)),
    "second best": Topic(ends=("second largest",)),
    "alternating signs": Topic(ends=("alternating",)),
    "running totals": Topic(ends=("running total",)),
    "running extremes": Topic(ends=("running maximum", "running minimum")),
    "differences between neighbours": Topic(ends=("differences", "rises")),
    "list comprehensions": Topic(ends=("list",)),
    "reversing": Topic(ends=("reversed",)),
    "sorting": Topic(ends=("ascending", "descending")),
    "removing duplicates": Topic(ends=("unique",)),
    "finding duplicates": Topic(ends=("repeated", "all different")),
    "frequency tables": Topic(ends=("counts",)),
    "most frequent values": Topic(ends=("most common",)),
    "searching from the front": Topic(ends=("first",)),
    "searching from the back": Topic(ends=("last",)),
    "positions in a list": Topic(ends=("position", "numbered")),
    "slicing with a step": Topic(ends=("every kth",)),
    "beginnings and ends of lists": Topic(ends=("head", "tail")),
    "cutting lists into chunks": Topic(ends=("chunks",)),
    "rotating lists": Topic(ends=("rotated",)),
    "tuples of neighbours": Topic(ends=("pairs",)),
    "checking order": Topic(ends=("is sorted",)),
    "palindromes": Topic(ends=("is mirrored",)),
    "grouping in dictionaries": Topic(ends=("group",)),
    "conditions on all values": Topic(ends=("all",)),
    "conditions on some values": Topic(ends=("any",)),
    "joining strings": Topic(ends=("joined", "glued")),
    "longest and shortest words": Topic(ends=("longest", "shortest")),
    "alphabetical order": Topic(("words", "keys", "text"), ("earliest", "ascending", "descending")),
    "lists of words": Topic(("words",)),
    "characters of a string": Topic(("text",)),
    "digits of a number": Topic(("digits",)),
    "divisors": Topic(("divisors",)),
    "counting up to a number": Topic(("range",)),
    "keys of a dictionary": Topic(("keys",)),
    "values of a dictionary": Topic(("values",)),
    "nested lists": Topic(("rows",)),
    "lists of numbers": Topic(("numbers",)),
    "even and odd": Topic(filters=("even", "odd")),
    "signs of numbers": Topic(filters=("positive", "negative")),
    "thresholds": Topic(filters=("above", "below")),
    "divisibility": Topic(filters=("divisible", "indivisible")),
    "word lengths": Topic(filters=("long", "short")),
    "vowels and consonants": Topic(filters=("vowels", "consonants", "vowel start", "consonant start")),
    "upper and lower case": Topic(("words", "text", "keys"), maps=("upper", "lower")),
    "digits and letters in text": Topic(filters=("digits", "letters", "no letters")),
    "looking for letters in words": Topic(filters=("contains e", "contains a")),
    "squares and cubes": Topic(maps=("squares", "cubes")),
    "remainders": Topic(maps=("remainders", "last digits")),
    "absolute values and distances": Topic(maps=("absolute", "distances")),
    "multiples": Topic(maps=("doubles", "multiples")),
    "integer division": Topic(maps=("halves",)),
    "reversed strings": Topic(maps=("mirror images",)),
    "first and last letters": Topic(maps=("first letters", "last letters")),
    "character codes": Topic(maps=("codes",)),
}


@dataclass(frozen=True)
class Parts:
    """What an exercise is composed of; the blocks' phrases and expressions are filled in.

    Attributes:
        function, argument: names. source: where items come from, through: the expression that goes through them.
        filters, map: what stays, and what it becomes. end: what is made of it. k: the number in any of them.
        inputs, results: arguments, and what the function returns for them.
    """

    function: str
    argument: str
    source: Source
    through: str
    filters: tuple[Block, ...]
    map: Block | None
    end: End
    k: int
    inputs: list[Any]
    results: list[Any]

    @property
    def condition(self) -> str:
        """The expression of all filters; empty without any."""
        return " and ".join(_wrap(block.code, len(self.filters)) for block in self.filters)

    @property
    def value(self) -> str:
        """The expression of an item as the end sees it."""
        return self.map.code if self.map else self.source.item

    @property
    def example(self) -> int:
        """Number of the input that shows most in the fewest characters; a doctest prints nothing for None."""
        shown = zip(self.inputs, self.results, strict=True)
        keys = [(result is None, not result, len(repr(given))) for given, result in shown]
        return keys.index(min(keys))

    def list_of_items(self) -> str:
        """The expression of the list that the end is made of."""
        if not self.condition and not self.map:
            return f"list{self.through}" if self.through.startswith("(") else f"list({self.through})"
        condition = f" if {self.condition}" if self.condition else ""
        return f"[{self.value} for {self.source.item} in {self.through}{condition}]"

    def through_list(self) -> list[str]:
        """The body of the function: a list, and what is made of it."""
        return [f"items = {self.list_of_items()}", *(line.replace("{k}", str(self.k)) for line in self.end.body)]

    def through_loop(self) -> list[str]:
        """The same in one loop, which not every end has."""
        assert self.end.loop
        first, step, result = self.end.loop
        return [*first, *self.looped(step), f"return {result}"]

    def looped(self, step: Sequence[str]) -> list[str]:
        """Lines for an {item}, in a loop over all that stay."""
        lines = [f"for {self.source.item} in {self.through}:"]
        if self.condition:
            lines.append(f"    if {self.condition}:")
        deep = "    " * (2 if self.condition else 1)
        return [*lines, *(deep + line.replace("{item}", self.value) for line in step)]

    def head(self) -> str:
        """The line that defines the function."""
        kind = (self.map.gives if self.map else None) or self.source.kind
        return f"def {self.function}({self.argument}: {self.source.argument}) -> {self.end.gives.format(t=kind)}:"

    def sentence(self) -> str:
        """What the function does."""
        items = _items(self.source, self.argument, self.filters, self.map)
        return self.end.phrase.format(items=items, k=self.k, nth=_ORDINALS[self.k])


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Attributes:
        sentence: what it does. solution: the whole function, with its docstring. tests: assertions, one a line.
    """

    sentence: str
    solution: str
    tests: list[str] = field(default_factory=list)


def compose(topic: str, difficulty: str, function: str, noun: str, rng: np.random.Generator) -> Exercise:
    """One exercise of a topic, whose tests tell at least two results apart.

    Args:
        topic: a key of `TOPICS`. difficulty: one of `DIFFICULTIES`. function: its name. noun: a name for its argument.
        rng: everything else.
    """
    parts = compose_parts(topic, difficulty, function, noun, rng)
    lines = parts.through_loop() if parts.end.loop and rng.random() < 0.5 else parts.through_list()
    sentence, example = parts.sentence(), parts.example
    docstring = [
        *textwrap.wrap(sentence, 88), "", f">>> {function}({parts.inputs[example]!r})", repr(parts.results[example])
    ]  # fmt: skip
    body = textwrap.indent("\n".join(['"""' + docstring[0], *docstring[1:], '"""', *lines]), "    ", lambda _: True)
    body = "\n".join(line.rstrip() for line in body.splitlines())
    preface = "import math\n\n\n" if "math." in body else ""
    tests = [
        f"assert {function}({given!r}) {'is' if result is None or isinstance(result, bool) else '=='} {result!r}"
        for given, result in zip(parts.inputs, parts.results, strict=True)
    ]
    return Exercise(sentence, f"{preface}{parts.head()}\n{body}\n", tests)


def compose_parts(topic: str, difficulty: str, function: str, noun: str, rng: np.random.Generator) -> Parts:
    """What `compose` makes an exercise of."""
    while True:
        if parts := _attempt(TOPICS[topic], DIFFICULTIES.index(difficulty), function, noun, rng):
            return parts


def _attempt(topic: Topic, steps: int, function: str, noun: str, rng: np.random.Generator) -> Parts | None:
    """One draw; None if its blocks do not fit each other or its values cannot tell right from wrong."""
    source_name = _pick(topic.sources or tuple(SOURCES), rng)
    source = SOURCES[source_name]
    k = _pick(tuple(_ORDINALS), rng)
    filters = [_pick(topic.filters, rng)] if topic.filters else []
    map_name = _pick(topic.maps, rng) if topic.maps else None
    while len(filters) + (map_name is not None) < steps:
        if map_name is None and rng.random() < 0.5:
            map_name = _pick(tuple(MAPS), rng)
        else:
            filters.append(_pick(tuple(FILTERS), rng))
    blocks = [FILTERS[name] for name in filters] + ([MAPS[map_name]] if map_name else [])
    if len(set(filters)) < len(filters) or not all(_fits(block, source_name, source) for block in blocks):
        return None
    mapped = MAPS[map_name] if map_name else None
    kind = (mapped.gives if mapped else None) or source.kind
    end = _end(_pick(topic.ends or (*ENDS, "group", "any", "all"), rng), kind, rng)
    if end is None or not _ends(end, source_name, kind, mapped):
        return None

    argument = source.name or noun
    through = source.through.format(a=argument)
    parts = Parts(
        function, argument, source, through, tuple(_filled(FILTERS[name], source, k) for name in filters),
        _filled(mapped, source, k) if mapped else None, end, k, [], [],
    )  # fmt: skip
    condition = parts.condition
    reference = eval(
        f"lambda {argument}: [{parts.value} for {source.item} in {through} {condition and 'if ' + condition}]"
    )
    inputs = _inputs(source_name, eval(f"lambda {source.item}: {condition or True}"), rng)
    results = [end.reference(reference(given), k) for given in inputs]
    if len({repr(result) for result in results}) < 2 or all(result is None for result in results):
        return None
    return replace(parts, inputs=inputs, results=results)


def _filled(block: Block, source: Source, k: int) -> Block:
    return replace(block, phrase=block.phrase.format(k=k), code=block.code.format(x=source.item, k=k))


def _pick(values: Sequence[Any], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]


def _wrap(code: str, others: int) -> str:
    return f"({code})" if others > 1 and " and " in code else code


def _fits(block: Block, source_name: str, source: Source) -> bool:
    return (source_name in block.takes or source.kind in block.takes) and not (block.signed and source.natural)


def _ends(end: End, source_name: str, kind: str, mapped: Block | None) -> bool:
    return (kind in end.takes or (source_name in end.takes and kind == STR)) and (end.mapped or mapped is None)


def _end(name: str, kind: str, rng: np.random.Generator) -> End | None:
    """The end of that name; `group`, `any` and `all` are composed with a block of their own."""
    if name in ENDS:
        return ENDS[name]
    pool = KEYS if name == "group" else FILTERS
    fitting = tuple(key for key, block in pool.items() if kind in block.takes)
    if not fitting:
        return None
    block = pool[_pick(fitting, rng)]
    of_item = block.code.replace("{x}", "item")

    def judge(item: Any, k: int) -> Any:
        return eval(of_item.format(k=k), {"item": item})

    if name == "group":
        return End(
            f"Return a dictionary that groups {{items}} by {block.phrase}; its values are lists, in order.",
            ("groups = {}", "for item in items:", f"    groups.setdefault({of_item}, []).append(item)",
             "return groups"),
            lambda i, k: {key: [x for x in i if judge(x, k) == key] for key in dict.fromkeys(judge(x, k) for x in i)},
            f"dict[{block.gives or kind}, list[{{t}}]]",
            (kind,),
        )  # fmt: skip
    quantity, holds = ("all", "no value breaks this") if name == "all" else ("some", "one at least")
    return End(
        f"Return whether {quantity} of {{items}} {block.phrase} ({holds}).",
        (f"return {name}({of_item} for item in items)",),
        lambda i, k: [x for x in i if judge(x, k)] == i if name == "all" else sum(bool(judge(x, k)) for x in i) > 0,
        "bool",
        (kind,),
    )


def _items(source: Source, argument: str, filters: Sequence[Block], mapped: Block | None) -> str:
    """The items in English."""
    phrase = source.phrase.format(a=argument)
    if filters:
        phrase += " that " + " and ".join(block.phrase for block in filters)
    phrase = f"{'those' if filters else 'the'} {phrase}"
    return f"the {mapped.phrase} of {phrase}".replace("  ", " ") if mapped else phrase


def _inputs(source_name: str, keeps: Callable[[Any], bool], rng: np.random.Generator) -> list[Any]:
    """Arguments: an empty one where there is such, and others of which the filters keep about half."""

    def some(draw: Callable[[], Any], count: int) -> list[Any]:
        pool = [draw() for _ in range(_TRIES)]
        kept, lost = ([x for x in pool if bool(keeps(x)) is side] or pool for side in (True, False))
        return [_pick(kept if rng.random() < 0.6 else lost, rng) for _ in range(count)]

    def number() -> int:
        return int(rng.integers(-9, 16))

    def word() -> str:
        return _pick(_WORDS, rng)

    def one(count: int) -> Any:
        match source_name:
            case "numbers":
                return some(number, count)
            case "words":
                return some(word, count)
            case "text":
                return "".join(some(lambda: _pick(_TEXT, rng), 2 * count))
            case "digits":
                return int(rng.integers(10 ** max(count - 3, 0), 10 ** max(count - 2, 1)))
            case "range":
                return int(rng.integers(count, 2 * count + 1))
            case "divisors":
                return int(rng.integers(1, 13)) * max(count, 1)
            case "keys":
                return {key: number() for key in dict.fromkeys(some(word, count))}
            case "values":
                return dict(zip(rng.permutation(_WORDS).tolist(), some(number, count), strict=False))
            case _:
                return [some(number, int(rng.integers(0, 4))) for _ in range(count // 2)]

    counts = [*rng.integers(3, 8, size=TESTS - 1), 0]
    return [one(int(count)) for count in counts]
