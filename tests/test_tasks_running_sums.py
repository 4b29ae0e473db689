"""Running sums against Python's own integers."""

import tracemalloc
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tasks import get_task
from hf_tasks.errors import UserError


def written(numbers: list[int]) -> tuple[str, str]:
    """Prompt and answer in the words of the docstring: reversed, a zero above what the last total may need."""
    width = len(str(max(numbers))) + len(str(len(numbers) - 1)) + 1
    texts, totals = ([str(n).zfill(width)[::-1] for n in them] for them in (numbers, [*accumulate(numbers)][1:]))
    return "+".join(texts) + "=", "=".join(totals)


@given(st.lists(st.integers(0, 10**30), min_size=2, max_size=40))
def test_answers_are_those_of_python(numbers: list[int]) -> None:
    prompt, answer = written(numbers)
    assert get_task("running_sum").answer(prompt) == answer


@pytest.mark.parametrize("numbers", [[9, 9], [0, 0, 0], [999] * 10, [999] * 11, [99] * 101])
def test_the_last_total_has_room(numbers: list[int]) -> None:
    prompt, answer = written(numbers)
    assert get_task("running_sum").answer(prompt) == answer


@pytest.mark.parametrize(
    ("operands", "digits"), [((2, 5), (1, 10)), ((2, 2), (1, 3)), ((9, 12), (4, 6)), ((11, 12), (1, 2))]
)
def test_rows_say_what_was_drawn(operands: tuple[int, int], digits: tuple[int, int]) -> None:
    rows = get_task("running_sum", operands=operands, digits=digits).table("train", 2000).to_pylist()
    for row in rows:
        numbers = [int(text[::-1]) for text in row["prompt"][:-1].split("+")]
        assert (row["prompt"], row["answer"]) == written(numbers)
        assert (row["operands"], row["digits"]) == (len(numbers), len(str(max(numbers))))
    for name, (low, high) in {"operands": operands, "digits": digits}.items():
        counts = [sum(row[name] == value for row in rows) for value in range(low, high + 1)]
        assert sum(counts) == 2000
        # Equally likely: five standard deviations of a binomial count.
        mean = 2000 / (high - low + 1)
        assert all(abs(count - mean) <= 5 * mean**0.5 for count in counts)


@pytest.mark.parametrize("operands", [2, 3])
def test_a_sum_has_the_split_that_addition_gives_it_in_any_order(operands: int) -> None:
    for row in get_task("addition", operands=operands).table("test", 20).to_pylist():
        numbers = [int(number) for number in row["prompt"][:-1].split("+")]
        for order in (numbers, numbers[::-1]):
            assert get_task("running_sum").split_of(written(order)[0]) == "test"


def test_one_long_number_among_many_takes_no_memory() -> None:
    prompt = "0+" * 20_000 + "1" * 20_000 + "="
    tracemalloc.start()
    try:
        assert not get_task("running_sum").check(prompt, "0")
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "prompt",
    [
        "120=",
        "1+2=",
        "10+20=",
        "100+200+=",
        "100+200",
        "0120+340=",
        "1000+2000=",
        "100+200=300",
        "100+200=\n",
        "1\u06600+200=",
        "",
    ],
)
def test_what_is_no_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(UserError, match=r"is not a prompt of running_sum: give numbers with '\+' between"):
        get_task("running_sum").answer(prompt)


@pytest.mark.parametrize("operands", [(1, 5), (5, 2), (2,), "2", (2, 2.5)])
def test_counts_that_make_no_sum_are_refused(operands: object) -> None:
    with pytest.raises(UserError, match=r"operands=.*: give \[lo, hi\] with integers"):
        get_task("running_sum", operands=operands)
