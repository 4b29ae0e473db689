"""Code exercises: reading answers, executing them, and the writer that needs no model."""

import asyncio
import doctest
import json
import keyword
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_tasks.corpora.base import Rejected, Request
from hf_tasks.corpora.code_exercises import NOUNS, VERBS, CodeExercises, ExerciseWriter, check
from hf_tasks.corpora.exercise_templates import DIFFICULTIES, ENDS, FILTERS, KEYS, MAPS, SOURCES, TOPICS, compose

CORPUS = CodeExercises()
PARAMETERS = {"topic": "summing numbers", "verb": "tally", "noun": "scores", "difficulty": "easy"}
REQUEST = CORPUS.request(0, PARAMETERS)
SOLUTION = '''def tally_scores(scores: list[int]) -> int:
    """Return the sum of `scores`.

    >>> tally_scores([1, 2])
    3
    """
    total = 0
    for score in scores:
        total += score
    return total
'''
TESTS = ["assert tally_scores([1, 2]) == 3", "assert tally_scores([]) == 0", "assert tally_scores([-1]) == -1"]
ANSWER = json.dumps({"solution": SOLUTION, "tests": TESTS})
BLOCK = SOLUTION + "\n\n" + "\n".join(TESTS) + "\n"


def test_axes_are_covered_evenly_and_rows_are_what_they_are() -> None:
    rows = [CORPUS.parameters(index, seed=3) for index in range(122)]
    for axis, values in CORPUS.axes.items():
        counts = Counter(row[axis] for row in rows)
        assert set(counts) <= set(values) and max(counts.values()) - min(counts[v] for v in values) <= 1
    assert len({(row["verb"], row["noun"]) for row in rows}) > 110
    assert CORPUS.parameters(57, seed=3) == rows[57] != CORPUS.parameters(57, seed=4)


def test_axes_are_large_and_names_are_names() -> None:
    assert len(TOPICS) >= 60 and len(set(VERBS)) >= 60 and len(set(NOUNS)) >= 60
    for noun in NOUNS:
        assert noun.isidentifier() and not keyword.iskeyword(noun) and noun not in dir(__builtins__)


def test_the_request_says_what_the_answer_is_to_be() -> None:
    said = REQUEST.messages[0]["content"]
    assert "`tally_scores`" in said and "summing numbers" in said and "JSON" in said
    assert REQUEST.schema is not None and set(REQUEST.schema["required"]) == {"solution", "tests"}


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        f"Sure! Here is the exercise:\n```json\n{ANSWER}\n```\nHave fun.",
        f"An example of JSON is {{}} or {{'x'}}. {ANSWER}",
        ANSWER.replace("\\n", "\n"),  # raw line ends inside of strings
        json.dumps({"solution": f"```python\n{SOLUTION}```", "tests": "\n".join(TESTS)}),
        f"```python\n{BLOCK}```",
        f"Here you are.\n\n```py\n{SOLUTION}```\nAnd the tests:\n```\n" + "\n".join(TESTS),  # the last fence is cut off
        f"The function:\n\n{BLOCK}",
        f"```python\n{BLOCK}\nprint(tally_scores([1]))\nif __name__ == '__main__':\n    main()\n```",
    ],
)
def test_answers_in_every_form_are_read(answer: str) -> None:
    row = CORPUS.read(REQUEST, answer)
    assert CORPUS.text(row) == row["prompt"] + row["solution"] == SOLUTION
    assert row["prompt"].endswith('"""\n') and row["solution"].startswith("    total = 0")
    assert row["tests"].splitlines() == TESTS and row["entry_point"] == "tally_scores"
    assert set(row) == set(CORPUS.columns)


