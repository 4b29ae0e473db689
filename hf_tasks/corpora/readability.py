"""How correct and how simple a text is, by three programs: columns beside each row, and no judge's grades.

- Each score needs a package of the extra `textbooks`; `readability` gives those that are installed.
- Grammar is harper's: rules and a dictionary, no model. It overlooks much and at times flags what is right ("far
  away"): compare means over many texts, and judge no single one by it.
- Levels are cefrpy's, which are estimates: a word is looked up by its form, with no regard to its meaning, and most
  names are in the list as rare words ("foot" is B1, "Zara" is C2).
- Fenced code is left out of all of them. Code without prose gets numbers that mean nothing.
"""

import re
from functools import cache
from typing import Any

from hf_tasks.corpora.diversity import words
from hf_tasks.corpora.tinystories import sentences
from hf_tasks.corpora.words import DATA
from hf_tasks.errors import UserError

# Kinds of lints that advise how to say something better, or with which characters ("..." as one), and find no mistake.
_ADVICE = frozenset({"Enhancement", "Formatting", "Readability", "Redundancy", "Regionalism", "Style"})


class MissingPackageError(UserError):
    """A score was asked for whose package is not installed."""

    def __init__(self, score: str, package: str) -> None:
        super().__init__(f'{score} needs the package {package!r}: pip install "hf-tasks[textbooks]"')


def grammar_errors(text: str) -> float:
    """Mistakes that harper finds in an American English text, per 100 words; 0 without words.

    Advice on style, redundancy and typography is not counted. About 40 ms for 250 words (measured on one core).

    Raises:
        UserError: no harper-py.
    """
    prose = _prose(text)
    if not words(prose):
        return 0.0
    found = [lint for lint in _linter().lint(prose) if lint.lint_kind not in _ADVICE]
    return 100 * len(found) / len(words(prose))


def cefr_levels(text: str) -> dict[str, float]:
    """How hard the words are, on the scale of the Common European Framework of Reference, as cefrpy estimates it.

    Returns:
        `cefr_level`: mean level of the words that are in the list, 1 (A1) to 6 (C2); `cefr_a_share`: share of those
        that are A1 or A2; `cefr_unknown_share`: share of all words that are not in the list, contractions among them.
        Each is 0 where there are no words to take it of. A word is of the mean level of its parts of speech.

    Raises:
        UserError: no cefrpy.
    """
    found = [_level(word) for word in _plain_words(text)]
    known = [level for level in found if level is not None]
    return {
        "cefr_level": sum(known) / len(known) if known else 0.0,
        # A mean of levels may lie between two: it is rounded to the nearer.
        "cefr_a_share": sum(level < 2.5 for level in known) / len(known) if known else 0.0,
        "cefr_unknown_share": 1 - len(known) / len(found) if found else 0.0,
    }


def spache(text: str) -> float:
    """The American school grade that a text suits, by the revised Spache formula (Spache 1974); 0 without words.

    A word is familiar if its stem (Porter 1980) is that of a word of the revised list, or if it is a number in digits;
    names are not, for nothing here knows a name. An unfamiliar word counts once, however often it stands there.

    Raises:
        UserError: no py-readability-metrics, whose wheel has the list, or no nltk, which has the stemmer.
    """
    found = _plain_words(text)
    unfamiliar = sum(any(map(str.isalpha, word)) and not _familiar(word) for word in set(found))
    return spache_grade(len(found), len(sentences(_prose(text))), unfamiliar) if found else 0.0


def spache_grade(word_count: int, sentence_count: int, unfamiliar: int) -> float:
    """The revised Spache formula.

    The coefficients are those of R's koRpus and npm's spache-formula. textstat has those of 1953, and the list of
    another formula.

    Args:
        word_count, sentence_count: of the text, at least one. unfamiliar: different words that are not on the list.
    """
    return 0.121 * word_count / sentence_count + 0.082 * 100 * unfamiliar / word_count + 0.659


def readability(text: str) -> dict[str, float]:
    """Every score whose package is installed: `grammar_errors`, `spache`, and the columns of `cefr_levels`."""
    scores: dict[str, float] = {}
    for name, score in (("grammar_errors", grammar_errors), ("spache", spache), ("", cefr_levels)):
        try:
            found = score(text)
        except MissingPackageError:
            continue
        scores |= found if isinstance(found, dict) else {name: found}
    return scores


def _prose(text: str) -> str:
    """A text without its fenced blocks of code, the last of which may be cut off."""
    return re.sub(r"^```.*?(?:^```[ \t]*$|\Z)", "", text, flags=re.DOTALL | re.MULTILINE)


def _plain_words(text: str) -> list[str]:
    """The words of the prose, with plain apostrophes and no possessive endings."""
    found = (word.replace("\u2019", "'") for word in words(_prose(text)))
    return [word if word in _IS else word.removesuffix("'s") for word in found]


# Contractions with "is", "has" or "us"; any other word in 's is a possessive, whatever else it may be.
_IS = frozenset({"it's", "he's", "she's", "that's", "let's", "there's", "what's", "who's", "here's", "where's"})


@cache
def _linter() -> Any:
    try:
        from harper import Dialect, Linter
    except ImportError:
        raise MissingPackageError("grammar_errors", "harper-py") from None
    return Linter(Dialect.AMERICAN)


@cache
def _analyzer() -> Any:
    try:
        from cefrpy import CEFRAnalyzer
    except ImportError:
        raise MissingPackageError("cefr_levels", "cefrpy") from None
    return CEFRAnalyzer()


@cache
def _level(word: str) -> float | None:
    return _analyzer().get_average_word_level_float(word)


@cache
def _familiar(word: str) -> bool:
    stemmer, stems = _stemmer_and_stems()
    return stemmer.stem(word) in stems


@cache
def _stemmer_and_stems() -> tuple[Any, frozenset[str]]:
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError:
        raise MissingPackageError("spache", "nltk") from None
    stemmer, lines = PorterStemmer(), (DATA / "spache.txt").read_text(encoding="utf-8").splitlines()
    return stemmer, frozenset(stemmer.stem(word.lower()) for word in lines if not word.startswith("#"))
