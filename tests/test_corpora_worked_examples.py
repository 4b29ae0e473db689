"""Worked examples of the grammar: whatever a section says of its programs is true of them when they run."""

import asyncio
import contextlib
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from hf_tasks.corpora.base import Row
from hf_tasks.corpora.diversity import alike_openings
from hf_tasks.corpora.worked_examples import (
    BUG,
    COMPARISON,
    WORKED,
    WorkedExamples,
    WorkedExampleWriter,
)

CORPUS, WRITER = WorkedExamples(), WorkedExampleWriter()
ROWS = 240


def written(index: int, seed: int = 0) -> Row:
    """A row as the grammar writes it; raises Rejected where it would not be kept."""
    parameters = CORPUS.parameters(index, seed)
    request = CORPUS.request(index, parameters)
    return parameters | CORPUS.read(request, asyncio.run(WRITER.write(request, 0)).text)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [written(index) for index in range(ROWS)]


def printed(program: str) -> str:
    """What a program prints when it runs."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(program, {})
    return output.getvalue().rstrip("\n")


def test_every_section_says_what_its_programs_print(rows: list[Row]) -> None:
    blank = {"an empty line": "", "a line of nothing but spaces": " "}
    for row in rows:
        found = re.search(r"(?:prints|Both print) (`.*?`|an empty line|a line of nothing but spaces)\.", row["body"])
        assert found, row["body"]
        for program in row["code"]:
            shown = printed(program)
            assert found[1] == f"`{shown}`" or blank[found[1]] == (shown and " ")


def test_both_solutions_of_a_comparison_print_the_same(rows: list[Row]) -> None:
    compared = [row for row in rows if row["style"] == COMPARISON]
    assert len(compared) == ROWS // 4
    for row in compared:
        first, second = row["code"]
        assert first != second
        assert printed(first) == printed(second)


def test_the_list_with_a_bug_is_wrong_and_gives_what_the_section_says(rows: list[Row]) -> None:
    buggy = [row for row in rows if row["style"] == BUG]
    assert len(buggy) == ROWS // 4
    for row in buggy:
        said = re.search(r"began with `items = (.*?)`, and for `(\w+ = .*?)` .*? `(.*)`\.$", row["body"], re.MULTILINE)
        assert said, row["body"]
        (right,) = row["code"]
        lines = right.splitlines()
        place = next(n for n, line in enumerate(lines) if line.lstrip().startswith("items = "))
        wrong = [*lines[:place], f"    items = {said[1]}", *lines[place + 1 :]]
        space: dict[str, object] = {}
        with contextlib.redirect_stdout(io.StringIO()):
            exec("\n".join(wrong), space)
            exec(said[2], space)
        argument = said[2].split(" =")[0]
        result = eval(f"{row['verb']}_{row['noun']}({argument})", space)
        assert repr(result) == said[3]
        assert str(result) != printed(right)


def test_the_other_calls_of_a_section_return_what_it_says(rows: list[Row]) -> None:
    count = 0
    for row in rows:
        name = f"{row['verb']}_{row['noun']}"
        space: dict[str, object] = {}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(row["code"][-1], space)
        for call, result in re.findall(rf"`({name}\([^`]*\))` is `([^`]*)`", row["body"]):
            assert repr(eval(call, space)) == result
            count += 1
    assert count == 2 * ROWS


def test_sections_open_in_their_own_words(rows: list[Row]) -> None:
    share, commonest = alike_openings([row["body"] for row in rows])
    assert share < 0.02, commonest


def test_what_is_said_of_loops_and_lists_is_so(rows: list[Row]) -> None:
    for row in rows:
        loop = re.search(r"`(for \w+ in [^`]*)`", row["body"])
        assert not loop or any(loop[1] in program for program in row["code"])
        for program in row["code"][1:]:  # of a comparison
            assert ("no list is needed" in row["body"]) == ("[]\n" not in program)
            assert "The first is shorter." not in row["body"] or len(row["code"][0]) < len(program)
        calls = re.findall(r"(`\w+\(.*?\)`) is `", row["body"])
        assert len(calls) == len(set(calls))


def test_a_section_has_something_to_explain() -> None:
    """Long texts are no reason to explain the empty one, and inputs that are all alike none to fail."""
    axes = {"difficulty": "easy", "style": WORKED, "verb": "tally", "noun": "coins"}
    for topic in ("characters of a string", "divisors", "counting up to a number"):
        for seed in range(400):
            text = WRITER.compose({**axes, "topic": topic}, np.random.default_rng(seed))
            assert not re.search(r"\(''\)\)|so that \.|: \.", text), text


def test_a_section_is_the_same_for_ever_and_seeds_differ() -> None:
    assert written(7) == written(7)
    assert written(7)["body"] != written(7, seed=1)["body"]


def test_what_programs_write_is_the_same_in_every_process() -> None:
    """Sets of strings, for one, are shown in another order where PYTHONHASHSEED is another."""
    program = """
import asyncio, hashlib
from hf_tasks.corpora import GRAMMARS, get_corpus
digest = hashlib.sha256()
for name, writer in GRAMMARS.items():
    corpus = get_corpus(name)
    for index in range(400):
        request = corpus.request(index, corpus.parameters(index, 0))
        digest.update(asyncio.run(writer().write(request, 0)).text.encode())
print(digest.hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_example_of_the_docstring_is_a_row_that_is_asked_for() -> None:
    example = WorkedExamples.__doc__ or ""
    row = {"topic": "summing numbers", "difficulty": "medium", "style": COMPARISON, "noun": "coins"}
    for axis, value in row.items():
        assert value in example
        assert value in CORPUS.axes[axis]
