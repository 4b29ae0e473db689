"""Readability: published values of the formula, texts counted by hand, and what happens without a package."""

import asyncio
import sys

import pytest

from hf_tasks.corpora import GRAMMARS, get_corpus
from hf_tasks.corpora import readability as module
from hf_tasks.corpora.readability import cefr_levels, grammar_errors, readability, spache, spache_grade
from hf_tasks.errors import UserError

SIMPLE = "The dog can run. I see the dog. He is a big dog."  # 4 + 4 + 5 words
WRONG = "She go to an school. The the dog runned home."


@pytest.fixture(autouse=True)
def fresh():
    """Packages that a test hides are looked for again."""
    yield
    for cached in (module._linter, module._analyzer, module._level, module._familiar, module._stemmer_and_stems):
        cached.cache_clear()


def need(package: str) -> None:
    pytest.importorskip(package, reason="of the extra `textbooks`")


# From the front page of npm's spache-formula 2.0.1 (MIT): its two examples.
@pytest.mark.parametrize(("unfamiliar", "grade"), [(6, 4.114), (0, 2.474)])
def test_spache_formula_of_a_published_implementation(unfamiliar: int, grade: float) -> None:
    assert spache_grade(30, 2, unfamiliar) == pytest.approx(grade, abs=1e-9)


def test_spache_by_hand() -> None:
    need("nltk")
    assert spache(SIMPLE) == pytest.approx(0.121 * 13 / 3 + 0.659)
    # "contemplated" twice is one unfamiliar word; the number and the possessive of a familiar word are none.
    hard = "The dog contemplated 12 books. The dog's friend contemplated. Contemplating made him happy."
    assert spache(hard) == pytest.approx(spache_grade(13, 3, 2))
    assert spache("") == spache("?!") == 0


# Entries of the revised list as npm's spache 2.0.1 (MIT) has it, from all over it, some with endings; all contractions.
FAMILIAR = (
    "able afternoon airplanes barked can't didn't don't elephants he's I'll I'm it's let's planted stopping that's "
    "won't zoo"
)


def test_words_of_the_list_and_their_inflections_are_familiar() -> None:
    need("nltk")
    found = module._plain_words(FAMILIAR)
    assert len(found) == len(FAMILIAR.split())
    assert [word for word in found if not module._familiar(word)] == []
    assert [word for word in ("ubiquitous", "acrimony", "scientist", "zebra") if module._familiar(word)] == []
    assert len(module._stemmer_and_stems()[1]) == 1058  # the stems of those 1,063 words, all of them


def test_grammar_counts_mistakes_and_no_advice() -> None:
    need("harper")
    # "go", "an", "the the" and "runned", in 9 + 1 words
    assert grammar_errors(WRONG) == pytest.approx(100 * 4 / 10)
    assert grammar_errors(SIMPLE) == grammar_errors("") == 0
    assert module._linter().lint('Wait... "No') != [] and grammar_errors("Wait... Go home.") == 0
    assert [grammar_errors(WRONG) for _ in range(3)] == [40.0] * 3


def test_grammar_gets_worse_with_mistakes_in_stories_of_the_grammar() -> None:
    need("harper")
    corpus = get_corpus("tinystories")
    request = corpus.request(3, corpus.parameters(3, 0))
    story = asyncio.run(GRAMMARS["tinystories"]().write(request, 0)).text
    assert grammar_errors(story) < 1
    assert grammar_errors(story.replace(" was ", " were ").replace(" a ", " an ")) > grammar_errors(story) + 1


def test_levels_by_hand() -> None:
    need("cefrpy")
    # cefrpy's own levels of these words: dog 1, apple 1, running 2, hang 3.5 (VB B1, NN B2), acrimony 6.
    levels = cefr_levels("dog, apple: running hang acrimony xqzw dog's")
    assert levels == pytest.approx(
        {"cefr_level": (1 + 1 + 2 + 3.5 + 6 + 1) / 6, "cefr_a_share": 4 / 6, "cefr_unknown_share": 1 / 7}
    )
    assert set(cefr_levels("").values()) == {0.0}


def test_harder_texts_score_higher() -> None:
    need("cefrpy")
    need("nltk")
    hard = (
        "Epistemological ramifications notwithstanding, the committee's acrimony precluded any meaningful compromise."
    )
    assert spache(hard) > spache(SIMPLE) + 2
    assert cefr_levels(hard)["cefr_level"] > cefr_levels(SIMPLE)["cefr_level"] + 1
    assert cefr_levels(hard)["cefr_a_share"] < 0.5 < cefr_levels(SIMPLE)["cefr_a_share"]


def test_fenced_code_is_left_out() -> None:
    for package in ("harper", "cefrpy", "nltk"):
        need(package)
    code = "\n```python\ndefn grblx(x):\n    retrn x\n```\n"
    assert readability(SIMPLE + code) == readability(SIMPLE + code.replace("\n```\n", "")) == readability(SIMPLE)


def test_all_scores_are_flat_columns() -> None:
    for package in ("harper", "cefrpy", "nltk"):
        need(package)
    scores = readability(WRONG)
    assert list(scores) == ["grammar_errors", "spache", "cefr_level", "cefr_a_share", "cefr_unknown_share"]
    assert scores == {"grammar_errors": grammar_errors(WRONG), "spache": spache(WRONG)} | cefr_levels(WRONG)


@pytest.mark.parametrize(
    ("hidden", "score", "package", "column"),
    [
        ("harper", grammar_errors, "harper-py", "grammar_errors"),
        ("cefrpy", cefr_levels, "cefrpy", "cefr_level"),
    ],
)
def test_without_its_package_a_score_is_refused_and_left_out_of_all(
    hidden, score, package: str, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cached in (module._linter, module._analyzer, module._level, module._familiar, module._stemmer_and_stems):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(UserError) as caught:
        score("Zebras run.")
    assert package in str(caught.value) and 'pip install "hf-tasks[textbooks]"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert column not in readability("Zebras run.")
