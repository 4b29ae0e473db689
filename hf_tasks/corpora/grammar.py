"""Stories without a model: a symbolic story grammar, the controlled baseline beside models that write.

- What is said lies in data/stories.txt, how words are used in data/words.tsv; here are the world of one story (who is
  in it, where, what became of the thing it turns on) and the order in which it is told.
- Features are exact: a story has a feature if and only if it was asked for. The facts of the world (features, whether
  the thing is held, lost or broken) decide which sentences may be told, so that no ending contradicts its story.
- What is planted early returns late, because both halves are one line of the data file; so is the reversal of a twist.
- A required word takes a part in the story where its class allows it (a thing is what the plot turns on, an animal is
  the friend, a person helps, a place is where it happens); others have a sentence of their own.
- A story is a pure function of what is asked for and a seed.
"""

import itertools
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from hf_tasks.corpora.base import Parameters, Reply, Request
from hf_tasks.corpora.tinystories import NO_FEATURES, TinyStories, TinyStoriesInstruct
from hf_tasks.corpora.words import DATA, PARTS_OF_SPEECH, Word, vocabulary, words_of
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.tasks.hashing import hash_name

VERSION = 1  # of the stories: to be raised whenever the same seed tells another one
_STORIES = (TinyStories.name, TinyStoriesInstruct.name)
_FACTS = {"plot twist": "twist", "bad ending": "bad", "moral value": "moral"}  # feature -> fact, where they differ
_ANY = "any"
_BOYS = (
    "Tom", "Ben", "Max", "Leo", "Tim", "Jack", "Finn", "Noah", "Luke", "Adam", "Owen", "Eli", "Hugo", "Oscar",
    "Felix", "Omar", "Pablo", "Jamal", "Milo", "Otto", "Dan", "Joe", "Ali", "Ian", "Ted", "Pedro", "Ahmed", "Luis",
    "Diego", "Ivan", "Fred", "George", "Henry", "Peter", "Simon", "Toby", "Paul", "Eddie", "Jim", "Nick",
)  # fmt: skip
_GIRLS = (
    "Lily", "Anna", "Sue", "Ella", "Zoe", "Emma", "Ruby", "Nora", "Amy", "Kate", "Lucy", "Eva", "Maya", "Rosa",
    "Lena", "Aisha", "Carmen", "Fatima", "Grace", "Jane", "Clara", "Sara", "Nina", "Ava", "Tess", "Leila", "Elena",
    "Lucia", "Zara", "Alice", "Jenny", "Polly", "Molly", "Sofia", "Beth", "Nancy", "Holly", "Julia", "Wendy", "Tina",
)  # fmt: skip
_HE = {"he": "he", "him": "him", "his": "his", "hers": "his", "himself": "himself"}
_SHE = {"he": "she", "him": "her", "his": "her", "hers": "hers", "himself": "herself"}
_OUTDOORS = {
    "in": ("garden", "park", "forest", "meadow", "field", "valley", "pasture", "orchard", "grove", "woods"),
    "at": ("beach", "lake", "pond", "river", "shore", "farm", "playground"),
    "on": ("hill", "hillside", "hilltop", "island", "mountain", "ranch", "lawn"),
}
_LOOKS = ("red", "blue", "green", "yellow", "white", "old", "new", "little", "big", "shiny", "pretty", "purple")
_COMPANIONS = ("rabbit", "duck", "fox", "mouse", "squirrel", "frog", "goat", "owl", "turtle", "kitten")
_VICTIMS = ("kitten", "puppy", "rabbit", "duck", "lamb", "squirrel", "little bird", "chipmunk", "little goat", "fox")
_DEFAULTS = {"glad": ("happy", "glad", "excited"), "upset": ("sad", "unhappy", "sorry", "upset")}
# Which sentence tells of a word of which class; classes that are not named take a part in the plot itself.
_OWN_SENTENCE = {
    ("noun", "outdoor"): "landmark", ("noun", "home"): "home", ("noun", "body"): "body", ("noun", "tale"): "tale",
    ("noun", "food-a"): "food_a", ("noun", "food-some"): "food_some", ("noun", "room"): "room",
    ("adjective", "fault"): "fault", ("adjective", "glad"): "glad",
    ("adjective", "place"): "place_adjective", ("adjective", "taste"): "taste", ("adjective", "of"): "sight",
    ("verb", "day"): "day", ("verb", "slip"): "slip", ("verb", "nature"): "nature",
}  # fmt: skip
_MERGES = ((), (0,), (1,), (2,), (3,), (0, 2), (0, 3), (1, 3))  # which paragraphs take in the next: 5, 4 or 3 are left
_VOWEL = re.compile(r"\b([Aa])(?= (?:[aei]|o(?!ne\b)|u(?!ni|se|su)|hour|honest))")
_CAPITAL = re.compile(r"(?:^|[.!?] |\.\" )[a-z]")  # not behind `!"` and `?"`: there the sentence goes on


