"""The card of a text corpus: `model_cards/corpus_card.md.jinja`, filled from the provenance of its splits alone."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData

from hf_tasks import __version__
from hf_tasks.cards import (
    LICENSE,
    card_template,
    commands_of,
    configs_of,
    markdown_table,
    size_category,
    statistics_tables,
    tidy,
)
from hf_tasks.corpora.diversity import diversity_markdown
from hf_tasks.tasks.hashing import SPLIT_SHARES

LONGEST_EXAMPLE = 1200  # characters

Provenance = dict[str, Any]


def render_corpus_card(
    splits: Mapping[str, Provenance], repo_id: str | None = None, others: Iterable[dict[str, Any]] = ()
) -> str:
    """The card of a corpus; arguments as of `cards.render_dataset_card`. Splits that no mix made are only listed."""
    parts = {made_by["config"]: made_by["corpus"] for made_by in splits.values() if "corpus" in made_by}
    rows, configs = sum(made_by["size"] for made_by in splits.values()), configs_of(splits, others)
    first: dict[str, Provenance] = {}  # split of each part
    for made_by in splits.values():
        if "corpus" in made_by:
            first.setdefault(made_by["config"], made_by)
    mix = next(iter(parts.values()))["mix"]
    parts, first = ({name: one[name] for name in mix["order"] if name in one} for one in (parts, first))
    compared = {name: part["decontamination"] for name, part in parts.items() if part["decontamination"]}
    benchmark = both_halves(compared.values())
    data = DatasetCardData(
        pretty_name=mix["title"],
        language="en",
        license=LICENSE,
        annotations_creators="machine-generated",
        task_categories=["text-generation"],
        size_categories=size_category(rows),
        tags=["synthetic", "hf-tasks", *dict.fromkeys(part["corpus"] for part in parts.values())],
        configs=configs,
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(card_template("corpus_card.md.jinja")),
        mix=mix,
        rows=rows,
        source=repo_id or "PATH_OF_THIS_FOLDER",
        config=next(config["config_name"] for config in configs if config.get("default")),
        parts=parts,
        first=first,
        kinds={part["writer"] for part in parts.values()},
        models=sorted({one["model"] for part in parts.values() if part["writer"] != "grammar"
                       for one in part["writers"]}),
        shares=SPLIT_SHARES,
        writer_table=_writer_table(parts, rows),
        split_table=_split_table(splits),
        step_tables={name: _step_table(part) for name, part in parts.items()},
        answers_table=_answers_table(parts),
        diversity={name: diversity_markdown(part["diversity"]) for name, part in parts.items()},
        readability_table=_readability_table(parts),
        filtered={name: part["quality"] for name, part in parts.items() if part["quality"]},
        compared=compared,
        benchmark=benchmark,
        match_table=_match_table(benchmark),
        examples={name: _example(splits, name) for name in parts},
        statistics=statistics_tables(splits),
        commands=commands_of(splits),
        settings=_mix_yaml(mix, first),
        sources=sorted({made_by["source"] for made_by in splits.values()}),
        version=__version__,
    )  # fmt: skip
    return tidy(card)


def both_halves(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The problems of a benchmark that any of several reports of `decontaminate` matched, and the others.

    Returns:
        `with_match`, `without_match`, and `with_match_by`: method -> the problems that it matched.
    """
    is_matched: dict[str, bool] = {}
    by_method: dict[str, set[str]] = {}
    for report in reports:
        for half in ("without_match", "with_match"):
            for problem in report[half]:
                is_matched[problem] = is_matched.get(problem, False) or half == "with_match"
        for method, found in report["with_match_by"].items():
            by_method.setdefault(method, set()).update(found)

    def number(problem: str) -> list[Any]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", problem)]

    problems = sorted(is_matched, key=number)
    return {
        "with_match": [problem for problem in problems if is_matched[problem]],
        "without_match": [problem for problem in problems if not is_matched[problem]],
        "with_match_by": {method: sorted(found, key=number) for method, found in by_method.items()},
    }


