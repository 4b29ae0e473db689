"""Worked examples: sections of a textbook that take one small program apart, in prose and code.

- These are the sections of `textbook` that a program can write as well: their topics are those of the exercises, so
  that a model can read how a thing is done before it does it, as phi-1 did (Gunasekar et al. 2023, section 2).
- `WorkedExampleWriter` answers with no model: an exercise of `exercise_templates` is taken apart, block by block.
  Whatever a section says of values was computed, and the list that it calls wrong is wrong for the input it names.
"""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from hf_tasks.corpora.base import Parameters, Request, TemplateWriter
from hf_tasks.corpora.code_exercises import NOUNS, VERBS, function_name
from hf_tasks.corpora.exercise_templates import DIFFICULTIES, TOPICS, Parts, compose_parts
from hf_tasks.corpora.textbook import STYLES, Textbook

WORKED, DIALOGUE, BUG, COMPARISON = (
    "worked examples", "a dialogue of teacher and student", "the account of a bug", "a comparison of two solutions",
)  # fmt: skip
_STEPS = {
    "easy": "The program takes one step.",
    "medium": "The program combines two ideas.",
    "hard": "The program combines three ideas.",
}


class WorkedExamples(Textbook):
    """Sections of a textbook, each on one function, that say how it is made, why it works and what it returns.

    Example: "summing numbers", "medium", "a comparison of two solutions", `tally_coins` -> the sum of the squares of
    `coins`, once through a list and once in a loop, with what both print.
    """

    name = "worked_examples"
    min_words: ClassVar = 60  # much of a section is code

    @property
    def axes(self) -> dict[str, Sequence[str]]:
        styles = (WORKED, DIALOGUE, BUG, COMPARISON)
        return {"topic": tuple(TOPICS), "difficulty": DIFFICULTIES, "style": styles, "verb": VERBS, "noun": NOUNS}

    def request(self, index: int, parameters: Parameters) -> Request:
        style = parameters["style"]
        task = (
            f"Write one section of a textbook of Python programming, of 200 to 400 words, about {parameters['topic']}. "
            f"It takes one function apart, which is called `{function_name(parameters)}`. "
            f"{_STEPS[parameters['difficulty']]}\n"
            f"Its form is {style}. {STYLES[style]}\n"
            "Prose and code take turns: at least one short Python program, in a block fenced by ```python and ```, "
            "that runs by itself on the standard library. The prose says what each expression is for, what it is "
            "worth for a value of the example, and what the program prints.\n"
            'Begin at once with the subject: no title, no greeting, no "In this chapter" or "Welcome to", and no other '
            "stock opening. No images, no links, and nothing about these instructions."
        )
        return Request(self.name, index, parameters, [{"role": "user", "content": task}], max_tokens=1024)


class WorkedExampleWriter(TemplateWriter):
    """Answers the requests of `WorkedExamples` with exercises taken apart; no model."""

    version: ClassVar = 2

    def compose(self, parameters: Parameters, rng: np.random.Generator) -> str:
        name, noun = function_name(parameters), parameters["noun"]
        while True:
            example = _Example(compose_parts(parameters["topic"], parameters["difficulty"], name, noun, rng), rng)
            if paragraphs := _FORMS[parameters["style"]](example):
                return "\n\n".join(paragraphs)


