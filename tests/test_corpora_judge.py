"""Judges: what they are asked, how their replies are read, and what is made of the grades; and the offline measures."""

import asyncio
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_server import at_first, serving
from hypothesis import given
from hypothesis import strategies as st

from hf_tasks.corpora.base import Rejected, Reply
from hf_tasks.corpora.cache import ReplyCache
from hf_tasks.corpora.diversity import words
from hf_tasks.corpora.job import Budget, Spending
from hf_tasks.corpora.judge import (
    AGE_GROUPS,
    ASSESSMENT_PROMPT,
    GRADES,
    GRADES_PROMPT,
    CachedJudge,
    Grades,
    beginnings,
    compare_all,
    compare_report,
    grade,
    grade_all,
    grades_markdown,
    grades_report,
    krippendorff_alpha,
    mean_by_cluster,
    read_grades,
    read_verdict,
)
from hf_tasks.corpora.offline_grades import (
    has_dialogue,
    offline_markdown,
    offline_report,
    repeated_ngrams,
    sentence_length,
    vocabulary_share,
    words_present,
)
from hf_tasks.corpora.server import NoAnswer, Server
from hf_tasks.corpora.tinystories import FORBIDDEN_OPENINGS, sentences
from hf_tasks.errors import UserError

# Beginnings.


def test_beginnings_are_cut_in_mid_sentence_and_vary() -> None:
    found = beginnings()
    assert len(found) == len(set(found)) == 50
    for one in found:
        assert 2 <= len(sentences(one)) <= 4, one
        assert re.search(r"[A-Za-z,]$", one), one
        assert not any(one.lower().startswith(opening.lower()) for opening in FORBIDDEN_OPENINGS), one
    assert len({tuple(words(one)[:3]) for one in found}) == 50
    assert max(Counter(words(one)[0] for one in found).values()) <= 8


# The paper's words.


def test_what_the_judge_is_asked() -> None:
    """Golden: Eldan & Li 2023 (arXiv 2305.07759), the two turns of GPT-Eval, "gramatically" as there."""
    assert ASSESSMENT_PROMPT.format(beginning="A cat sat {on}", completion="a mat.") == (
        "The following exercise, the student is given a beginning of a story. The student needs to complete it into a "
        "full story. The exercise tests the student's language abilities and creativity. The symbol *** marks the "
        "separator between the prescribed beginning and the student's completion: A cat sat {on} *** a mat.. Please "
        "provide your general assessment about the part written by the student (the one after the *** symbol). Is it "
        "gramatically correct? Is it consistent with the beginning of the story? Pay special attention to whether the "
        "student manages to complete the sentence which is split in the middle by the separator ***."
    )
    assert GRADES_PROMPT == (
        "Now, grade the student's completion in terms of grammar, creativity, consistency with the story's beginning "
        "and whether the plot makes sense. Moreover, please provide your best guess of what the age of the student "
        "might be, as reflected from the completion. Choose from possible age groups: A: 3 or under. B: 4-5. C: 6-7. "
        "D: 8-9. E: 10-12. F: 13-16."
    )


# Reading grades.

WANTED = Grades(8, 7, 6.5, 9, "E")


@pytest.mark.parametrize(
    "text",
    [
        "Grammar: 8/10, Creativity: 7/10, Consistency: 6.5/10, Plot: 9/10, Age group: E",
        "Age group: E (10-12)\nPlot: 9 / 10\nConsistency: 6.5 / 10\nCreativity: 7 / 10\nGrammar: 8 / 10",
        "grammar:8,creativity:7,consistency:6.5,plot:9,age group:E",
        "GRAMMAR 8 CREATIVITY 7 CONSISTENCY 6,5 PLOT 9 AGE GROUP: E",
        "**Grammar:** 8/10\n**Creativity**: 7/10\n- *Consistency*: 6.5/10\n- __Plot__: 9/10\n\n**Age group:** E: 10-12",
        "### Grammar\n8/10\n\n### Creativity\n7/10\n### Consistency\n\n6.5/10\n### Plot\n9/10\n### Age\nAge: **E**.",
        "1. Grammar: 8/10\n2. Creativity: 7/10\n3. Consistency: 6.5/10\n4. Plot: 9/10\n5. Age group: E",
        "| Grammar | 8 |\n| Creativity | 7 |\n| Consistency | 6.5 |\n| Plot | 9 |\n| Age group | E |",
        '{"grammar": 8, "creativity": 7, "consistency": 6.5, "plot": 9, "age_group": "E"}',
        '```json\n{\n  "Plot": "9/10",\n  "grammar": {\n "score": 8},\n "creativity": "7/10", "consistency": 6.5,\n '
        '"age group": "10-12"\n}\n```',
        "Grammar - 8 out of 10; Creativity \u2013 7 out of 10; Consistency = 6.5 of 10; Plot (9/10). Age: 10\u201312",
        "The grammar is good, with 2 mistakes. Grammar: good (8/10). Creativity score: 7. Consistency with the story's "
        "beginning: 6.5. Whether the plot makes sense: 9. My best guess of the age group of the student: E",
        "<think>Grammar: 3/10? No.</think>\nGrammar: 8, Creativity: 7, Consistency: 6.50, Plot: 9 points, Age group: E",
        "Grammar: 8/10 - few slips. Creativity: 7/10 - a talking hat. Consistency: 6.5/10 - fine. Plot: 9/10. "
        "Age group: E (10-12), as the plot has 2 turns.\n\nAgain, grammar: 8/10.",
    ],
)
def test_grades_in_many_dresses(text: str) -> None:
    assert read_grades(text) == WANTED


