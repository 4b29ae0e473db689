"""Measures of diversity on texts small enough to count by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tasks.corpora import diversity
from hf_tasks.corpora.diversity import (
    Running,
    alike_openings,
    axis_counts,
    distinct_n,
    diversity_markdown,
    diversity_report,
    rouge_l,
    self_overlap,
)

TEXTS = ["The cat sat.", "the CAT ran off!", "A dog ran."]
WORDS = st.lists(st.sampled_from("abcd"), max_size=9)


def test_distinct_n_counts_different_ngrams_within_texts() -> None:
    # the cat sat | the cat ran off | a dog ran: 10 words, 7 different; 7 bigrams, 6 different; 4 trigrams.
    assert distinct_n(TEXTS, 1) == 7 / 10
    assert distinct_n(TEXTS, 2) == 6 / 7
    assert distinct_n(TEXTS, 3) == 1
    assert distinct_n(TEXTS, 5) == distinct_n([], 1) == 0


def test_openings_that_are_alike() -> None:
    assert alike_openings(TEXTS, 2) == (2 / 3, [("the cat", 2), ("a dog", 1)])
    assert alike_openings(TEXTS, 3)[0] == 0
    assert alike_openings([]) == (0, [])


# Lin 2004 ("ROUGE: A Package for Automatic Evaluation of Summaries"), section 3.1: the reference "police killed the
# gunman" against its three candidates, whose longest common subsequences have 3, 2 and 2 of 4 words.
@pytest.mark.parametrize(
    ("candidate", "value"),
    [("police kill the gunman", 3 / 4), ("the gunman kill police", 2 / 4), ("the gunman police killed", 2 / 4)],
)
def test_rouge_l_of_the_paper(candidate: str, value: float) -> None:
    assert rouge_l("police killed the gunman", candidate) == value


def test_rouge_l_by_hand() -> None:
    assert rouge_l("A b c d!", "a x b d") == 2 * 3 / 8
    assert rouge_l("a", "a b c") == 2 * 1 / 4
    assert rouge_l("", "a") == rouge_l("a", "b") == 0


def longest_common(a: list[str], b: list[str]) -> int:
    """The textbook recursion (Cormen et al., Introduction to Algorithms, 15.4)."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return longest_common(a[:-1], b[:-1]) + 1
    return max(longest_common(a[:-1], b), longest_common(a, b[:-1]))


@given(a=WORDS, b=WORDS)
def test_rouge_l_is_that_of_the_textbook_recursion(a: list[str], b: list[str]) -> None:
    expected = 2 * longest_common(a[:7], b[:7]) / max(len(a[:7]) + len(b[:7]), 1)
    assert rouge_l(" ".join(a[:7]), " ".join(b[:7])) == (expected if a and b else 0)


def test_self_overlap_is_that_of_pairs_of_different_rows() -> None:
    assert self_overlap(["one two"] * 3) == 1
    assert self_overlap(["one two", "three four"]) == 0
    assert self_overlap(["a b c", "a b d"]) == pytest.approx(2 / 3)
    assert self_overlap(["alone"]) == self_overlap([]) == 0
    many = [f"row {row} is {row % 7} and {row % 5}" for row in range(100)]
    assert self_overlap(many, seed=1) == self_overlap(many, seed=1) != self_overlap(many, seed=2)


ASKED = [{"noun": noun} for noun in ("cat", "cat", "dog", "dog", "fox", "fox", "fox", "owl")]
KEPT = [{"noun": noun} for noun in ("cat", "cat", "dog", "fox", "owl")]


def test_the_starving_value_has_the_smallest_share_of_its_rows_kept() -> None:
    assert axis_counts(ASKED, KEPT, "noun") == {
        "values": 4, "kept": [1, 2], "starving": "fox", "asked_of_starving": 3, "kept_of_starving": 1,
    }  # fmt: skip


def test_a_value_that_was_never_kept_starves_most() -> None:
    counts = axis_counts(ASKED, KEPT[:-1], "noun")
    assert (counts["starving"], counts["kept"]) == ("owl", [0, 2])
    assert axis_counts([], [], "noun") == {"values": 0}


