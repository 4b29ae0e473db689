"""What the reading of answers has in common: objects and programs out of a text, and what no good answer holds."""

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

from hf_tasks.corpora.base import Rejected
from hf_tasks.corpora.diversity import repeated_ngrams

MAX_REPEATED_LINES = 0.2  # share of the lines of prose that stood there before
MAX_REPEATED_NGRAMS = 0.3  # the same of 4-grams of words; plain prose for children has them too
REFUSALS = (  # narrow enough that a person in a dialogue may say "I'm sorry, but I broke it"
    "as an ai", "as a language model", "as a large language model", "i'm sorry, but i can't", "i'm sorry, but i cannot",
    "i can't assist", "i cannot assist", "unable to assist", "can't fulfill", "cannot fulfill", "unable to fulfill",
)  # fmt: skip


def object_schema(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object that has these properties and no others, as strict servers want it."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def find_object(text: str, keys: Sequence[str]) -> dict[str, Any]:
    """The first JSON object in a text, bare, fenced or between other words, that holds strings under all `keys`.

    Raises:
        Rejected: "no_json".
    """
    decoder = json.JSONDecoder(strict=False)  # small models leave line breaks in strings as they are
    for brace in re.finditer(r"\{", text):
        try:
            found, _ = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if all(isinstance(found.get(key), str) for key in keys):
            return found
    raise Rejected("no_json", text[:40])


def parse_python(source: str) -> ast.Module:
    """The syntax tree of a program; raises Rejected "syntax" where it is no Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of "\d" in a string, which is poor style and no error
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # of deep nesting, the last two
        raise Rejected("syntax", f"{type(error).__name__}: {error}"[:200]) from None


def check_phrases(text: str, echoes: Sequence[str], openings: Sequence[str]) -> None:
    """Raises Rejected "refused", "prompt_echoed" or "stock_opening" where a text has such a phrase."""
    low = text.lower().replace("\u2019", "'")
    if refusal := next((one for one in REFUSALS if re.search(rf"\b{re.escape(one)}\b", low)), None):
        raise Rejected("refused", refusal)
    if echo := next((one for one in echoes if one in low), None):
        raise Rejected("prompt_echoed", echo)
    start = re.sub(r"^[^a-z]+", "", low)
    if opening := next((one for one in openings if re.match(rf"{re.escape(one.strip().lower())}\b", start)), None):
        raise Rejected("stock_opening", opening)


def check_repetition(prose: str) -> None:
    """Raises Rejected "repetitive" where too many lines or 4-grams stood in the text before."""
    lines = [line.strip() for line in prose.splitlines() if line.strip()]
    if (share := 1 - len(set(lines)) / max(1, len(lines))) > MAX_REPEATED_LINES:
        raise Rejected("repetitive", f"{share:.0%} of lines")
    if (share := repeated_ngrams(prose)) > MAX_REPEATED_NGRAMS:
        raise Rejected("repetitive", f"{share:.0%} of 4-grams")