GOOD = "Grammar: {}, Creativity: 7/10, Consistency: 7/10, Plot: 8/10, Age group: {}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "grammar_missing"),
        ("A lovely story!", "grammar_missing"),
        (f"<think>{GOOD.format(8, 'E')}", "grammar_missing"),  # cut off while it thinks
        ("Grammar: 8/10, Creativity: 7/10, Consistency: 7/10, Age group: E", "plot_missing"),
        ("Grammar: 8/10, Creativity: 7/10, Consistency: 7/10, Plot: 8/10", "age_group_missing"),
        (GOOD.format("11/10", "E"), "grammar_out_of_range"),
        (GOOD.format("85", "E"), "grammar_out_of_range"),
        (GOOD.format("-8", "E"), "grammar_out_of_range"),
        (GOOD.format("4/5", "E"), "grammar_out_of_range"),
        (GOOD.format("8/100", "E"), "grammar_out_of_range"),
        (GOOD.format("80%", "E"), "grammar_missing"),
        (GOOD.format("N/A", "E"), "grammar_missing"),
        (GOOD.format("7-8/10", "E"), "grammar_missing"),
        (GOOD.format("2 mistakes", "E"), "grammar_missing"),
        (GOOD.format("mistakes: 2", "E"), "grammar_missing"),
        (GOOD.format("8/10, Grammar: 7/10", "E"), "grammar_ambiguous"),
        (GOOD.format("8/10", "G"), "age_group_missing"),
        (GOOD.format("8/10", "D or E"), "age_group_missing"),
        (GOOD.format("8/10", "D/E"), "age_group_missing"),
        (GOOD.format("8/10", "A student of ten"), "age_group_missing"),
        (GOOD.format("8/10", "E (8-9)"), "age_group_ambiguous"),
        # Read from the names on, these would be one place off.
        ("8/10 - Grammar\n7/10 - Creativity\n6/10 - Consistency\n9/10 - Plot\n8/10\nAge group: E", "grade_before_name"),
        ("| 8 | Grammar |\n| 7 | Creativity |\n| 6 | Consistency |\n| 9 | Plot |\n| 8 |\nAge: E", "grade_before_name"),
        ("| Grammar | Creativity | Consistency | Plot |\n| 8 | 7 | 6 | 9 |\nAge group: E", "grammar_missing"),
    ],
)
def test_malformed_replies_are_never_guessed(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as error:
        read_grades(text)
    assert error.value.reason == reason


PIECES = [
    *GRADES,
    "Age group",
    "E",
    "8",
    "/10",
    " ",
    "\n",
    ":",
    "-",
    "|",
    "{",
    "(",
    ".",
    "**",
    "good",
    "11",
    "10-12",
    ",",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_garbage_gives_grades_within_the_scale_or_is_rejected(text: str) -> None:
    try:
        found = read_grades(text)
    except Rejected:
        return
    assert all(0 <= getattr(found, name) <= 10 for name in GRADES)
    assert found.age_group in AGE_GROUPS


@given(
    st.permutations([*GRADES, "age"]),
    st.lists(st.integers(0, 10), min_size=4, max_size=4),
    st.sampled_from("ABCDEF"),
    st.sampled_from(["{}", "{}/10", "{} / 10", "**{}**", "{}.0/10", "{} out of 10"]),
    st.sampled_from([", ", "\n", "; ", ".\n- ", " | "]),
)
def test_any_grades_in_any_order(order: list[str], grades: list[int], group: str, form: str, between: str) -> None:
    said = {name: f"{name.title()}: {form.format(value)}" for name, value in zip(GRADES, grades, strict=True)}
    said["age"] = f"Age group: {group}"
    assert read_grades(between.join(said[name] for name in order)) == Grades(
        **dict(zip(GRADES, grades, strict=True)), age_group=group
    )


@pytest.mark.parametrize("text", ["grammar" + " " * 20_000, "grammar: " * 5_000, "age " * 10_000, "plot|" * 5_000])
def test_long_garbage_is_read_in_no_time(text: str) -> None:
    with pytest.raises(Rejected):
        read_grades(text)


# The whole road.


class CountingJudge:
    """Grades by counting. Doubled words cost grammar, repeated words creativity, words unlike the beginning's
    consistency, and too few sentences plot; longer words are for older children.

    A completion with "@" gets no grades, one with "#" no answer. `strict` is taken off every grade.
    """

    def __init__(self, label: str, strict: float = 0.0) -> None:
        self.label, self.strict = label, strict
        self.flying = self.most_flying = 0
        self.seen: list[Sequence[Mapping[str, str]]] = []

    def grades(self, beginning: str, completion: str) -> Grades:
        said = words(completion)
        doubled = sum(a == b for a, b in itertools.pairwise(said))
        values = (
            10 - doubled,
            10 * len(set(said)) / len(said),
            10 * len(set(said) & set(words(beginning))) / len(set(said)),
            2 * len(sentences(completion)),
        )
        group = "ABCDEF"[min(5, int(sum(map(len, said)) / len(said)))]
        found = [min(10.0, max(0.0, round(value - self.strict, 2))) for value in values]
        return Grades(**dict(zip(GRADES, found, strict=True)), age_group=group)

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        schema: Mapping[str, Any] | None = None,
        max_tokens: int = 1024,
        **sampling: Any,
    ) -> Reply:
        self.seen.append(messages)
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        await asyncio.sleep(0.001)
        self.flying -= 1
        beginning, completion = re.findall(
            r"student's completion: (.*) \*\*\* (.*)\. Please provide", messages[0]["content"], re.DOTALL
        )[0]
        if "#" in completion:
            raise NoAnswer("timeout")
        if len(messages) == 1:
            return Reply(f"It has {len(words(completion))} words.", self.label)
        assert messages[1:] == [
            {"role": "assistant", "content": f"It has {len(words(completion))} words."},
            {"role": "user", "content": GRADES_PROMPT},
        ]
        one = self.grades(beginning, completion)
        said = [f"{name.title()}: {getattr(one, name)}/10" for name in GRADES if "@" not in completion]
        return Reply(", ".join([*said, f"Age group: {one.age_group}"]), self.label)


PAIRS = [
    ("The cat sat", "on the the mat. The cat was happy."),
    ("The cat sat", "@ nothing"),
    ("The cat sat", "by a frog. It ran. It hid. It sang. It slept."),
    ("A dog ran", "home. A dog ran ran ran far."),
    ("A dog ran", "# away"),
    ("Some rain fell", "on extraordinary umbrellas everywhere."),
]


def test_the_whole_road_with_two_judges() -> None:
    judges = [CountingJudge("mild"), CountingJudge("strict", 1.0)]
    graded = asyncio.run(grade_all(judges, PAIRS, concurrency=3))
    assert all(1 < judge.most_flying <= 3 for judge in judges)
    report = grades_report(PAIRS, graded, resamples=500)
    assert json.loads(json.dumps(report)) == report
    assert (report["beginnings"], report["completions"]) == (3, 6)
    for judge in judges:
        kept = [judge.grades(*pair) for pair in PAIRS if not set("@#") & set(pair[1])]
        one = report["judges"][judge.label]
        assert (one["graded"], one["malformed"], one["unanswered"]) == (4, {"grammar_missing": 1}, {"timeout": 1})
        for name in GRADES:  # the mean of what was graded: neither of the other two is a zero in it
            expected = np.mean([getattr(grades, name) for grades in kept])
            assert one["grades"][name]["value"] == pytest.approx(expected)
            low, high = one["grades"][name]["ci95"]
            assert low <= expected <= high
        assert one["age_groups"] == {group: [g.age_group for g in kept].count(group) for group in AGE_GROUPS}
        assert one["rows"][1] == {"reason": "grammar_missing"}
        assert one["rows"][0]["assessment"] == "It has 8 words."
    # Grammar by hand: 9, 10, 8, 10 and one less each from the strict one.
    assert report["judges"]["mild"]["grades"]["grammar"]["value"] == 37 / 4
    assert report["agreement"]["grammar"]["mean_absolute_difference"] == {"mild / strict": 1}
    assert report["agreement"]["age_group"] == {"alpha": 1, "mean_absolute_difference": {"mild / strict": 0}}
    text = grades_markdown(report)
    assert "| mild | 9.25 [" in text
    assert "| 4 | 1 | 1 |" in text
    assert "mild / strict: 1.00" in text


def test_over_http_a_judge_that_gives_no_grades() -> None:
    """The loopback server tells a story instead: after a fault that passes, all replies are malformed."""
    with serving(at_first("500")) as faulty:

        async def judged() -> Any:
            async with Server(faulty.url, "tiny", wait=0.01) as server:
                return await grade_all([server], PAIRS[:3])

        graded = asyncio.run(judged())
    report = grades_report(PAIRS[:3], graded)
    assert report["judges"]["tiny"]["malformed"] == {"grammar_missing": 3}
    assert report["judges"]["tiny"]["grades"]["plot"] == {"value": None, "ci95": None}
    assert report["agreement"] == {}
    assert "| tiny | - | - | - | - | - | 0 | 3 | 0 |" in grades_markdown(report)
    assert sorted(len(body["messages"]) for body in faulty.bodies) == [1] * 6 + [3] * 6
    second = next(body["messages"] for body in faulty.bodies if len(body["messages"]) == 3)
    assert [one["role"] for one in second] == ["user", "assistant", "user"]
    assert second[1]["content"].startswith("A story about")


def test_over_http_a_judge_that_never_answers() -> None:
    with serving(at_first("503", times=100)) as faulty:

        async def judged() -> Any:
            async with Server(faulty.url, "tiny", wait=0.01, tries=2) as server:
                return await grade_all([server], PAIRS[:2])

        report = grades_report(PAIRS[:2], asyncio.run(judged()))
    assert report["judges"]["tiny"]["unanswered"] == {"status 503": 2}
    assert report["judges"]["tiny"]["grades"]["grammar"]["value"] is None


def test_a_wrong_key_stops_all() -> None:
    with serving(lambda body, times: "401") as faulty:

        async def judged() -> Any:
            async with Server(faulty.url, "tiny") as server:
                return await grade_all([server], PAIRS * 10, concurrency=2)

        with pytest.raises(UserError, match="refuses the key"):
            asyncio.run(judged())
    assert len(faulty.bodies) <= 4


def test_an_empty_assessment_is_malformed() -> None:
    class Silent(CountingJudge):
        async def chat(self, *args: Any, **kwargs: Any) -> Reply:
            return Reply(" \n", self.label)

    with pytest.raises(Rejected, match="assessment_empty"):
        asyncio.run(grade(Silent("silent"), *PAIRS[0]))


def test_what_cannot_be_graded() -> None:
    with pytest.raises(UserError, match="label of its own"):
        asyncio.run(grade_all([CountingJudge("a"), CountingJudge("a")], PAIRS))
    with pytest.raises(UserError, match="0 completions"):
        asyncio.run(grade_all([CountingJudge("a")], []))
    with pytest.raises(UserError, match="judges"):
        asyncio.run(grade_all([], PAIRS))
    with pytest.raises(UserError, match="concurrency is 0"):
        asyncio.run(grade_all([CountingJudge("a")], PAIRS, concurrency=0))


class CachedRoad(CountingJudge):
    """Says what an answer costs."""

    async def chat(self, *args: Any, **kwargs: Any) -> Reply:
        return replace(await super().chat(*args, **kwargs), prompt_tokens=self.tokens, completion_tokens=0)

    tokens = 7


def test_a_cached_judge_is_asked_nothing_twice(tmp_path: Path) -> None:
    judge = CachedRoad("mild")

    def graded() -> tuple[Any, CachedJudge, Spending]:
        spending = Spending(Budget(price=(1e6, 0)))
        with ReplyCache(tmp_path) as cache:
            cached = CachedJudge(judge, cache, spending)
            return asyncio.run(grade_all([cached], [*PAIRS, *PAIRS])), cached, spending

    first, cached, spending = graded()
    # Five completions with two questions each, of each one, though it came twice; "#" is never answered.
    assert len(judge.seen) == 2 * 5 + 1 and cached.requests == 10 and spending.cost == 7 * 10
    again, cached, _ = graded()
    assert len(judge.seen) == 2 * 5 + 2 and cached.requests == 0
    plain = asyncio.run(grade_all([CountingJudge("mild")], [*PAIRS, *PAIRS]))
    assert (
        [str(one) for one in first["mild"]]
        == [str(one) for one in plain["mild"]]
        == [str(one) for one in again["mild"]]
    )


def test_a_judge_that_counts_no_tokens_has_no_budget(tmp_path: Path) -> None:
    judge = CachedRoad("free")
    judge.tokens = 0
    with ReplyCache(tmp_path) as cache, pytest.raises(UserError, match="'free' counts no tokens"):
        asyncio.run(grade_all([CachedJudge(judge, cache, Spending(Budget(max_tokens_total=10_000)))], PAIRS))


# Statistics.


def test_the_interval_covers_a_known_mean() -> None:
    """200 experiments with 50 beginnings of 10 completions each, whose beginnings differ more than they do."""
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(50), 10).tolist()
    covered, narrow = 0, 0
    for _ in range(200):
        values = 6 + np.repeat(rng.normal(0, 2, 50), 10) + rng.normal(0, 1, 500)
        low, high = mean_by_cluster(values, clusters, 400)["ci95"]
        covered += low <= 6 <= high
        low, high = mean_by_cluster(values, range(500), 400)["ci95"]
        narrow += low <= 6 <= high
    assert 0.88 <= covered / 200 <= 0.99
    assert narrow / 200 < 0.7  # what a bootstrap of completions would have claimed


