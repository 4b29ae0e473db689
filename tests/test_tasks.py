"""The task contract, over every task of the registry and every layout it can be written in.

Goldens, exactness on long numbers and sampling are in test_tasks_arithmetic.py, leaks in test_tasks_leaks.py.
"""

import json
import random
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks.errors import UserError
from hf_tasks.tasks import TASKS, get_task
from hf_tasks.tasks.base import BLOCK, Task
from hf_tasks.tasks.hashing import SPLITS
from hf_tasks.tasks.layouts import LAYOUTS

# Every task as it comes, and every choice of layout once.
CASES: dict[str, tuple[str, dict]] = {name: (name, {}) for name in TASKS}
CASES |= {
    f"{name}-{format}-{reverse}": (name, {"format": format, "reverse": reverse})
    for name, task in TASKS.items()
    for format in getattr(task, "formats", ())
    for reverse in ("none", "answer", "all")
}
CASES |= {
    f"{name}-{format}-padded": (name, {"format": format, "pad": True, "reverse": "answer"})
    for name, task in TASKS.items()
    for format in getattr(task, "formats", ())
    if LAYOUTS[format].can_pad
}
CASES |= {
    "addition-width": ("addition", {"digits": (1, 4), "pad": 6}),
    "addition-three": ("addition", {"operands": 3, "pad": True}),
    "addition-twelve": ("addition", {"operands": 12, "digits": (1, 2), "pad": True}),
    "addition-unlike": ("addition", {"digits": ((3, 3), (7, 7)), "lengths": "range"}),
    "addition-heavy": ("addition", {"carry_heavy": 0.5}),
    "subtraction-heavy": ("subtraction", {"carry_heavy": 0.5, "lengths": "range", "digits": (2, 6)}),
    "multiplication-heavy": ("multiplication", {"carry_heavy": 0.5, "digits": (1, 4)}),
    "modular-power": ("modular_addition", {"modulus": 100, "pad": True}),
    "modular-long": ("modular_addition", {"modulus": 7**40, "pad": 50}),
    "modular-unlike": ("modular_addition", {"modulus": 1000, "digits": ((2, 3), (1, 9)), "pad": True}),
    "modular-digits": ("modular_addition", {"modulus": 101, "digits": (1, 12), "pad": True}),
    "sort-symbols": ("sort", {"alphabet": "z]^-\\a", "length": (2, 9)}),
    "programs-labels": ("programs", {"target": "labels"}),
    "programs-trace": (
        "programs",
        {"target": "trace", "statements": ["straight"], "lines": (4, 8), "variables": (1, 4)},
    ),
    "lego-few": ("lego", {"clauses": (3, 6), "asked": "second_half", "order": "forward"}),
    "lego-labels": ("lego", {"group": "D3", "query": False, "graph": "star", "order": "reverse", "asked": (1, 2)}),
    "lego-points": ("lego", {"group": "S3", "action": "natural", "clauses": (5, 9), "depth": (2, 4), "alphabet": 30}),
    "lego-words": ("lego", {"format": "words", "graph": "tree", "chains": 2}),
    "lego-code": ("lego", {"format": "code", "graph": "dag", "group": "Q8", "query": False}),
    "lego-cot": ("lego", {"format": "cot", "group": "A4", "clauses": (6, 6), "asked": (6, 6)}),
    "lego-bert": ("lego", {"format": "bert", "query": False}),
}
# Parameters with so many problems that two equal rows do not happen by chance.
VAST = {
    "modular_addition": {"modulus": 10**20 + 39},
    "parity": {"length": (80, 80)},
    "prefix_parity": {"length": (80, 80)},
    "prefix_sum": {"length": (20, 20)},
    **{name: {"length": (20, 20)} for name in ("copy", "reverse", "sort")},
    "lego": {"clauses": (20, 20)},
    "programs": {"lines": (20, 20)},
}


@pytest.fixture(params=CASES)
def task(request: pytest.FixtureRequest) -> Task:
    name, parameters = CASES[request.param]
    return get_task(name, **parameters)


@pytest.fixture(params=TASKS)
def vast_task(request: pytest.FixtureRequest) -> Task:
    return get_task(request.param, **VAST.get(request.param, {"digits": (20, 20)}))


