"""Programs in C, against a C compiler and against Python.

- gcc is the outside truth for every answer: samples become one file of functions, compiled with all warnings as errors
  and with the sanitizers for undefined behaviour and addresses.
- Python is the second one, for depths, parents and executions: a few regular expressions turn a prompt into Python,
  which `exec` runs; nothing of the parser, the interpreter or the generator is used.
"""

import random
import re
import shutil
import string
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks.errors import UserError
from hf_tasks.tasks import get_task
from hf_tasks.tasks.c_generator import ShapeCount
from hf_tasks.tasks.c_language import COUNTERS, NAMES
from hf_tasks.tasks.programs import TARGETS, Programs
from hf_tasks.tokenizer import build_tokenizer

GCC = shutil.which("gcc")
# Parameters that reach every corner of the language.
STYLES: dict[str, dict[str, Any]] = {
    "default": {},
    "deep": {"nesting": (3, 3), "lines": (12, 20), "steps": 400, "rounds": 5},
    "wide": {"modulus": 100, "alphabet": len(NAMES), "variables": (1, 12), "lines": (14, 24), "rounds": 9},
    "bits": {"modulus": 2, "statements": ["straight", "if", "while"], "operators": ["+", "-"]},
    "loops": {"statements": ["straight", "for", "while"], "lines": (9, 14), "nesting": (1, 3), "variables": (3, 5)},
    "products": {"operators": ["*"], "statements": ["straight", "if", "for"], "modulus": 97},
}


def task_of(style: str, **parameters: Any) -> Programs:
    task = get_task("programs", **{**STYLES[style], **parameters})
    assert isinstance(task, Programs)
    return task


def rows_of(task: Programs, size: int = 300, split: str = "train", **where: int) -> list[dict[str, Any]]:
    return task.table(split, size, **where).to_pylist()


# What every target asks, by hand.

PROGRAM = """\
int a = 3;
int b = (a * 2 + 5) % 10;
for (int i = 0; i < 2; i++) {
  a = (a + 10 - i + b) % 10;
  if (a == 4) {
    b = a;
  } else {
    b = 9;
  }
}
while (b > 2) {
  a = b;
  b = (b + 10 - 3) % 10;
}
if (a < b) {
  a = 0;
}
"""
# a=3 b=1; i=0: a=3+10-0+1=14 -> 4, b=4; i=1: a=4+10-1+4=17 -> 7, b=9; b>2: a=9 b=6, a=6 b=3, a=3 b=0; 3 < 0 fails.
CHANGES = "a3;b1;a4;b4;a7;b9;a9;b6;a6;b3;a3;b0;"
ANSWERS = {
    "changes": CHANGES,
    "trace": "a3;a3b1;a4b1;a4b4;a7b4;a7b9;a9b9;a9b6;a6b6;a6b3;a3b3;a3b0;",
    "labels": "3;1;7;4;9;3;0;-;",
}


def test_a_program_worked_out_by_hand() -> None:
    for target, answer in ANSWERS.items():
        assert task_of("default", target=target).answer(PROGRAM) == answer
    assert task_of("default").answer(PROGRAM + 'printf("%d", a);\n') == "3"
    printing = PROGRAM.replace("  a = b;\n", '  a = b;\n  printf("%d;", b);\n') + 'printf("%d;", a);\n'
    assert task_of("default", target="output").answer(printing) == "9;6;3;3;"


