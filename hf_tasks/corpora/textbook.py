"""Textbook sections on elementary Python: prose and code in turns, as in phi-1 (Gunasekar et al. 2023, section 2.2).

- Diversity comes from topic and audience, as there, and from style; the topics are published (topics.py), and so is the
  prompt. Its pattern is that of Cosmopedia: each audience with its own criteria, stock openings forbidden.
- Only servers write these; a program writes `worked_examples`. A weak model is held to the same checks.
- A title that stands there all the same is cut off; a stock opening is refused.
- Every block of Python must parse. It is not run: a section may show a program that fails, on purpose.
"""

import doctest
import re
from collections.abc import Sequence
from typing import ClassVar

from hf_tasks.corpora.answers import check_phrases, check_repetition, parse_python
from hf_tasks.corpora.base import Corpus, Parameters, Rejected, Request, Row
from hf_tasks.corpora.topics import programming_topics

FORBIDDEN_OPENINGS = (
    "In this chapter", "In this section", "In this lesson", "In this article", "In this tutorial", "In today's",
    "In the world of", "Welcome to", "Have you ever", "Imagine ", "Let's dive", "Are you ready", "Sure", "Certainly",
    "Of course", "Absolutely", "Great question", "Here is", "Here's",
)  # fmt: skip
AUDIENCES = {
    "young children": "Sentences are short, words are plain, and every idea is compared with something from home, "
    "school or play.",
    "middle school students": "They know fractions and simple equations and write their first programs; every new word "
    "is explained where it first stands.",
    "high school students": "They are at home in algebra and can read a loop; they are to see why a method is right.",
    "college students": "Terms are used exactly, claims are argued for, and the cost of each program is discussed.",
    "professionals of other fields": "They think clearly and never programmed; examples come from offices, shops and "
    "laboratories.",
    "working programmers": "They know another language well; what is peculiar to Python and what goes wrong in "
    "practice matter most.",
    "teachers": "They will teach it tomorrow; the mistakes that learners make are named and explained.",
}
STYLES = {
    "a textbook chapter": "Ideas are built on each other in connected prose, each one motivated before it is used.",
    "worked examples": "Two or three problems are posed and solved one after another, each harder than the last, with "
    "the reasoning behind every step.",
    "a dialogue of teacher and student": "The student asks, errs and tries again; the teacher answers with questions, "
    "reasons and code.",
    "a how-to": "A practical problem is solved in numbered steps, each with what to check before the next.",
    "a lecture": "A speaker develops one idea aloud, poses questions to the listeners and answers them.",
    "the account of a bug": "A program gives a wrong answer; the reader follows the search for the cause, to the "
    "corrected program and the lesson of it.",
    "a comparison of two solutions": "Two ways to solve one problem stand side by side, and are weighed against each "
    "other.",
}
_ECHOES = ("write one section of a textbook", "prose and code take turns", "begin at once with the subject")
_PYTHON = ("python", "py", "python3")
_WRAPPED = re.compile(r"```(?:markdown|md)[ \t]*\n(.*)\n```", re.DOTALL)
_FENCE = re.compile(r"[ \t]*`{3,}[ \t]*([\w+-]*)[^`]*")
_TITLE = re.compile(r"(?:#+ [^\n]*|\*\*[^\n*]+\*\*[ \t]*)(?:\n|\Z)")


