"""TinyStories (Eldan & Li 2023, arXiv 2305.07759), and its variant with instructions.

- The prompt is the paper's, word for word, with one departure: a sentence that forbids stock openings, because 59 % of
  the published stories contain "Once upon a time". `FORBIDDEN_OPENINGS` is what `read` then refuses.
- Features are one axis whose values are the 64 subsets of the paper's six, so that every combination is covered evenly;
  where the subset is empty, the prompt's sentence about features is left out.
- A row of `tinystories_instruct` is one whole example, block and story. The copy on the Hub has one line a row, by
  which words and summary are cut off from the story that they belong to.
- A story in which the features are missing is kept (no program can see a plot twist); words are checked in any form.
"""

import itertools
import re
from collections.abc import Sequence
from typing import ClassVar

from hf_tasks.corpora.answers import find_object, object_schema
from hf_tasks.corpora.base import Corpus, Parameters, Rejected, Request, Row
from hf_tasks.corpora.words import PARTS_OF_SPEECH, missing_words, words_of
from hf_tasks.errors import UserError

FEATURES = ("dialogue", "plot twist", "bad ending", "moral value", "foreshadowing", "conflict")
NO_FEATURES = "none"
FORBIDDEN_OPENINGS = (
    "Once upon a time", "Once there was", "Once there were", "Once, there", "There once was", "There once lived",
    "There was once", "Long ago", "Long, long ago", "A long time ago", "Many years ago", "One day",
    "In a land far away", "In a faraway land", "In a far away", "Far, far away",
)  # fmt: skip
FIELDS = ("Features", "Words", "Summary", "Random sentence")
_FEWEST_SENTENCES = 3
_PROMPT = (
    "Write a short story (3-5 paragraphs) which only uses very simple words that a 3 year old child would likely "
    'understand. The story should use the verb "{verb}", the noun "{noun}" and the adjective "{adjective}". '
    "{features}Remember to only use simple words!"
)
_NO_STOCK_OPENING = 'Do not begin with "Once upon a time", "One day", "Long ago" or any other stock opening.'
_ECHOES = ("write a short story", "possible story:", "should use the verb", "remember to only use simple words")
_SUMMARY = (
    "Then sum the story up in one or two sentences. "
    'Answer with one JSON object and nothing else: {"story": "...", "summary": "..."}'
)
_SCHEMA = object_schema(story={"type": "string"}, summary={"type": "string"})


class TinyStories(Corpus):
    """Short stories in the words of a small child, each of which uses a given verb, noun and adjective.

    Args:
        words: verbs, nouns and adjectives that stories are asked to use, so many of each, taken evenly from the
            vocabulary; None: all of it. The fewer, the less text shows what becomes of each.

    Example: sit, kite, sunny, "dialogue, bad ending" -> a story of three to five paragraphs.

    Raises:
        UserError: `words` below 1, or more than there are.
    """

    name: ClassVar[str] = "tinystories"

    def __init__(self, words: int | None = None) -> None:
        most = min(len(words_of(part)) for part in PARTS_OF_SPEECH)
        if words is not None and not 1 <= words <= most:
            raise UserError(f"words {words} is out of range; give 1 to {most}, or leave it out for all of them")
        self.words = words

    @property
    def axes(self) -> dict[str, Sequence[str]]:
        subsets = itertools.chain.from_iterable(
            itertools.combinations(FEATURES, size) for size in range(len(FEATURES) + 1)
        )
        axes: dict[str, Sequence[str]] = {part: _evenly(words_of(part), self.words) for part in PARTS_OF_SPEECH}
        return axes | {"features": [", ".join(subset) or NO_FEATURES for subset in subsets]}

    @property
    def columns(self) -> dict[str, str]:
        return {"story": "the story, paragraphs apart by an empty line"}

    def request(self, index: int, parameters: Parameters) -> Request:
        return Request(self.name, index, parameters, [{"role": "user", "content": prompt(parameters)}])

    def read(self, request: Request, text: str) -> Row:
        """The story out of an answer.

        Raises:
            Rejected: "too_short", "prompt_echoed", "stock_opening", "cut_off" or "missing_words".
        """
        return {"story": check_story(text, request.parameters)}

    def text(self, row: Row) -> str:
        return row["story"]