def test_a_report_says_in_words_which_value_starves() -> None:
    report = diversity_report(TEXTS, ASKED, KEPT, ["noun"], pairs=10)
    assert report["distinct_1"] == 7 / 10
    assert report["axes"]["noun"]["starving"] == "fox"
    text = diversity_markdown(report)
    assert "noun: 4 values, each kept 1 to 2 times; starving: **fox**, 1 of 3 rows kept" in text
    assert "3 of 8 rows kept, 10 words" in text
    assert len(text.splitlines()) == 6


def test_of_equals_the_value_that_was_asked_for_most_often_starves() -> None:
    asked = [{"noun": noun} for noun in ("ape", "owl", "owl", "cat")]
    assert axis_counts(asked, asked[3:], "noun")["starving"] == "owl"


def test_a_large_corpus_is_looked_into_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "_SAMPLE", 20)
    texts = [f"word {row}" for row in range(100)]
    report = diversity_report(texts, [], [], [], seed=1)
    assert (report["rows"], report["looked_into"], report["words"]) == (100, 20, 40)
    assert report == diversity_report(texts, [], [], [], seed=1)
    assert report["distinct_1"] == 21 / 40  # "word" once, and numbers that are no number twice
    assert "100 of 0 rows kept, 40 words in a sample of 20" in diversity_markdown(report)


ROWS = st.lists(
    st.tuples(st.sampled_from("xyz"), st.none() | st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join)),
    max_size=30,
)


@given(rows=ROWS)
def test_measures_as_rows_come_are_those_of_the_whole(rows: list[tuple[str, str | None]]) -> None:
    running = Running(["noun", "no such axis"])
    for noun, text in rows:
        running.add({"noun": noun}, text)
    texts = [text for _, text in rows if text is not None]
    asked = [{"noun": noun} for noun, _ in rows]
    kept = [{"noun": noun} for noun, text in rows if text is not None]
    assert running.rows == len(texts)
    assert running.alike_openings == pytest.approx(alike_openings(texts)[0])
    assert running.counts() == {"noun": axis_counts(asked, kept, "noun"), "no such axis": {"values": 0}}
    assert running.distinct == ({n: distinct_n(texts, n) for n in (1, 2)} if texts else {})
    whole = axis_counts(asked, kept, "noun")
    if len(kept) == len(asked):
        assert running.starving is None
    else:
        assert running.starving == (
            "noun", whole["starving"], whole["kept_of_starving"], whole["asked_of_starving"]
        )  # fmt: skip


def test_distinct_n_as_rows_come_is_that_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "_WINDOW", 3)
    running = Running([])
    for text in ["a b", "a b", "a b", "c d", "e f", "g h", "c d"]:
        running.add({}, text)
    assert running.distinct == {1: 1, 2: 1}  # rows 4 to 6; the seventh begins a window that is not full


def test_rouge_l_as_rows_come_is_that_of_a_few_pairs_and_follows_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    monkeypatch.setattr(diversity, "rouge_l", lambda a, b: (compared.append((a, b)), rouge_l(a, b))[1])
    running = Running([])
    for row in range(1000):
        running.add({}, f"only{row} in{row}")
        running.add({}, None)
    assert running.self_overlap == 0 and len(compared) == 19 + 20  # the first row has none before it
    places = [[int(text.partition(" ")[0].removeprefix("only")) for text in pair] for pair in compared]
    assert all(earlier < later for later, earlier in places) and places[-1][0] == 999
    for _ in range(2000):
        running.add({}, "the same again")
    assert running.self_overlap == 1 and len(running.overlaps) == 20 and len(compared) == 39 + 40
    again = Running([])
    for _ in range(2):
        again.add({}, "the cat sat")
    assert again.self_overlap == 1 and Running([]).self_overlap == 0  # from the second row on


def test_the_axis_that_starves_is_the_one_with_the_smallest_share() -> None:
    running = Running(["noun", "verb"])
    for noun, verb, text in (("cat", "run", "a"), ("cat", "sit", None), ("dog", "run", "b"), ("dog", "sit", None)):
        running.add({"noun": noun, "verb": verb}, text)
    assert running.starving == ("verb", "sit", 0, 2)


def test_nothing_starves_where_all_is_kept_and_an_empty_report_is_one() -> None:
    assert "starving" not in diversity_markdown(diversity_report(TEXTS, KEPT, KEPT, ["noun"]))
    assert "0 of 0 rows kept" in diversity_markdown(diversity_report([], [], [], ["noun"]))
