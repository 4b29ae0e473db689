"""How much of a completion is copied: k-grams that it shares with the original, a training story, another completion.

- ROUGE-k precision: the share of a completion's k-grams (runs of k words, as diversity.py splits them) that occur in
  the other text. A k-gram that the completion repeats counts each time, and once in the other text is enough.
- The nearest story is the one with the highest precision, the first of equals; the search is exact. Every k-gram has a
  number, and a list of the stories that hold it: no completion is compared with a story that shares nothing.
- A completion of fewer than k words has no precision: NaN or None, counted as too short and left out of the means.
- A high overlap is no proof of copying where k is small: all stories share "there was a".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_tasks.corpora.diversity import words
from hf_tasks.errors import UserError

K = 2
Report = dict[str, Any]


def rouge_k_precision(generated: str, other: str, k: int = K) -> float:
    """Share of the k-grams of a text that occur in another; NaN where it has none."""
    grams, known = _grams(generated, k), set(_grams(other, k))
    return sum(gram in known for gram in grams) / len(grams) if grams else float("nan")


def nearest(texts: Sequence[str], others: Sequence[str], k: int = K) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each text, the one of the others that holds the largest share of its k-grams.

    Returns:
        the place of that other, (texts) int64, -1 where nothing is shared; the precision against it, (texts), and the
        share of k-grams that occur in any other, (texts), both NaN where a text has no k-grams.
    """
    index = _index([*others, *texts], k)
    split = index.starts[len(others)]
    known = _Postings.of(index.grams[:split], index.owners[:split])
    rows = [_best(known, _slice(index, len(others) + row), len(others)) for row in range(len(texts))]
    return _columns(rows)