def test_means_by_hand() -> None:
    values = np.array([1, 2, math.nan, 9.0])
    # All ways to draw two of the clusters {1, 2} and {9}: means 1.5, 4 and 9.
    assert mean_by_cluster(values, ["a", "a", "b", "b"]) == {"value": 4, "ci95": [1.5, 9]}
    assert mean_by_cluster(values[:2], ["a", "a"]) == {"value": 1.5, "ci95": None}
    assert mean_by_cluster(values[2:3], ["a"]) == {"value": None, "ci95": None}


def test_krippendorffs_alpha() -> None:
    """Golden: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", four observers: 0.849 for intervals."""
    rows = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    ratings = np.array([[math.nan if one == "." else float(one) for one in row.split()] for row in rows])
    assert krippendorff_alpha(ratings) == pytest.approx(0.849, abs=5e-4)
    # By hand, (1, 2) and (3, 3): observed (1 + 1 + 0 + 0) / 4; expected, over the 12 ordered pairs of 1, 2, 3 and 3,
    # 2 * (1 + 4 + 4 + 1 + 1 + 0) / 12.
    assert krippendorff_alpha(np.array([[1, 3], [2, 3.0]])) == pytest.approx(1 - (2 / 4) / (22 / 12))
    assert krippendorff_alpha(np.array([[5, 5], [5, 5.0]])) is None
    assert krippendorff_alpha(np.array([[5, math.nan], [math.nan, 5.0]])) is None