@dataclass(frozen=True)
class Story:
    """A story and a summary that is true of it."""

    text: str
    summary: str


@dataclass(frozen=True)
class _Line:
    """One way to tell one part of a story: when it may be told, its wordings, and what becomes true by it.

    A wording is one template, or several that belong together: what is said early, what returns late, the summary.
    """

    needs: frozenset[str]
    bans: frozenset[str]
    wordings: tuple[tuple[str, ...], ...]
    makes: frozenset[str]

    def fits(self, facts: frozenset[str]) -> bool:
        return self.needs <= facts and not self.bans & facts


class GrammarWriter:
    """A `Writer` that needs no model; answers requests of `tinystories` and `tinystories_instruct`."""

    def __init__(self) -> None:
        self.label = "grammar"
        self.sampling: dict[str, Any] = {"writer": "grammar", "version": VERSION}

    async def write(self, request: Request, attempt: int) -> Reply:
        """The same story for the same request and attempt.

        Raises:
            UserError: the request is not for a story.
        """
        if request.corpus not in _STORIES:
            hint = "the grammar writes stories alone: name another writer for this corpus"
            raise unknown_name("corpus for the writer 'grammar'", request.corpus, _STORIES, hint)
        story = write_story(request.parameters, hash_name(request.corpus, request.index, request.parameters, attempt))
        text = story.text
        if request.schema is not None:
            text = json.dumps({"story": story.text, "summary": story.summary}, ensure_ascii=False)
        return Reply(text, self.label)


def write_story(parameters: Parameters, seed: int) -> Story:
    """Write a story that uses the three words and has exactly the features that are asked for.

    Args:
        parameters: `verb`, `noun`, `adjective`, words of the vocabulary, and `features`, names with a comma between.
        seed: of everything that is left open.

    Raises:
        UserError: a word that the vocabulary lacks, for which no use is known.
    """
    words = {part: _known(part, parameters[part]) for part in PARTS_OF_SPEECH}
    features: list[str] = parameters["features"].split(", ")
    facts = frozenset(_FACTS.get(name, name) for name in features if name != NO_FEATURES)
    return _Teller(words, facts, random.Random(seed)).story()