def rows_of(task: Task, split: str, size: int = 40, **where: int) -> list[dict]:
    return task.table(split, size, **where).to_pylist()


# The same item, however it is asked for.


def test_an_item_does_not_depend_on_size_or_start(task: Task) -> None:
    whole = task.table("train", BLOCK + 60)
    assert whole.num_rows == BLOCK + 60
    assert task.table("train", 7).equals(whole.slice(0, 7))
    assert task.table("train", 100, start=BLOCK - 50).equals(whole.slice(BLOCK - 50, 100))
    assert task.table("train", 0).schema.equals(whole.schema)


def test_an_item_does_not_depend_on_global_random_state_and_leaves_it_alone(task: Task) -> None:
    first = task.table("test", 50)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert task.table("test", 50).equals(first)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


DIGEST = """
import hashlib, json, sys
from hf_tasks.tasks import get_task
cases = json.loads(sys.argv[1])
rows = [get_task(name, **parameters).table("train", 20, seed=3).to_pylist() for name, parameters in cases]
print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())
"""


def test_an_item_does_not_depend_on_the_process() -> None:
    cases = json.dumps(list(CASES.values()))
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, cases],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


# Written down from this implementation (numpy 2.4): what is published must be the same in later versions.
FIRST_ROWS = [("6297450+1=", "6297451"), ("5+70071=", "70076"), ("1334+206842=", "208176"), ("5357+53=", "5410")]


def test_the_first_rows_of_addition_stay_what_they_are() -> None:
    assert [(row["prompt"], row["answer"]) for row in rows_of(get_task("addition"), "train", 4)] == FIRST_ROWS