# Pairs.


class Comparing:
    """Prefers by a rule: "longer" text, "first" or "second" place, "equal" always; "#" in a text: no verdict."""

    def __init__(self, rule: str) -> None:
        self.label = self.rule = rule

    async def chat(self, messages: Sequence[Mapping[str, str]], *args: Any, **kwargs: Any) -> Reply:
        first, second = re.findall(r"First:\n(.*)\n\nSecond:\n(.*)\n\nWhich", messages[0]["content"], re.DOTALL)[0]
        if "#" in first:
            return Reply("I would rather not say.", self.label)
        longer = "equal" if len(first) == len(second) else "first" if len(first) > len(second) else "second"
        verdict = longer if self.rule == "longer" else self.rule
        return Reply(f"The first has {len(first)} letters.\n\n**Verdict: {verdict.title()}**", self.label)


TRIPLES = [("Tom", f"ran {'far ' * row}.", "sat down there.") for row in range(8)]


def compared(rule: str, triples: list[tuple[str, str, str]]) -> dict[str, Any]:
    return compare_report(triples, asyncio.run(compare_all(Comparing(rule), triples)))


@pytest.mark.parametrize(("rule", "share"), [("first", 1.0), ("second", 0.0)])
def test_a_judge_of_positions_decides_nothing(rule: str, share: float) -> None:
    report = compared(rule, TRIPLES)
    assert report["overturned"] == 8
    assert report["wins"] == report["losses"] == report["equal"] == 0
    assert report["win_rate"]["value"] is None
    assert report["first_position"]["value"] == share
    low, high = report["first_position"]["ci95"]
    assert not low <= 0.5 <= high
    assert low < high


