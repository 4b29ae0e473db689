"""How varied a corpus is: plain functions of its texts and of what was asked for.

- A word is a run of letters, digits and apostrophes in lower case; punctuation counts nowhere.
- Starving is judged by yield: of the values of an axis, the one of whose asked rows the smallest share was kept. A
  value that was asked for but never kept starves most, which counts of the kept rows alone would not show.
- `Running` measures while rows come, in constant memory but for openings and counts: distinct-n, which falls with the
  size of a corpus, is that of a thousand rows at a time. ROUGE-L is dear (1 ms for two stories), so that only every
  fiftieth row is compared with an earlier one: 0.02 ms a row.
- ROUGE-L is the F1 of the longest common subsequence of words (Lin 2004, with beta = 1), without stemming. Pairs are a
  sample that depends on the seed alone; identical texts have an overlap of 1.
"""

import random
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

NGRAM = 4  # of repetition inside a text
_OPENING_WORDS = 4
_PAIRS = 500
_SAMPLE = 10_000  # texts, at most, that a report looks into: a hundred thousand have more trigrams than memory has room
_WINDOW = 1000  # rows
_EVERY = 50  # rows, of which one is compared with an earlier one
_EARLIER = _WINDOW // _EVERY
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
        `starving`: the value with the smallest share of its asked rows kept, of equals the one asked for most often,
        and then the first by name; `asked_of_starving`, `kept_of_starving`; nothing but `values` = 0 where none was
        asked.
    """
    return _counts(Counter(row[axis] for row in asked), Counter(row[axis] for row in kept))


def _counts(wanted: Counter[Any], got: Counter[Any]) -> dict[str, Any]:
    if not wanted:
        return {"values": 0}
    starving = min(wanted, key=lambda value: (got[value] / wanted[value], -wanted[value], value))
    return {
        "values": len(wanted),
        "kept": [min(got[value] for value in wanted), max(got[value] for value in wanted)],
        "starving": starving,
        "asked_of_starving": wanted[starving],
        "kept_of_starving": got[starving],
    }


@dataclass
class Running:
    """The measures of a corpus as its rows come; a function of the rows and their order.

    Attributes:
        axes: which keys of the parameters to count; rows without one are not counted for it.
        asked, kept: axis -> value -> rows. rows: kept.
        openings: the first words of a kept row -> how many rows they open. alike: rows that share their opening.
        distinct: n -> distinct-n of the last thousand kept rows, counted from the start; of fewer in the first.
        overlaps: ROUGE-L of the last pairs, 20 at most: of each of the first rows, and then of every fiftieth, with one
            of as many that came before it.
    """

    axes: Sequence[str]
    asked: dict[str, Counter[str]] = field(default_factory=dict)
    kept: dict[str, Counter[str]] = field(default_factory=dict)
    rows: int = 0
    openings: Counter[str] = field(default_factory=Counter)
    alike: int = 0
    distinct: dict[int, float] = field(default_factory=dict)
    overlaps: deque[float] = field(default_factory=lambda: deque(maxlen=_EARLIER))
    _earlier: deque[str] = field(default_factory=lambda: deque(maxlen=_EARLIER), repr=False)
    _grams: dict[int, set[Any]] = field(default_factory=dict, repr=False)
    _count: Counter[int] = field(default_factory=Counter, repr=False)

    def add(self, parameters: Mapping[str, Any], text: str | None) -> None:
        """One row that was asked for; its text, or None where none was kept."""
        for axis in self.axes:
            if axis in parameters:
                self.asked.setdefault(axis, Counter())[parameters[axis]] += 1
                self.kept.setdefault(axis, Counter())[parameters[axis]] += text is not None
        if text is None:
            return
        found = words(text)
        opening = " ".join(found[:_OPENING_WORDS])
        self.openings[opening] += 1
        self.alike += {1: 0, 2: 2}.get(self.openings[opening], 1)  # with the second, the first is alike as well
        if self.rows % _WINDOW == 0:
            self._grams, self._count = {1: set(), 2: set()}, Counter()
        self.rows += 1
        for n, grams in self._grams.items():
            grams.update(found if n == 1 else pairwise(found))
            self._count[n] += max(0, len(found) - n + 1)
            if self.rows <= _WINDOW or self.rows % _WINDOW == 0:
                self.distinct[n] = len(grams) / self._count[n] if self._count[n] else 0.0
        if self.rows <= _EARLIER or self.rows % _EVERY == 0:
            if self._earlier:
                self.overlaps.append(rouge_l(text, random.Random(self.rows).choice(self._earlier)))
            self._earlier.append(text)

    @property
    def self_overlap(self) -> float:
        """Mean ROUGE-L of the last pairs; 0 where there are none."""
        return sum(self.overlaps) / len(self.overlaps) if self.overlaps else 0.0

    @property
    def alike_openings(self) -> float:
        """Share of the kept rows whose first words open another one, too."""
        return self.alike / self.rows if self.rows else 0.0

    @property
    def starving(self) -> tuple[str, str, int, int] | None:
        """The axis and value of whose asked rows the smallest share was kept, with the rows kept and asked.

        None where every row was kept; of equals, the value that was asked for most often.
        """
        found = [
            (one["kept_of_starving"] / one["asked_of_starving"], -one["asked_of_starving"], axis, one)
            for axis, one in self.counts().items()
            if one["values"] and one["kept_of_starving"] < one["asked_of_starving"]
        ]
        if not found:
            return None
        *_, axis, one = min(found, key=lambda entry: entry[:3])
        return axis, one["starving"], one["kept_of_starving"], one["asked_of_starving"]

    def counts(self) -> dict[str, dict[str, Any]]:
        """Axis -> what `axis_counts` says of it."""
        nothing = Counter[str]()
        return {axis: _counts(self.asked.get(axis, nothing), self.kept.get(axis, nothing)) for axis in self.axes}


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
        texts: of the kept rows; of more than 10,000 that many, drawn by the seed, stand for all.
        asked, kept: see `axis_counts`. axes: which keys of theirs to count.
        pairs, seed: see `self_overlap`.
    """
    rows = len(texts)
    if rows > _SAMPLE:
        chosen = np.random.default_rng(seed).choice(rows, _SAMPLE, replace=False)
        texts = [texts[int(place)] for place in sorted(chosen)]
    alike, commonest = alike_openings(texts)
    return {
        "rows": rows,
        "asked": len(asked),
        "looked_into": len(texts),
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
    sample = f" in a sample of {report['looked_into']:,}" if report["looked_into"] < report["rows"] else ""
    lines = [
        f"- {report['rows']:,} of {report['asked']:,} rows kept, {report['words']:,} words{sample}",
        "- distinct n-grams: " + ", ".join(f"{report[f'distinct_{n}']:.3f} (n = {n})" for n in (1, 2, 3)),
        f"- rows whose first {report['opening_words']} words open another row, too: {report['alike_openings']:.1%}",
        f"- mean ROUGE-L of {report['self_overlap_pairs']:,} random pairs: {report['self_overlap']:.3f}",
    ]
    if report["commonest_openings"]:
        opening, count = report["commonest_openings"][0]
        lines.insert(3, f"- commonest opening: “{opening}”, {count:,} of {report['looked_into']:,} rows")
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