class _Teller:
    """The world of one story, and its telling."""

    def __init__(self, words: Mapping[str, Word], facts: frozenset[str], rng: random.Random) -> None:
        self.words, self.facts, self.rng = words, facts, rng
        self.slots = self._people() | self._world()
        for word in words.values():
            self._cast(word)
        plots = [name for name, needed in _grammar().plots.items() if needed.fits(self.facts)]
        self.plot = self._one(plots)

    def story(self) -> Story:
        tell, conflict = self._tell, "conflict" in self.facts
        plant, payoff = tell("plant") if "foreshadowing" in self.facts else ("", "")
        # What was planted returns before the way out is tried, or where it is part of the way out, after.
        early, late = ("", payoff) if "late" in self.facts else (payoff, "")
        # The end is chosen first: what it reverses is set up early.
        expected, end, outcome = tell("end")
        paragraphs = [
            [self._opening(), *tell("friend"), *self._own("fault", "glad", "place_adjective"),
             *self._own("room", "home", "day"), *tell("start")],
            [*self._shuffled(), plant],
            [*tell("trouble"), expected, *self._reaction(), *self._talk()],
            [*(tell("truce") if conflict else ()), early, *tell("try"), late, end],
            [*(tell("peace") if conflict else ()), *self._closing()],
        ]  # fmt: skip
        texts = [" ".join(filter(None, sentences)) for sentences in paragraphs]
        for first in reversed(self._one(_MERGES)):
            texts[first : first + 2] = [" ".join(texts[first : first + 2])]
        about = " ".join([*tell("about"), outcome])
        return Story("\n\n".join(map(_polish, texts)), _polish(about))

    # The world.

    def _people(self) -> dict[str, str]:
        hero_is_girl, friend_is_girl = self.rng.random() < 0.5, self.rng.random() < 0.5
        hero = self._one(_GIRLS if hero_is_girl else _BOYS)
        friend = self._one([name for name in (_GIRLS if friend_is_girl else _BOYS) if name != hero])
        friend_forms = {f"f_{form}": value for form, value in (_SHE if friend_is_girl else _HE).items()}
        people = {"hero": hero, "friend": friend, "boy": "girl" if hero_is_girl else "boy"}
        return people | (_SHE if hero_is_girl else _HE) | friend_forms

    def _world(self) -> dict[str, str]:
        preposition = self._one(("in", "at", "on"))
        slots = _place(preposition, self._one(_OUTDOORS[preposition]))
        slots |= _person(self._one(words_of("noun", "person")))
        item = self._one(words_of("noun", "thing"))
        look = self._one(_LOOKS) + " " if self.rng.random() < 0.5 else ""
        slots |= {"item": item, "plain_item": f"a {item}", "a_item": f"a {look}{item}"}
        slots |= {"trait": self._one(words_of("adjective", "trait"))}
        slots |= {mood: self._one(moods) for mood, moods in _DEFAULTS.items()}
        if self.rng.random() < 0.2 and self.words["noun"].kind != "animal":
            self._befriend(slots, self._one(_COMPANIONS))
        victim = self._one([one for one in _VICTIMS if one != slots.get("species")])
        return slots | {"victim": victim, "a_victim": f"a {victim}"}

    def _befriend(self, slots: dict[str, str], species: str) -> None:
        slots["species"] = species
        self.facts |= {"animal"}

    def _cast(self, word: Word) -> None:
        """Give a required word its part."""
        slots, kind, text = self.slots, word.kind, word.word
        slots[word.part_of_speech] = text
        if word.part_of_speech == "verb":
            use = word.use.format_map(slots | {"V": word.past})
            slots["verb"] = use if kind == "nature" else f"{word.past} {use}"
        elif kind == "thing":
            slots.update(item=text, plain_item=f"a {text}", a_item=f"a {text}")
        elif kind == "animal":
            self._befriend(slots, text)
            if slots["victim"] == text:
                slots.update(victim="kid goat", a_victim="a kid goat")
        elif kind == "person":
            slots.update(_person(text))
            self.facts |= {"person"}
        elif kind == "family":
            slots.update(helper=f"{slots['his']} {text}", a_helper=f"{slots['his']} {text}")
            self.facts |= {"family", "person"}
        elif kind.startswith("place-"):
            preposition = kind.removeprefix("place-")
            if text in _OUTDOORS[preposition]:
                slots.update(_place(preposition, text))
            else:
                slots["in_room"] = f"{preposition} the {text}"
        elif kind == "any":
            slots["a_item"] = f"a {text} {slots['item']}"
        elif kind == "of":
            slots["sight"] = f"{text} {self._one(word.use.split(', '))}"
        elif word.part_of_speech == "adjective":
            slots[{"place": "place_adjective"}.get(kind, kind)] = text
            self.facts |= {"trait"} if kind == "trait" else set()
        else:
            slots[{"outdoor": "landmark", "food-a": "food", "food-some": "food"}.get(kind, kind)] = text

    # The telling.

    def _opening(self) -> str:
        return self._tell("open_weather" if self.words["adjective"].kind == "weather" else "open")[0]

    def _own(self, *sections: str) -> list[str]:
        """The sentences of required words that are told in one of these sections."""
        told = []
        for word in self.words.values():
            section = _OWN_SENTENCE.get((word.part_of_speech, word.kind))
            if section is None and word.kind.startswith("place-") and "in_room" in self.slots:
                section = "room"
            if section in sections:
                told += self._tell(section)
        return told

    def _shuffled(self) -> list[str]:
        """What may be told in any order between the beginning and the trouble."""
        told = self._own("landmark", "body", "tale", "food_a", "food_some", "taste", "sight", "slip", "nature")
        told += [word.use.format_map(self.slots) for word in self.words.values() if word.kind == "other"]
        told += self._tell("scene") if len(told) < 2 or self.rng.random() < 0.3 else []
        self.rng.shuffle(told)
        return told

    def _reaction(self) -> list[str]:
        told = [*self._tell("react")] if self.words["verb"].kind == "react" else []
        if self.words["adjective"].kind == "upset" or self.rng.random() < 0.4:
            told = [*self._tell("upset"), *told]
        return told

    def _talk(self) -> list[str]:
        """Two friends about the trouble, or against each other."""
        if "conflict" not in self.facts:
            return [*self._tell("talk")]
        return [*self._tell("quarrel"), *(self._tell("quarrel_talk") if "dialogue" in self.facts else ())]

    def _closing(self) -> list[str]:
        told = []
        if "dialogue" in self.facts and self.rng.random() < 0.5 and not {"bad", "conflict"} <= self.facts:
            told += self._tell("say_close")
        told += self._tell("close")
        if "moral" in self.facts:
            self.slots["moral"] = self._tell("moral")[0]
            told += self._tell("learn")
        return told

    def _tell(self, section: str) -> tuple[str, ...]:
        line = self._one(_lines(self.plot, section, self.facts))
        self.facts |= line.makes
        return tuple(part.format_map(self.slots) for part in self._one(line.wordings))

    def _one(self, values: Any) -> Any:
        return values[int(self.rng.random() * len(values))]