class _Example:
    """An exercise with one of its inputs, and sentences about it.

    Attributes:
        parts: of the exercise. given, result: an input of which most can be said, and what is returned for it.
        all, kept, made: the items of that input: all of them, those that the filters keep, and as the end sees them.
    """

    def __init__(self, parts: Parts, rng: np.random.Generator) -> None:
        self.parts, self._rng = parts, rng
        seen = [(given, result, *self._items(given)) for given, result in zip(parts.inputs, parts.results, strict=True)]
        # Something stays, all of it fits in a sentence, something goes, something is returned.
        best = max(seen, key=lambda one: (bool(one[3]), len(one[2]) <= 9, one[3] != one[2], bool(one[1]), -len(one[2])))
        self.given, self.result, self.all, self.kept, self.made = best

    def one_of(self, *phrases: str) -> str:
        """One of several ways to say it."""
        return phrases[int(self._rng.integers(len(phrases)))]

    # Sentences.

    def task(self) -> str:
        """What the function is for. Its name comes early, so that few sections open alike."""
        parts, what = self.parts, self.what()
        article = "an" if parts.source.argument == "int" else "a"
        given = f"`{parts.argument}`, {article} `{parts.source.argument}`"
        want = "want to know" if what.startswith(("whether", "how")) else "want"
        return self.one_of(
            f"`{parts.function}` takes {given}, and returns {what}.",
            f"Let `{parts.function}` be a function of {given}, that returns {what}.",
            f"For `{parts.function}` we are given {given}, and {want} {what}.",
            f"We write `{parts.function}` for {given}. It finds {what}.",
            f"What is `{parts.function}` to do? It is given {given}, and we {want} {what}.",
        )

    def what(self) -> str:
        """What the function returns."""
        return self.parts.sentence().removeprefix("Return ").removesuffix(".")

    def way(self, in_loop: bool = False) -> list[str]:
        """What each block is for, a paragraph each; `in_loop`: a program that is shown has a loop."""
        parts, item = self.parts, self.parts.source.item
        if not (in_loop or parts.filters or parts.map):
            return [f"We need the {self.source()}, in a list: `{parts.list_of_items()}`."]
        said = [
            self.one_of(
                f"We go through the {self.source()} one by one: `for {item} in {parts.through}`.",
                f"`for {item} in {parts.through}` goes through the {self.source()}.",
                f"First we need the {self.source()}. A loop has them one by one: `for {item} in {parts.through}`.",
            )
        ]
        said += [self.filter(n) for n in range(len(parts.filters))]
        if parts.map:
            said.append(self.map())
        return said

    def source(self) -> str:
        """Where items come from."""
        return self.parts.source.phrase.format(a=self.parts.argument)

    def filter(self, number: int) -> str:
        """What a filter keeps, with values for which it is true and false."""
        block = self.parts.filters[number]
        judged: dict[str, str] = {}
        for value in self.all:
            judged.setdefault(str(bool(self._value(block.code, value))), repr(value))
        values = " and ".join(f"for {value} it is {truth}" for truth, value in judged.items())
        return self.one_of(
            f"Only those count that {block.phrase}. The condition is `{block.code}`: {values or 'true or false'}.",
            f"Which of them {block.phrase}? That is what `{block.code}` says: {values or 'true or false'}.",
            f"We keep those that {block.phrase}, by `if {block.code}`; {values or 'the others go'}.",
        )

    def map(self) -> str:
        """What becomes of an item, with values."""
        block, item = self.parts.map, self.parts.source.item
        assert block
        pairs = dict(zip(map(repr, self.kept), map(repr, self.made), strict=True))
        values = " and ".join(f"{before} becomes {after}" for before, after in [*pairs.items()][:2])
        made = block.phrase.strip()
        return self.one_of(
            f"We want the {made.removesuffix(',')}: in place of each `{item}` stands `{block.code}`, so that {values}.",
            f"Of each `{item}` we need `{block.code}`, for it is the {made} that we are after: {values}.",
            f"`{block.code}` makes the {made} of them; {values}.",
        )

    def steps(self) -> str:
        """The values of the example, from the input to the result."""
        parts, said = self.parts, [f"the {self.source()} are {_listed(self.all)}"]
        if parts.filters:
            said.append(f"those that {' and '.join(b.phrase for b in parts.filters)} are {_listed(self.kept)}")
        if parts.map:
            said.append(f"of these the {parts.map.phrase.strip()} are {_listed(self.made)}")
        begin = self.one_of("Step by step", "By hand", "Let us follow it", "In numbers")
        return f"{begin}, for `{parts.argument} = {self.given!r}`: {'; '.join(said)}. The result is `{self.result!r}`."

    def others(self) -> str:
        """What the function returns for two other inputs, if there are two."""
        parts = self.parts
        shown = {repr(given): (given, result) for given, result in zip(parts.inputs, parts.results, strict=True)}
        calls = [(given, result) for given, result in shown.values() if given != self.given]
        chosen = [calls[int(self._rng.integers(len(calls) - 1))], calls[-1]] if len(calls) > 1 else calls
        said = [f"`{parts.function}({given!r})` is `{result!r}`" for given, result in chosen]
        if len(said) == 1:
            return f"In the same way {said[0]}."
        return self.one_of(
            f"In the same way {said[0]}, and {said[1]}.",
            f"Try another: {said[0]}. And {said[1]}.",
            f"Two more calls: {said[0]}, and {said[1]}.",
        )

    def last_lines(self) -> str:
        """What the lines behind the list do."""
        lines = self.parts.through_list()[1:]
        if len(lines) == 1:
            return f"Then `{lines[0]}` makes of the list what we want."
        count = {2: "two", 3: "three"}.get(len(lines), "next")
        return f"The {count} lines behind the list make of it what we want."

    def loop_states(self) -> str:
        """How the variables of the loop change, item by item."""
        loop = self.parts.end.loop
        assert loop
        first, step, _ = loop
        names = ", ".join(line.split(" =")[0] for line in first)
        space: dict[str, Any] = {}
        exec("\n".join(first), space)
        said = [f"`{names}` is `{_shown(eval(names, space))}` before the loop"]
        for item, made in [*zip(self.kept, self.made, strict=True)][:5]:
            exec("\n".join(line.replace("{item}", "made") for line in step), space | {"made": made}, space)
            said.append(f"`{_shown(eval(names, space))}` after {item!r}")
        return ", ".join(said) + (", and so on." if len(self.kept) > 5 else ".")

    # Programs.

    def program(self, lines: Sequence[str]) -> str:
        """A block of Python: the function with this body, called on the example."""
        call = f"print({self.parts.function}({self.given!r}))"
        return f"```python\n{_source(self.parts, lines)}\n\n\n{call}\n```"

    def prints(self, result: Any) -> str:
        """What the program prints."""
        said = _printed(result)
        return self.one_of(f"It prints {said}.", f"This prints {said}.", f"The program prints {said}.")

    def loop(self) -> list[str]:
        """A body that has a loop: that of the end, or one that collects the items."""
        parts = self.parts
        if parts.end.loop:
            return parts.through_loop()
        return ["items = []", *parts.looped(("items.append({item})",)), *parts.through_list()[1:]]

    def wrong(self) -> tuple[str, str, Any] | None:
        """A list with a mistake, what was forgotten, and what is returned for the example; None if no mistake shows."""
        parts = self.parts
        rest = parts.through_list()[1:]
        item, right = parts.source.item, parts.list_of_items()
        condition = f" if {parts.condition}" if parts.condition else ""
        mistakes = []
        if parts.filters:
            what = " and ".join(block.phrase for block in parts.filters)
            made = f"[{parts.value} for {item} in {parts.through}]"
            mistakes.append((f"Nothing asks whether they {what}: the condition `{parts.condition}` is missing.", made))
        if parts.map:
            what = parts.map.phrase.strip().removesuffix(",")
            made = f"[{item} for {item} in {parts.through}{condition}]"
            mistakes.append(
                (f"The values themselves are in the list, not the {what}: `{parts.value}` is missing.", made)
            )
        mistakes.append(("The slice `[1:]` leaves out the first one, which counts as well.", f"{right}[1:]"))
        for why, made in mistakes:
            try:
                result = _returned(parts, [f"items = {made}", *rest], self.given)
            except (TypeError, ValueError, IndexError):  # it fails instead: another story
                continue
            if repr(result) != repr(self.result):
                return why, made, result
        return None

    # Values.

    def _items(self, given: Any) -> tuple[list[Any], list[Any], list[Any]]:
        parts = self.parts
        space = {parts.argument: given}
        everything = list(eval(parts.through, space))
        kept = [one for one in everything if self._value(parts.condition or "True", one)]
        return everything, kept, [self._value(parts.value, one) for one in kept]

    def _value(self, code: str, item: Any) -> Any:
        return eval(code, {self.parts.source.item: item})