def test_labels_depths_and_parents_of_the_program_worked_out_by_hand() -> None:
    task = task_of("default", target="labels")
    problems = task._parse(PROGRAM)
    row = {name: column.to_pylist()[0] for name, column in task._write(problems, "train").items()}
    assert row["labels"] == [3, 1, 7, 4, 9, 3, 0, -100]
    assert row["executions"] == [1, 1, 2, 1, 1, 3, 3, 0]
    # a=3: 1. b from a: 2. a from a and b: 3, b=a: 4, a from b: 5. b=9: 1, and then a=b and b=b-3 three times each.
    assert row["depths"] == [1, 2, 5, 4, 1, 4, 4, 0]
    assert row["parents"] == [-1, 0, 3, 2, -1, 6, 6, -1]
    assert "".join(PROGRAM[place] for place in row["read_positions"]) == "ababbaba"
    spans = zip(row["clause_starts"], row["clause_ends"], strict=True)
    assert [PROGRAM[low:high] for low, high in spans] == [
        "int a = 3;\n",
        "int b = (a * 2 + 5) % 10;\n",
        "a = (a + 10 - i + b) % 10;\n",
        "b = a;\n",
        "b = 9;\n",
        "a = b;\n",
        "b = (b + 10 - 3) % 10;\n",
        "a = 0;\n",
    ]
    # 2 declarations; `for` 3 times, `a =` and `if` and `b =` twice; `while` 4 times, its lines 3 times; the last `if`.
    assert row["steps"] == 2 + 3 + 2 * 3 + 4 + 2 * 3 + 1
    scalars = {"lines": 17, "depth": 5, "nesting": 2, "branches": 2, "loops": 2}
    assert {name: row[name] for name in scalars} == scalars


# Written down from this implementation: what is published must be the same in later versions.
GOLDEN = """\
int e = 6;
int h = (e * e) % 10;
int g = (9 * h) % 10;
for (int k = 0; k < 4; k++) {
  while (h > 4) {
    e = g;
    h = (h + 10 - 3) % 10;
  }
  if (e != h) {
    g = (k * g + 10 - k) % 10;
  }
}
printf("%d", g);
-> 5"""


def test_a_program_of_the_training_split_stays_what_it_is() -> None:
    row = rows_of(task_of("default"), 1, start=40)[0]
    assert f"{row['prompt']}-> {row['answer']}" == GOLDEN


# The compiler.


def compiled_output(sources: list[str], folder: Path) -> list[str]:
    """What whole programs print: gcc makes one of all, a function for each, and stops at the first undefined step."""
    if GCC is None:
        pytest.skip("gcc is not installed, and without a C compiler there is nothing to compare with")
    parts = ["#include <stdio.h>\n"]
    for number, source in enumerate(sources):
        assert source.startswith("#include <stdio.h>\n\nint main(void) {\n")
        parts.append(
            source.removeprefix("#include <stdio.h>\n").replace("int main(void)", f"static int f{number}(void)")
        )
    calls = "\n".join(f'f{number}(); printf("\\n");' for number in range(len(sources)))
    parts.append(f"int main(void) {{\n{calls}\nreturn 0;\n}}\n")
    (folder / "all.c").write_text("".join(parts))
    warnings = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wno-unused"]
    flags = ["-O0", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
    subprocess.run([GCC, *warnings, *flags, "-o", "all", "all.c"], cwd=folder, check=True, timeout=300)
    done = subprocess.run([folder / "all"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("style", STYLES)
def test_gcc_prints_every_value_of_the_trace_and_finds_nothing_undefined(style: str, tmp_path: Path) -> None:
    task = task_of(style, target="trace")
    rows = rows_of(task, 600, seed=1)
    sources = [task.c_source(row["prompt"]) for row in rows]
    assert compiled_output(sources, tmp_path) == [row["answer"] for row in rows]


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "trace"])
def test_gcc_prints_the_answers_of_other_targets_and_finds_nothing_undefined(target: str, tmp_path: Path) -> None:
    sources, answers = [], []
    for style in STYLES:
        task = task_of(style, target=target)
        rows = rows_of(task, 60, seed=2)
        sources += [task.c_source(row["prompt"]) for row in rows]
        answers += [row["answer"] for row in rows]
    assert compiled_output(sources, tmp_path) == answers


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("for (int i = 0; i < 9; i++) a = (a + 2147483647) % 10;", "signed integer overflow"),
        ("int b = a - 3;\na = a % b;", "division by zero"),
        ("int b[2] = {a, a};\nfor (int i = 0; i < 3; i++) a = b[i];", "out of bounds"),
    ],
)
def test_the_sanitizers_do_find_what_is_undefined(statement: str, message: str, tmp_path: Path) -> None:
    source = (
        task_of("default").c_source('int a = 3;\nprintf("%d", a);\n').replace("int a = 3;", f"int a = 3;\n{statement}")
    )
    with pytest.raises(AssertionError, match=message):
        compiled_output([source], tmp_path)