def test_a_judge_of_texts_survives_the_swap() -> None:
    report = compared("longer", [*TRIPLES, ("Tom", "#", "x"), ("Tom", "equally long...", "sat down there.")])
    assert (report["wins"], report["losses"], report["equal"], report["overturned"]) == (5, 3, 1, 0)
    assert report["malformed"] == {"verdict_missing": 1}
    assert report["win_rate"]["value"] == 5 / 8
    assert report["first_position"]["value"] == 0.5
    assert json.loads(json.dumps(report)) == report


def test_a_judge_that_finds_all_equal_has_no_position_bias() -> None:
    report = compared("equal", TRIPLES)
    assert report["equal"] == 8
    assert report["first_position"] == {"value": None, "ci95": None, "count": 0}


def test_no_pairs() -> None:
    with pytest.raises(UserError, match="no pair to compare"):
        asyncio.run(compare_all(Comparing("first"), []))


@pytest.mark.parametrize("text", ["Verdict: First", "verdict : **first**.", "The second is dull.\n# Verdict\nFirst"])
def test_verdicts(text: str) -> None:
    assert read_verdict(text) == "first"


@pytest.mark.parametrize("text", ["", "First!", "Verdict: First or Second", "Verdict: First\nVerdict: Second"])
def test_no_verdicts(text: str) -> None:
    with pytest.raises(Rejected, match="verdict_"):
        read_verdict(text)


