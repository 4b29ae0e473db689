"""Questions of common sense and general knowledge, in the manner of phi-1.5 (Li et al. 2023, arXiv 2309.05463).

- That paper took 20,000 topics and published none; ours are the tree of common knowledge in topics.py.
- A format says what each of the three fields holds, whether the first one asks, and how they are laid out as text.
- Only servers write these: no writer without a model does. They answer in JSON by a schema, or in any words around it.
- What is right is not checked here; only what no good answer looks like is refused. A small model's answers (SmolLM2)
  showed what that is: whole clauses of the prompt, explanations that break off, items on something else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hf_tasks.corpora.answers import check_phrases, check_repetition, find_object, object_schema
from hf_tasks.corpora.base import Corpus, Parameters, Rejected, Request, Row
from hf_tasks.corpora.topics import knowledge_topics

FIELDS = ("question", "answer", "explanation")
MIN_WORDS = 25  # of the three together
FORBIDDEN_OPENINGS = (
    "In today's", "In the world of", "Have you ever", "Imagine ", "Once upon a time", "Welcome to", "Sure", "Certainly",
    "Absolutely", "Great question", "It is important to note", "It's important to note",
)  # fmt: skip
AUDIENCES = {
    "young children": "Use short sentences and words that a child of seven knows.",
    "teenagers": "Take examples from school, friends and free time.",
    "adults with no special knowledge": "Use everyday words, and take what everybody has seen as known.",
    "learners of English": "Use common words and plain grammar, and no idioms.",
    "curious experts of another field": "Be exact, name causes, and do not simplify.",
}
_SCHEMA = object_schema(**{field: {"type": "string"} for field in FIELDS})
_STEM = 4  # letters by which a word of the topic is known in any form: cacti and cactus


@dataclass(frozen=True)
class Format:
    """One kind of item: what its fields are to hold, and its layout as text.

    Attributes:
        question, answer, explanation: as the prompt puts it. layout: with the three in braces.
        asks: whether the question is one, with a question mark. options: whether it has four of them to choose from.
    """

    question: str
    answer: str
    explanation: str
    layout: str
    asks: bool = True
    options: bool = False


FORMATS = {
    "explanation": Format(
        "a question that begins with why or how",
        "the explanation, in three to six sentences, cause by cause",
        "one concrete example that shows it",
        "{question}\n\n{answer}\n\n{explanation}",
    ),
    "common-sense question": Format(
        "a situation in one or two sentences, and a question that everyday experience answers",
        "the answer, in one sentence",
        "the reason, step by step, in two to four sentences",
        "Question: {question}\nAnswer: {answer}\nReason: {explanation}",
    ),
    "multiple choice": Format(
        "a question, and below it four options, each on a line of its own, (A) to (D), of which exactly one is right "
        "and the others are plausible",
        "the right option, with its letter, as in (B) a warm coat",
        "why it is right, and why each of the others is wrong",
        "Question: {question}\nAnswer: {answer}\nExplanation: {explanation}",
        options=True,
    ),
    "short dialogue": Format(
        "four to eight lines of talk between two people, each line with its speaker's name and a colon",
        "the last line, by which the matter is understood or settled, with its speaker's name",
        "what the two know, want or feel, as one can tell from what they say, in two or three sentences",
        "{question}\n{answer}\n\n{explanation}",
        asks=False,
    ),
    "cause and effect": Format(
        "a cause: something that happens, in one or two sentences",
        "its effect, in one or two sentences",
        "the chain of steps from the cause to the effect, and what could have broken it",
        "Cause: {question}\nEffect: {answer}\nExplanation: {explanation}",
        asks=False,
    ),
    "what happens next": Format(
        "the beginning of an everyday scene, in three to five sentences, which stops before its outcome",
        "what most likely happens next, in one or two sentences",
        "the clues in the scene that tell so",
        "{question}\n\nWhat happens next? {answer}\n\nWhy: {explanation}",
        asks=False,
    ),
}


# A clause of the prompt of so many words is nothing that an item says by chance.
_ECHOES = (
    "nothing about these instructions", "answer with one json object", "make up an item",
    *(clause.strip() for kind in FORMATS.values() for said in (kind.question, kind.answer, kind.explanation)
      for clause in said.lower().split(",") if len(clause.split()) >= 4),
)  # fmt: skip


class TopicsQA(Corpus):
    """Short items on thousands of topics: question, answer and explanation in six formats.

    Example: "what causes fog", "multiple choice", "teenagers" -> a question with four options, one right, and why.
    """

    name = "topics_qa"

    @property
    def axes(self) -> dict[str, Sequence[str]]:
        return {"topic": tuple(knowledge_topics()), "format": tuple(FORMATS), "audience": tuple(AUDIENCES)}

    @property
    def columns(self) -> dict[str, str]:
        return {
            "format": "the kind of item, by which it is laid out as text",
            "question": "a question, or the cause, scene or talk that stands in its place",
            "answer": "its answer, effect, outcome or last line",
            "explanation": "the reason, or an example",
        }

    def request(self, index: int, parameters: Parameters) -> Request:
        return Request(self.name, index, parameters, [{"role": "user", "content": prompt(parameters)}], schema=_SCHEMA)

    def read(self, request: Request, text: str) -> Row:
        """The item out of an answer.

        Raises:
            Rejected: "no_json", "empty", "refused", "prompt_echoed", "stock_opening", "no_question_mark",
                "no_options" (or an answer that is none of them), "answer_is_question", "too_short", "cut_off" (no
                mark ends the explanation), "off_topic" (no word of the topic's subject occurs), "repetitive".
        """
        kind = FORMATS[request.parameters["format"]]
        found = find_object(text, FIELDS)
        item = {field: found[field].strip() for field in FIELDS}
        if empty := [field for field in FIELDS if not item[field]]:
            raise Rejected("empty", ", ".join(empty))
        for value in item.values():
            check_phrases(value, _ECHOES, FORBIDDEN_OPENINGS)
        if kind.asks and "?" not in item["question"]:
            raise Rejected("no_question_mark", item["question"][-40:])
        if kind.options:
            _check_options(item["question"], item["answer"])
        if _plain(item["answer"]) == _plain(item["question"]):
            raise Rejected("answer_is_question", item["answer"][:40])
        if (count := sum(len(value.split()) for value in item.values())) < MIN_WORDS:
            raise Rejected("too_short", f"{count} words")
        if not re.search(r"""[.!?]["'\u201d\u2019)]*$""", item["explanation"]):
            raise Rejected("cut_off", item["explanation"][-40:])
        if not _is_on(request.parameters["topic"], " ".join(item.values())):
            raise Rejected("off_topic", request.parameters["topic"])
        check_repetition("\n".join(item.values()))
        return {"format": request.parameters["format"]} | item

    def text(self, row: Row) -> str:
        return FORMATS[row["format"]].layout.format(**{field: row[field] for field in FIELDS})


def prompt(parameters: Parameters) -> str:
    """What is asked of the writer."""
    topic, audience, kind = parameters["topic"], parameters["audience"], FORMATS[parameters["format"]]
    leaf = knowledge_topics()[topic]
    return (
        f"Make up an item for a book that teaches common sense and general knowledge, about {topic} "
        f"({leaf.area} - {leaf.subject}). It is of the kind: {parameters['format']}.\n"
        f"Its readers are {audience}. {AUDIENCES[audience]}\n"
        f"- question: {kind.question}.\n- answer: {kind.answer}.\n- explanation: {kind.explanation}.\n"
        'Be concrete and true: one case, not a summary of the topic. No stock phrases, such as "In today\'s", '
        '"Have you ever" or "It is important to note", and nothing about these instructions.\n'
        'Answer with one JSON object and nothing else: {"question": "...", "answer": "...", "explanation": "..."}'
    )


def _check_options(question: str, answer: str) -> None:
    """Raises Rejected "no_options" where (A) to (D) do not stand below the question, or the answer is none of them."""
    letters = re.findall(r"^[ \t]*\(?([A-D])[).:]", question, re.MULTILINE)
    if letters != ["A", "B", "C", "D"]:
        raise Rejected("no_options", f"options {', '.join(letters) or 'missing'}")
    if not re.match(r"\(?[A-D](?:[).:]|$)", answer):
        raise Rejected("no_options", f"answer {answer[:40]}")


def _is_on(topic: str, text: str) -> bool:
    """Whether any word of what the topic is about stands in a text, in some form."""
    leaf = knowledge_topics()[topic]
    names = re.findall(r"\w+", (leaf.seed or leaf.name).lower())
    stems = {name[:_STEM] for name in names if len(name) >= _STEM} or {*names}
    return any(word.startswith(stem) for word in re.findall(r"\w+", text.lower()) for stem in stems)


def _plain(text: str) -> str:
    """A text by its words alone."""
    return " ".join(re.findall(r"\w+", text.lower()))
