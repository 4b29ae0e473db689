"""Sequence tasks against Python's own strings."""

from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tasks import get_task

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
