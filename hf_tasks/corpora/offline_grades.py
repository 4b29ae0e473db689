"""What a program can say of stories, with no judge: each measure is named for what it counts.

- None of this is GPT-Eval, and no mean of it is a grade: a story can have every word, no repetition, and no sense.
- The vocabulary is that of words.py: verbs, nouns and adjectives in any form. Articles, pronouns, prepositions and
  names are outside it, so that plain stories reach no 1; compare with the share of the training stories.
- Left out: grammar (harper) and likelihood under a language model, which need what may not be installed.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from hf_tasks.corpora.diversity import NGRAM, alike_openings, repeated_ngrams, words
from hf_tasks.corpora.tinystories import sentences
from hf_tasks.corpora.words import inflections, missing_words, vocabulary
from hf_tasks.errors import UserError

Report = dict[str, Any]


def sentence_length(text: str) -> float:
    """Mean words per sentence; 0 without sentences."""
    found = sentences(text)
    return len(words(text)) / len(found) if found else 0.0


def vocabulary_share(text: str) -> float:
    """Share of words that are a form of a word of the simple vocabulary; 0 without words."""
    found = words(text)
    return sum(word in _simple_words() for word in found) / len(found) if found else 0.0


def words_present(text: str, wanted: Sequence[tuple[str, str]]) -> float:
    """Share of (part of speech, word) pairs that stand in a text in some form; 1 where none is wanted."""
    return 1 - len(missing_words(text, wanted)) / len(wanted) if wanted else 1.0


def offline_report(texts: Sequence[str], wanted: Sequence[Sequence[tuple[str, str]]] | None = None) -> Report:
    """The means of all measures over texts, as JSON values.

    Args:
        texts: stories or completions.
        wanted: for each text the (part of speech, word) pairs that it was asked to use; None if it was asked nothing.

    Returns:
        `texts`; `repeated_4grams`, `sentence_length`, `vocabulary_share`; `distinct_openings`, the share of texts whose
        first four words open no other; `words_present` and `all_words_present` (share of texts), None without `wanted`.

    Raises:
        UserError: no texts, or not as many lists of wanted words as texts.
    """
    if not texts or (wanted is not None and len(wanted) != len(texts)):
        lists = "no" if wanted is None else len(wanted)
        raise UserError(f"{len(texts)} texts and {lists} lists of wanted words; give texts, and a list each or None")
    present = None if wanted is None else [words_present(*pair) for pair in zip(texts, wanted, strict=True)]
    return {
        "texts": len(texts),
        f"repeated_{NGRAM}grams": float(np.mean([repeated_ngrams(text) for text in texts])),
        "sentence_length": float(np.mean([sentence_length(text) for text in texts])),
        "vocabulary_share": float(np.mean([vocabulary_share(text) for text in texts])),
        "distinct_openings": 1 - alike_openings(texts)[0],
        "words_present": None if present is None else float(np.mean(present)),
        "all_words_present": None if present is None else float(np.mean([share == 1 for share in present])),
    }


@cache
def _simple_words() -> frozenset[str]:
    return frozenset(form for part, known in vocabulary().items() for word in known for form in inflections(part, word))
