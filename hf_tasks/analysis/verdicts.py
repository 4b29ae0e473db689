"""Numbers -> sentences. Every sentence is made from the figures it quotes, and changes with them.

A verdict is "yes", "no" or "open": open where the interval allows both, or where there was too little to test.
"""

from dataclasses import dataclass
from typing import Any

from hf_tasks.analysis.ceiling import Ceiling

HIGH = 0.9  # an accuracy that counts as solved, a share that counts as all
FEWEST = 20  # sentences or clauses below which nothing is concluded
LITTLE = 0.05  # a difference of accuracies that does not count
Cell = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One finding: `answer` to a `question` to which a model that follows chains has the answer yes."""

    question: str
    answer: str
    sentence: str


def percent(value: float) -> str:
    """A share as "97.5 %"."""
    return f"{100 * value:.1f} %"


def spans(numbers: list[int]) -> str:
    """Ascending whole numbers in short: "1 to 4, 6"."""
    text: list[str] = []
    for number in numbers:
        if number - 1 in numbers and number + 1 in numbers:
            continue
        joined = number - 1 in numbers and number - 2 in numbers
        text.append(f" to {number}" if joined else f"{', ' if text else ''}{number}")
    return "".join(text)


def figure(cell: Cell, what: str = "") -> str:
    """A share with its interval and count: "97.3 % (95 % interval 96.1 to 98.2, 400 clauses)"."""
    low, high = cell["ci95"]
    counted = f", {cell['count']:,} {what}" if what else ""
    return f"{percent(cell['value'])} (95 % interval {100 * low:.1f} to {100 * high:.1f}{counted})"


def points(cell: Cell) -> str:
    """A difference of shares with its interval, in percentage points."""
    low, high = cell["ci95"]
    return f"{100 * cell['value']:+.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f})"


def _above(cell: Cell, limit: float) -> str:
    """Whether a share is above a limit."""
    low, high = cell["ci95"]
    return "yes" if low > limit else "no" if high < limit else "open"


def _well_counted(cells: list[Cell]) -> list[Cell]:
    """The cells of enough clauses to judge by; all of them if none has enough."""
    return [cell for cell in cells if cell["count"] >= FEWEST] or cells


def told_depths(cells: list[Cell], asked: list[int]) -> Verdict:
    """Does it solve what it was trained on?"""
    question = "Does it know the values that training told?"
    known = _well_counted([cell for cell in cells if cell["depth"] in asked])
    if not known:
        return Verdict(question, "open", "None of these sentences has a clause at a depth that training told.")
    worst = min(known, key=lambda cell: cell["value"])
    answer = _above(worst, HIGH)
    span = f"depth {asked[0]}" if len(asked) == 1 else f"depths {asked[0]} to {asked[-1]}"
    opening = {
        "yes": f"Yes: on test sentences every told depth ({span}) is above {percent(HIGH)}; the weakest, depth",
        "no": f"No: not every told depth ({span}) reaches {percent(HIGH)}; the weakest, depth",
        "open": f"Almost, or not quite: the sentences do not settle whether all of {span} are above {percent(HIGH)}; "
        "the weakest, depth",
    }[answer]
    return Verdict(question, answer, f"{opening} {worst['depth']}, has {figure(worst, 'clauses')}.")


def beyond(cells: list[Cell], asked: list[int], chance: float) -> Verdict | None:
    """How far does it go beyond the depths of training? None if there are no such depths here."""
    deeper = _well_counted([cell for cell in cells if cell["depth"] > max(asked, default=0)])
    if not deeper:
        return None
    question = "Does it go deeper than training told?"
    solved = []
    for cell in deeper:
        if _above(cell, HIGH) != "yes":
            break
        solved.append(cell)
    last, worst = deeper[-1], min(deeper, key=lambda cell: cell["value"])
    if len(solved) == len(deeper):
        sentence = f"Yes, all the way to depth {last['depth']}: the weakest, depth {worst['depth']}, has "
        return Verdict(question, "yes", sentence + f"{figure(worst, 'clauses')}.")
    first = deeper[len(solved)]
    reached = (
        f"It goes on to depth {solved[-1]['depth']}, at {figure(solved[-1], 'clauses')}, but " if solved else "No: "
    )
    guessing = next((cell for cell in deeper if cell["ci95"][0] <= chance), None)
    sentence = f"{reached}depth {first['depth']} has {figure(first, 'clauses')}"
    if guessing is not None and guessing is not first:
        sentence += (
            f", and from depth {guessing['depth']} on nothing is left but guessing: {figure(guessing, 'clauses')}"
        )
    elif guessing is not None:
        sentence += f", no more than guessing ({percent(chance)})"
    answer = "open" if solved or _above(first, HIGH) == "open" else "no"
    return Verdict(question, answer, sentence + ".")


def solved_to(cells: list[Cell]) -> int:
    """The deepest depth up to which every one is above `HIGH`; 0 if the first is not."""
    deepest = 0
    for cell in sorted(cells, key=lambda cell: cell["depth"]):
        if _above(cell, HIGH) != "yes":
            break
        deepest = cell["depth"]
    return deepest


def last_variable(excess: Cell | None) -> Verdict | None:
    """Is the last variable known better than those before it?"""
    if excess is None:
        return None
    question = "Is the last variable no better known than those before it?"
    low, high = excess["ci95"]
    figures = f"{points(excess)} over the mean of the two before it, {excess['count']:,} sentences"
    if low > LITTLE:
        return Verdict(question, "no", f"No: the last variable stands out, as it does for one who counts: {figures}.")
    if high < LITTLE:
        return Verdict(question, "yes", f"Yes, it does not stand out: {figures}.")
    return Verdict(question, "open", f"The sentences do not settle it: {figures}.")


def against_counting(last: Cell, ceiling: Ceiling, clauses: int) -> Verdict:
    """Is the last variable known better than counting allows?"""
    question = "Does it know the last variable better than counting allows?"
    bound = percent(ceiling.value)
    if not ceiling.exact:
        bound += f" (95 % interval {100 * ceiling.ci95[0]:.1f} to {100 * ceiling.ci95[1]:.1f})"
    told = f"a model that counts the elements of the {clauses} clauses and ignores their order can reach {bound}"
    if ceiling.value > HIGH:
        return Verdict(
            question, "open", f"It cannot be told from this: {told}, and this one has {figure(last, 'clauses')}."
        )
    low, high = last["ci95"]
    if low > ceiling.ci95[1]:
        return Verdict(question, "yes", f"Yes: {told}, and this one has {figure(last, 'clauses')}.")
    if high < ceiling.ci95[0]:
        return Verdict(question, "no", f"No: {told}, and this one has only {figure(last, 'clauses')}.")
    return Verdict(question, "open", f"It is as good as counting: {told}, and this one has {figure(last, 'clauses')}.")


def order_of_learning(look: Cell | None, threshold: float) -> Verdict | None:
    """Was the last depth learned after the one before it?

    Args:
        look: of `first_of_last_two`; where the two intervals overlap, one batch does not tell which came first.
    """
    if look is None:
        return None
    before, last = look["before"], look["last"]
    question = "Was the last variable learned after the one before it?"
    said = (
        f"when the first of the two had reached {percent(threshold)} of a batch of validation sentences, at step "
        f"{look['step']:,}, depth {before['depth']} had {figure(before, 'clauses')} and depth {last['depth']} "
        f"{figure(last, 'clauses')}"
    )
    if last["ci95"][0] > before["ci95"][1]:
        return Verdict(question, "no", f"No, earlier, as by one who counts: {said}.")
    if last["ci95"][1] < before["ci95"][0]:
        return Verdict(question, "yes", f"Yes: {said}.")
    return Verdict(question, "open", f"They are not told apart: {said}.")


def _edited(question: str, cell: Cell, openings: dict[str, str], done: str) -> Verdict:
    """What became of the answer in edited sentences, which is to be the right one in nearly all."""
    if cell["count"] < FEWEST:
        return _too_few(question, cell)
    answer = _above(cell, HIGH)
    return Verdict(question, answer, f"{openings[answer]}: {done} {figure(cell, 'sentences')}.")


def _too_few(question: str, cell: Cell) -> Verdict:
    sentence = f"It cannot be told: only {cell['count']} sentences are answered rightly as they are, too few to edit."
    return Verdict(question, "open", sentence)


def upstream(cell: Cell) -> Verdict:
    """Does a change upstream change the answer, and rightly?"""
    question = "Does an element upstream change the answer?"
    done = "after one element on the way to the target was exchanged, the new value was given in"
    return _edited(question, cell, {"yes": "Yes", "no": "Not as it must", "open": "Mostly"}, done)


def irrelevant(cell: Cell) -> Verdict:
    """Does a change elsewhere leave the answer alone?"""
    question = "Does an element that does not matter leave the answer alone?"
    where = "a clause beside the chain" if cell.get("kind") == "beside" else "a clause that follows from the target"
    done = f"after the element of {where} was exchanged, the answer stayed in"
    return _edited(question, cell, {"yes": "Yes", "no": "No, it is led astray", "open": "Mostly"}, done)


def removed(cell: Cell, chance: float) -> Verdict:
    """Does the answer fall to chance when a middle clause is gone?"""
    question = "Does the answer depend on the clauses in the middle?"
    if cell["count"] < FEWEST:
        return _too_few(question, cell)
    low = cell["ci95"][0]
    said = f"with one clause in the middle cut out, the answer was still right in {figure(cell, 'sentences')}"
    said += f", where guessing gives {percent(chance)}"
    if low <= chance:
        return Verdict(question, "yes", f"Yes: {said}.")
    if low > chance + 0.1:
        return Verdict(question, "no", f"Not wholly: {said}; something else gives the value away.")
    return Verdict(question, "open", f"Almost: {said}.")


def overall(found: dict[str, Verdict]) -> Verdict:
    """What it all comes to.

    Args:
        found: verdicts by the names of this file's functions; those that were not made are missing.
    """
    question = "Does this model follow the chain?"
    edits = [found[name].answer for name in ("upstream", "irrelevant", "removed") if name in found]
    known = found["told_depths"].answer
    counts = [name for name in ("last_variable", "order_of_learning") if name in found and found[name].answer == "no"]
    counting = bool(counts) or ("irrelevant" in found and found["irrelevant"].answer == "no")
    if known == "no" and "last_variable" in counts:
        opening = "It counts, and does not follow: the last variable is known better than those that it is made from."
        return Verdict(question, "no", f"{opening} {found['last_variable'].sentence} {found['told_depths'].sentence}")
    if known == "no":
        opening = "On these sentences it does not do the task: not even the depths that training told are all known."
        return Verdict(question, "no", f"{opening} {found['told_depths'].sentence}")
    if counting:
        reason = found["irrelevant" if "irrelevant" in found and found["irrelevant"].answer == "no" else counts[0]]
        return Verdict(question, "no", f"There are signs that it does not follow the chain. {reason.sentence}")
    if edits and all(answer == "yes" for answer in edits) and known == "yes":
        deeper = f" {found['beyond'].sentence}" if "beyond" in found else ""
        opening = "It follows the chain: its answers change with the clauses that matter and with no others."
        return Verdict(question, "yes", f"{opening} {found['told_depths'].sentence}{deeper}")
    return Verdict(question, "open", f"These tests do not settle it. {found['told_depths'].sentence}")


def head_names(heads: list[tuple[int, int]], layers: int) -> str:
    """Heads, each (layer, head), in words: "heads 0 and 1", "layer 1 head 0"; of a single layer, which is not named."""
    names = []
    for layer in sorted({layer for layer, _ in heads}):
        of = [str(head) for other, head in heads if other == layer]
        head = f"head{'s' if len(of) > 1 else ''} {_listed(of)}"
        names.append(head if layers == 1 else f"layer {layer} {head}")
    return _listed(names)


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def used(kind: str, heads: str, drops: list[Cell], whole: Cell, chance: float, is_called: bool = True) -> Verdict:
    """Does the model need its heads of a kind?

    Args:
        heads: what was cut off, in words. drops: of `ablate`, that over all clauses first.
        whole: accuracy without cuts. is_called: whether they are called so, or only have most of it.
    """
    question = f"Does it use its {kind} heads?" if is_called else f"Does it use the heads that have most of {kind}?"
    if whole["ci95"][0] <= chance + LITTLE:
        hardly = f"{figure(whole, 'clauses')}, hardly better than guessing ({percent(chance)})"
        return Verdict(question, "open", f"It cannot be told: there is nothing to lose; even whole it has {hardly}.")
    total, *by_depth = drops
    answer = _above(total, LITTLE)
    opening = {"yes": "Yes", "no": "No, it does without", "open": "The sentences do not settle it"}[answer]
    first, most = by_depth[0], max(by_depth, key=lambda cell: cell["value"])
    where = f"at depth {first['depth']} it loses {lost(first)}"
    if most is not first:
        where += f", and most at depth {most['depth']}, {lost(most)}"
    return Verdict(
        question, answer, f"{opening}: without {heads}, accuracy over all clauses loses {lost(total)} of "
        f"{figure(whole, 'clauses')}; {where}."
    )  # fmt: skip


def lost(cell: Cell) -> str:
    """A drop in accuracy with its interval, in percentage points, without the sign of what is lost."""
    low, high = cell["ci95"]
    return f"{100 * cell['value']:.1f} points (95 % interval {100 * low:.1f} to {100 * high:.1f})"


def no_head(kind: str, most: Cell, name: str) -> str:
    """Why no head of a kind was cut off; of the head, called `name`, that has most of it."""
    return (
        f"No head has more of {kind} than by chance: the most has {name}, {figure(most)}, where even attention has "
        f"{percent(most['uniform'])} and the places that mean nothing have "
        f"{figure({'value': most['null'], 'ci95': most['null_ci95']})}. So none was cut off for it."
    )


def first_readable(cells: list[Cell]) -> list[Cell]:
    """Of each depth the first cell of `probe` that is above `HIGH`, interval and all, or else its best one."""
    found = []
    for depth in sorted({cell["depth"] for cell in cells}):
        of = [cell for cell in cells if cell["depth"] == depth]
        high = [cell for cell in of if _above(cell, HIGH) == "yes"]
        found.append({**(high[0] if high else max(of, key=lambda cell: cell["value"])), "readable": bool(high)})
    return found


def readable_from(rows: list[Cell]) -> str:
    """Up to where values can be read, in a sentence; of the rows of `first_readable`."""
    if not rows:
        return "There were too few sentences to fit a probe."
    readable = [row for row in rows if row["readable"]]
    shown = readable[-1] if readable else max(rows, key=lambda row: row["value"])
    control = {"value": shown["control"], "ci95": shown["control_ci95"]}
    figures = (
        f"{figure(shown, 'clauses')} at layer {shown['layer']}, where the same probe on permuted labels has "
        f"{figure(control)}: a difference of "
        f"{points({'value': shown['selectivity'], 'ci95': shown['selectivity_ci95']})}"
    )
    if not readable:
        return f"Nowhere is a value readable above {percent(HIGH)}; best is depth {shown['depth']}, with {figures}."
    depths = spans([row["depth"] for row in readable])
    return (
        f"Readable above {percent(HIGH)}, interval and all, at {'depth' if len(readable) == 1 else 'depths'} {depths}. "
        f"The deepest of them, depth {shown['depth']}, has {figures}."
    )


def carried(cells: list[Cell], chance: float) -> str:
    """How far patches carry, in a sentence; of the cells of `patch`."""
    reached: list[str] = []
    beyond: list[str] = []
    for distance in sorted({cell["distance"] for cell in cells if cell["count"] >= FEWEST}):
        best = max((cell for cell in cells if cell["distance"] == distance), key=lambda cell: cell["value"])
        whom = {0: "the clause itself", 1: "its children"}.get(distance, f"clauses {distance} steps downstream")
        said = f"best at layer {best['layer']}, in {figure(best, 'clauses')}"
        if best["ci95"][0] <= chance:
            beyond = [f"not to {whom}, {said}"]  # nor to those behind them
            break
        reached.append(f"to {whom} {said}")
    found = "; ".join([*reached, *beyond])
    return f"The patch carries {found}." if found else ""


def two_steps(kinds: list[list[str | None]], most: Cell | None) -> str:
    """What it means that no head is called parent, if none is and the two others are there; else "".

    Args:
        most: the parent share of the head that has most of it, if a clause has a parent.
    """
    found = {kind for of in kinds for kind in of}
    if most is None or "parent" in found or not {"association", "local"} <= found:
        return ""
    return (
        "None of them is called parent: the most that one looks from a clause straight at the clause of its parent is "
        f"{figure(most)}, where even attention has {percent(most['uniform'])}. Two steps lead there as well: by "
        "association from where a variable is used to where it is defined, and inside the clause by the local habit."
    )
