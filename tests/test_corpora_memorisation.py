"""Overlap with other texts: by hand, and against brute force."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tasks.corpora.memorisation import (
    memorisation,
    memorisation_markdown,
    nearest,
    nearest_other,
    rouge_k_precision,
)
from hf_tasks.errors import UserError

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=8).map(" ".join), max_size=6)
STORIES = ["The cat sat on the mat.", "A dog ran to the park and sat down.", "Birds fly."]


def test_precision_by_hand() -> None:
    # the cat | cat ran | ran off | off the | the cat: two of five ("the cat", twice) are in the other text.
    assert rouge_k_precision("The cat ran off. The CAT!", "See the cat sit.", 2) == 2 / 5
    assert rouge_k_precision("the cat ran off the cat", "see the cat sit", 1) == 4 / 6
    assert rouge_k_precision("the cat sat", "the cat sat down", 3) == 1
    assert rouge_k_precision("the cat sat down", "the cat sat", 3) == 1 / 2
    assert rouge_k_precision("a b", "", 2) == 0
    assert math.isnan(rouge_k_precision("a", "a b", 2))


def brute(text: str, others: list[str], k: int) -> tuple[int, float]:
    values = [rouge_k_precision(text, other, k) for other in others]
    if math.isnan(rouge_k_precision(text, "", k)):
        return -1, math.nan
    best = max(values, default=0.0)
    return (values.index(best) if best else -1), best


@given(texts=TEXTS, others=TEXTS, k=st.integers(1, 4))
def test_nearest_is_what_brute_force_finds(texts: list[str], others: list[str], k: int) -> None:
    places, precisions, anywhere = nearest(texts, others, k)
    expected = [brute(text, others, k) for text in texts]
    assert places.tolist() == [place for place, _ in expected]
    np.testing.assert_allclose(precisions, [best for _, best in expected])
    # A stop that is in no alphabet keeps k-grams from reaching from one story into the next.
    together = [rouge_k_precision(text, f" {' '.join(['x'] * k)} ".join(others), k) for text in texts]
    np.testing.assert_allclose(anywhere, together)


@given(texts=TEXTS, k=st.integers(1, 3))
def test_nearest_other_leaves_out_the_text_itself(texts: list[str], k: int) -> None:
    places, precisions, _ = nearest_other(texts, k)
    for row, text in enumerate(texts):
        others = [*texts[:row], "", *texts[row + 1 :]]
        place, best = brute(text, others, k)
        assert places[row] == place
        np.testing.assert_allclose(precisions[row], best)


def test_a_report_by_hand() -> None:
    completions = ["the cat sat on a chair", "birds fly", "hello", "the park and the zoo"]
    originals = ["the cat sat on the mat", "birds sing", "hello there", "the park and sat down"]
    report = memorisation(completions, STORIES, originals, k=2, shown=2)
    assert [row["original"] for row in report["rows"]] == [3 / 5, 0, None, 2 / 4]
    assert [row["nearest_story"] for row in report["rows"]] == [3 / 5, 1, None, 2 / 4]
    assert [row["story"] for row in report["rows"]] == [0, 2, None, 1]
    assert [row["other"] for row in report["rows"]] == [None] * 4
    assert report["too_short"] == 1
    assert report["nearest_story"] == pytest.approx({"mean": 2.1 / 3, "median": 0.6, "max": 1})
    assert [one["story"] for one in report["shown"]] == [STORIES[2], STORIES[0]]
    text = memorisation_markdown(report)
    assert "| the nearest training story | 0.700 | 0.600 | 1.000 |" in text
    assert f"nearest story: {STORIES[0]}" in text


def test_a_report_without_originals() -> None:
    report = memorisation(["x"], STORIES)
    assert report["original"] is None
    assert report["nearest_story"] is None  # too short
    assert report["shown"] == []
    assert "original" not in memorisation_markdown(report)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([], STORIES), "0 completions and 3 stories"),
        ((["a b"], []), "1 completions and 0 stories"),
        ((["a b"], STORIES, []), "0 originals for 1 completions"),
        ((["a b"], STORIES, None, 0), "k is 0"),
    ],
)
def test_nothing_to_compare(arguments: tuple, said: str) -> None:
    with pytest.raises(UserError, match=said):
        memorisation(*arguments)


def test_speed() -> None:
    """2,000 stories x 50 completions in 0.6 seconds; 20,000 x 500, a hundred times that, may take a minute."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{number}" for number in range(1500)])
    shares = 1 / np.arange(1, 1501)  # as Zipf has it: some pairs of words stand in most stories
    drawn = rng.choice(vocabulary, size=(2050, 170), p=shares / shares.sum())
    texts = [" ".join(row) for row in drawn]
    start = time.process_time()
    places, _, _ = nearest(texts[2000:], texts[:2000])
    assert time.process_time() - start < 0.6
    assert (places >= 0).all()