def test_tasks_write_slices_of_a_block_alike(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = task.table("test", 30)
    monkeypatch.setattr("hf_tasks.tasks.base.CHARACTERS_AT_ONCE", 7 * sum(task.max_lengths))
    assert task.table("test", 30).equals(whole)


# Splits and seeds.


def test_a_problem_belongs_to_one_split_whatever_the_seed(task: Task) -> None:
    for split in SPLITS:
        for seed in (0, 1, -1, 2**70):
            assert {task.split_of(row["prompt"]) for row in rows_of(task, split, 12, seed=seed)} == {split}


def test_neighbouring_seeds_share_nothing(vast_task: Task) -> None:
    # Among 3 x 2000 problems out of more than 10**20, two equal ones are chance of less than 10**-12.
    prompts = [row["prompt"] for seed in (0, 1, 2) for row in rows_of(vast_task, "train", 2000, seed=seed)]
    assert len(set(prompts)) == len(prompts)


def test_neighbouring_seeds_share_no_more_than_chance_in_a_small_space() -> None:
    # 9000 rows out of 810,000 ordered problems: about 1 % of the rows of one seed occur in another seed's by chance.
    task = get_task("addition", digits=(3, 3))
    sets = [set(task.table("train", 9000, seed=seed)["prompt"].to_pylist()) for seed in (0, 1, 977)]
    neighbours, strangers = len(sets[0] & sets[1]), len(sets[0] & sets[2])
    expected = len(sets[0]) * len(sets[1]) / (0.9 * 810_000)
    assert abs(neighbours - expected) < 5 * expected**0.5
    assert abs(strangers - expected) < 5 * expected**0.5


def test_parameters_and_splits_have_streams_of_their_own() -> None:
    plain, padded = (get_task("addition", digits=(20, 20), pad=pad) for pad in (False, True))
    sets = [
        {row["prompt"] for row in rows_of(task, split, 500)} for task in (plain, padded) for split in ("train", "test")
    ]
    assert len(set.union(*sets)) == 2000


def test_splits_have_their_shares() -> None:
    task = get_task("copy", length=(12, 12), alphabet="ab")
    prompts = [f"{number:012b}=".translate({48: "a", 49: "b"}) for number in range(4096)]
    counts = {split: sum(task.split_of(prompt) == split for prompt in prompts) for split in SPLITS}
    # Five standard deviations of a binomial count.
    for split, share in {"train": 0.9, "validation": 0.05, "test": 0.05}.items():
        assert abs(counts[split] - 4096 * share) < 5 * (4096 * share * (1 - share)) ** 0.5


# Verifier.


def test_check_accepts_the_answer_and_rejects_altered_ones(task: Task) -> None:
    symbols = random.Random(1)
    for row in rows_of(task, "validation", 15):
        prompt, answer = row["prompt"], row["answer"]
        assert task.check(prompt, answer)
        where = symbols.randrange(len(answer))
        for character in {*task.vocabulary[:10], " ", "x"} - {answer[where]}:
            assert not task.check(prompt, answer[:where] + character + answer[where + 1 :])
        for wrong in (answer[:-1], answer + answer[-1], answer + " ", " " + answer, answer + "\n", "", "0" + answer):
            assert not task.check(prompt, wrong), (prompt, wrong)
        for other in (prompt + "\n", " " + prompt, prompt[:-1], prompt + prompt, ""):
            assert not task.check(other, answer), (other, answer)


GARBAGE = st.one_of(
    st.text(), st.text("0123456789+-*=abz:, ", max_size=30), st.text("\u0663\u00b2\U0001d7d71+=\ud800\x00", max_size=12)
)


@pytest.mark.parametrize("case", CASES)
@given(prompt=GARBAGE, completion=GARBAGE)
@settings(max_examples=20, deadline=None)
def test_check_never_raises_and_split_of_raises_only_user_errors(case: str, prompt: str, completion: str) -> None:
    name, parameters = CASES[case]
    task = get_task(name, **parameters)
    try:
        answer = task.answer(prompt)
        assert task.split_of(prompt) in SPLITS
        assert task.check(prompt, completion) is (completion == answer)
    except UserError as error:
        assert "\n" not in str(error)
        assert task.check(prompt, completion) is False


def test_a_prompt_can_be_read_back(task: Task) -> None:
    for row in rows_of(task, "test", 30):
        assert task.answer(row["prompt"]) == row["answer"]
        # Spaces are drawn anew; everything else of a prompt follows from what was read.
        if row["format"] != "random_space":
            problems = task._parse(row["prompt"])
            written = task.layout.prompt(problems) if hasattr(task, "layout") else None
            assert written is None or written.to_pylist() == [row["prompt"]]


# What a tokenizer, a model and a card are told.


def tokens_of(task: Task, text: str) -> list[str]:
    """The longest tokens that fit, from the left; a character that begins none stays alone."""
    longest_first = sorted(task.vocabulary, key=len, reverse=True)
    return re.findall("|".join([*map(re.escape, longest_first), r"[\s\S]"]), text)


def test_the_vocabulary_is_exactly_what_is_written(task: Task) -> None:
    assert all(len(token) == 1 for token in task.vocabulary) or task.classes
    assert len(set(task.vocabulary)) == len(task.vocabulary)
    assert task.vocabulary == get_task(task.name, **task.parameters()).vocabulary
    tables = [task.table(split, 2000) for split in SPLITS]
    texts = [text for table in tables for name in ("prompt", "answer") for text in table[name].to_pylist()]
    written = {token for text in texts for token in tokens_of(task, text)}
    # The first letter hints the top place of the longest possible answer alone, which few rows have.
    assert set(task.vocabulary) - {"a"} <= written <= set(task.vocabulary)


def test_max_lengths_hold_and_are_near(task: Task) -> None:
    longest = [0, 0]
    for split in SPLITS:
        table = task.table(split, 2000)
        lengths = [max(map(len, table[name].to_pylist())) for name in ("prompt", "answer")]
        longest = [max(pair) for pair in zip(longest, lengths, strict=True)]
    for seen, bound in zip(longest, task.max_lengths, strict=True):
        assert seen <= bound
        # Random spaces and scenes reach their longest rarely.
        assert bound <= (seen + 2 if "plain" in table["format"][0].as_py() else 1.5 * seen)


def test_the_number_format_tells_how_answers_are_written(task: Task) -> None:
    style = task.number_format()
    assert set(style) == {"digits", "separators", "fillers", "answer", "reverse", "answer_width"}
    named = {*style["digits"], *style["separators"], *style["fillers"]}
    # Clauses hold more than numbers.
    assert named < set(task.vocabulary) if task.classes else named == set(task.vocabulary)
    assert json.loads(json.dumps(style)) == style
    for row in rows_of(task, "train", 60):
        if style["answer"]:
            assert row["prompt"].count(style["answer"]) == 1
            assert row["prompt"].endswith(style["answer"])
        if style["answer_width"]:
            m, c = style["answer_width"]
            widths, written = (
                [sum(character in style["digits"] for character in run)
                 for run in re.split("|".join(map(re.escape, style["separators"])), text)]
                for text in (row["prompt"], row["answer"])
            )  # fmt: skip
            assert next(filter(None, written)) == m * max(widths) + c  # of the first number that is written


def test_reversed_numbers_are_written_from_their_units() -> None:
    plain, answer, everything = (get_task("subtraction", reverse=how) for how in ("none", "answer", "all"))
    assert plain.answer("12-345=") == "-333"
    assert plain.answer("120-345=") == "-225"
    assert answer.answer("120-345=") == "522-"
    assert everything.answer("021-543=") == "522-"


def test_columns_are_those_of_the_table(task: Task) -> None:
    table = task.table("train", 5)
    assert table.column_names == list(task.columns)
    assert table.column_names[:3] == ["prompt", "answer", "format"]
    assert all(text and "\n" not in text for text in task.columns.values())
    assert all(column.null_count == 0 for column in table.columns)


def test_parameters_survive_json(task: Task) -> None:
    parameters = json.loads(json.dumps(task.parameters()))
    again = get_task(task.name, **parameters)
    assert again == task
    assert hash(again) == hash(task)
    assert again.table("train", 5).equals(task.table("train", 5))


@pytest.mark.parametrize("name", TASKS)
def test_the_docstring_example_is_right(name: str) -> None:
    example = re.search(r"Example: (.+) -> (\S+)   \((.*)\)\n", TASKS[name].__doc__ or "")
    assert example, f"the docstring of {name} needs a line 'Example: PROMPT -> ANSWER   (parameters)'"
    prompt, answer, parameters = example[1].replace(r"\n", "\n"), example[2], example[3]
    task = get_task(name, **eval(f"dict({parameters})"))
    assert task.answer(prompt) == answer
    assert task.check(prompt, answer)


# The doors.


def test_generate_and_dataset_give_the_rows_of_table(task: Task) -> None:
    table = task.table("train", 30, seed=2)
    columns = task.generate("train", 30, seed=2)
    assert list(columns) == table.column_names
    for name, values in columns.items():
        assert isinstance(values, np.ndarray if pa.types.is_primitive(table.schema.field(name).type) else list)
        assert list(values) == table[name].to_pylist()
    assert task.dataset("train", 30, seed=2)[:] == table.to_pydict()


def test_a_stream_yields_whole_blocks_by_shard_and_resumes() -> None:
    task = get_task("addition", digits=(5, 6))
    stream = task.iterable("train", seed=4, num_shards=4)
    assert stream.num_shards == 4
    table = task.table("train", 5 * BLOCK, seed=4)
    rows = iter(stream)
    assert [next(rows) for _ in range(20)] == table.slice(0, 20).to_pylist()
    for _ in range(BLOCK - 20):
        next(rows)
    assert next(rows) == table.slice(4 * BLOCK, 1).to_pylist()[0]

    state = stream.state_dict()
    following = [next(rows) for _ in range(5)]
    resumed = task.iterable("train", seed=4, num_shards=4)
    resumed.load_state_dict(state)
    again = iter(resumed)
    assert [next(again) for _ in range(5)] == following


def test_streams_of_two_nodes_share_no_block() -> None:
    from datasets.distributed import split_dataset_by_node

    task = get_task("addition", digits=(5, 6))
    table = task.table("train", 3 * BLOCK)
    stream = task.iterable("train", num_shards=4)
    firsts = [next(iter(split_dataset_by_node(stream, rank=rank, world_size=2))) for rank in (0, 1)]
    assert firsts[0] == table.slice(0, 1).to_pylist()[0]
    starts = [table.slice(block * BLOCK, 1).to_pylist()[0] for block in (1, 2)]
    assert firsts[1] in starts


# Mistakes of the user.


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("adition", {}, "did you mean 'addition'"),
        ("addition", {"digit": (1, 2)}, "unknown parameter of addition 'digit' .*known: carry_heavy, digits"),
        ("addition", {"digits": 5}, r"digits=5: give \[lo, hi\]"),
        ("addition", {"digits": [0, 3]}, r"digits=\[0, 3\]"),
        ("addition", {"digits": [4, 3]}, r"digits=\[4, 3\]"),
        ("addition", {"digits": [1, 2.5]}, r"digits=\[1, 2.5\]"),
        ("addition", {"digits": [[1, 2], [1, 2], [1, 2]]}, "each of the 2 operands"),
        ("addition", {"digits": "1,2"}, "digits='1,2'"),
        ("addition", {"lengths": "even"}, "known: balanced, paired, range"),
        ("addition", {"reverse": True}, "known: all, answer, none"),
        ("addition", {"format": "plane"}, "did you mean 'plain'"),
        ("addition", {"format": ["plain"]}, "unknown format"),
        ("addition", {"pad": 3}, "pad=3: give an integer of at least 10"),
        ("addition", {"pad": "yes"}, "pad='yes'"),
        ("addition", {"operands": 1}, "operands=1: give an integer of at least 2"),
        ("addition", {"operands": True}, "operands=True"),
        ("addition", {"carry_heavy": 2}, "carry_heavy=2: give a number between 0 and 1"),
        ("addition", {"carry_heavy": float("nan")}, "carry_heavy=nan"),
        ("addition", {"carry_heavy": 0.5, "operands": 3}, "needs operands=2, not 3"),
        ("addition", {"format": "scratchpad", "operands": 3}, "format='scratchpad' needs operands=2"),
        ("addition", {"format": "scratchpad", "pad": True}, "cannot be combined with format='scratchpad'"),
        ("addition", {"format": "index_hints", "digits": (1, 60)}, "needs 61 letters"),
        ("multiplication", {"format": "dialogue"}, "known: index_hints, plain, random_space"),
        ("modular_addition", {"modulus": 1}, "modulus=1: give an integer of at least 2"),
        ("modular_addition", {"modulus": 10**5000}, "bits"),
        ("modular_addition", {"modulus": 97.0}, "modulus=97.0"),
        ("modular_addition", {"digits": (3, 2)}, r"digits=\[3, 2\]: give \[lo, hi\]"),
        ("modular_addition", {"digits": (1, 5), "modulus": 10**17 + 1}, "at most 10.*17, or leave digits out"),
        ("prefix_parity", {"alphabet": "012"}, "prefix_parity needs exactly two characters"),
        ("copy", {"length": 5}, "length=5"),
        ("copy", {"alphabet": "aab"}, "alphabet='aab'"),
        ("copy", {"alphabet": "ab="}, "other than '='"),
        ("copy", {"alphabet": ["a", "b"]}, "alphabet="),
        ("parity", {"alphabet": "012"}, "exactly two characters"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(name: str, parameters: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        get_task(name, **parameters)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"split": "dev", "size": 1}, "unknown split 'dev'; known: test, train, validation"),
        ({"split": "train", "size": -1}, "size=-1: give an integer of at least 0"),
        ({"split": "train", "size": 1.5}, "size=1.5"),
        ({"split": "train", "size": 1, "start": -1}, "start=-1"),
        ({"split": "train", "size": 1, "seed": "0"}, "seed='0'"),
    ],
)
def test_bad_requests_are_refused(where: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_task("addition").table(**where)


@pytest.mark.parametrize(
    ("name", "parameters", "count"),
    [
        ("addition", {"digits": (1, 1)}, 100),
        ("modular_addition", {"modulus": 11}, 121),
        ("modular_addition", {"modulus": 997, "digits": (1, 1)}, 100),
        ("parity", {"length": (4, 4)}, 16),
        ("copy", {"length": (1, 3), "alphabet": "xyz"}, 39),
    ],
)
def test_spaces_too_small_to_split_say_so(name: str, parameters: dict, count: int) -> None:
    task = get_task(name, **parameters)
    assert task.problem_count == count
    with pytest.raises(UserError, match=f"only {count} problems .* too few for a test split .* widen"):
        task.table("test", 1)


def test_a_split_without_one_problem_ends_with_an_error() -> None:
    task = get_task("addition")
    draw = lambda rng, count: {"digits": np.ones((count, 2, 1), np.uint8), "lengths": np.ones((count, 2), np.int64)}  # noqa: E731
    wanted = next(split for split in SPLITS if split != task.split_of("1+1="))
    with pytest.raises(UserError, match="too few"):
        task._collect(draw, 0, wanted, 0, 1)
