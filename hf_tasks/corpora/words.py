"""The simple words that stories are asked to use, as TinyStories has them: verbs, nouns and adjectives.

- The list is a data file, data/words.tsv, whose head says where every word comes from and under which licence. It was
  rebuilt from word lists for young readers, because the list of the paper (arXiv 2305.07759) was never published.
- Every word has a class (a thing that one can carry, an animal, weather, ...) and, where the class is not enough, a
  use: the words by which the story grammar puts it into a sentence. Writers that are models see the bare word alone.
- Inflection here is for recognising a word in a story, so it may be too generous ("runed") but never too strict.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).with_name("data")
PARTS_OF_SPEECH = ("verb", "noun", "adjective")
_IRREGULAR = {
    "child": ["children"], "man": ["men"], "woman": ["women"], "mouse": ["mice"], "goose": ["geese"], "foot": ["feet"],
    "tooth": ["teeth"], "ox": ["oxen"], "person": ["people"], "gentleman": ["gentlemen"], "policeman": ["policemen"],
    "fisherman": ["fishermen"], "mailman": ["mailmen"], "milkman": ["milkmen"], "watchman": ["watchmen"],
    "workman": ["workmen"], "leaf": ["leaves"], "loaf": ["loaves"], "wolf": ["wolves"], "calf": ["calves"],
    "elf": ["elves"], "half": ["halves"], "wife": ["wives"], "shelf": ["shelves"], "hoof": ["hooves"],
    "good": ["better", "best"], "bad": ["worse", "worst"], "far": ["farther", "farthest"], "be": ["am", "is", "are"],
    "lie": ["lying"], "tie": ["tying"], "die": ["dying"], "have": ["has"], "many": ["more", "most"],
    "much": ["more", "most"], "little": ["less", "least"], "wake": ["waked"], "light": ["lighted"], "ski": ["skis"],
}  # fmt: skip
_ENDINGS = {"verb": ("s", "ed", "ing"), "noun": ("s",), "adjective": ("er", "est", "ly")}


@dataclass(frozen=True)
class Word:
    """One word of the vocabulary.

    Attributes:
        part_of_speech: "verb", "noun" or "adjective". kind: its class. word: its base form.
        past, participle: of a verb; empty otherwise.
        use: how the grammar says it: what follows a verb, or a sentence; empty where the class is enough. Slots in
            braces are those of the grammar.
    """

    part_of_speech: str
    kind: str
    word: str
    past: str
    participle: str
    use: str


@cache
def vocabulary() -> dict[str, dict[str, Word]]:
    """Part of speech -> word -> what is known of it, in the order of the file."""
    found: dict[str, dict[str, Word]] = {part: {} for part in PARTS_OF_SPEECH}
    for line in (DATA / "words.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        part, kind, word, pasts, use = line.split("\t")
        past, participle = ("", "") if pasts == "-" else pasts.split()
        found[part][word] = Word(part, kind, word, past, participle, "" if use == "-" else use)
    return found


def words_of(part_of_speech: str, *kinds: str) -> list[str]:
    """The words of some classes, or of all if none is named."""
    return [one.word for one in vocabulary()[part_of_speech].values() if not kinds or one.kind in kinds]


@cache
def inflections(part_of_speech: str, word: str) -> frozenset[str]:
    """Every form in which a word may stand in a text, itself among them; also of words that the vocabulary lacks."""
    known = vocabulary()[part_of_speech].get(word)
    forms = {word, *_IRREGULAR.get(word, ())} | ({known.past, known.participle} - {""} if known else set())
    stems = {word, word + word[-1]} if re.search(r"[^aeiou][aeiou][^aeiouwxy]$", word) else {word}
    for ending in _ENDINGS[part_of_speech]:
        forms |= {stem + ending for stem in stems}
        if word.endswith("e"):
            forms.add(word[:-1] + ending)
        if ending == "s":
            forms.add(word + "es")
        if word.endswith("y"):
            forms.add(word[:-1] + ("ies" if ending == "s" else "i" + ending))
    return frozenset(forms)


def missing_words(text: str, wanted: Iterable[tuple[str, str]]) -> list[str]:
    """Those of the (part of speech, word) pairs that stand in no form in a text."""
    standing = set(re.findall(r"[a-z]+", text.lower()))
    return [word for part, word in wanted if not inflections(part, word) & standing]