class TinyStoriesInstruct(TinyStories):
    """TinyStories behind a block of instructions: features, words, summary and a sentence of the story.

    Which of the four the block has, one at least, and in which order, is random. The mark that ends an example
    (`<|endoftext|>` in the original) is the tokenizer's and is no part of the text.

    Example: "Words: sit, kite, sunny\\nFeatures: Dialogue\\nStory:\\n\\n..."
    """

    name: ClassVar[str] = "tinystories_instruct"

    @property
    def columns(self) -> dict[str, str]:
        return super().columns | {
            "summary": "of the story, by its writer",
            "sentence": "one sentence of the story",
            "instruction": "the block before the story, up to and with `Story:`: what a loss mask covers",
        }

    def parameters(self, index: int, seed: int) -> Parameters:
        """As TinyStories, with `fields`, those of the block in their order, and `place` in [0, 1) of its sentence."""
        parameters, rng = super().parameters(index, seed), self.rng(index, seed)
        known = [field for field in FIELDS if field != "Features" or parameters["features"] != NO_FEATURES]
        fields = [str(field) for field in rng.permutation(known)[: rng.integers(1, len(known) + 1)]]
        return parameters | {"fields": fields, "place": round(float(rng.random()), 6)}

    def request(self, index: int, parameters: Parameters) -> Request:
        messages = [{"role": "user", "content": f"{prompt(parameters)}\n\n{_SUMMARY}"}]
        return Request(self.name, index, parameters, messages, schema=_SCHEMA)

    def read(self, request: Request, text: str) -> Row:
        """Story and summary out of an answer.

        Raises:
            Rejected: as TinyStories; "no_json" (no object with a story and a summary in the answer), "no_summary".
        """
        answer, wanted = find_object(text, ("story", "summary")), request.parameters
        story, summary = check_story(answer["story"], wanted), " ".join(answer["summary"].split())
        if not summary:
            raise Rejected("no_summary")
        found = sentences(story)
        sentence = found[int(wanted["place"] * len(found))]
        lines = {
            "Features": ", ".join(part.capitalize() for part in wanted["features"].split(", ")),
            "Words": ", ".join(wanted[part] for part in PARTS_OF_SPEECH),
            "Summary": summary,
            "Random sentence": sentence,
        }
        instruction = "\n".join([f"{field}: {lines[field]}" for field in wanted["fields"]] + ["Story:"])
        return {"story": story, "summary": summary, "sentence": sentence, "instruction": instruction}

    def text(self, row: Row) -> str:
        return f"{row['instruction']}\n\n{row['story']}"


def _evenly(words: list[str], count: int | None) -> list[str]:
    return words if count is None else [words[place * len(words) // count] for place in range(count)]


def prompt(parameters: Parameters) -> str:
    """What is asked of the writer: the paper's prompt and the sentence against stock openings."""
    features = parameters["features"]
    asked = "" if features == NO_FEATURES else f"The story should have the following features: {features}. "
    words = {part: parameters[part] for part in PARTS_OF_SPEECH}
    return f"{_PROMPT.format(features=asked, **words)} {_NO_STOCK_OPENING}"


def check_story(text: str, parameters: Parameters) -> str:
    """The story, stripped; raises Rejected with the reasons that `TinyStories.read` names."""
    story = text.strip()
    if echo := next((echo for echo in _ECHOES if echo in story.lower()), None):
        raise Rejected("prompt_echoed", echo)
    # A title, a quotation mark or an emphasis mark before it does not make a stock opening another one.
    start = re.sub(r"^[^A-Za-z]+", "", story).lower()
    if opening := next((one for one in FORBIDDEN_OPENINGS if start.startswith(one.lower())), None):
        raise Rejected("stock_opening", opening)
    if len(found := sentences(story)) < _FEWEST_SENTENCES:
        raise Rejected("too_short", f"{len(found)} sentences")
    if not re.search(r"""[.!?]["'\u201d\u2019*)]*$""", story):
        raise Rejected("cut_off", story[-20:])
    if missing := missing_words(story, [(part, parameters[part]) for part in PARTS_OF_SPEECH]):
        raise Rejected("missing_words", ", ".join(missing))
    return story


def sentences(text: str) -> list[str]:
    """The sentences of a text, quotations whole where they end inside a sentence: '"Hi!" said Tom.' is one."""
    # A lower-case letter behind a quotation goes on with the sentence; anything else begins a new one.
    return [one for one in re.split(r"""(?<=[.!?])\s+|(?<=[.!?]["\u201d])\s+(?![a-z])""", text.strip()) if one]