def _worked(example: _Example) -> list[str]:
    parts = example.parts
    in_loop = parts.end.loop is not None and example.one_of("list", "loop") == "loop"
    lines = parts.through_loop() if in_loop else parts.through_list()
    way = " ".join(example.way(in_loop))
    behind = f"Followed through the loop: {example.loop_states()}" if in_loop else example.last_lines()
    return [
        example.task(), way, example.program(lines),
        f"{example.prints(example.result)} {behind}", f"{example.steps()} {example.others()}",
    ]  # fmt: skip


def _dialogue(example: _Example) -> list[str]:
    way, parts = example.way(), example.parts
    turns = [f"Teacher: {example.task()} How do you begin?", f"Student: {way[0]}"]
    for said in way[1:]:
        asked = example.one_of("Is that all?", "And what do you do with each of them?", "What else is in the task?")
        turns += [f"Teacher: {asked}", f"Student: {said}"]
    turns += [
        "Teacher: Then write it down.", example.program(parts.through_list()),
        f"Student: {example.prints(example.result)} {example.last_lines()}",
        f"Teacher: {example.one_of('How do you know that it is right?', 'Can you check it by hand?')}",
        f"Student: {example.steps()}", f"Teacher: {example.others()}",
    ]  # fmt: skip
    return turns


