"""What corpora write about: two trees of topics, all of them published.

- Neither phi-1's topics nor the 20,000 of phi-1.5 were. Ours stand in data/topics.txt: those of programming one by one,
  chosen as phi-1 says (reasoning and basic algorithms), those of common knowledge composed: a seed ("a hammer", a tool)
  times the aspects of its class ("looking after {x}").
- Every topic is a phrase that fits behind "about", and is in its tree once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from hf_tasks.corpora.words import DATA


@dataclass(frozen=True)
class Topic:
    """A leaf of a tree.

    Attributes:
        name: the phrase ("looking after a hammer"). area, subject: the branches above it ("Things", "Tools").
        seed: what it was composed of ("a hammer"); empty where it was not.
    """

    name: str
    area: str
    subject: str
    seed: str = ""

    @property
    def path(self) -> tuple[str, ...]:
        """From the root to the leaf."""
        return tuple(part for part in (self.area, self.subject, self.seed, self.name) if part)


@cache
def programming_topics() -> dict[str, Topic]:
    """Elementary Python and algorithms, by name, in the order of a course."""
    return {topic.name: topic for topic in _tree("programming")}


@cache
def knowledge_topics() -> dict[str, Topic]:
    """Common sense and general knowledge, by name."""
    return {topic.name: topic for topic in _tree("knowledge")}


def _tree(name: str) -> Iterator[Topic]:
    sections = _sections()
    aspects = dict(map(_entry, sections["aspects"]))
    area = ""
    for line in sections[name]:
        if line.startswith("## "):
            area = line[3:]
            continue
        head, items = _entry(line)
        subject, _, kind = head.rstrip(")").partition(" (")
        for item in items:
            if kind:
                yield from (Topic(aspect.format(x=item), area, subject, item) for aspect in aspects[kind])
            else:
                yield Topic(item, area, subject)


def _entry(line: str) -> tuple[str, list[str]]:
    """What stands before the colon, and the items after it."""
    head, _, items = line.partition(": ")
    return head, items.split("; ")


@cache
def _sections() -> dict[str, list[str]]:
    """Section of the data file -> its lines, without comments and empty ones."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (DATA / "topics.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = sections[line.strip("[]")] = []
        elif line and not line.startswith("# "):
            lines.append(line)
    return sections
