"""The README's table of the papers' headlines: what was claimed, what we measured.

- Words are in results/reproduction.yaml; every figure of ours is looked up in the results, so that none can go stale.
- `make cards` writes the table between its markers; a test compares.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from hf_tasks.cards import markdown_table, results_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
BEGIN, END = "<!-- reproduction:table -->\n", "\n<!-- reproduction:end -->"
_BREAK = "<br>"


def reproduction_markdown() -> str:
    """A row a headline.

    Raises:
        KeyError: a slice or model that the results do not have.
    """
    rows = []
    for one in yaml.safe_load((RESULTS / "reproduction.yaml").read_text("utf-8")):
        figures = [_figures(**where) for where in one.get("measured", [])] or [("", "", "")]
        columns = [_BREAK.join(column) for column in zip(*figures, strict=True)]
        paper = f"{one['claim']}{_BREAK}({one['source']})"
        rows.append([paper, one.get("published", ""), *columns, one["verdict"]])
    return markdown_table(["paper", "best published since", "measured", "ours", "usual", "how it stands"], rows)


def _figures(results: str, ours: str, slices: list[str], usual: str | None = None) -> tuple[str, str, str]:
    """Where, and the figures of both models below their names, median (minimum) where there are several seeds."""
    file = results if results.endswith(".json") else f"{results}/results.json"
    known: dict[str, Any] = json.loads((RESULTS / file).read_text("utf-8"))
    rows = {row["slice"]: row for row in results_table(known)}
    where = _BREAK.join([f"[{results.removesuffix('.json')}](results/{file})", *slices])
    mine = _BREAK.join([f"`{ours}`", *(rows[place][ours] for place in slices)])
    theirs = "" if usual is None else _BREAK.join([f"`{usual}`", *(rows[place][usual] for place in slices)])
    return where, mine, theirs


def in_readme(readme: str) -> str:
    """The README with the table as it is now.

    Raises:
        ValueError: its place is not marked, once.
    """
    if [readme.count(mark) for mark in (BEGIN, END)] != [1, 1]:
        raise ValueError(f"the README must hold {BEGIN.strip()!r} and {END.strip()!r} once each")
    before, _, rest = readme.partition(BEGIN)
    return before + BEGIN + reproduction_markdown() + END + rest.partition(END)[2]