def _mix_yaml(mix: Mapping[str, str], first: Mapping[str, Provenance]) -> str:
    """The mix as a file that `mix.load_mix` reads, but for the addresses of servers."""
    shared = ("seed", "decontaminate")
    parameters = {name: made_by["parameters"] for name, made_by in first.items()}
    one = next(iter(parameters.values()))
    content = {
        "title": mix["title"],
        "summary": mix["summary"],
        "parts": {
            name: {key: value for key, value in part.items() if key not in shared} for name, part in parameters.items()
        },
        **{key: one.get(key) for key in shared},
    }
    return yaml.safe_dump(content, sort_keys=False, width=120, default_flow_style=None)


def _writer_table(parts: Mapping[str, Any], rows: int) -> str:
    lines = [
        [
            f"`{name}`", part["writer"], f"`{one['writer']}`", f"`{one['model']}`", f"`{json.dumps(one['sampling'])}`",
            f"{one['rows']:,}", f"{one['rows'] / rows:.1%}",
        ]
        for name, part in parts.items()
        for one in part["writers"]
    ]  # fmt: skip
    return markdown_table(["config", "kind of writer", "writer", "model", "sampling", "rows", "share of all"], lines)


def _split_table(splits: Mapping[str, Provenance]) -> str:
    lines = [[f"`{m['config']}`", m["name"], f"{m['size']:,}", m["task"], m["seed"]] for m in splits.values()]
    return markdown_table(["config", "split", "rows", "corpus", "seed"], lines)


def _step_table(part: Mapping[str, Any]) -> str:
    lines = [[one["step"], f"{one['rows']:,}", f"{one['kept']:,}", _reasons(one["dropped"])] for one in part["steps"]]
    return markdown_table(["step", "rows before", "rows kept", "dropped, by reason"], lines)


_METHODS = {"ngram": "n-grams of docstrings", "ast": "syntax trees", "embedding": "embeddings"}


def _match_table(benchmark: Mapping[str, Any]) -> str:
    """Each method, and all of them, by the problems on either side."""
    count = len(benchmark["with_match"]) + len(benchmark["without_match"])
    found = {_METHODS[name]: problems for name, problems in benchmark["with_match_by"].items()}
    lines = [
        [what, len(problems), count - len(problems), ", ".join(problems) or "none"]
        for what, problems in {**found, "any of them": benchmark["with_match"]}.items()
    ]
    return markdown_table(["compared by", "with a close match", "without", "those with one"], lines)


def _answers_table(parts: Mapping[str, Any]) -> str:
    lines = [
        [
            f"`{name}`", f"{part['answers']:,}", f"{part['answers'] - sum(part['rejections'].values()):,}",
            _reasons(part["rejections"]), f"{part['tokens']['prompt']:,}", f"{part['tokens']['completion']:,}",
        ]
        for name, part in parts.items()
    ]  # fmt: skip
    head = ["config", "answers read", "kept", "rejected, by reason", "prompt tokens", "completion tokens"]
    return markdown_table(head, lines)


def _readability_table(parts: Mapping[str, Any]) -> str:
    """Config by score; empty where no part was measured."""
    scores = list(dict.fromkeys(score for part in parts.values() for score in part["readability"]))
    lines = [
        [f"`{name}`", *(part["readability"].get(score, "") for score in scores)]
        for name, part in parts.items()
        if part["readability"]
    ]
    return markdown_table(["config", *(score.replace("_", " ") for score in scores)], lines) if lines else ""


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "none"


def _example(splits: Mapping[str, Provenance], config: str) -> str:
    """The beginning of the first row of a config, fenced by more than it holds itself."""
    text = next(made_by["examples"][0]["text"] for made_by in splits.values() if made_by["config"] == config)
    text = text if len(text) <= LONGEST_EXAMPLE else text[:LONGEST_EXAMPLE] + " […]"
    return f"~~~~~text\n{text}\n~~~~~"