def test_imports_helpers_and_decorators_stay_where_they_work() -> None:
    before, after = (
        "import functools\nimport math\n\n\nLIMIT = 3",
        "def helper(x):\n    return math.floor(x) + LIMIT - 3",
    )
    source = f"{before}\n\n\n@functools.cache\n{SOLUTION}\n\n{after}\n".replace(
        "total += score", "total += helper(score)"
    )
    source = source.replace("list[int]", "tuple[int, ...]").replace("[1, 2]", "(1, 2)")
    tests = [test.replace("([", "((").replace("])", ",))").replace("((,))", "(())") for test in TESTS]
    row = CORPUS.read(REQUEST, json.dumps({"solution": source, "tests": tests}))
    assert CORPUS.text(row).split() == source.split()
    assert row["prompt"].startswith("import functools\nimport math\n\n\nLIMIT") and "@functools.cache" in row["prompt"]
    assert check([row], workers=1) == ([row], Counter())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I cannot do that.", "no_code"),
        ("", "no_code"),
        ("{" * 5000, "no_code"),
        ('{"solution": 3, "tests": []}', "no_code"),
        (ANSWER[:-100], "syntax"),
        (ANSWER.replace("total = 0", "total ="), "syntax"),
        (ANSWER.replace("== 0", "="), "syntax"),
        (ANSWER.replace("def tally_scores", "def total"), "wrong_name"),
        (json.dumps({"solution": "x = 1", "tests": TESTS}), "wrong_name"),
        (json.dumps({"solution": "def tally_scores(s):\n    return sum(s)\n", "tests": TESTS}), "no_docstring"),
        (json.dumps({"solution": 'def tally_scores(s):\n    """ """\n    return 1\n', "tests": TESTS}), "no_docstring"),
        (json.dumps({"solution": 'def tally_scores(s):\n    """Sum."""\n', "tests": TESTS}), "trivial_body"),
        (json.dumps({"solution": 'def tally_scores(s):\n    """Sum."""\n    ...\n', "tests": TESTS}), "trivial_body"),
        (json.dumps({"solution": 'def tally_scores(s):\n    """Sum."""\n    pass\n', "tests": TESTS}), "trivial_body"),
        (json.dumps({"solution": 'def tally_scores(s):\n    """A."""\n    return\n', "tests": TESTS}), "trivial_body"),
        (json.dumps({"solution": 'def tally_scores(s):\n    """Sum."""\n    raise NotImplementedError("later")\n',
                     "tests": TESTS}), "trivial_body"),
        (json.dumps({"solution": 'def tally_scores(s): """Sum."""; return sum(s)\n', "tests": TESTS}), "trivial_body"),
        (json.dumps({"solution": SOLUTION, "tests": TESTS[:2]}), "too_few_tests"),
        (json.dumps({"solution": SOLUTION, "tests": ["assert True"] * 5}), "too_few_tests"),
        (json.dumps({"solution": SOLUTION}), "too_few_tests"),
        (json.dumps({"solution": SOLUTION, "tests": ["assert " + "(" * 500 + "1" + ")" * 500]}), "syntax"),
    ],
)  # fmt: skip
def test_answers_that_are_not_kept_say_why(answer: str, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        CORPUS.read(REQUEST, answer)
    assert caught.value.reason == reason


@settings(deadline=None)
@given(
    st.text() | st.text('{}[]":,`\ndef assert tally_scores()=') | st.integers(0, len(ANSWER)).map(lambda n: ANSWER[:n])
)
def test_garbage_is_rejected_and_never_raises(text: str) -> None:
    try:
        row = CORPUS.read(REQUEST, text)
    except Rejected:
        return
    assert text == ANSWER and row["entry_point"] == "tally_scores"


def row_of(solution: str, tests: list[str]) -> dict[str, Any]:
    return CORPUS.read(REQUEST, json.dumps({"solution": solution, "tests": tests}))


def test_check_keeps_what_passes_tests_that_can_fail() -> None:
    right = row_of(SOLUTION, TESTS)
    wrong = row_of(SOLUTION.replace("total = 0", "total = 1"), TESTS)
    vacuous = row_of(SOLUTION, ["assert tally_scores([1]) or True"] * 3)
    never_run = row_of(SOLUTION, ["def test():", *("    " + test for test in TESTS)])
    swallowed = row_of(SOLUTION, [f"try:\n    {test}\nexcept Exception:\n    pass" for test in TESTS])
    hostile = row_of(SOLUTION.replace("total = 0", "import os; os.system('true')"), TESTS)
    endless = row_of(SOLUTION.replace("total = 0", "while True: pass"), TESTS)
    rows = [wrong, right, vacuous, never_run, hostile, swallowed, endless, right]
    kept, rejections = check(rows, workers=2, timeout=0.5)
    assert kept == [right, right]
    assert rejections == {"wrong": 1, "vacuous_tests": 3, "forbidden_import": 1, "timeout": 1}
    assert check([]) == ([], Counter())


def written(index: int, attempt: int = 0, seed: int = 0) -> tuple[Request, str]:
    request = CORPUS.request(index, CORPUS.parameters(index, seed))
    return request, asyncio.run(ExerciseWriter().write(request, attempt)).text


def test_the_writer_is_deterministic_and_each_attempt_is_another() -> None:
    assert written(5) == written(5)
    assert len({written(5, attempt)[1] for attempt in range(5)}) > 1
    request, _ = written(5)
    assert asyncio.run(ExerciseWriter().write(request, 0)).model == "grammar"


def test_all_that_the_writer_writes_passes_check() -> None:
    rows = [CORPUS.read(*written(index)) for index in range(3 * len(TOPICS))]
    kept, rejections = check(rows, workers=2)
    assert rejections == {} and kept == rows


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(TOPICS)), st.sampled_from(DIFFICULTIES), st.integers(0, 2**32))
@example("searching from the back", "hard", 125)  # a function that returns None or 0: its doctest shows the 0
def test_every_exercise_is_right_and_its_docstring_true(topic: str, difficulty: str, seed: int) -> None:
    exercise = compose(topic, difficulty, "tally_scores", "scores", np.random.default_rng(seed))
    row = row_of(exercise.solution, exercise.tests)
    assert CORPUS.text(row) == exercise.solution
    names: dict[str, Any] = {}
    exec(exercise.solution, names)  # ours: composed of blocks of this package
    exec("\n".join(exercise.tests), names)
    examples = doctest.DocTestParser().get_doctest(names["tally_scores"].__doc__, names, "x", None, None)
    assert len(examples.examples) == 1
    assert doctest.DocTestRunner(verbose=False).run(examples).failed == 0
    with pytest.raises((AssertionError, TypeError)):
        exec("\n".join(exercise.tests), {"tally_scores": lambda _: None})


def test_the_writer_has_hundreds_of_behaviours_and_uses_every_block() -> None:
    rng = np.random.default_rng(0)
    exercises = [
        compose(topic, level, "f", "scores", rng) for topic in TOPICS for level in DIFFICULTIES for _ in range(12)
    ]
    assert len({exercise.sentence for exercise in exercises}) > 1500
    sentences = "\n".join(exercise.sentence for exercise in exercises)
    for block in (*FILTERS.values(), *MAPS.values(), *KEYS.values()):
        assert block.phrase.partition("{")[0].rstrip(" ,") in sentences
    for end in ENDS.values():
        assert end.phrase.partition("{")[0] in sentences
    assert all(source.phrase.partition("{")[0] in sentences for source in SOURCES.values())
