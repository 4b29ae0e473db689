"""What a program can say of stories, with no judge: each measure is named for what it counts.

- None of this is GPT-Eval, and no mean of it is a grade: a story can have every word, no repetition, and no sense.
- The vocabulary is that of words.py: verbs, nouns and adjectives in any form. Articles, pronouns, prepositions and
  names are outside it, so that plain stories reach no 1; compare with the share of the training stories.
- Of the features that a story may be asked for, a program can see dialogue alone; it is counted where it was not asked
  for, too, for a model that always writes it follows no instruction.
- Likelihood favours what its model would have written, dull and repetitive text among it: read it beside the others.
- Tokens differ between models, so that likelihood is compared per word, as a perplexity.
"""

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from hf_tasks.corpora.diversity import NGRAM, alike_openings, repeated_ngrams, words
from hf_tasks.corpora.readability import readability
from hf_tasks.corpora.tinystories import sentences
from hf_tasks.corpora.words import inflections, missing_words, vocabulary
from hf_tasks.errors import UserError

DIALOGUE = "dialogue"
_READABILITY = ("grammar_errors", "spache", "cefr_level", "cefr_a_share", "cefr_unknown_share")
_BATCH_TOKENS = 1024  # of logits over a whole vocabulary at a time
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


def has_dialogue(text: str) -> bool:
    """Whether somebody speaks: a quotation of which the last character before its end is a punctuation mark."""
    return re.search(r'"[^"]*[.,!?]"|\u201c[^\u201d]*[.,!?]\u201d', text) is not None


def offline_report(
    texts: Sequence[str],
    wanted: Sequence[Sequence[tuple[str, str]]] | None = None,
    beginnings: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
) -> Report:
    """The means of all measures over texts, as JSON values.

    Args:
        texts: stories, or completions without their beginnings.
        wanted: for each text the (part of speech, word) pairs that it was asked to use; None if it was asked nothing.
        beginnings: of each text; what a whole text is needed for (grammar, levels, words, dialogue) reads the two
            together.
        features: for each text those it was asked for, apart by commas; None if it was asked for none.

    Returns:
        `texts`; `repeated_4grams`, `sentence_length`, `vocabulary_share`; `distinct_openings`, the share of texts whose
        first four words open no other; `words_present` and `all_words_present` (share of texts), None without `wanted`;
        `dialogue_if_asked`, `dialogue_if_not_asked` (share of texts), None where there are none such; the columns of
        `readability`, None for a package that is not installed; `left_out`: these.

    Raises:
        UserError: no texts, or not as many lists of wanted words, beginnings or features as texts.
    """
    for name, given in (("lists of wanted words", wanted), ("beginnings", beginnings), ("features", features)):
        if not texts or (given is not None and len(given) != len(texts)):
            count = "no" if given is None else len(given)
            raise UserError(f"{len(texts)} texts and {count} {name}; give texts, and one each or None")
    whole = texts if beginnings is None else [" ".join(pair) for pair in zip(beginnings, texts, strict=True)]
    present = None if wanted is None else [words_present(*pair) for pair in zip(whole, wanted, strict=True)]
    speaks = np.array([has_dialogue(text) for text in whole], bool)
    asked = np.array([DIALOGUE in re.split(", *", one) for one in features or [""] * len(texts)], bool)
    levels = [readability(text) for text in whole]
    return {
        "texts": len(texts),
        f"repeated_{NGRAM}grams": float(np.mean([repeated_ngrams(text) for text in texts])),
        "sentence_length": float(np.mean([sentence_length(text) for text in texts])),
        "vocabulary_share": float(np.mean([vocabulary_share(text) for text in texts])),
        "distinct_openings": 1 - alike_openings(texts)[0],
        "words_present": None if present is None else float(np.mean(present)),
        "all_words_present": None if present is None else float(np.mean([share == 1 for share in present])),
        "dialogue_if_asked": float(speaks[asked].mean()) if asked.any() else None,
        "dialogue_if_not_asked": float(speaks[~asked].mean()) if not asked.all() else None,
        **{name: float(np.mean([one[name] for one in levels])) if name in levels[0] else None for name in _READABILITY},
        "left_out": [name for name in _READABILITY if name not in levels[0]],
    }


