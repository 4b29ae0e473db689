"""How varied a corpus is: plain functions of its texts and of what was asked for.

- A word is a run of letters, digits and apostrophes in lower case; punctuation counts nowhere.
- Starving is judged by yield: of the values of an axis, the one of whose asked rows the smallest share was kept. A
  value that was asked for but never kept starves most, which counts of the kept rows alone would not show.
- ROUGE-L is the F1 of the longest common subsequence of words (Lin 2004, with beta = 1), without stemming. Pairs are a
  sample that depends on the seed alone; identical texts have an overlap of 1.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NGRAM = 4  # of repetition inside a text
_OPENING_WORDS = 4
_PAIRS = 500
Report = dict[str, Any]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+(?:['\u2019]\w+)*", text.lower())


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams as a share of all (Li et al. 2016, distinct-n); n-grams do not reach over the end of a text."""
    grams = [gram for text in texts for gram in zip(*(words(text)[shift:] for shift in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_ngrams(text: str, n: int = NGRAM) -> float:
    """Share of a text's n-grams that stood in it before; 0 where there are none."""
    found = words(text)
    grams = list(zip(*(found[shift:] for shift in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def alike_openings(texts: Sequence[str], first_words: int = _OPENING_WORDS) -> tuple[float, list[tuple[str, int]]]:
    """The share of texts whose first words open another text, too; the five commonest openings with their counts."""
    counts = Counter(" ".join(words(text)[:first_words]) for text in texts)
    alike = sum(count for count in counts.values() if count > 1)
    return (alike / len(texts) if texts else 0.0), counts.most_common(5)


def rouge_l(first: str, second: str) -> float:
    """F1 of the longest common subsequence of words of two texts."""
    a, b = words(first), words(second)
    if not a or not b:
        return 0.0
    return 2 * _longest_common(a, b) / (len(a) + len(b))


def self_overlap(texts: Sequence[str], pairs: int = _PAIRS, seed: int = 0) -> float:
    """Mean ROUGE-L of random pairs of different rows; 0 where there are fewer than two."""
    if len(texts) < 2:
        return 0.0
    rng = np.random.default_rng(seed)
    first = rng.integers(len(texts), size=pairs)
    second = (first + rng.integers(1, len(texts), size=pairs)) % len(texts)
    chosen = zip(first, second, strict=True)
    return float(np.mean([rouge_l(texts[int(a)], texts[int(b)]) for a, b in chosen]))


def axis_counts(asked: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]], axis: str) -> dict[str, Any]:
    """How often the values of an axis were asked for and kept.

    Args:
        asked: parameters of every row that was asked for. kept: of those that were kept. axis: one of their keys.

    Returns:
        `values`: how many different values were asked for; `kept`: [fewest, most] kept rows of a value;
        `starving`: the value with the smallest share of its asked rows kept, that with fewer kept rows and then the
        first by name of equals; `asked_of_starving`, `kept_of_starving`; nothing but `values` = 0 where none was asked.
    """
    wanted, got = Counter(row[axis] for row in asked), Counter(row[axis] for row in kept)
    if not wanted:
        return {"values": 0}
    starving = min(wanted, key=lambda value: (got[value] / wanted[value], got[value], value))
    return {
        "values": len(wanted),
        "kept": [min(got[value] for value in wanted), max(got[value] for value in wanted)],
        "starving": starving,
        "asked_of_starving": wanted[starving],
        "kept_of_starving": got[starving],
    }


def diversity_report(
    texts: Sequence[str],
    asked: Sequence[Mapping[str, Any]],
    kept: Sequence[Mapping[str, Any]],
    axes: Sequence[str],
    pairs: int = _PAIRS,
    seed: int = 0,
) -> Report:
    """Everything that is measured here, as JSON values.

    Args:
        texts: of the kept rows. asked, kept: see `axis_counts`. axes: which keys of theirs to count.
        pairs, seed: see `self_overlap`.
    """
    alike, commonest = alike_openings(texts)
    return {
        "rows": len(texts),
        "asked": len(asked),
        "words": sum(len(words(text)) for text in texts),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "distinct_3": distinct_n(texts, 3),
        "opening_words": _OPENING_WORDS,
        "alike_openings": alike,
        "commonest_openings": [list(one) for one in commonest],
        "self_overlap": self_overlap(texts, pairs, seed),
        "self_overlap_pairs": pairs if len(texts) > 1 else 0,
        "axes": {axis: axis_counts(asked, kept, axis) for axis in axes},
    }


def diversity_markdown(report: Report) -> str:
    """A report in a few lines of Markdown; the last ones say which value of each axis starves, if any does."""
    lines = [
        f"- {report['rows']:,} of {report['asked']:,} rows kept, {report['words']:,} words",
        "- distinct n-grams: " + ", ".join(f"{report[f'distinct_{n}']:.3f} (n = {n})" for n in (1, 2, 3)),
        f"- rows whose first {report['opening_words']} words open another row, too: {report['alike_openings']:.1%}",
        f"- mean ROUGE-L of {report['self_overlap_pairs']:,} random pairs: {report['self_overlap']:.3f}",
    ]
    if report["commonest_openings"]:
        opening, count = report["commonest_openings"][0]
        lines.insert(3, f"- commonest opening: “{opening}”, {count:,} of {report['rows']:,} rows")
    for axis, counts in report["axes"].items():
        if not counts["values"]:
            continue
        fewest, most = counts["kept"]
        line = f"- {axis}: {counts['values']:,} values, each kept {fewest:,} to {most:,} times"
        if counts["kept_of_starving"] < counts["asked_of_starving"]:
            kept_of, asked_of = counts["kept_of_starving"], counts["asked_of_starving"]
            line += f"; starving: **{counts['starving']}**, {kept_of:,} of {asked_of:,} rows kept"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    numbers: dict[str, int] = {}
    a_codes, b_codes = (np.array([numbers.setdefault(word, len(numbers)) for word in text]) for text in (a, b))
    best = np.zeros(len(b) + 1, np.int64)
    for code in a_codes:
        # Along a row, lengths never fall: taking a match or the row above, then the running maximum, is the recurrence.
        best[1:] = np.maximum.accumulate(np.maximum(best[1:], np.where(b_codes == code, best[:-1] + 1, 0)))
    return int(best[-1])
