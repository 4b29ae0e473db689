"""Code exercises: a function with its docstring, solution and tests, every one of them executed.

- As in phi-1 (Gunasekar et al. 2023, section 2.2), diversity comes from constraining the function's name: a verb and a
  noun, which rows cover evenly beside topic and difficulty. Unlike there, nothing is kept that does not pass its own
  tests, and no tests are kept that an emptied function passes.
- `read` looks at an answer without running it; `check` runs many, in the sandbox. Both say why something is not kept.
- A row is split like HumanEval: `prompt` ends with the docstring, `solution` is what follows, `tests` are assertions
  that call `entry_point`. `prompt + solution` is what a model trains on.
- `ExerciseWriter` answers these requests with no model, out of `exercise_templates`; verbs and nouns are only names
  there.
"""

import ast
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hf_tasks.corpora import sandbox
from hf_tasks.corpora.answers import object_schema, parse_python
from hf_tasks.corpora.base import Corpus, Parameters, Rejected, Request, Row, TemplateWriter
from hf_tasks.corpora.exercise_templates import DIFFICULTIES, TOPICS, compose

VERBS = (
    "adjust", "analyze", "arrange", "assemble", "balance", "build", "calculate", "catalog", "choose", "collect",
    "combine", "compare", "compute", "condense", "convert", "decode", "derive", "describe", "detect", "determine",
    "distill", "encode", "estimate", "evaluate", "examine", "explore", "extract", "fetch", "find", "gather", "get",
    "handle", "identify", "inspect", "judge", "list", "make", "measure", "model", "obtain", "organize", "pick",
    "prepare", "process", "produce", "query", "rate", "read", "report", "resolve", "review", "scan", "select", "show",
    "solve", "study", "summarize", "survey", "tally", "transform", "translate",
)  # fmt: skip
# Each may be the name of an argument: none is a builtin, or a local name of `exercise_templates`.
NOUNS = (
    "accounts", "ages", "animals", "apples", "balances", "bids", "bills", "boats", "books", "boxes", "bricks", "cards",
    "chapters", "cities", "clouds", "coins", "colors", "costs", "crates", "customers", "dishes", "distances", "donors",
    "fees", "flights", "flowers", "fruits", "gifts", "goals", "grades", "heights", "houses", "invoices", "islands",
    "journeys", "kites", "lamps", "levels", "marbles", "matches", "medals", "messages", "notes", "orders", "parcels",
    "planets", "players", "points", "prices", "recipes", "records", "rivers", "rooms", "routes", "sales", "samples",
    "scores", "signals", "songs", "stones", "streets",
)  # fmt: skip
MIN_TESTS = 3
_SCHEMA = object_schema(
    solution={"type": "string"}, tests={"type": "array", "items": {"type": "string"}, "minItems": MIN_TESTS}
)
_LEVELS = {
    "easy": "It takes one step, for somebody in the first month of programming",
    "medium": "It combines two ideas, for somebody who knows loops and conditions well",
    "hard": "It combines three ideas, for somebody at the end of a first course",
}
_FENCE = re.compile(r"```[\w+]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


class CodeExercises(Corpus):
    """Functions with docstring, solution and tests, as the CodeExercises of phi-1."""

    name = "code_exercises"

    @property
    def axes(self) -> dict[str, Sequence[str]]:
        return {"topic": tuple(TOPICS), "verb": VERBS, "noun": NOUNS, "difficulty": DIFFICULTIES}

    @property
    def columns(self) -> dict[str, str]:
        return {
            "prompt": "imports, helpers, signature and docstring: what a model completes",
            "solution": "the rest of the function",
            "tests": "assertions that call the function",
            "entry_point": "name of the function",
        }

    def request(self, index: int, parameters: Parameters) -> Request:
        name = function_name(parameters)
        task = (
            f"Write an exercise of elementary Python programming on the topic of {parameters['topic']}. "
            f"{_LEVELS[parameters['difficulty']]}.\n"
            f"The function is called `{name}` and makes sense of that name. It has type hints and a docstring that "
            "says exactly what it returns, in every case, with one example as a doctest. Use the standard library at "
            "most; no input, output, files or randomness.\n"
            f'Answer with JSON: "solution" is the source of the whole function, "tests" a list of at least '
            f"{MIN_TESTS + 2} assert statements that call `{name}`, edge cases among them."
        )
        return Request(self.name, index, parameters, ({"role": "user", "content": task},), _SCHEMA)

    def read(self, request: Request, text: str) -> Row:
        """The row of an answer: JSON as asked for, or a Python block of a function followed by assertions.

        Raises:
            Rejected: "no_code", "syntax", "wrong_name", "no_docstring", "trivial_body", "too_few_tests".
        """
        name = function_name(request.parameters)
        source, tests = _sources(text)
        tree, test_tree = parse_python(source), parse_python(tests)
        function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
        if function is None:
            defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
            raise Rejected("wrong_name", f"{name} asked for, {', '.join(defined) or 'nothing'} defined")
        if not (ast.get_docstring(function) or "").strip():
            raise Rejected("no_docstring", name)
        if all(map(_is_trivial, function.body)):
            raise Rejected("trivial_body", name)
        asserts = [n for n in ast.walk(test_tree) if isinstance(n, ast.Assert) and _calls(n, name)]
        if len(asserts) < MIN_TESTS:
            raise Rejected("too_few_tests", f"{len(asserts)} assertions call {name}")
        prompt, solution = _split(source, tree, function)
        return {"prompt": prompt, "solution": solution, "tests": tests, "entry_point": name}

    def text(self, row: Row) -> str:
        return row["prompt"] + row["solution"]


class ExerciseWriter(TemplateWriter):
    """Answers the requests of `CodeExercises` with exercises composed of blocks; no model."""

    def compose(self, parameters: Parameters, rng: np.random.Generator) -> str:
        name, noun = function_name(parameters), parameters["noun"]
        exercise = compose(parameters["topic"], parameters["difficulty"], name, noun, rng)
        return json.dumps({"solution": exercise.solution, "tests": exercise.tests})


def check(
    rows: Sequence[Row], *, workers: int | None = None, timeout: float = sandbox.TIMEOUT
) -> tuple[list[Row], Counter[str]]:
    """Execute exercises, and keep those whose solution passes tests that an emptied function fails.

    Args:
        rows: with `prompt`, `solution`, `tests` and `entry_point`.
        workers, timeout: of `sandbox.run_many`.

    Returns:
        the rows that are kept, in order, and how many are not by reason: those of `sandbox.REASONS`, and
        "vacuous_tests" where the tests pass although the body is `return None`.
    """
    rejections: Counter[str] = Counter()
    passed: list[Row] = []
    outcomes = sandbox.run_many(
        [(row["prompt"] + row["solution"], row["tests"]) for row in rows], workers=workers, timeout=timeout
    )
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.ok:
            passed.append(row)
        else:
            rejections[outcome.reason] += 1
    kept: list[Row] = []
    emptied = [(_emptied(row["prompt"] + row["solution"], row["entry_point"]), row["tests"]) for row in passed]
    for row, outcome in zip(passed, sandbox.run_many(emptied, workers=workers, timeout=timeout), strict=True):
        if outcome.ok:
            rejections["vacuous_tests"] += 1
        else:
            kept.append(row)
    return kept, rejections


def beginning(prompt: str) -> str:
    """What a model is given of a prompt: all but its last line break, which tokenizers join with the indentation.

    Behind a line break that is a token of its own, a model has only ever seen the end of a text.
    """
    return prompt.rstrip()


def program(prompt: str, completion: str) -> str:
    """Prompt and completion, which may begin with the line break that `beginning` took away."""
    return beginning(prompt) + (completion if completion.startswith("\n") else "\n" + completion)


def function_alone(completion: str) -> str:
    """A completion up to the next statement on the top level: what follows the function is not judged."""
    return re.split(r"\n(?=\S)", completion, maxsplit=1)[0] + "\n"


def function_name(parameters: Parameters) -> str:
    """What the function of a row is to be called."""
    return f"{parameters['verb']}_{parameters['noun']}"


def _sources(text: str) -> tuple[str, str]:
    """Solution and tests out of an answer; of one Python source, the assertions on its top level are the tests.

    Raises:
        Rejected: "no_code", "syntax".
    """
    for answer in _objects(text):
        solution, tests = answer.get("solution"), answer.get("tests", "")
        if isinstance(solution, str):
            tests = "\n".join(map(str, tests)) if isinstance(tests, list) else str(tests)
            return _unfenced(solution), _unfenced(tests)
    source = _unfenced(text)
    if "def " not in source:
        raise Rejected("no_code", text.strip()[:80])
    body, lines = parse_python(source).body, source.splitlines()
    tests = [_lines(lines, node) for node in body if isinstance(node, ast.Assert)]
    rest = [_lines(lines, node) for node in body if isinstance(node, _DEFINITIONS)]
    return "\n\n\n".join(rest) + "\n", "\n".join(tests)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in a text, whatever stands around it; raw line ends in strings are let pass."""
    decoder = json.JSONDecoder(strict=False)
    place = text.find("{")
    while place >= 0:
        try:
            found, place = decoder.raw_decode(text, place)
            yield found
        except (json.JSONDecodeError, RecursionError):
            place += 1
        place = text.find("{", place)


def _unfenced(text: str) -> str:
    """The code of a text: what stands in its fences, or from its first line of code on."""
    if blocks := _FENCE.findall(text):
        return "\n".join(blocks)
    start = re.search(r"^(?:def|import|from|@|assert|class) ?\w", text, re.MULTILINE)
    return text[start.start() :] if start else text


def _is_trivial(node: ast.stmt) -> bool:
    match node:
        case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.Return(value=None | ast.Constant(value=None)):
            return True
        case ast.Raise(exc=ast.Name(id=name) | ast.Call(func=ast.Name(id=name))):
            return name == "NotImplementedError"
    return False


def _calls(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name for n in ast.walk(node))


def _lines(lines: list[str], node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min(n.lineno for n in (node, *decorators))
    return "\n".join(lines[first - 1 : node.end_lineno])


def _split(source: str, tree: ast.Module, function: ast.FunctionDef) -> tuple[str, str]:
    """Definitions up to the docstring, and from there on; what else the source does (prints, calls) is left out.

    Raises:
        Rejected: "trivial_body": what follows the docstring stands on its line.
    """
    lines = source.splitlines()
    others = [n for n in tree.body if n is not function and isinstance(n, _DEFINITIONS)]
    before = [_lines(lines, n) for n in others if n.lineno < function.lineno]
    after = [_lines(lines, n) for n in others if n.lineno > function.lineno]
    docstring_end = function.body[0].end_lineno or 0
    if function.body[1].lineno <= docstring_end:
        raise Rejected("trivial_body", "the whole function stands on one line")
    head_lines = docstring_end - min(n.lineno for n in (function, *function.decorator_list)) + 1
    whole = _lines(lines, function).splitlines()
    prompt = _joined([*before, "\n".join(whole[:head_lines])])
    return prompt, _joined(["\n".join(whole[head_lines:]), *after])


def _joined(parts: list[str]) -> str:
    """Parts of a file; imports that follow each other stand together, everything else two empty lines apart."""
    text = parts[0]
    for earlier, later in itertools.pairwise(parts):
        together = all(part.startswith(("import ", "from ")) for part in (earlier, later))
        text += ("\n" if together else "\n\n\n") + later
    return text + "\n"


def _emptied(source: str, name: str) -> str:
    """The source, with a function that returns None at once."""
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            node.body = [ast.Return(ast.Constant(None))]
    return ast.unparse(ast.fix_missing_locations(tree))
