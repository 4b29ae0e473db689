"""Sequence tasks against Python's own strings."""

from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks import get_task
from hf_tasks.errors import UserError

RULES: dict[str, tuple[str, Callable[[str], str]]] = {
    "copy": ("abcxyz", str),
    "reverse": ("abcxyz", lambda text: text[::-1]),
    "sort": ("abcxyz", lambda text: "".join(sorted(text))),
    "parity": ("01", lambda text: str(text.count("1") % 2)),
    "prefix_parity": ("01", lambda text: "".join(str(text[:end].count("1") % 2) for end in range(1, len(text) + 1))),
    "prefix_sum": ("01234", lambda text: "".join(str(total % 5) for total in accumulate(map(int, text)))),
}


@pytest.mark.parametrize("name", RULES)
@given(data=st.data())
def test_answers_are_those_of_python(name: str, data: st.DataObject) -> None:
    alphabet, rule = RULES[name]
    text = data.draw(st.text(alphabet, min_size=1, max_size=400))
    assert get_task(name, alphabet=alphabet).answer(f"{text}=") == rule(text)


@pytest.mark.parametrize("name", RULES)
def test_generated_rows_of_all_lengths(name: str) -> None:
    alphabet, rule = RULES[name]
    rows = get_task(name, alphabet=alphabet, length=(5, 300)).table("train", 300).to_pylist()
    assert len({len(row["prompt"]) for row in rows}) > 100
    assert all(row["answer"] == rule(row["prompt"][:-1]) for row in rows)


@given(texts=st.lists(st.text("01", min_size=1, max_size=12), min_size=1, max_size=4), steps=st.integers(1, 15))
@settings(deadline=None)
def test_hints_of_parity_are_those_of_what_ends_with_a_character(texts: list[str], steps: int) -> None:
    (told,) = get_task("parity", length=(1, 12)).hints([f"{text}=" for text in texts], steps).values()
    assert told.shape == (len(texts), steps, max(map(len, texts)) + 1 + 1)
    for text, row in zip(texts, told.tolist(), strict=True):
        for step, values in enumerate(row, 1):
            windows = [text[max(end - step, 0) : end] for end in range(1, len(text) + 1)]
            # "=" adds nothing: it has what the last character knew one step before.
            last = text[max(len(text) - step + 1, 0) :].count("1") % 2 if step > 1 else -100
            rest = [-100] * (told.shape[2] - len(text) - 1)
            assert values == [*(window.count("1") % 2 for window in windows), last, *rest]


def test_hints_of_parity_follow_the_alphabet() -> None:
    task = get_task("parity", length=(1, 3), alphabet="ab")
    assert task.hint_steps == 4
    assert task.hints(["bba="], 4)["parity"][0, -1].tolist() == [1, 0, 0, 0, -100] and task.answer("bba=") == "a"


def test_hints_of_a_wrong_prompt_are_refused() -> None:
    with pytest.raises(UserError, match="'0!=' is not a prompt of parity: give characters of '01'"):
        get_task("parity").hints(["01=", "0!="], 2)
