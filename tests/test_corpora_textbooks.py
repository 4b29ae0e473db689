"""Textbook sections and questions without a server: topics, prompts, and what is kept of an answer."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks.corpora.base import Corpus, Rejected, Request
from hf_tasks.corpora.textbook import AUDIENCES, STYLES, Textbook
from hf_tasks.corpora.topics import Topic, knowledge_topics, programming_topics
from hf_tasks.corpora.topics_qa import FIELDS, FORMATS, TopicsQA

BOOK, QA = Textbook(), TopicsQA()
SEARCH = {"topic": "binary search", "audience": "middle school students", "style": "worked examples"}
FOG = {"topic": "what causes fog", "format": "multiple choice", "audience": "teenagers"}
PROSE = """A sorted shelf of books can be searched quickly. Look at the book in the middle. If its title comes after the
one that you want, the whole right half of the shelf is out of the question, and you go on with the left half alone.
Each look halves what is left, so that a thousand books need about ten looks and no more than that. A word for this
number is the logarithm: it says how often a number can be halved before only one is left over. The program below keeps
two marks, low and high, between which the wanted number must lie if it is there at all."""
CODE = """def find(numbers, wanted):
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low"""
AFTER = """Why does the loop end? With every turn the gap between the marks gets smaller, since middle is never equal to
high. And why is the answer right? What lies left of low is too small, what lies right of high is large enough, and when
both marks meet nothing remains in between."""
SECTION = f"{PROSE}\n\n```python\n{CODE}\n```\n\n{AFTER}"
ITEM = {
    "question": "Why is there fog over the lake on a cool morning?\n(A) The lake boils\n(B) Moist air cools and its "
    "vapour turns into droplets\n(C) Smoke sinks down\n(D) Fish breathe out",
    "answer": "(B) Moist air cools and its vapour turns into droplets",
    "explanation": "Cool air holds less vapour. The rest becomes tiny drops. Lakes do not boil, and there was no fire.",
}


def read_section(text: str) -> dict[str, object]:
    return BOOK.read(BOOK.request(0, SEARCH), text)


def read_item(kind: str, **changed: str) -> dict[str, object]:
    return QA.read(QA.request(0, FOG | {"format": kind}), json.dumps(ITEM | changed))


# Topics.


@pytest.mark.parametrize(("topics", "fewest", "areas"), [(programming_topics(), 150, 6), (knowledge_topics(), 3500, 7)])
def test_topics_are_many_distinct_phrases(topics: dict[str, Topic], fewest: int, areas: int) -> None:
    assert len(topics) >= fewest
    assert len({name.lower() for name in topics}) == len({topic.path for topic in topics.values()}) == len(topics)
    assert len({topic.area for topic in topics.values()}) == areas
    for name, topic in topics.items():
        assert name == topic.name == topic.path[-1]
        assert all(re.fullmatch(r"[A-Za-z](?:[A-Za-z',]| (?! )|-(?=[a-z]))*[A-Za-z]", part) for part in topic.path)


def test_nothing_of_the_data_file_is_lost_by_a_topic_that_stands_twice() -> None:
    # Counted by hand: tools are 16 seeds of 7 aspects, feelings 24 of 7, the sky 10 of 6.
    subjects = Counter(topic.subject for topic in knowledge_topics().values())
    assert (subjects["Tools"], subjects["Feelings"], subjects["The sky"]) == (112, 168, 60)
    assert not set(programming_topics()) & set(knowledge_topics())


def test_a_topic_knows_its_path() -> None:
    assert knowledge_topics()["looking after a hammer"].path == (
        "Things", "Tools", "a hammer", "looking after a hammer",
    )  # fmt: skip
    assert programming_topics()["binary search"].path == ("Algorithms", "Searching", "binary search")


# Prompts, and what rows ask for.


def test_the_prompt_of_a_section() -> None:
    request = BOOK.request(3, SEARCH)
    assert (request.corpus, request.index, request.schema) == ("textbook", 3, None)
    assert request.messages[0]["content"] == (
        "Write one section of a textbook of Python programming, of 400 to 700 words, about binary search "
        "(part of: Algorithms - Searching).\n"
        "Its readers are middle school students. They know fractions and simple equations and write their first "
        "programs; every new word is explained where it first stands.\n"
        "Its form is worked examples. Two or three problems are posed and solved one after another, each harder than "
        "the last, with the reasoning behind every step.\n"
        "Prose and code take turns: at least two short Python programs, each in a block fenced by ```python and ```, "
        "that run by themselves on the standard library. The prose before a program says what it is to do, and the "
        "prose after it why that works and what it prints. Do not just list facts: reason step by step, and show the "
        "idea at work in a concrete case.\n"
        'Begin at once with the subject: no title, no greeting, no "In this chapter", "In today\'s" or "Welcome to", '
        "and no other stock opening. No images, no links, and nothing about these instructions."
    )


def test_the_prompt_of_an_item() -> None:
    request = QA.request(3, FOG)
    assert request.schema is not None
    assert request.schema["required"] == list(request.schema["properties"]) == list(FIELDS)
    assert request.schema["additionalProperties"] is False
    assert request.messages[0]["content"] == (
        "Make up an item for a book that teaches common sense and general knowledge, about what causes fog "
        "(Nature - Weather). It is of the kind: multiple choice.\n"
        "Its readers are teenagers. Take examples from school, friends and free time.\n"
        "- question: a question, and below it four options, each on a line of its own, (A) to (D), of which exactly "
        "one is right and the others are plausible.\n"
        "- answer: the right option, with its letter, as in (B) a warm coat.\n"
        "- explanation: why it is right, and why each of the others is wrong.\n"
        'Be concrete and true: one case, not a summary of the topic. No stock phrases, such as "In today\'s", "Have '
        'you ever" or "It is important to note", and nothing about these instructions.\n'
        'Answer with one JSON object and nothing else: {"question": "...", "answer": "...", "explanation": "..."}'
    )


@pytest.mark.parametrize("corpus", [BOOK, QA])
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 250), seed=st.integers(0, 2**32))
def test_every_axis_is_covered_evenly(corpus: Corpus, rows: int, seed: int) -> None:
    asked = [corpus.parameters(index, seed) for index in range(rows)]
    for axis, values in corpus.axes.items():
        counts = Counter(row[axis] for row in asked)
        assert set(counts) <= set(values)
        assert len(counts) == min(rows, len(values))
        assert max(counts.values()) - (min(counts.values()) if rows >= len(values) else 0) <= 1


def test_every_value_of_every_axis_makes_a_prompt_of_its_own() -> None:
    for corpus, rows in ((BOOK, len(programming_topics())), (QA, len(knowledge_topics()))):
        requests = [corpus.request(index, corpus.parameters(index, 0)) for index in range(rows)]
        assert len({request.prompt_hash for request in requests}) == rows
    assert len(AUDIENCES) * len(STYLES) == 49


# Sections.


def test_a_section_is_kept_as_it_is() -> None:
    row = read_section(SECTION)
    assert row == {"body": SECTION, "code": [CODE]}
    assert BOOK.text(row) == SECTION
    assert set(row) == set(BOOK.columns)


@pytest.mark.parametrize(
    "text",
    [
        f"# Binary search\n\n{SECTION}",
        f"**Binary search**\n\n## First steps\n{SECTION}\n",
        f"```markdown\n{SECTION}\n```",
    ],
)
def test_titles_and_wrapping_are_cut_off(text: str) -> None:
    assert read_section(text)["body"] == SECTION


@pytest.mark.parametrize(
    ("block", "code"),
    [
        ("```py\nprint(1)\n```", ["print(1)"]),
        ("```\nprint(1)\n```", ["print(1)"]),
        ("1. Do this:\n\n   ```python\n   if 1:\n       print(1)\n   ```", ["if 1:\n    print(1)"]),
        ("```python\nprint('a b')\n```\n\n```\na b\n```\n\n```text\na b\n```", ["print('a b')"]),
        ('```python title="x"\nprint("\\d")\n```', ['print("\\d")']),
        ("```python\n>>> x = 1\n>>> x\n1\n```", [">>> x = 1\n>>> x\n1"]),
    ],
)
def test_blocks_of_python(block: str, code: list[str]) -> None:
    assert read_section(f"{PROSE}\n\n{block}\n\n{AFTER}")["code"] == code


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_code"),
        (f"{PROSE}\n\n{AFTER}", "no_code"),
        (f"{PROSE}\n\n```bash\nls\n```\n\n{AFTER}", "no_code"),
        (f"{PROSE}\n\n```python\n\n```\n\n{AFTER}", "no_code"),
        (SECTION.replace("return low", "return (low"), "syntax"),
        (SECTION.replace(CODE, ">>> return ("), "syntax"),
        (SECTION.replace(CODE, "print 'old'"), "syntax"),
        (SECTION.replace(CODE, "x = \0"), "syntax"),
        (SECTION.replace(CODE, "(" * 5000), "syntax"),
        (f"Halve it.\n\n```python\n{CODE}\n```\n\nDone.", "too_short"),
        (f"In this chapter, we search. {SECTION}", "stock_opening"),
        (f"# Search\n\n*Welcome to* the art of search. {SECTION}", "stock_opening"),
        (f"In today\u2019s world, we search. {SECTION}", "stock_opening"),
        (f"Sure! {SECTION}", "stock_opening"),
        (f"Write one section of a textbook of Python programming. {SECTION}", "prompt_echoed"),
        (f"As an AI, I have no shelf. {SECTION}", "refused"),
        ("I'm sorry, but I can't write that.", "refused"),
        (SECTION[: SECTION.index("return low")], "cut_off"),
        (SECTION.removesuffix(" in between."), "cut_off"),
        (f"{SECTION}\n\n" + "And so it goes on.\n" * 9, "repetitive"),
        (f"{SECTION}\n\n" + "and so it goes on and on " * 40 + ".", "repetitive"),
    ],
)
def test_a_bad_section_is_refused_for_its_reason(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_section(text)
    assert refused.value.reason == reason


def test_a_section_may_begin_like_a_stock_opening_and_be_none() -> None:
    assert read_section(f"Surely a shelf is known to you. {SECTION}")
    assert read_section(f"As an aid, take a shelf. {SECTION}")
    assert len(f"{PROSE} {AFTER}".split()) > BOOK.min_words  # so that "too_short" above is for its length


@settings(max_examples=150, deadline=None)
@given(text=st.text() | st.text("`#* \npython=(1)", max_size=200), within=st.booleans())
def test_no_section_raises_anything_but_rejected(text: str, within: bool) -> None:
    try:
        row = read_section(SECTION.replace(CODE, text) if within else f"{PROSE}\n{text}\n{AFTER}")
    except Rejected as refused:
        assert re.fullmatch("[a-z_]+", refused.reason)
    else:
        assert row["code"]


# Items.


def test_an_item_is_kept_and_laid_out_as_text() -> None:
    row = read_item("multiple choice")
    assert row == {"format": "multiple choice"} | ITEM
    assert set(row) == set(QA.columns)
    assert QA.text(row) == (
        f"Question: {ITEM['question']}\nAnswer: {ITEM['answer']}\nExplanation: {ITEM['explanation']}"
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_every_layout_holds_all_three_and_braces_do_no_harm(kind: str) -> None:
    text = QA.text(read_item(kind, explanation=ITEM["explanation"] + " {answer}."))
    assert all(value in text for value in ITEM.values())
    assert text.endswith("{answer}.")


def test_json_is_found_in_a_fence_or_between_words() -> None:
    request: Request = QA.request(0, FOG)
    for text in (f"```json\n{json.dumps(ITEM)}\n```", f"Here {{it}} is: {json.dumps(ITEM | {'title': 'Fog'})} Done."):
        assert QA.read(request, text) == {"format": "multiple choice"} | ITEM


@pytest.mark.parametrize(
    ("kind", "changed", "reason"),
    [
        ("explanation", {"answer": " \n"}, "empty"),
        ("explanation", {"question": "There is fog."}, "no_question_mark"),
        ("common-sense question", {"question": "There is fog."}, "no_question_mark"),
        ("multiple choice", {"question": "Why fog?"}, "no_options"),
        ("multiple choice", {"question": "Why?\n(A) a\n(B) b\n(D) d"}, "no_options"),
        ("multiple choice", {"answer": "It cools."}, "no_options"),
        ("multiple choice", {"answer": "A lake boils"}, "no_options"),
        ("explanation", {"answer": ITEM["question"].upper() + "!"}, "answer_is_question"),
        ("explanation", {"question": "Why?", "answer": "So.", "explanation": "It is."}, "too_short"),
        ("explanation", {"answer": "In today's world, air cools."}, "stock_opening"),
        ("cause and effect", {"question": "Have you ever seen fog?"}, "stock_opening"),
        ("explanation", {"explanation": "As an AI, I see no fog."}, "refused"),
        ("explanation", {"explanation": "Say nothing about these instructions."}, "prompt_echoed"),
        ("explanation", {"explanation": "the air is cool and wet. " * 30}, "repetitive"),
        (
            "explanation",
            {"explanation": "Four options, of which exactly one is right and the others are plausible."},
            "prompt_echoed",
        ),
        ("explanation", {"explanation": "Cool air holds less vapour, and the rest becomes"}, "cut_off"),
        ("explanation", {"question": "Why do cats purr?"}, "off_topic"),
    ],
)
def test_a_bad_item_is_refused_for_its_reason(kind: str, changed: dict[str, str], reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_item(kind, **changed)
    assert refused.value.reason == reason


def test_where_nothing_is_asked_no_question_mark_is_wanted() -> None:
    for kind, form in FORMATS.items():
        if not form.asks:
            assert read_item(kind, question="Tom: I'm sorry, but I broke your fog lamp.\nAnn: It was old.")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(text=st.text() | JSON.map(json.dumps), kind=st.sampled_from(list(FORMATS)))
def test_garbage_is_refused_and_nothing_else(text: str, kind: str) -> None:
    with pytest.raises(Rejected):
        QA.read(QA.request(0, FOG | {"format": kind}), text)


@settings(max_examples=150, deadline=None)
@given(values=st.fixed_dictionaries(dict.fromkeys(FIELDS, st.text())), kind=st.sampled_from(list(FORMATS)))
def test_any_three_texts_make_an_item_or_are_refused(values: dict[str, str], kind: str) -> None:
    try:
        row = read_item(kind, **values)
    except Rejected as refused:
        assert re.fullmatch("[a-z_]+", refused.reason)
    else:
        assert all(row[field] for field in FIELDS)
