"""Grades from a judge that is a language model: GPT-Eval of TinyStories, and pairs judged in both orders.

- GPT-Eval is that of Eldan & Li 2023 (arXiv 2305.07759), word for word, its spelling mistake included: the judge first
  assesses the completion freely, then grades it. The 50 beginnings in data/beginnings.txt are ours. The paper has ten
  completions of each at temperature 1, and averages over all.
- A reply from which any of the four grades or the age group cannot be read without guessing is malformed: it is counted
  by reason and no part of any average. So is a request without an answer. Neither is ever a zero.
- Completions of one beginning are alike, so intervals come from a bootstrap of beginnings and not of completions.
- Pairs (after Bubeck et al. 2023, "Sparks of AGI") are asked for in both orders; a verdict counts if both agree. The
  question is ours.
- A `CachedJudge` is asked nothing twice: the same chat has the same seed, and one reply.
- What is no judge, and so no GPT-Eval, is in offline_grades.py; grading.py does all of it for one model.
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Protocol, TypeVar

import numpy as np

from hf_tasks.corpora.base import Rejected, Reply
from hf_tasks.corpora.cache import ReplyCache, reply_key
from hf_tasks.corpora.job import SILENCE, Spending
from hf_tasks.corpora.server import NoAnswer
from hf_tasks.corpora.words import DATA
from hf_tasks.errors import UserError
from hf_tasks.metrics.functions import wilson_interval
from hf_tasks.tasks.hashing import hash_name

GRADES = ("grammar", "creativity", "consistency", "plot")
AGE_GROUPS = {"A": "3 or under", "B": "4-5", "C": "6-7", "D": "8-9", "E": "10-12", "F": "13-16"}
COMPLETIONS = 10  # of each beginning, in the paper
BEST_GRADE = 10
RESAMPLES = 10_000

ASSESSMENT_PROMPT = (
    "The following exercise, the student is given a beginning of a story. The student needs to complete it into a full "
    "story. The exercise tests the student's language abilities and creativity. The symbol *** marks the separator "
    "between the prescribed beginning and the student's completion: {beginning} *** {completion}. Please provide your "
    "general assessment about the part written by the student (the one after the *** symbol). Is it gramatically "
    "correct? Is it consistent with the beginning of the story? Pay special attention to whether the student manages "
    "to complete the sentence which is split in the middle by the separator ***."
)
GRADES_PROMPT = (
    "Now, grade the student's completion in terms of grammar, creativity, consistency with the story's beginning and "
    "whether the plot makes sense. Moreover, please provide your best guess of what the age of the student might be, "
    "as reflected from the completion. Choose from possible age groups: A: 3 or under. B: 4-5. C: 6-7. D: 8-9. "
    "E: 10-12. F: 13-16."
)
COMPARISON_PROMPT = (
    "Below are the beginning of a story and two ways to continue it.\n\nBeginning:\n{beginning}\n\nFirst:\n{first}\n\n"
    "Second:\n{second}\n\nWhich of the two is the better continuation, in grammar, creativity, consistency with the "
    'beginning and plot? Give your reasons in a few sentences. Then end with a line that reads "Verdict: First", '
    '"Verdict: Second" or "Verdict: Equal".'
)

Interval = tuple[float, float]
Messages = Sequence[Mapping[str, str]]
Report = dict[str, Any]
T = TypeVar("T")
_LOOK = 0.05  # seconds between two looks at whether the budget has room again


class Judge(Protocol):
    """Who grades; a `Server` inside its `async with` is one.

    Attributes:
        label: what reports call it.
    """

    label: str

    async def chat(
        self, messages: Messages, schema: Mapping[str, Any] | None = None, max_tokens: int = 1024, **sampling: Any
    ) -> Reply:
        """The answer to a chat; raises NoAnswer where there is none."""
        ...


@dataclass(frozen=True)
class Grades:
    """What a judge thinks of one completion: four grades from 0 to 10, and the age group that it guesses, A to F."""

    grammar: float
    creativity: float
    consistency: float
    plot: float
    age_group: str
    assessment: str = ""


Graded = Grades | Rejected | NoAnswer  # graded, malformed, or not answered


def beginnings() -> list[str]:
    """Our 50 beginnings, cut in mid sentence; a completion goes on behind a space."""
    lines = (DATA / "beginnings.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


# GPT-Eval.


async def grade(judge: Judge, beginning: str, completion: str) -> Grades:
    """Ask for an assessment, then for the grades.

    Raises:
        Rejected: the reply is malformed; see `read_grades`, and "assessment_empty".
        NoAnswer: one of the two requests was not answered.
        UserError: no request will be answered; see `Server.chat`.
    """
    messages = [{"role": "user", "content": ASSESSMENT_PROMPT.format(beginning=beginning, completion=completion)}]
    assessment = (await _ask(judge, messages)).strip()
    if not assessment:
        raise Rejected("assessment_empty")
    messages += [{"role": "assistant", "content": assessment}, {"role": "user", "content": GRADES_PROMPT}]
    return read_grades(await _ask(judge, messages), assessment)


async def grade_all(
    judges: Sequence[Judge],
    pairs: Sequence[tuple[str, str]],
    concurrency: int = 8,
    on_done: Callable[[], None] | None = None,
) -> dict[str, list[Graded]]:
    """The grades of all judges for all (beginning, completion) pairs.

    Args:
        concurrency: how many completions are before judges at a time, over all judges.
        on_done: called when a judge is done with a completion.

    Returns:
        the judge's label -> for each pair its grades, or why it has none.

    Raises:
        UserError: no judges, two of the same label, no pairs, concurrency below 1; or no request will be answered.
    """
    labels = [judge.label for judge in judges]
    if not pairs or not judges or len(set(labels)) < len(labels):
        raise UserError(
            f"{len(pairs)} completions before the judges {labels}; at least one of each is needed, and every judge "
            "needs a label of its own"
        )
    calls = [lambda judge=judge, pair=pair: grade(judge, *pair) for judge in judges for pair in pairs]
    found = await gather(calls, concurrency, on_done)
    return {label: found[place * len(pairs) : (place + 1) * len(pairs)] for place, label in enumerate(labels)}


def read_grades(text: str, assessment: str = "") -> Grades:
    """The grades in a judge's reply, in whatever order and dress: prose, Markdown, a list, JSON.

    The paper's form is "Grammar: 8/10, Creativity: 7/10, Consistency: 7/10, Plot: 8/10, Age group: E".

    Raises:
        Rejected: for the first of grammar, creativity, consistency, plot and age_group that cannot be read:
            "*_missing", "*_out_of_range" (below 0, above 10, or not out of 10), or "*_ambiguous" (two values);
            "grade_before_name" ("8/10 - Grammar"), which would be read one place off.
    """
    plain = re.sub(r"[^\S\n]+", " ", _plain(text))
    plain = re.sub(r" ?\n\s*", "\n", plain)
    if early := _GRADE_FIRST.search(plain):
        raise Rejected("grade_before_name", early[0])
    found: dict[str, float] = {name: _read_grade(plain, name) for name in GRADES}
    return Grades(**found, age_group=_read_age_group(plain), assessment=assessment)


# Between a name and its grade: "Plot: 8", "Plot - 8", "Plot (8/10)", "Plot\n8", "plot: {score: 8", "Plot: good (8/10)".
# A name of another grade cannot stand there, so that a table or a list is never read one place off.
_NAMES = "|".join((*GRADES, "age"))
_WORDS = rf"(?:(?!\b(?:{_NAMES}))[^\W\d]| ){{0,60}}"
_BETWEEN = rf"(?P<between>(?:{_WORDS}(?:[:=|(\[\u2013\u2014-] ?|\{{\s*)){{0,4}}\s*)"
# Atomic, so that "8.55" or "8/100" is never read as its first digits.
_NUMBER = r"(?P<number>(?>[0-9]+(?:[.,][0-9]+)?))(?P<of>(?>(?: ?/ ?| out of | of )[0-9]+)?)"
_GRADE_FIRST = re.compile(
    rf"^\W*[0-9]+(?:[.,][0-9]+)?(?: ?/ ?10 ?(?:[-\u2013\u2014:|(]|for|in)?| ?[-\u2013\u2014:|(]) ?(?:{_NAMES})\b",
    re.IGNORECASE | re.MULTILINE,
)
# What follows a grade: "2 mistakes", "80 %", "7-8" and "1st" are no grades.
_AFTER = rf"(?! ?(?:[%/]|[-\u2013\u2014] ?[0-9]|(?!{_NAMES}|points?\b|overall\b)\w))"
# Words that may stand between a name and a grade of which it is not said that it is out of 10.
_LABELS = {"score", "grade", "rating", "value", "mark", "with", "the", "storys", "story", "beginning", "makes", "sense"}


def _read_grade(plain: str, name: str) -> float:
    found: set[float] = set()
    for match in re.finditer(rf"\b{name}\b{_BETWEEN}{_NUMBER}{_AFTER}", plain, re.IGNORECASE):
        between, value = match["between"].lower(), float(match["number"].replace(",", "."))
        best = re.findall("[0-9]+", match["of"])
        if not best and not set(re.findall(r"[^\W\d]+", between)) <= _LABELS:
            continue
        is_negative = re.search(r"[:=|(\[{] ?-$", between) is not None
        if is_negative or value > BEST_GRADE or best not in ([], [str(BEST_GRADE)]):
            raise Rejected(f"{name}_out_of_range", match[0])
        found.add(value)
    return _only(found, name, plain)


def _read_age_group(plain: str) -> str:
    ranges = {said: letter for letter, said in AGE_GROUPS.items()}
    years = "|".join(said.replace("-", r" ?[-\u2013\u2014] ?") for said in ranges)
    said = rf"(?:(?P<letter>[A-F])(?![\w/]| ?[a-z])(?:\W{{1,3}}(?P<years>{years})\b)?|(?P<only>{years})\b)"
    not_two = r"(?!\W{1,3}(?:[A-F]\b|(?i:or|to|and)\b))"
    found: set[str] = set()
    # The letter is a capital: "a student of ..." is no group.
    for match in re.finditer(rf"(?i:\bage) ?(?i:group|range)?[a-z ]{{0,40}}[:=|(-] ?{said}{not_two}", plain):
        text = re.sub(r" ?[-\u2013\u2014] ?", "-", match["years"] or match["only"] or "")
        found |= {match["letter"], ranges.get(text)} - {None}
    return _only(found, "age_group", plain)


def _plain(text: str) -> str:
    """A reply without its thoughts, which weigh what the answer may not say, and without marks of Markdown and JSON."""
    answer = re.sub(r"<think>.*?(?:</think>|\Z)", " ", text, flags=re.DOTALL)
    return re.sub(r"[*_`#>\"'\u2018\u2019\u201c\u201d]", "", answer)


def _only(found: set[T], name: str, plain: str) -> T:
    if not found:
        raise Rejected(f"{name}_missing", plain[:80])
    if len(found) > 1:
        raise Rejected(f"{name}_ambiguous", ", ".join(sorted(map(str, found))))
    return next(iter(found))


def grades_report(
    pairs: Sequence[tuple[str, str]], graded: Mapping[str, Sequence[Graded]], resamples: int = RESAMPLES
) -> Report:
    """Averages by judge and the agreement of judges, as JSON values.

    Args:
        pairs, graded: what `grade_all` was given and gave.
        resamples: of the bootstrap.

    Returns:
        `beginnings`, `completions`; `judges`: label -> `graded`, `malformed` and `unanswered` (reason -> count),
        `grades` (name -> `value`, `ci95`), `age_groups` (letter -> count) and `rows` (grades or reason, in the order of
        the pairs); `agreement`: grade or `age_group` -> `alpha`, Krippendorff's for intervals over all judges, and
        `mean_absolute_difference` ("first / second" -> value, over what both graded; age groups as 0 ... 5).
    """
    starts = [beginning for beginning, _ in pairs]
    values = {label: _matrix(found) for label, found in graded.items()}
    columns = (*GRADES, "age_group")
    return {
        "beginnings": len(set(starts)),
        "completions": len(pairs),
        "judges": {
            label: {
                "graded": sum(isinstance(one, Grades) for one in found),
                "malformed": reasons_of(found, Rejected),
                "unanswered": reasons_of(found, NoAnswer),
                "grades": {
                    name: mean_by_cluster(values[label][:, place], starts, resamples)
                    for place, name in enumerate(GRADES)
                },
                "age_groups": {
                    group: sum(isinstance(one, Grades) and one.age_group == group for one in found)
                    for group in AGE_GROUPS
                },
                "rows": [asdict(one) if isinstance(one, Grades) else {"reason": one.reason} for one in found],
            }
            for label, found in graded.items()
        },
        "agreement": {
            name: _agreement({label: matrix[:, place] for label, matrix in values.items()})
            for place, name in enumerate(columns)
        }
        if len(graded) > 1
        else {},
    }


def grades_markdown(report: Report) -> str:
    """A report as two small tables of Markdown."""
    lines = [
        f"{report['completions']:,} completions of {report['beginnings']:,} beginnings; means of grades from 0 to "
        f"{BEST_GRADE} with 95 % bootstrap intervals over beginnings.",
        "",
        f"| judge | {' | '.join(GRADES)} | age groups | graded | malformed | unanswered |",
        "|---" * (len(GRADES) + 5) + "|",
    ]
    for label, one in report["judges"].items():
        ages = ", ".join(f"{group} {count}" for group, count in one["age_groups"].items() if count) or "-"
        lost = [sum(one[kind].values()) for kind in ("malformed", "unanswered")]
        grades = " | ".join(with_interval(one["grades"][name]) for name in GRADES)
        lines.append(f"| {label} | {grades} | {ages} | {one['graded']} | {lost[0]} | {lost[1]} |")
    if report["agreement"]:
        lines += ["", "| agreement | Krippendorff's alpha | mean absolute difference |", "|---|---|---|"]
    for name, one in report["agreement"].items():
        gaps = "; ".join(
            f"{pair}: {'-' if gap is None else f'{gap:.2f}'}" for pair, gap in one["mean_absolute_difference"].items()
        )
        lines.append(f"| {name} | {'-' if one['alpha'] is None else format(one['alpha'], '.3f')} | {gaps} |")
    return "\n".join(lines) + "\n"


def with_interval(one: Mapping[str, Any], decimals: int = 2) -> str:
    """A `value` and its `ci95`, where there are such, for a table."""
    if one["value"] is None:
        return "-"
    value, *ends = (f"{number:.{decimals}f}" for number in (one["value"], *(one["ci95"] or ())))
    return f"{value} [{', '.join(ends)}]" if ends else value


# Pairs.


async def compare(judge: Judge, beginning: str, candidate: str, reference: str) -> tuple[str, str]:
    """The judge's verdicts with the candidate first, and with it second: each "first", "second" or "equal".

    Raises:
        Rejected: a reply without a verdict, or with two: "verdict_missing", "verdict_ambiguous".
        NoAnswer, UserError: as `grade`.
    """

    async def verdict(first: str, second: str) -> str:
        text = COMPARISON_PROMPT.format(beginning=beginning, first=first, second=second)
        return read_verdict(await _ask(judge, [{"role": "user", "content": text}]))

    return await verdict(candidate, reference), await verdict(reference, candidate)


async def compare_all(
    judge: Judge,
    triples: Sequence[tuple[str, str, str]],
    concurrency: int = 8,
    on_done: Callable[[], None] | None = None,
) -> list[tuple[str, str] | Rejected | NoAnswer]:
    """`compare` for all (beginning, candidate, reference) triples, or why there are no verdicts.

    Raises:
        UserError: no triples, concurrency below 1; or no request will be answered.
    """
    if not triples:
        raise UserError("there is no pair to compare; give at least one (beginning, candidate, reference)")
    return await gather([lambda triple=triple: compare(judge, *triple) for triple in triples], concurrency, on_done)


def read_verdict(text: str) -> str:
    """The verdict in a reply: "first", "second" or "equal".

    Raises:
        Rejected: see `compare`.
    """
    plain = _plain(text)
    found = re.findall(r"\bverdict\s*[:=-]?\s*(first|second|equal)\b(?!\s*(?:/|\||or\b|and\b))", plain, re.IGNORECASE)
    return _only({one.lower() for one in found}, "verdict", plain)


def compare_report(
    triples: Sequence[tuple[str, str, str]],
    compared: Sequence[tuple[str, str] | Rejected | NoAnswer],
) -> Report:
    """How often the candidate wins, and how much the judge goes by position, as JSON values.

    Returns:
        `comparisons`, `malformed`, `unanswered`; of those judged in both orders: `wins`, `losses` and `equal`, where
        both verdicts agree on the text, and `overturned`, where they do not; `win_rate`: wins / (wins + losses), as
        sure as one comparison per beginning would be; `first_position`: the share of the verdicts for either text that
        are for the one that stood first, 0.5 without bias, as sure as one verdict per comparison would be. Both have
        `value`, `ci95` and `count`.
    """
    outcomes = {("first", "second"): "wins", ("second", "first"): "losses", ("equal", "equal"): "equal"}
    judged = [(triple[0], one) for triple, one in zip(triples, compared, strict=True) if isinstance(one, tuple)]
    counts = Counter(outcomes.get(one, "overturned") for _, one in judged)
    wins = [outcomes[one] == "wins" for _, one in judged if outcomes.get(one) in ("wins", "losses")]
    starts = {beginning for beginning, one in judged if outcomes.get(one) in ("wins", "losses")}
    decided = [verdict == "first" for _, one in judged for verdict in one if verdict != "equal"]
    return {
        "comparisons": len(triples),
        "malformed": reasons_of(compared, Rejected),
        "unanswered": reasons_of(compared, NoAnswer),
        **{outcome: counts[outcome] for outcome in ("wins", "losses", "equal", "overturned")},
        "win_rate": _share(wins, len(starts)),
        "first_position": _share(decided, math.ceil(len(decided) / 2)),
    }


def compare_markdown(reports: Mapping[str, Report]) -> str:
    """The reports of several judges, by label, as a table of Markdown."""
    lines = [
        "| judge | win rate | wins | losses | equal | overturned | for the first place | malformed | unanswered |",
        "|---" * 9 + "|",
    ]
    for label, one in reports.items():
        counts = " | ".join(str(one[name]) for name in ("wins", "losses", "equal", "overturned"))
        lost = " | ".join(str(sum(one[kind].values())) for kind in ("malformed", "unanswered"))
        rate, first = (with_interval(one[name]) for name in ("win_rate", "first_position"))
        lines.append(f"| {label} | {rate} | {counts} | {first} | {lost} |")
    return "\n".join(lines) + "\n"


def _share(hits: Sequence[bool], trials: int) -> dict[str, Any]:
    """A share with Wilson's interval for so many trials, fewer than there are hits and misses since those depend on
    each other; unlike a bootstrap's, it has a width for a judge that always prefers the first."""
    if not hits:
        return {"value": None, "ci95": None, "count": 0}
    value = sum(hits) / len(hits)
    # Successes are whole, so they are rounded outwards at both ends.
    low, _ = wilson_interval(math.floor(value * trials), trials)
    _, high = wilson_interval(math.ceil(value * trials), trials)
    return {"value": value, "ci95": [low, high], "count": len(hits)}