def test_the_source_of_one_prompt_is_a_whole_program(tmp_path: Path) -> None:
    if GCC is None:
        pytest.skip("gcc is not installed, and without a C compiler there is nothing to compare with")
    task = task_of("default")
    (tmp_path / "one.c").write_text(task.c_source(PROGRAM + 'printf("%d", a);\n'))
    subprocess.run([GCC, "-o", "one", "one.c"], cwd=tmp_path, check=True, timeout=60)
    assert subprocess.run([tmp_path / "one"], capture_output=True, text=True, check=True).stdout == "3"


# Python as the second interpreter.


class Memory(dict):
    """Variables of a program run as Python, which notes where every value comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.source: dict[str, tuple[int, int]] = {}  # variable -> depth, clause
        self.last: dict[int, tuple[int, int, int, int]] = {}  # clause -> value, depth, parent, executions

    def note(self, clause: int, name: str, value: int, operands: str) -> None:
        sources = [self.source.get(operand, (0, -1)) for operand in re.findall("[a-z]", operands)]
        depth, parent = max(sources, key=lambda source: source[0], default=(0, -1))
        self.source[name] = depth + 1, clause
        self.last[clause] = value, depth + 1, parent, self.last.get(clause, (0, 0, 0, 0))[3] + 1


def run_as_python(prompt: str) -> Memory:
    lines, clause = [], 0
    for line in prompt.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        text = line.strip()
        if match := re.fullmatch(r"for \(int (.) = 0; . < (\d+); .\+\+\) {", text):
            lines.append(f"{indent}for {match[1]} in range({match[2]}):")
        elif match := re.fullmatch(r"(if|while) \((.*)\) {", text):
            lines.append(f"{indent}{match[1]} {match[2]}:")
        elif text == "} else {":
            lines.append(f"{indent}else:")
        elif text != "}" and not text.startswith("printf"):
            name, expression = text.removeprefix("int ").rstrip(";").split(" = ")
            lines += [f"{indent}{name} = {expression}", f"{indent}note({clause}, {name!r}, {name}, {expression!r})"]
            clause += 1
    memory = Memory()
    exec("\n".join(lines), {"note": memory.note}, memory)
    return memory


@pytest.mark.parametrize("target", ["value", "labels"])
@pytest.mark.parametrize("style", STYLES)
def test_columns_are_what_python_finds(style: str, target: str) -> None:
    low, high = asked = (2, 6)
    task = task_of(style, target=target, asked=asked)
    for row in rows_of(task):
        prompt, memory = row["prompt"], run_as_python(row["prompt"])
        found = [memory.last.get(clause, (-100, 0, -1, 0)) for clause in range(len(row["labels"]))]
        columns = [row[name] for name in ("labels", "depths", "parents", "executions")]
        assert [list(column) for column in zip(*found, strict=True)] == columns
        assert row["asked"] == [low <= depth <= high for depth in row["depths"]]
        clauses = [
            (m.start(1), m.start(2), m.end()) for m in re.finditer(r"^ *((?:int )?([a-z]) = .*\n)", prompt, re.M)
        ]
        assert clauses == list(zip(row["clause_starts"], row["read_positions"], row["clause_ends"], strict=True))
        assert row["branches"] == prompt.count("if (")
        assert row["loops"] == prompt.count("for (") + prompt.count("while (")
        assert row["nesting"] == max(len(re.match(" *", line)[0]) for line in prompt.splitlines()) // 2
        if target == "value":
            question = re.search(r'printf\("%d", (.)\);\n\Z', prompt)
            assert row["answer"] == str(memory[question[1]])
            assert row["depth"] == memory.source[question[1]][0]
            assert low <= row["depth"] <= high
        else:
            told = [depth for depth, is_asked in zip(row["depths"], row["asked"], strict=True) if is_asked]
            assert row["depth"] == max(told, default=0)


# Parameters are kept to.


def test_lines_nesting_and_variables_have_their_bounds_and_reach_them() -> None:
    rows = rows_of(task_of("default", lines=(7, 15), nesting=(1, 2), variables=(1, 4)), 2000)
    assert {row["lines"] for row in rows} == {*range(7, 16)}
    assert {row["nesting"] for row in rows} == {1, 2}
    assert {row["prompt"].count("int ") - row["prompt"].count("(int ") for row in rows} == {1, 2, 3, 4}
    assert all(row["lines"] == len(row["prompt"].splitlines()) - 1 for row in rows)
    rows = rows_of(task_of("default", lines=(7, 9), target="output"), 500)
    assert {row["lines"] for row in rows} == {7, 8, 9} == {len(row["prompt"].splitlines()) for row in rows}


@pytest.mark.parametrize("kinds", [["if"], ["for"], ["while"], ["if", "while"], []])
def test_statements_are_those_that_were_named(kinds: list[str]) -> None:
    nesting = (1, 2) if kinds else (0, 2)
    rows = rows_of(task_of("default", statements=["straight", *kinds], nesting=nesting, lines=(12, 12)), 400)
    text = "".join(row["prompt"] for row in rows)
    assert {kind for kind in ("if", "for", "while") if f"{kind} (" in text} == {*kinds}


def test_operands_operators_rounds_alphabet_and_steps_are_kept_to() -> None:
    task = task_of(
        "default", operands=2, operators=["-"], rounds=3, alphabet=5, steps=20, lines=(12, 12), target="trace"
    )
    rows = rows_of(task, 1000)
    text = "".join(row["prompt"] for row in rows)
    assert "*" not in text
    assert not re.search(r"\+ (?!10 - )", text.replace("++", ""))
    assert {int(bound) for bound in re.findall(r"; [ijk] < (\d+); ", text)} == {2, 3}
    assert {*re.findall("int ([^i-k])", text)} == set("abcde")
    assert max(row["steps"] for row in rows) == 20
    assert not re.search(r"- . \+ 10 -", text)


def test_while_loops_turn_at_most_rounds_times() -> None:
    turns = set()
    task = task_of("default", statements=["straight", "while"], rounds=3, modulus=50, nesting=(1, 1), lines=(10, 10))
    for row in rows_of(task, 500):
        last_of_loop = [m.start() for m in re.finditer(r"^  . = .*\n}", row["prompt"], re.M)]
        ends = [row["clause_starts"].index(place + 2) for place in last_of_loop]
        turns |= {row["executions"][clause] for clause in ends}
    assert turns == {0, 1, 2, 3}


def test_depth_and_asked_are_kept_to() -> None:
    task = task_of("default", depth=(5, 7), asked=(4, 6), lines=(10, 12))
    rows = rows_of(task, 600)
    assert {max(row["depths"]) for row in rows} == {5, 6, 7}
    assert {row["depth"] for row in rows} == {4, 5, 6}
    straight = task_of("default", statements=["straight"], lines=(12, 12), depth=(12, 12), target="labels")
    assert {tuple(row["depths"]) for row in rows_of(straight, 50)} == {tuple(range(1, 13))}


def test_length_and_depth_vary_independently() -> None:
    task = task_of("default", statements=["straight"], lines=(8, 24), asked=(1, 8))
    rows = rows_of(task, 3000)
    counts = np.zeros((25, 9))
    for row in rows:
        counts[row["lines"], row["depth"]] += 1
    assert (counts[8:, 1:] > 0).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"lines": (1, 3), "variables": (1, 2), "operators": ["+"], "operands": 2},
        {"lines": (4, 5), "variables": (1, 1), "operators": ["+"], "operands": 2, "statements": ["straight", "if"]},
        {"lines": (4, 4), "variables": (1, 1), "operators": ["*", "-"], "operands": 2,
         "statements": ["straight", "for"]},
        {"lines": (6, 6), "variables": (2, 2), "nesting": (1, 1), "operators": ["+"], "operands": 2,
         "statements": ["straight", "while"]},
    ],
)  # fmt: skip
def test_the_number_of_shapes_is_the_number_of_different_ones(parameters: dict[str, Any]) -> None:
    task = get_task(
        "programs", **{"statements": ["straight"], "target": "labels", "modulus": 3, "rounds": 2, **parameters}
    )
    assert isinstance(task, Programs)
    shapes = {*task._hash(task._draw(np.random.default_rng(0), 12_000)).tolist()}
    expected = ShapeCount(task).total()
    # Rare shapes may be missed; none may be beyond the count.
    assert 0.9 * expected <= len(shapes) <= expected == task.problem_count < 3000


# Splits.


def renamed(prompt: str, chance: random.Random) -> str:
    """Other names for variables and counters, each still standing for one."""
    table = {}
    for names in (NAMES, COUNTERS):
        table |= str.maketrans(dict(zip(names, chance.sample(names, len(names)), strict=True)))
    return re.sub(r"(?<!%)\b[a-z]\b", lambda match: match[0].translate(table), prompt)


def with_other_values(prompt: str, modulus: int, chance: random.Random) -> str:
    """Every value drawn anew; M itself, which stands in `+ M -` and `% M`, stays."""
    pattern = rf"(\+ {modulus} - |% {modulus};|= 0; i|= 0; j|= 0; k|%d)|\b(\d+)\b"
    return re.sub(pattern, lambda match: match[1] or str(chance.randrange(modulus)), prompt)


@pytest.mark.parametrize("style", STYLES)
def test_names_and_values_do_not_decide_the_split(style: str) -> None:
    chance = random.Random(3)
    task = task_of(style)
    different, halted = 0, 0
    for split in ("train", "validation", "test"):
        for row in rows_of(task, 40, split):
            prompt = renamed(row["prompt"], chance)
            different += prompt != row["prompt"]
            assert task.split_of(prompt) == split
            changed = with_other_values(prompt, task.modulus, chance)
            try:
                assert task.split_of(changed) == split
            except UserError as error:  # another limit may make a loop endless
                assert "runs for more than" in str(error)
                halted += 1
    assert different > 100
    assert halted < 40


def test_the_modulus_and_the_question_do_not_decide_the_split() -> None:
    for row in rows_of(task_of("default"), 60, "validation"):
        program = row["prompt"][: row["prompt"].index("printf")]
        larger = program.replace("% 10;", "% 64;").replace("+ 10 -", "+ 64 -")
        try:
            assert task_of("default", modulus=64, target="labels").split_of(larger) == "validation"
        except UserError as error:  # a loop that ended because a sum wrapped
            assert "runs for more than" in str(error)
        assert task_of("default", target="trace").split_of(program) == "validation"
        output = program + "".join(f'printf("%d;", {name});\n' for name in re.findall(r"int ([^ijk]) =", program))
        assert task_of("default", target="output").split_of(output) == "validation"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a = (a + b) % 10;", "a = (a * b) % 10;"),
        ("a = (a + b) % 10;", "a = (b + a) % 10;"),
        ("a = (a + b) % 10;", "b = (a + b) % 10;"),
        ("a = (a + b) % 10;", "a = (a + 2) % 10;"),
        ("if (a < b) {", "if (a > b) {"),
        ("if (a < b) {", "while (a < b) {"),
        ("int b = 7;", "int b = a;"),
    ],
)
def test_structure_decides_the_split(old: str, new: str) -> None:
    task = task_of("default", target="labels")
    program = "int a = 1;\nint b = 7;\nif (a < b) {\n  a = (a + b) % 10;\n  b = 0;\n}\n"
    assert old in program
    shapes = [task._hash(task._parse(text)) for text in (program, program.replace(old, new))]
    assert shapes[0] != shapes[1]


def test_splits_share_no_shape() -> None:
    task = task_of("default", lines=(4, 5), variables=(2, 2), target="labels")
    shapes = {
        split: {task._hash(task._parse(row["prompt"])).item() for row in rows_of(task, 1000, split)}
        for split in ("train", "validation", "test")
    }
    assert sum(map(len, shapes.values())) == len(set.union(*shapes.values()))
    assert min(map(len, shapes.values())) > 50


# The parser.


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("int a = 3;", "int a = 10;", "holds 10; values are below 10"),
        ("int a = 3;", "int a = 03;", "line 1, 'int a = 03;', is no statement"),
        ("int a = 3;", "int i = 3;", "is no statement"),
        ("int a = 3;", "int a = 3; ", "is no statement"),
        ("int a = 3;", "int a = 3;\n", "line 2, '', is no statement"),
        ("int a = 3;", "int a = c;", "uses 'c', which is not declared"),
        ("int a = 3;", "int a = i;", "uses 'i', which is not declared"),
        ("int b = ", "int a = ", "declares 'a' again"),
        ("int b = ", "b = ", "uses 'b', which is not declared"),
        ("    b = a;", "    int c = a;", "declares inside a block"),
        ("    b = a;", "   b = a;", "does not stand in a block at 4 spaces"),
        ("    b = a;", "      b = a;", "does not stand in a block at 4 spaces"),
        ("    b = a;", "    i = a;", "is no statement"),
        ("    b = a;\n", "", "leaves a block empty"),
        ("  }\n}\n", "  }\n", "line 10, 'while (b > 2) {', does not stand in a block at 2 spaces"),
        ("  a = 0;\n}\n", "  a = 0;\n", "line 17, '', should close a block"),
        ("10;\n}\nif", "10;\n} else {\n  b = a;\n}\nif", "line 14, '} else {', should close a block"),
        ("  }\n}\n", "  }\n}\n}\n", "line 11, '}', does not stand in a block at 0 spaces"),
        ("if (a == 4) {", "for (int i = 0; i < 2; i++) {", "counts with 'i', as a loop around it does"),
        ("int i = 0; i < 2; i++", "int i = 0; j < 2; i++", "is no statement"),
        ("(a * 2 + 5) % 10", "(a * 2 + 5 + 1) % 10", "has 4 operands in brackets; give 2 to 3"),
        ("(a * 2 + 5) % 10", "(a + 2 * 5) % 10", "is no statement"),
        ("(a * 2 + 5) % 10", "(a) % 10", "has 1 operands"),
        ("(a * 2 + 5) % 10", "(a - 2) % 10", "is no statement"),
        ("(a * 2 + 5) % 10", "(a + 2) % 11", "with modulus 10"),
        ("(a * 2 + 5) % 10", "(a + 2)", "is no statement"),
        ("b > 2", "b > 22", "holds 22"),
        ("b = (b + 10 - 3) % 10;", "b = (b + 10) % 10;", "holds 10"),
        ("a = b;", "b = 5;\n  b = (b + 3) % 10;", "runs for more than 10000 lines"),
        ("  a = 0;", "  if (a < 1) {\n    if (a < 2) {\n      if (a < 3) {\n", "opens a block inside 3 others"),
    ],
)
def test_other_texts_are_refused_in_one_line(old: str, new: str, message: str) -> None:
    task = task_of("default", target="labels")
    assert old in PROGRAM
    prompt = PROGRAM.replace(old, new, 1)
    with pytest.raises(UserError, match="is not a prompt of programs: .*" + re.escape(message)) as error:
        task.answer(prompt)
    assert "\n" not in str(error.value)
    assert not task.check(prompt, "3;")


@pytest.mark.parametrize(
    ("target", "ending", "message"),
    [
        ("value", "", "one question"),
        ("value", 'printf("%d", a);\nprintf("%d", a);\n', "one question"),
        ("value", 'printf("%d", a);\na = 3;\n', "in the last line"),
        ("value", 'printf("%d;", a);\n', "one question"),
        ("value", 'printf("%d", c);\n', "not declared"),
        ("value", 'if (a < 3) {\n  printf("%d", a);\n}\n', "in the last line"),
        ("output", "", "lines printf"),
        ("output", 'printf("%d;", a);\nprintf("%d", a);\n', "no other question"),
        ("trace", 'printf("%d;", a);\n', "target 'trace' prints nothing"),
        ("labels", 'printf("%d", a);\n', "target 'labels' prints nothing"),
        ("trace", 'printf("%d\\n", a);\n', "is no statement"),
    ],
)
def test_questions_belong_to_their_targets(target: str, ending: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_of("default", target=target).answer("int a = 3;\n" + ending)


def judged(task: Programs, prompt: str) -> None:
    """Nothing but an answer, or one line; and then the text that was read is the text that is written."""
    try:
        answer = task.answer(prompt)
    except UserError as error:
        assert "\n" not in str(error)
        assert not task.check(prompt, "0")
        with pytest.raises(UserError):
            task.split_of(prompt)
    else:
        assert task.check(prompt, answer)
        assert task.split_of(prompt) in ("train", "validation", "test")
        assert task._write(task._parse(prompt), "train")["prompt"].to_pylist() == [prompt]


TASKS_BY_TARGET = {target: task_of("default", target=target, nesting=(0, 3), lines=(6, 14)) for target in TARGETS}
SAMPLES = {target: [row["prompt"] for row in rows_of(task, 60)] for target, task in TASKS_BY_TARGET.items()}
PIECES = sorted(
    {token for task in TASKS_BY_TARGET.values() for token in task.vocabulary} | {"\n", "10", " % ", "-1", "k"}
)


@given(target=st.sampled_from(TARGETS), pieces=st.lists(st.sampled_from(PIECES), max_size=60))
@settings(max_examples=300, deadline=None)
def test_soups_of_tokens_are_judged(target: str, pieces: list[str]) -> None:
    judged(TASKS_BY_TARGET[target], "int a = 3;\nint b = 4;\n" + "".join(pieces))


@given(target=st.sampled_from(TARGETS), data=st.data())
@settings(max_examples=600, deadline=None)
def test_mutated_programs_are_judged(target: str, data: st.DataObject) -> None:
    task = TASKS_BY_TARGET[target]
    lines = data.draw(st.sampled_from(SAMPLES[target])).splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(lines) - 1))
        how = data.draw(st.sampled_from(["delete", "repeat", "swap", "piece", "character"]))
        if how == "delete" and len(lines) > 1:
            del lines[place]
        elif how == "repeat":
            lines.insert(data.draw(st.integers(0, len(lines))), lines[place])
        elif how == "swap":
            other = data.draw(st.integers(0, len(lines) - 1))
            lines[place], lines[other] = lines[other], lines[place]
        elif how == "piece":
            words = re.split(r"(\b)", lines[place])
            words[data.draw(st.integers(0, len(words) - 1))] = data.draw(st.sampled_from([*"abi0179", *PIECES]))
            lines[place] = "".join(words)
        else:
            cut = data.draw(st.integers(0, len(lines[place])))
            lines[place] = lines[place][:cut] + data.draw(st.sampled_from(string.printable)) + lines[place][cut + 1 :]
    judged(task, "".join(lines))


@pytest.mark.parametrize(
    "prompt",
    [
        "int a = 1;\nwhile (a > 0) {\n  a = a;\n}\n",
        "int a = 1;\nwhile (1 == 1) {\n  while (a < 1) {\n    a = 2;\n  }\n}\n",
        "int a = 1;\nfor (int i = 0; i < 99; i++) {\n  for (int j = 0; j < 99; j++) {\n"
        "    for (int k = 0; k < 99; k++) {\n      a = (a * a * a) % 100;\n    }\n  }\n}\n",
        "int a = 1;\n" + "a = (a + 1) % 100;\n" * 10_000,
        "if (1 < 2) {\n" * 5000,
        "int a = 1;\nif (a < 2) {\n" + "  " * 100_000,
    ],
)
def test_no_text_hangs_the_verifier(prompt: str) -> None:
    with pytest.raises(UserError):
        task_of("default", modulus=100, target="labels").answer(prompt)


# Tokens.


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("style", STYLES)
def test_a_tokenizer_gives_the_text_back_and_read_positions_are_tokens(style: str, target: str) -> None:
    task = task_of(style, target=target)
    tokenizer = build_tokenizer(task)
    for row in rows_of(task, 40):
        text = row["prompt"] + row["answer"]
        encoded = tokenizer(text)
        assert tokenizer.unk_token_id not in encoded["input_ids"]
        assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == text
        starts = {encoded.token_to_chars(token).start for token in range(1, len(encoded["input_ids"]))}
        assert {*row["read_positions"], *row["clause_starts"]} <= starts
        for place in row["read_positions"]:
            assert tokenizer.decode(encoded["input_ids"][encoded.char_to_token(place)]) == text[place]


def test_a_value_is_one_token_and_a_line_ends_in_a_separator() -> None:
    task = task_of("wide", target="trace")
    tokenizer = build_tokenizer(task)
    assert tokenizer.tokenize("int a = 98;\na = (a * 13 + 100 - b) % 100;\na98b7;") == [
        "int ", "a", " = ", "98", ";\n", "a", " = (", "a", " * ", "13", " + 100 - ", "b", ") % 100;\n",
        "a", "98", "b", "7", ";",
    ]  # fmt: skip
    separators = task.number_format()["separators"]
    for row in rows_of(task, 50):
        assert all(line.endswith(tuple(separators)) for line in row["prompt"].splitlines(keepends=True))


# Mistakes of the user.


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lines": 5}, r"lines=5: give \[lo, hi\]"),
        ({"lines": (1, 4)}, r"lines=\[1, 4\]: variables, nesting and target need at least 2 lines"),
        ({"nesting": (2, 3)}, r"lines=\[6, 12\]: .* need at least 7 lines"),
        ({"nesting": (3, 2)}, r"nesting=\[3, 2\]: give \[lo, hi\] with integers 0 <= lo <= hi <= 3"),
        ({"nesting": (0, 4)}, "<= 3"),
        ({"nesting": 2}, "nesting=2"),
        ({"nesting": (1, 1), "statements": ["straight"]}, "needs 'if', 'for' or 'while'"),
        ({"statements": ["if"]}, "add 'straight'"),
        ({"statements": ["straight", "iff"]}, "unknown item of statements 'iff'"),
        ({"statements": "straight"}, "statements='straight': give a list"),
        ({"statements": []}, r"statements=\[\]"),
        ({"operators": ["/"]}, "unknown item of operators '/'"),
        ({"operators": ["*"]}, "'while' needs '\\+' or '-'"),
        ({"variables": (2, 9)}, "more names than alphabet=8"),
        ({"variables": (1, 1)}, "'while' needs two"),
        ({"alphabet": 24}, "alphabet=24: give an integer of at least 1 and at most 23"),
        ({"operands": 4}, "operands=4"),
        ({"modulus": 101}, "modulus=101"),
        ({"modulus": 1}, "modulus=1"),
        ({"modulus": 4}, "rounds=4: 'for' counts in values, so give less than modulus=4"),
        ({"rounds": 1}, "rounds=1"),
        ({"steps": 6}, "steps=6: give an integer of at least 7"),
        ({"target": "values"}, "did you mean 'value'"),
        ({"depth": (0, 3)}, r"depth=\[0, 3\]"),
        ({"depth": (3, 99)}, "at most 48 lines are executed"),
        ({"asked": (3, 14), "statements": ["straight"]}, "at most 13 lines are executed"),
        ({"asked": "some"}, "asked='some': give 'all' or"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        get_task("programs", **parameters)
    assert "\n" not in str(error.value)


def test_parameters_that_no_program_fits_end_with_an_error() -> None:
    task = task_of("default", lines=(6, 6), nesting=(0, 0), depth=(20, 20))
    with pytest.raises(UserError, match=r"none of 2000 programs in a row fitted .*depth=\[20, 20\]") as error:
        task.table("train", 1)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"only 1 problems .* widen lines"):
        get_task("programs", lines=(1, 1), variables=(1, 1), statements=["straight"]).table("train", 1)