@dataclass(frozen=True)
class _Grammar:
    """Plot -> when it may be told; (plot, section) -> its lines."""

    plots: Mapping[str, _Line]
    sections: Mapping[tuple[str, str], list[_Line]]


@cache
def _grammar() -> _Grammar:
    """data/stories.txt, read. Its head says what its marks mean."""
    plots: dict[str, _Line] = {}
    sections: dict[tuple[str, str], list[_Line]] = {}
    plot = section = tags = makes = ""
    for line in (DATA / "stories.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("== "):
            plot, _, tags = line[3:].partition(" ")
            if plot != _ANY:
                plots[plot] = _line("", tags, "")
        elif line.startswith("-- "):
            section, _, tags = line[3:].partition(" ")
            tags, _, makes = tags.partition("=> ")
        else:
            template, _, more = line.partition(" ?")
            sections.setdefault((plot, section), []).append(_line(template, f"{tags} {more.replace('?', '')}", makes))
    return _Grammar(plots, sections)


def _line(template: str, tags: str, makes: str) -> _Line:
    needs = frozenset(tag for tag in tags.split() if not tag.startswith("!"))
    bans = frozenset(tag[1:] for tag in tags.split() if tag.startswith("!"))
    choices = [part[1:-1].split("|") if part.startswith("[") else [part] for part in re.split(r"(\[.*?\])", template)]
    wordings = ["".join(parts) for parts in itertools.product(*choices)]
    return _Line(needs, bans, tuple(tuple(text.split(" // ")) for text in wordings), frozenset(makes.split()))


@cache
def _lines(plot: str, section: str, facts: frozenset[str]) -> list[_Line]:
    """The lines that may tell a section of a plot, its own before those that all plots share."""
    sections = _grammar().sections
    lines = sections.get((plot, section)) or sections[_ANY, section]
    return [line for line in lines if line.fits(facts)]


def _known(part_of_speech: str, word: str) -> Word:
    known = vocabulary()[part_of_speech]
    if word not in known:
        raise UserError(
            f"the story grammar knows no {part_of_speech} {word!r}, only the {len(known)} of hf_tasks/corpora/data/"
            "words.tsv; choose one of those, or another writer"
        )
    return known[word]


def _place(preposition: str, place: str) -> dict[str, str]:
    return {"place": f"the {place}", "in_place": f"{preposition} the {place}", "to_place": f"to the {place}"}


def _person(person: str) -> dict[str, str]:
    return {"helper": f"the {person}", "a_helper": f"a {person}"}


def _polish(text: str) -> str:
    """Articles before vowels, and a capital at the start of every sentence."""
    return _CAPITAL.sub(lambda found: found[0].upper(), _VOWEL.sub(r"\1n", text))