# Statistics.


def mean_by_cluster(
    values: np.ndarray, clusters: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """The mean of all values and its 95 % percentile interval from a bootstrap of whole clusters.

    Args:
        values: (n), NaN left out. clusters: (n), what each value belongs to (its beginning).

    Returns:
        `value` and `ci95`; the former None without values, the latter with fewer than two clusters.
    """
    numbers = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    places = np.array([numbers[cluster] for cluster in clusters], np.int64)
    known = ~np.isnan(values)
    counts = np.bincount(places[known], minlength=len(numbers))
    sums = np.bincount(places[known], values[known], minlength=len(numbers))[counts > 0]
    counts = counts[counts > 0]
    if not len(counts):
        return {"value": None, "ci95": None}
    value = float(sums.sum() / counts.sum())
    if len(counts) < 2:
        return {"value": value, "ci95": None}
    times = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), resamples)
    return {"value": value, "ci95": np.quantile((times @ sums) / (times @ counts), [0.025, 0.975]).tolist()}


def krippendorff_alpha(ratings: np.ndarray) -> float | None:
    """Krippendorff's alpha for interval data: 1 - observed / expected disagreement, of squared differences.

    Args:
        ratings: (judges, units), NaN where a judge gave none.

    Returns:
        1 for perfect agreement, about 0 for chance, below it for less; None where no unit has two ratings, or where all
        ratings are equal, which chance explains as well.
    """
    paired = ratings[:, (~np.isnan(ratings)).sum(0) > 1]  # a unit with one rating says nothing of agreement
    counts, total = (~np.isnan(paired)).sum(0), int((~np.isnan(paired)).sum())
    if not total:
        return None
    # Over all ordered pairs of m values, squared differences sum to 2 m times the squared deviations from their mean.
    within = np.nansum((paired - np.nanmean(paired, 0)) ** 2, 0)
    observed = float((2 * counts * within / (counts - 1)).sum()) / total
    expected = 2 * float(np.nansum((paired - np.nanmean(paired)) ** 2)) / (total - 1)
    return 1 - observed / expected if expected else None


