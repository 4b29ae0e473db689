"""A trained model, or completions in a file -> grades by judges and by programs, in one report.

- What was sampled and what judges said stays in the folder: killed at any moment, the same command asks for nothing
  twice and comes to the same report. A folder belongs to one model and one way of sampling.
- The ten completions of a beginning are drawn together from a seed of their own, and go to the disk together.
- Programs always grade; judges where there are some. Only a judge's grades are called GPT-Eval.
- Memory is looked for twice: in the completions of our beginnings, and in those of training stories that are cut after
  two fifths, whose true continuation is known.
- The budget is that of the folder: what any judge has answered in it is counted.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from xxhash import xxh3_128

from hf_tasks.corpora.cache import ReplyCache
from hf_tasks.corpora.embedded import find_gguf
from hf_tasks.corpora.job import PARAMETER, Budget, Spending
from hf_tasks.corpora.judge import (
    COMPLETIONS,
    CachedJudge,
    Judge,
    beginnings,
    compare_all,
    compare_markdown,
    compare_report,
    grade_all,
    grades_markdown,
    grades_report,
)
from hf_tasks.corpora.memorisation import memorisation, memorisation_markdown
from hf_tasks.corpora.offline_grades import likelihood, likelihood_report, offline_markdown, offline_report
from hf_tasks.corpora.words import PARTS_OF_SPEECH
from hf_tasks.errors import UserError
from hf_tasks.files import public_name, write_text
from hf_tasks.tasks.hashing import hash_name

REPORT, PAGE = "report.json", "report.md"
SAMPLED, REFERENCE, CUT_STORIES = "completions.jsonl", "reference.jsonl", "cut_stories.jsonl"
NEW_TOKENS = 300  # of a completion
NOTHING, DEFAULT = "none", "default"  # likelihood under no model, and under that of the embedded writer
_CUT = 0.4  # share of a training story that stays
_LIKELIHOODS = 50  # completions whose likelihood is measured: a minute's work for a small model on one core
_FEATURES = "features"
Report = dict[str, Any]
Row = dict[str, Any]


def judge(
    source: str,
    folder: str | Path,
    judges: Sequence[Judge] = (),
    reference: str | None = None,
    stories: str | None = None,
    likelihood_model: str = DEFAULT,
    completions: int = COMPLETIONS,
    max_new_tokens: int = NEW_TOKENS,
    seed: int = 0,
    concurrency: int = 8,
    budget: Budget | None = None,
) -> Report:
    """Grade a model's completions of the 50 beginnings, or those in a file, and write `report.json` and `report.md`.

    Args:
        source: a causal language model, its folder or name on the Hub; or a .jsonl or .parquet file with the columns
            `beginning` and `completion`, and, where stories were asked for words and features, `parameter_verb`,
            `parameter_noun`, `parameter_adjective` and `parameter_features`, as `hf-tasks corpus` calls them.
        folder: for completions, replies and reports; made if it is not there.
        judges: whom to ask; entered, if they are asynchronous context managers.
        reference: a source whose completions of the same beginnings the judges compare with these.
        stories: what the model trained on, for memorisation: what `hf_tasks.text.data.read_texts` reads, split "train".
        likelihood_model: whose likelihood of the completions is measured: a causal language model as for `source`,
            "default" for that of the embedded writer, or "none".
        completions, max_new_tokens, seed: of sampling, at temperature 1; of each beginning, of each completion, of all.
        concurrency: completions before judges at a time.
        budget: of all judges together, in all runs in this folder.

    Returns:
        `source`; `beginnings`, `completions`, `ended` (share that ended by itself; None if a file does not say);
        `sampling` (None for a file); `grades`: `grades_report`, None without judges; `comparisons`: `reference`,
        `unpaired` and `judges` (label -> `compare_report`), None without a reference; `offline`: `offline_report` with
        `likelihood`; `memorisation` and `memorisation_of_cut_stories`, None without stories; `usage`: replies, tokens
        and cost of this folder; `stopped_by`: judge -> why it was not asked for all; `notes`: what was left out, and
        why.

    Raises:
        UserError: a source that is none; a folder with other completions, or that another process writes to; a
            reference without judges; a judge that will not answer; a number out of range. What was sampled and
            answered until then is kept.
    """
    for name, value in (("completions", completions), ("max_new_tokens", max_new_tokens), ("concurrency", concurrency)):
        if value < 1:
            raise UserError(f"{name} {value!r} is out of range; give 1 or more")
    if reference is not None and not judges:
        raise UserError(f"the reference {reference!r} is for judges to compare with; name one, or leave it out")
    for given in (source, reference, None if likelihood_model in (DEFAULT, NOTHING) else likelihood_model):
        if given is not None:
            _check_source(given)
    folder, spending = Path(folder), Spending(budget or Budget())
    sampling = {"completions": completions, "max_new_tokens": max_new_tokens, "seed": seed}
    with ReplyCache(folder) as cache:  # which also keeps other processes out
        for key in cache:
            if reply := cache.get(key):
                spending.add(reply, "a judge in this folder")
        written = _write(source, reference, stories, folder, sampling)
        asked = [CachedJudge(one, cache, spending) for one in judges]
        grades, compared = (None, None)
        if judges:
            grades, compared = asyncio.run(_ask(judges, asked, written, concurrency))
        offline, notes = _offline(written.rows, likelihood_model)
        ended = [bool(row["ended"]) for row in written.rows if row.get("ended") is not None]
        report: Report = {
            "source": public_name(source),
            "beginnings": len({row["beginning"] for row in written.rows}),
            "completions": len(written.rows),
            "ended": float(np.mean(ended)) if len(ended) == len(written.rows) else None,
            "sampling": None if _is_file(source) else {"temperature": 1.0, **sampling},
            "grades": grades,
            "comparisons": compared and {"reference": public_name(str(reference)), **compared},
            "offline": offline,
            **_memory(written),
            "usage": {
                "replies": len(cache),
                "prompt_tokens": spending.prompt_tokens,
                "completion_tokens": spending.completion_tokens,
                "cost": spending.cost,
            },
            "stopped_by": {one.label: one.stopped_by for one in asked if one.stopped_by},
            "notes": notes,
        }
    write_text(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / PAGE, grading_markdown(report))
    return report


def grading_markdown(report: Report, shown: bool = True) -> str:
    """A report as a page of Markdown; `shown`: with the completions beside their nearest stories."""
    lines = [f"# Completions of {report['source']}", ""]
    if report["ended"] is not None:
        lines += [f"{report['ended']:.1%} of {report['completions']:,} completions came to an end by themselves.", ""]
    if report["grades"] is not None:
        lines += ["## GPT-Eval", "", grades_markdown(report["grades"])]
    if compared := report["comparisons"]:
        lines += [
            f"## Against {compared['reference']}",
            "",
            "Judged in both orders; a win counts if both verdicts agree. Without a bias, the share for the first place "
            f"is 0.5. {compared['unpaired']:,} completions had no counterpart.",
            "",
            compare_markdown(compared["judges"]),
        ]
    lines += ["## Measured by programs", "", offline_markdown(report["offline"])]
    for name, title in (
        ("memorisation", "Memory"),
        ("memorisation_of_cut_stories", "Memory, where training stories are to be continued"),
    ):
        if one := report[name]:
            lines += [f"## {title}", "", memorisation_markdown(one if shown else {**one, "shown": []})]
    if (usage := report["usage"])["replies"]:
        cost = f", cost {usage['cost']:.4g}" if usage["cost"] else ""
        lines += [
            f"{usage['replies']:,} replies of judges are kept, {usage['prompt_tokens']:,} prompt and "
            f"{usage['completion_tokens']:,} completion tokens{cost}.",
            "",
        ]
    lines += [f"- {label} was not asked for all: {why}" for label, why in report["stopped_by"].items()]
    lines += [f"- {note}" for note in report["notes"]]
    return "\n".join(lines).rstrip() + "\n"


# Where completions come from.


@dataclass(frozen=True)
class _Written:
    """What is to be graded.

    Attributes:
        rows: with `beginning` and `completion`. others: those of the reference, None if there is none.
        training: stories that the model was trained on. rests: what follows in them on the beginnings of `cut`.
    """

    rows: list[Row]
    others: list[Row] | None
    training: list[str]
    cut: list[Row]
    rests: list[str]


def _write(
    source: str, reference: str | None, stories: str | None, folder: Path, sampling: dict[str, int]
) -> _Written:  # fmt: skip
    """Read or sample all completions.

    Raises:
        UserError: a source or stories that are none; a reference without a beginning of the source.
    """
    training = _stories(stories)
    cut: list[Row] = []
    rests: list[str] = []
    if _is_file(source):
        rows = _read(source)
    else:
        loaded = _load(source)
        rows = _sample(loaded, beginnings(), folder / SAMPLED, **sampling)
        if training:
            pairs = _cut(training, sampling["seed"])
            starts, rests = [start for start, _ in pairs], [rest for _, rest in pairs]
            cut = _sample(loaded, starts, folder / CUT_STORIES, **{**sampling, "completions": 1})
    others = None
    if reference is not None:
        others = (
            _read(reference)
            if _is_file(reference)
            else _sample(_load(reference), beginnings(), folder / REFERENCE, **sampling)
        )
        if not {row["beginning"] for row in rows} & {row["beginning"] for row in others}:
            raise UserError(f"{reference!r} completes no beginning of {source!r}; only equal beginnings are compared")
    return _Written(rows, others, training, cut, rests)


def _is_file(source: str) -> bool:
    return Path(source).suffix in (".jsonl", ".parquet")


def _check_source(source: str) -> None:
    """Refuse at the door what is neither a file nor a model."""
    path = Path(source)
    if _is_file(source):
        if not path.is_file():
            raise UserError(f"no file {source!r}; give a .jsonl or .parquet file of completions, or a model")
    elif path.is_file():
        raise UserError(f"{source!r} is no .jsonl or .parquet file; completions are read from those alone")
    elif not path.is_dir() and (source.count("/") > 1 or source.startswith((".", "/", "~"))):
        raise UserError(f"{source!r} is no folder here; give that of a trained model, its name on the Hub, or a file")


def _read(source: str) -> list[Row]:
    """The rows of a file of completions.

    Raises:
        UserError: it cannot be read, is empty, or a row has no beginning or completion.
    """
    path = Path(source)
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            # Not by splitlines, which also splits at what JSON leaves as it is inside a string.
            rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (ValueError, OSError) as error:  # pa.ArrowInvalid and UnicodeDecodeError are ValueErrors
        raise UserError(f"{source!r} cannot be read: {' '.join(str(error).split())}") from error
    if not rows:
        raise UserError(f"{source!r} has no rows; it needs a beginning and a completion in each")
    for place, row in enumerate(rows):
        for column in ("beginning", "completion"):
            if not isinstance(row, dict) or not isinstance(row.get(column), str):
                there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise UserError(f"row {place} of {source!r} has no text {column!r}; it has: {there}")
    return rows


def _load(name: str) -> tuple[Any, Any]:
    """A causal language model, on the GPU if there is one, and its tokenizer, for a folder or a name on the Hub.

    Raises:
        UserError: there is none, or it can complete nothing.
    """
    import torch
    from huggingface_hub import snapshot_download
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from hf_tasks.adapters import load_model

    logging.disable_progress_bar()  # one for the single shard of a checkpoint
    try:
        # No code and no weights in other formats.
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        folder = Path(name) if Path(name).is_dir() else Path(snapshot_download(name, allow_patterns=patterns))
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model: Any = load_model(folder)
    except (OSError, ValueError, ImportError, KeyError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{name!r} cannot be loaded: {said}; give the folder of a trained model, or its name on the Hub"
        ) from error
    if not model.can_generate():
        raise UserError(f"{name!r} is a {type(model).__name__}, which completes nothing; give a causal language model")
    if tokenizer.eos_token is None:
        raise UserError(f"the tokenizer of {name!r} has no end-of-sequence token, by which a completion ends")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _sample(
    loaded: tuple[Any, Any], starts: Sequence[str], path: Path, completions: int, max_new_tokens: int, seed: int
) -> list[Row]:
    """Completions of each beginning, in their order; those that a file holds already are not drawn again.

    Raises:
        UserError: the file holds completions of something else, or a beginning fills the model's context.
    """
    from hf_tasks.text.generate import sample

    model, tokenizer = loaded
    mark = f"{hash_name(_fingerprint(model), completions, max_new_tokens, seed):032x}"[:16]
    kept = _kept(path, mark, completions)
    room = getattr(model.config, "max_position_embeddings", None) or 2**31
    missing = [start for start in dict.fromkeys(starts) if start not in kept]
    with path.open("a", encoding="utf-8") as file, _progress() as progress:
        for start in progress.track(missing, description="beginnings"):
            length = min(max_new_tokens, room - len(tokenizer(start, add_special_tokens=False)["input_ids"]))
            if length < 1:
                raise UserError(f"the beginning {start[:40]!r}... fills the model's context of {room} tokens")
            (found,) = sample(
                model, tokenizer, [start], completions, max_new_tokens=length, batch_size=completions,
                seed=hash_name(seed, start) % 2**63,
            )  # fmt: skip
            kept[start] = [
                {"beginning": start, "completion": one.text.strip(), "ended": one.ended, "sampled": mark}
                for one in found
            ]
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept[start]))
            file.flush()
    return [row for start in starts for row in kept[start]]


def _kept(path: Path, mark: str, completions: int) -> dict[str, list[Row]]:
    """Beginning -> its completions, of those that are all in a file; what a kill has left of others is dropped."""
    found: dict[str, list[Row]] = {}
    if not path.is_file():
        return found
    for line in path.read_text("utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("sampled") != mark:
            raise UserError(
                f"{str(path)!r} holds completions of another model, number, length or seed; choose another folder, or "
                "delete that file"
            )
        found.setdefault(row["beginning"], []).append(row)
    found = {start: rows for start, rows in found.items() if len(rows) == completions}
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for rows in found.values() for row in rows))
    return found


def _fingerprint(model: Any) -> str:
    """A hash of all weights, by name."""
    import torch

    digest = xxh3_128()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _stories(stories: str | None) -> list[str]:
    if stories is None:
        return []
    if stories.endswith(".parquet") and not Path(stories).is_file():  # which the Hub would be asked for
        raise UserError(f"no file {stories!r}; give a parquet file or a dataset of what the model was trained on")
    from hf_tasks.text.data import read_texts

    return read_texts(stories, "train")


def _cut(stories: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """(beginning, rest) of as many stories as there are beginnings, cut between two words after two fifths."""
    chosen = np.random.default_rng(seed).permutation(len(stories))
    pairs: dict[str, str] = {}
    for story in (stories[int(place)] for place in chosen):
        end = story.rfind(" ", 0, int(_CUT * len(story)))
        if end > 0 and len(pairs) < len(beginnings()):
            pairs[story[:end].rstrip()] = story[end:].strip()
    return [*pairs.items()]


# Judges and programs.


async def _ask(
    judges: Sequence[Judge], asked: Sequence[CachedJudge], written: _Written, concurrency: int
) -> tuple[Report, Report | None]:  # fmt: skip
    """`grades_report`, and with a reference `unpaired` and `compare_report` by judge."""
    pairs = [(row["beginning"], row["completion"]) for row in written.rows]
    triples = _triples(written.rows, written.others or [])
    async with AsyncExitStack() as stack:
        for one in judges:
            if hasattr(one, "__aenter__"):
                await stack.enter_async_context(one)  # type: ignore[arg-type]
        with _progress() as progress:
            bar = progress.add_task("judged", total=len(judges) * (len(pairs) + len(triples)))
            graded = await grade_all(asked, pairs, concurrency, lambda: progress.advance(bar))
            grades = grades_report(pairs, graded)
            if written.others is None:
                return grades, None
            compared = {
                one.label: compare_report(
                    triples, await compare_all(one, triples, concurrency, lambda: progress.advance(bar))
                )
                for one in asked
            }
    return grades, {"unpaired": len(pairs) - len(triples), "judges": compared}


def _triples(rows: Sequence[Row], others: Sequence[Row]) -> list[tuple[str, str, str]]:
    """(beginning, completion, reference): the first of a beginning with the first, and so on."""
    waiting: dict[str, list[str]] = {}
    for row in others:
        waiting.setdefault(row["beginning"], []).append(row["completion"])
    count = Counter[str]()
    found = []
    for row in rows:
        start = row["beginning"]
        if count[start] < len(waiting.get(start, ())):
            found.append((start, row["completion"], waiting[start][count[start]]))
        count[start] += 1
    return found


def _memory(written: _Written) -> Report:
    training, texts = written.training, [row["completion"] for row in written.rows]
    cut = [row["completion"] for row in written.cut]
    return {
        "memorisation": memorisation(texts, training) if training else None,
        "memorisation_of_cut_stories": memorisation(cut, training, written.rests) if cut else None,
    }


def _offline(rows: Sequence[Row], likelihood_model: str) -> tuple[Report, list[str]]:
    """`offline_report` with `likelihood`, and what was left out."""
    texts, starts = [row["completion"] for row in rows], [row["beginning"] for row in rows]
    names = [PARAMETER + part for part in PARTS_OF_SPEECH]
    wanted = None
    if all(isinstance(row.get(name), str) for row in rows for name in names):
        wanted = [[(part, row[PARAMETER + part]) for part in PARTS_OF_SPEECH] for row in rows]
    features = [row.get(PARAMETER + _FEATURES) for row in rows]
    said = [one for one in features if isinstance(one, str)]
    with _progress() as progress:
        progress.add_task("measured by programs", total=None)
        report = offline_report(texts, wanted, starts, said if len(said) == len(rows) else None)
    notes = [f"{name} is left out: its package is not installed (pip install \"hf-tasks[textbooks]\")"
             for name in report["left_out"]]  # fmt: skip
    report["likelihood"] = None
    if likelihood_model == NOTHING:
        return report, notes
    try:
        (model, tokenizer), name = (
            _default_model()
            if likelihood_model == DEFAULT
            else (_load(likelihood_model), public_name(likelihood_model))
        )
    except UserError as error:
        if likelihood_model != DEFAULT:
            raise
        return report, [*notes, f"likelihood is left out: {error}"]
    chosen = rows[:: -(-len(rows) // _LIKELIHOODS)]
    with _progress() as progress:
        progress.add_task(f"likelihood under {name}", total=None)
        found = likelihood(model, tokenizer, [(row["beginning"], row["completion"]) for row in chosen])
    report["likelihood"] = {"model": name, **likelihood_report([row["completion"] for row in chosen], found)}
    return report, notes


def _default_model() -> tuple[tuple[Any, Any], str]:
    """The embedded writer's model, read by transformers: llama.cpp's server tells no likelihoods of a prompt.

    Raises:
        UserError: there is no such model here, or nothing that reads its format.
    """
    from hf_tasks.adapters import SMOLLM2, unpacked

    return _load(unpacked(SMOLLM2)), find_gguf().stem


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