# Offline.


def test_offline_measures_by_hand() -> None:
    # a b c d | b c d a | c d a b | d a b c | a b c d again: one of five stood before.
    assert repeated_ngrams("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_ngrams("a b c") == 0
    assert sentence_length('The cat ran. "Stop!" said Tom. It was late.') == (3 + 3 + 3) / 3
    assert sentence_length("") == vocabulary_share("") == 0
    assert vocabulary_share("zxq cats jumped happily") == 3 / 4
    assert words_present("She jumped.", [("verb", "jump"), ("noun", "cat")]) == 1 / 2


@pytest.mark.parametrize(
    "text", ['"Stop!" said Tom.', 'Tom said, "It is late."', "\u201cCome,\u201d he said. It rained."]
)
def test_dialogue(text: str) -> None:
    assert has_dialogue(text)


@pytest.mark.parametrize("text", ["Tom said that it was late.", 'The "big" one ran.', 'The 12" pipe. It fell.', ""])
def test_no_dialogue(text: str) -> None:
    assert not has_dialogue(text)


def test_dialogue_is_looked_for_in_stories_that_were_asked_for_it() -> None:
    texts = ['ran. "Hi," he said.', "ran home.", 'ran. "Oh!" he said.']
    report = offline_report(texts, features=["plot twist, dialogue", "dialogue", "none"], beginnings=["Tom"] * 3)
    assert (report["dialogue_if_asked"], report["dialogue_if_not_asked"]) == (1 / 2, 1)
    assert (offline_report(texts)["dialogue_if_asked"], offline_report(texts)["dialogue_if_not_asked"]) == (None, 2 / 3)
    assert "texts with dialogue, where it was asked for | 0.500 |" in offline_markdown(report)
    with pytest.raises(UserError, match="3 texts and 1 features"):
        offline_report(texts, features=["dialogue"])


def test_an_offline_report() -> None:
    texts = ["The cat jumped on it.", "The cat jumped on me.", "A dog ran."]
    wanted = [[("verb", "jump"), ("noun", "cat")], [("verb", "jump"), ("noun", "dog")], [("noun", "owl")]]
    report = offline_report(texts, wanted)
    assert report["words_present"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert report["all_words_present"] == pytest.approx(1 / 3)
    assert report["distinct_openings"] == pytest.approx(1 / 3)
    assert report["sentence_length"] == pytest.approx((5 + 5 + 3) / 3)
    assert offline_report(texts)["words_present"] is None
    with pytest.raises(UserError, match="3 texts and 1 lists"):
        offline_report(texts, wanted[:1])
    assert offline_report(texts, wanted, ["He sat."] * 3)["words_present"] == report["words_present"]
    with pytest.raises(UserError, match="0 texts and no lists"):
        offline_report([])