def _agreement(ratings: Mapping[str, np.ndarray]) -> dict[str, Any]:
    gaps: dict[str, float | None] = {}
    for first, second in combinations(ratings, 2):
        apart = np.abs(ratings[first] - ratings[second])
        apart = apart[~np.isnan(apart)]
        gaps[f"{first} / {second}"] = float(apart.mean()) if len(apart) else None
    return {"alpha": krippendorff_alpha(np.array(list(ratings.values()))), "mean_absolute_difference": gaps}


def _matrix(graded: Sequence[Graded]) -> np.ndarray:
    """(completions, 5): the four grades and the number of the age group; NaN where there are none."""
    groups = list(AGE_GROUPS)
    rows = [
        [*(getattr(one, name) for name in GRADES), groups.index(one.age_group)]
        if isinstance(one, Grades)
        else [math.nan] * (len(GRADES) + 1)
        for one in graded
    ]
    return np.array(rows, float).reshape(len(rows), len(GRADES) + 1)


def reasons_of(found: Sequence[Any], kind: type[Rejected] | type[NoAnswer]) -> dict[str, int]:
    return dict(Counter(one.reason for one in found if isinstance(one, kind)).most_common())


# Asking.


class CachedJudge:
    """A judge that is asked nothing twice: a reply counts once it is in the cache, on the disk.

    What a budget forbids is not asked: `NoAnswer`, with the limit as its reason. Nor is any later question that the
    cache cannot answer. A judge that has left 20 questions in a row without an answer counts as gone ("no answers").

    Args:
        judge: who is asked. The label and `sampling`, where there is such an attribute, are part of the cache's key.
        cache: of replies.
        spending: with what the cache holds counted already; may be shared with other judges.

    Attributes:
        label: the judge's. requests: answered by the judge and not by the cache. stopped_by: the limit, "no answers" or
        "".
    """

    def __init__(self, judge: Judge, cache: ReplyCache, spending: Spending) -> None:
        self.label = judge.label
        self.requests, self.stopped_by = 0, ""
        self._judge, self._cache, self._spending = judge, cache, spending
        self._sampling: dict[str, Any] = getattr(judge, "sampling", {})
        self._asked: dict[str, asyncio.Task[Reply]] = {}
        self._silence = 0

    async def chat(
        self, messages: Messages, schema: Mapping[str, Any] | None = None, max_tokens: int = 1024, **sampling: Any
    ) -> Reply:
        """See `Judge`.

        Raises:
            NoAnswer: as the judge, or the question may not be asked any more.
            UserError: as the judge; it counts no tokens, and there is a budget to keep.
        """
        key = reply_key(messages, schema, max_tokens, self.label, self._sampling | sampling, 0)
        if (reply := self._cache.get(key)) is not None:
            return reply
        if key not in self._asked:  # two equal questions may be on their way at once
            self._asked[key] = asyncio.ensure_future(self._ask(key, messages, schema, max_tokens, sampling))
        return await self._asked[key]

    async def _ask(
        self, key: str, messages: Messages, schema: Mapping[str, Any] | None, max_tokens: int, sampling: dict[str, Any]
    ) -> Reply:
        while not self.stopped_by and (limit := self._spending.reserve(messages, max_tokens)):
            if not any(self._spending.reserved):  # nothing that is on its way could turn out cheaper
                self.stopped_by = limit
            else:
                await asyncio.sleep(_LOOK)
        if self.stopped_by:
            raise NoAnswer(self.stopped_by)
        try:
            reply = await self._judge.chat(messages, schema, max_tokens, **sampling)
            self._cache.append({key: reply})  # in the event loop: no interruption comes between answer and disk
        except NoAnswer:
            self._silence += 1
            if self._silence >= SILENCE:
                self.stopped_by = "no answers"
            raise
        finally:
            self._spending.free(messages, max_tokens)
        self._spending.add(reply, self.label)
        self._silence = 0
        self.requests += 1
        return reply


async def _ask(judge: Judge, messages: Messages) -> str:
    """The text of an answer; the same chat has the same seed."""
    seed = hash_name(list(map(dict, messages))) % 2**31
    return (await judge.chat(messages, max_tokens=1024, seed=seed)).text


async def gather(
    calls: Sequence[Callable[[], Awaitable[T]]], concurrency: int, on_done: Callable[[], None] | None
) -> list[T | Rejected | NoAnswer]:
    """The results in order, so many at a time; whatever else is raised stops all."""
    if concurrency < 1:
        raise UserError(f"concurrency is {concurrency}; it is how many are asked at a time, 1 or more")
    free = asyncio.Semaphore(concurrency)

    async def one(call: Callable[[], Awaitable[T]]) -> T | Rejected | NoAnswer:
        async with free:
            try:
                return await call()
            except (Rejected, NoAnswer) as error:
                return error
            finally:
                if on_done:
                    on_done()

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