def likelihood(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
    """How likely a causal language model finds completions, given their beginnings.

    Args:
        model: of transformers. tokenizer: its own, with a padding token.
        pairs: (beginning, completion), with a space between the two.

    Returns:
        for each pair the sum of the natural logarithms of the probabilities of the completion's tokens, and how many
        tokens there are: 0.0 and 0 where the two texts are longer than the model's context.
    """
    import torch

    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    limit = getattr(model.config, "max_position_embeddings", None) or 2**31
    before = [tokenizer(beginning, add_special_tokens=False)["input_ids"] or [start] for beginning, _ in pairs]
    behind = [
        tokenizer(f" {completion}", add_special_tokens=False)["input_ids"] if completion else []
        for _, completion in pairs
    ]
    rows = [first + second for first, second in zip(before, behind, strict=True)]
    found: list[tuple[float, int]] = [(0.0, 0)] * len(pairs)
    order = sorted((row for row in range(len(rows)) if len(rows[row]) <= limit), key=lambda row: len(rows[row]))
    model.eval()
    while order:
        count = max(1, _BATCH_TOKENS // len(rows[order[-1]]))
        batch, order = order[-count:], order[:-count]
        inputs = tokenizer.pad(
            {"input_ids": [rows[row] for row in batch]}, padding_side="right", return_tensors="pt"
        ).to(model.device)
        with torch.no_grad():
            logits = model(**inputs).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), inputs["input_ids"][:, 1:], reduction="none"
        ).double()
        for row, loss in zip(batch, losses, strict=True):
            first, last = len(before[row]) - 1, len(rows[row]) - 1  # the loss at place i is that of token i + 1
            found[row] = -float(loss[first:last].sum()), last - first
    return found


def likelihood_report(completions: Sequence[str], found: Sequence[tuple[float, int]]) -> Report:
    """What `likelihood` gave, over all completions together, as JSON values.

    Returns:
        `completions` that have a likelihood; `log_probability_per_token` and `perplexity_per_word`; None where there
        are no tokens or words.
    """
    total, tokens = sum(value for value, _ in found), sum(count for _, count in found)
    count = sum(len(words(text)) for text, (_, counted) in zip(completions, found, strict=True) if counted)
    return {
        "completions": sum(counted > 0 for _, counted in found),
        "log_probability_per_token": total / tokens if tokens else None,
        "perplexity_per_word": math.exp(min(-total / count, 700.0)) if count and tokens else None,
    }


def offline_markdown(report: Report) -> str:
    """A report as a small table of Markdown; what was not asked for or not measured is no row."""
    titles = {
        "grammar_errors": "grammar: harper's lints per 100 words",
        "spache": "school grade by the Spache formula",
        "cefr_level": "mean CEFR level of the words, 1 (A1) to 6 (C2)",
        "cefr_a_share": "words of level A1 or A2",
        "vocabulary_share": "words of the simple vocabulary",
        f"repeated_{NGRAM}grams": f"{NGRAM}-grams that stood in the text before",
        "distinct_openings": "texts whose first four words open no other",
        "sentence_length": "words in a sentence",
        "words_present": "required words present",
        "all_words_present": "texts with all required words",
        "dialogue_if_asked": "texts with dialogue, where it was asked for",
        "dialogue_if_not_asked": "texts with dialogue, where it was not",
    }
    lines = [f"| measure | mean of {report['texts']:,} texts |", "|---|---|"]
    lines += [f"| {title} | {report[name]:.3f} |" for name, title in titles.items() if report[name] is not None]
    if found := report.get("likelihood"):
        what = f"under {found['model']}, {found['completions']} completions"
        for name, title in (
            ("log_probability_per_token", "log-probability of a token"),
            ("perplexity_per_word", "perplexity of a word"),
        ):
            if found[name] is not None:
                lines.append(f"| {title} {what} | {found[name]:.3f} |")
    return "\n".join(lines) + "\n"


@cache
def _simple_words() -> frozenset[str]:
    return frozenset(form for part, known in vocabulary().items() for word in known for form in inflections(part, word))