def _bug(example: _Example) -> list[str]:
    found = example.wrong()
    if found is None:
        return []
    why, wrong, result = found
    parts = example.parts
    return [
        f"{example.task()} Somebody began with `items = {wrong}`, and for `{parts.argument} = {example.given!r}` "
        f"{example.one_of('the result was', 'got', 'what came back was')} `{result!r}`.",
        f"But that is wrong. {example.steps()}",
        f"Where is the mistake? {' '.join(example.way())} Look at the list again. {why}",
        f"So this is the {example.one_of('right', 'corrected')} program:", example.program(parts.through_list()),
        f"{example.prints(example.result)} {example.last_lines()} {example.others()}",
    ]  # fmt: skip


def _comparison(example: _Example) -> list[str]:
    parts = example.parts
    states = f" {example.loop_states()}" if parts.end.loop else ""
    with_list, with_loop = (example.program(lines) for lines in (parts.through_list(), example.loop()))
    other = "the list grows step by step" if "[]\n" in with_loop else "no list is needed"
    verdicts = ["The list is easier to read.", "The loop shows every step."]
    if len(with_list) < len(with_loop):
        verdicts.append("The first is shorter.")
    return [
        f"{example.task()} There are two ways to write it.", " ".join(example.way(in_loop=True)),
        f"The first makes a list. {example.last_lines()}", with_list,
        f"The second is a loop, in which {other}:", with_loop,
        f"Both print {_printed(example.result)}.{states} {example.steps()}",
        f"{example.one_of(*verdicts)} {example.others()}",
    ]  # fmt: skip


_FORMS: dict[str, Callable[[_Example], list[str]]] = {
    WORKED: _worked, DIALOGUE: _dialogue, BUG: _bug, COMPARISON: _comparison,
}  # fmt: skip


def _printed(result: Any) -> str:
    if str(result).strip():
        return f"`{result}`"
    return "a line of nothing but spaces" if str(result) else "an empty line"


def _shown(value: Any) -> str:
    """A value as Python shows it, a set in order: that of strings differs between processes."""
    if isinstance(value, set) and value:
        return f"{{{', '.join(map(repr, sorted(value)))}}}"
    return repr(value)


def _listed(values: Sequence[Any]) -> str:
    if not values:
        return "none"
    return " and ".join(filter(None, (", ".join(map(repr, values[:-1])), repr(values[-1]))))


def _source(parts: Parts, lines: Sequence[str]) -> str:
    body = textwrap.indent("\n".join(lines), "    ")
    preface = "import math\n\n\n" if "math." in body else ""
    return f"{preface}{parts.head()}\n{body}"


def _returned(parts: Parts, lines: Sequence[str], given: Any) -> Any:
    space: dict[str, Any] = {}
    exec(_source(parts, lines), space)
    return space[parts.function](given)