def nearest_other(texts: Sequence[str], k: int = K) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `nearest`, among the other texts of the same list; an equal text elsewhere in the list is another text."""
    index = _index(texts, k)
    known = _Postings.of(index.grams, index.owners)
    return _columns([_best(known, _slice(index, row), len(texts), without=row) for row in range(len(texts))])


def memorisation(
    completions: Sequence[str],
    stories: Sequence[str],
    originals: Sequence[str] | None = None,
    k: int = K,
    shown: int = 5,
) -> Report:
    """Overlap of completions with what a model was trained on and with each other, as JSON values.

    Args:
        completions: what the model wrote behind each beginning, without the beginning.
        stories: that it was trained on, whole.
        originals: the true continuation of each beginning; None where the beginnings come from no story.
        k: words in a k-gram.
        shown: how many completions to show beside their nearest stories, those that overlap most first.

    Returns:
        `original` (None without originals), `nearest_story`, `other_completion` and `in_training` (k-grams in any
        story), each with mean, median and max; `too_short`, completions without k-grams; `rows`, the same per
        completion in the order given, with the places of the nearest; `shown`, with the texts.

    Raises:
        UserError: nothing to compare, as many originals as completions are wanted, k below 1.
    """
    if not completions or not stories:
        raise UserError(f"{len(completions)} completions and {len(stories)} stories; at least one of each is needed")
    if originals is not None and len(originals) != len(completions):
        raise UserError(f"{len(originals)} originals for {len(completions)} completions; give one each, or None")
    if k < 1:
        raise UserError(f"k is {k}; it is a number of words, such as {K}")
    story, by_story, in_training = nearest(completions, stories, k)
    other, by_other, _ = nearest_other(completions, k)
    measured = {"nearest_story": by_story, "other_completion": by_other, "in_training": in_training}
    if originals is not None:
        pairs = zip(completions, originals, strict=True)
        measured = {"original": np.array([rouge_k_precision(*pair, k=k) for pair in pairs])} | measured
    rows = [
        {name: _plain(values[row]) for name, values in measured.items()}
        | {"story": _place(story[row]), "other": _place(other[row])}
        for row in range(len(completions))
    ]
    closest = [int(row) for row in np.argsort(-np.nan_to_num(by_story, nan=-1.0), kind="stable") if story[row] >= 0]
    return {
        "k": k,
        "completions": len(completions),
        "stories": len(stories),
        "too_short": int(np.isnan(by_story).sum()),
        "original": None,
        **{name: _summary(values) for name, values in measured.items()},
        "shown": [
            {"completion": completions[row], "story": stories[story[row]], "nearest_story": float(by_story[row])}
            for row in closest[:shown]
        ],
        "rows": rows,
    }


def memorisation_markdown(report: Report) -> str:
    """A report in a few lines of Markdown, then the completions shown beside their nearest stories."""
    names = {
        "original": "the original continuation",
        "nearest_story": "the nearest training story",
        "other_completion": "the nearest other completion",
        "in_training": "all training stories together",
    }
    k = report["k"]
    lines = [
        f"Share of the {k}-grams of {report['completions']:,} completions ({report['too_short']:,} too short) that "
        f"occur in one of {report['stories']:,} training stories or elsewhere (ROUGE-{k} precision):",
        "",
        "| in | mean | median | most |",
        "|---|---|---|---|",
    ]
    for name, title in names.items():
        if one := report[name]:
            lines.append(f"| {title} | {one['mean']:.3f} | {one['median']:.3f} | {one['max']:.3f} |")
    for place, pair in enumerate(report["shown"], 1):
        completion, story = (" ".join(pair[key].split()) for key in ("completion", "story"))
        lines += ["", f"{place}. {pair['nearest_story']:.3f}", f"   - completion: {completion}"]
        lines.append(f"   - nearest story: {story}")
    return "\n".join(lines) + "\n"


# Numbers for k-grams.


@dataclass(frozen=True)
class _Index:
    """The k-grams of all texts, text after text. grams, owners: (positions) int64; starts: (texts + 1)."""

    grams: np.ndarray
    owners: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class _Postings:
    """Which texts hold a k-gram: those of gram g are owners[starts[g] : starts[g + 1]], each once, in order."""

    owners: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, grams: np.ndarray, owners: np.ndarray) -> "_Postings":
        order = np.lexsort((owners, grams))
        grams, owners = grams[order], owners[order]
        new = np.ones(len(grams), bool)
        new[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
        grams, owners = grams[new], owners[new]
        return cls(owners, np.searchsorted(grams, np.arange(grams[-1] + 2 if len(grams) else 1)))

    def holders(self, gram: int) -> np.ndarray:
        return self.owners[self.starts[gram] : self.starts[gram + 1]] if gram + 1 < len(self.starts) else _NOBODY


_NOBODY = np.zeros(0, np.int64)


def _grams(text: str, k: int) -> list[tuple[str, ...]]:
    found = words(text)
    return list(zip(*(found[shift:] for shift in range(k)), strict=False))


def _index(texts: Sequence[str], k: int) -> _Index:
    """Every k-gram of the texts under a number of its own: equal k-grams, and no others, have equal numbers."""
    numbers: dict[str, int] = {}
    split = [[numbers.setdefault(word, len(numbers)) for word in words(text)] for text in texts]
    lengths = np.array([len(one) for one in split], np.int64)
    flat = np.fromiter((code for one in split for code in one), np.int64, int(lengths.sum()))
    owners = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
    grams = flat
    for shift in range(1, k):
        # Renumbered after each word, so that the product stays below (positions x vocabulary), far from 2**63.
        grams = np.unique(grams[:-1] * max(len(numbers), 1) + flat[shift:], return_inverse=True)[1].ravel()
    # What reaches over the end of a text is no k-gram of it.
    inside = owners[: len(grams)] == owners[k - 1 :][: len(grams)]
    starts = np.concatenate([[0], np.cumsum(np.maximum(lengths - k + 1, 0))])
    return _Index(grams[inside], owners[: len(grams)][inside], starts)


def _slice(index: _Index, text: int) -> np.ndarray:
    return index.grams[index.starts[text] : index.starts[text + 1]]


def _best(known: _Postings, grams: np.ndarray, count: int, without: int = -1) -> tuple[int, float, float]:
    """See `nearest`, for one text whose k-grams are given; `without`: an owner that does not count."""
    if not len(grams):
        return -1, float("nan"), float("nan")
    shared, anywhere = np.zeros(count, np.int64), 0
    for gram, times in zip(*np.unique(grams, return_counts=True), strict=True):
        holders = known.holders(int(gram))
        shared[holders] += times
        anywhere += int(times) * bool(len(holders) > np.count_nonzero(holders == without))
    if without >= 0:
        shared[without] = 0
    best = int(shared.argmax()) if count else -1
    if best < 0 or not shared[best]:
        return -1, 0.0, anywhere / len(grams)
    return best, shared[best] / len(grams), anywhere / len(grams)


def _columns(rows: Sequence[tuple[int, float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    places, best, anywhere = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(places, np.int64), np.array(best, float), np.array(anywhere, float)


def _summary(values: np.ndarray) -> dict[str, float] | None:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return {"mean": float(values.mean()), "median": float(np.median(values)), "max": float(values.max())}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _place(value: int) -> int | None:
    return None if value < 0 else int(value)