class Textbook(Corpus):
    """Sections of a textbook in which prose and Python code take turns.

    Example: "binary search", "middle school students", "worked examples" -> about 500 words with two programs.
    """

    name = "textbook"
    min_words: ClassVar = 120  # of prose

    @property
    def axes(self) -> dict[str, Sequence[str]]:
        return {"topic": tuple(programming_topics()), "audience": tuple(AUDIENCES), "style": tuple(STYLES)}

    @property
    def columns(self) -> dict[str, str]:
        return {"body": "the section, in Markdown without a title", "code": "its blocks of Python, in order"}

    def request(self, index: int, parameters: Parameters) -> Request:
        messages = [{"role": "user", "content": prompt(parameters)}]
        return Request(self.name, index, parameters, messages, max_tokens=2048)

    def read(self, request: Request, text: str) -> Row:
        """Body and code out of an answer.

        Raises:
            Rejected: "refused", "prompt_echoed", "stock_opening", "cut_off" (in a block or a sentence), "no_code",
                "syntax", "too_short", "repetitive".
        """
        body = _body(text)
        check_phrases(body, _ECHOES, FORBIDDEN_OPENINGS)
        prose, code = _prose_and_code(body)
        if not code:
            raise Rejected("no_code", body[:40])
        for block in code:
            check_syntax(block)
        if (count := len(prose.split())) < self.min_words:
            raise Rejected("too_short", f"{count} words of prose")
        check_repetition(prose)
        # Behind a list or a formula there may be no full stop; behind a word there must be one.
        if body[-1].isalnum() or body[-1] in ",;:":
            raise Rejected("cut_off", body[-20:])
        return {"body": body, "code": code}

    def text(self, row: Row) -> str:
        return row["body"]


def prompt(parameters: Parameters) -> str:
    """What is asked of the writer."""
    topic, audience, style = parameters["topic"], parameters["audience"], parameters["style"]
    leaf = programming_topics()[topic]
    return (
        f"Write one section of a textbook of Python programming, of 400 to 700 words, about {topic} "
        f"(part of: {leaf.area} - {leaf.subject}).\n"
        f"Its readers are {audience}. {AUDIENCES[audience]}\n"
        f"Its form is {style}. {STYLES[style]}\n"
        "Prose and code take turns: at least two short Python programs, each in a block fenced by ```python and ```, "
        "that run by themselves on the standard library. The prose before a program says what it is to do, and the "
        "prose after it why that works and what it prints. Do not just list facts: reason step by step, and show the "
        "idea at work in a concrete case.\n"
        'Begin at once with the subject: no title, no greeting, no "In this chapter", "In today\'s" or "Welcome to", '
        "and no other stock opening. No images, no links, and nothing about these instructions."
    )


def check_syntax(block: str) -> None:
    """Raises Rejected "syntax" where a block, a program or a session with `>>>`, is no Python."""
    if block.lstrip().startswith(">>>"):
        try:
            block = "\n".join(example.source for example in doctest.DocTestParser().get_examples(block))
        except ValueError as error:
            raise Rejected("syntax", f"ValueError: {error}"[:200]) from None
    parse_python(block)


def _body(text: str) -> str:
    """The section itself: not wrapped in a block of Markdown, and without its titles."""
    body = text.strip()
    if wrapped := _WRAPPED.fullmatch(body):
        body = wrapped[1].strip()
    while title := _TITLE.match(body):
        body = body[title.end() :].strip()
    return body


def _prose_and_code(body: str) -> tuple[str, list[str]]:
    """Prose, and the blocks of Python.

    Blocks that name another language are neither, nor are those without a name beside others that say Python: output.

    Raises:
        Rejected: "cut_off": the last block has no end.
    """
    prose: list[str] = []
    blocks: list[tuple[str, list[str]]] = []
    inside = False
    for line in body.splitlines():
        fence = _FENCE.fullmatch(line)
        if fence and not inside:
            blocks.append((fence[1].lower(), []))
            inside = True
        elif fence and not fence[1]:
            inside = False
        elif inside:
            blocks[-1][1].append(line)
        else:
            prose.append(line)
    if inside:
        raise Rejected("cut_off", "in a block of code")
    code = [block for language, block in blocks if language in _PYTHON]
    code = code or [block for language, block in blocks if not language]
    return "\n".join(prose), [source for source in map(_dedented, code) if source]


def _dedented(block: list[str]) -> str:
    """A block in a numbered step is indented as a whole."""
    margin = min((len(line) - len(line.lstrip()) for line in block if line.strip()), default=0)
    return "\n".join(line[margin:] for line in block).strip("\n")
