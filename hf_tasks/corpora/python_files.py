"""Real Python as a pool of snippets, in the place of phi-1's The Stack; by default the standard library, offline.

- The pool is what the running interpreter brings along, so it differs between versions of Python; `source` names the
  one. The licence is the PSF's: snippets are trained on and measured here, and none is published or committed.
- A short file is one snippet. A longer one is cut into its functions and classes, each behind the imports and small
  constants that it uses; a class that is itself too long, into its methods, each under the class's own line. What is
  still too long is left out, and so is the loose code of a long file.
- Left out as well: tests, which many installations lack and which are more than half where there are any; packages of
  others (site-packages); tables that a program wrote, as their first lines say; what is no Python; exact duplicates.
- A file belongs to one split for ever, by a hash of its path. A snippet that occurs twice stays where it is first.
"""

import ast
import platform
import re
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from hf_tasks.corpora.answers import parse_python
from hf_tasks.corpora.base import Rejected, split_of
from hf_tasks.errors import UserError

NAME = "python_files"
MIN_CHARS, MAX_CHARS = 200, 2000  # some 50 and 500 tokens
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_GENERATED = re.compile(r"generated (?:by|from|on|and)\b|automatically generated", re.IGNORECASE)
_HEAD = 300  # characters in which a generated file says so
_CONSTANT_CHARS = 200  # of the longest constant that comes along with its user

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Shared = dict[str, tuple[int, str, ast.stmt]]  # name -> the line that binds it, how to write that, and its tree


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def source(folder: Path | None = None) -> str:
    """What reports and cards call a pool: the name of its folder, or the library with its version."""
    if folder is not None:
        return folder.resolve().name
    return f"standard library of {platform.python_implementation()} {platform.python_version()} (PSF licence)"


def snippets(
    folder: Path | None = None, min_chars: int = MIN_CHARS, max_chars: int = MAX_CHARS
) -> list[dict[str, Any]]:
    """All snippets of a folder's `.py` files, in the order of paths and lines.

    Args:
        folder: of any depth; None: the standard library.
        min_chars, max_chars: of a snippet.

    Returns:
        rows with `text`, `path` (relative, with slashes), `line` (the first, from 1) and `split`.

    Raises:
        UserError: no such folder, bounds without room between them, or no snippet at all.
    """
    root = standard_library() if folder is None else folder
    if not root.is_dir():
        raise UserError(f"no folder {str(root)!r} to read Python files from; name one that holds .py files")
    if not 0 < min_chars <= max_chars:
        raise UserError(f"snippets of {min_chars} to {max_chars} characters; give 0 < min_chars <= max_chars")
    rows: dict[str, dict[str, Any]] = {}
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py")):
        if _SKIPPED_FOLDERS & set(name.split("/")) or (text := _read(path)) is None:
            continue
        split = split_of(NAME, {"path": name})
        for line, snippet in cut(text, max_chars):
            if min_chars <= len(snippet) <= max_chars:
                rows.setdefault(snippet, {"text": snippet, "path": name, "line": line, "split": split})
    if not rows:
        raise UserError(f"no Python of {min_chars} to {max_chars} characters under {str(root)!r}; name another folder")
    return list(rows.values())


def cut(text: str, max_chars: int = MAX_CHARS) -> Iterator[tuple[int, str]]:
    """The snippets of one file, each with its first line; none where it is no Python. Some may be too long.

    >>> list(cut("import os\\nimport re\\n\\ndef here():\\n    return os.getcwd()\\n", 50))
    [(4, 'import os\\n\\n\\ndef here():\\n    return os.getcwd()\\n')]
    """
    try:
        tree = parse_python(text)
    except Rejected:
        return
    if len(text) <= max_chars:
        yield 1, text
        return
    lines = text.split("\n")  # `splitlines` also breaks at form feeds, where Python's line numbers do not
    shared = _shared(tree, lines)
    for node in tree.body:
        if not isinstance(node, _Function | ast.ClassDef):
            continue
        whole = _behind_shared(_source_of(node, lines), [node], shared)
        if len(whole) <= max_chars or not isinstance(node, ast.ClassDef):
            yield _first_line(node), whole
            continue
        head = "\n".join(lines[node.lineno - 1 : _first_line(node.body[0]) - 1]).rstrip()
        for method in node.body:
            if isinstance(method, _Function):
                part = f"{head}\n{_source_of(method, lines)}"
                yield _first_line(method), _behind_shared(part, [*node.bases, *node.keywords, method], shared)


def _read(path: Path) -> str | None:
    """A file's text in the encoding that it declares; None where it has none, or says that it was generated."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError):
        return None
    return None if _GENERATED.search(text[:_HEAD]) else text


def _shared(tree: ast.Module, lines: Sequence[str]) -> _Shared:
    """The imports and small constants of a file, by the names that they bind."""
    found: _Shared = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                one = copy(node)
                one.names = [alias]
                found[name] = (node.lineno, ast.unparse(one), node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and len(text := _source_of(node, lines)) <= _CONSTANT_CHARS:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)):
                found[name] = (node.lineno, text, node)
    return found


def _behind_shared(text: str, nodes: Sequence[ast.AST], shared: _Shared) -> str:
    """A definition behind the imports and constants that it uses, and those that these use, in the file's order."""
    wanted: set[tuple[int, str]] = set()
    waiting = list(nodes)
    while waiting:
        for name in sorted(_free_names(waiting.pop()) & shared.keys()):
            line, written, node = shared[name]
            if (line, written) not in wanted:
                wanted.add((line, written))
                waiting.append(node)
    above = "".join(f"{written}\n" for _, written in sorted(wanted))
    return f"{above}\n\n{text}\n" if above else f"{text}\n"


def _free_names(tree: ast.AST) -> set[str]:
    """The names that are used and neither arguments nor assigned, or declared global."""
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    shared = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
    return {node.id for node in names} - bound | shared


def _source_of(node: ast.stmt, lines: Sequence[str]) -> str:
    return "\n".join(lines[_first_line(node) - 1 : node.end_lineno])


def _first_line(node: ast.stmt) -> int:
    """The line where a statement begins, its decorators counted."""
    return min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
