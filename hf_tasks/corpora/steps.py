"""Deduplication, repetition and language as steps of datatrove: the same stages on one core, on Slurm or on Ray.

- `clean` does it all on this machine, and `across` the duplicates of several tables. Elsewhere: `prepare` writes the
  documents, `chain` puts `stages` under any executor of datatrove, `collect` reads what is left.
- No text is copied: every stage reads the documents of its rank, and the numbers of those that stay so far.
- The first of a group of duplicates stays, whatever the number of tasks. Which one datatrove's MinHash cluster keeps
  depends on the order of its unions; `KeepFirst` mends it.
- Words are those of diversity.py in place of spaCy's, and languages are told by py3langid in place of fastText, whose
  weights would be downloaded.
- A finished task is never done again, and an unfinished one writes its files anew: a killed run goes on where it was.
  Documents lie in a folder named by a hash of all that the result depends on, so nothing else can get into it.
- This module is to be imported where it is used: without datatrove, the import itself is a `UserError`.
"""

import inspect
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from rich.console import Console
from rich.progress import Progress

from hf_tasks.corpora.diversity import words
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.files import write_text

_MISSING = 'pip install "hf-tasks[textbooks]"'
try:
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.dedup.exact_dedup import (
        ExactDedupConfig,
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
    )
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter, get_n_grams
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.text import split_into_words
    from datatrove.utils.word_tokenizers import WordTokenizer
except ImportError as error:
    raise UserError(f"deduplication and filters run in datatrove ({error}): {_MISSING}") from None

# Filters come first, so that of a group of duplicates the first good one stays.
STEPS = ("language", "repetition", "exact_duplicate", "near_duplicate")
# Of code alone: its words are few and come again, and are of no language.
CODE_STEPS = ("exact_duplicate", "near_duplicate")
DUPLICATES = CODE_STEPS  # the steps that compare rows with one another, and so those of different tables
EMPTY = "empty"  # the reason why rows without text go, of which datatrove's reader makes no documents
MAX_TASKS = 10_000
_SURE = 0.5  # least probability of a language that is not English
_TICK = 0.2  # seconds between looks at how far datatrove is
# datatrove's default, xxhash, is given strings by it, which xxhash 4 refuses.
_HASH = HashConfig(precision=64, hash_fc="sha1")


class Words(WordTokenizer):
    """The words of diversity.py, for steps of datatrove that take a tokenizer in place of a language's name."""

    def word_tokenize(self, text: str) -> list[str]:
        """In lower case, without punctuation."""
        return words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """No step here asks for sentences."""
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """No step here asks for sentences."""
        raise NotImplementedError


class LanguageFilter(BaseFilter):
    """Drops documents that are in another language for sure.

    py3langid's probability grows with the length of a text: "The dog ran." is English with 0.14. A document goes only
    if another language is likelier than not, so that those too short to tell stay.

    Raises:
        UserError: no py3langid.
    """

    name = "py3langid language"

    def __init__(self) -> None:
        if find_spec("py3langid") is None:
            raise UserError(f"the language filter needs the package 'py3langid': {_MISSING}")
        super().__init__()

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether it stays; `language` and `language_score` of its metadata say what it was taken for."""
        language, probability = _identifier().classify(doc.text)
        doc.metadata |= {"language": language, "language_score": probability}
        return language == "en" or probability < _SURE or (False, language)


class RepetitionFilter(GopherRepetitionFilter):
    """Gopher's repetition filter (arXiv 2112.11446, table A1), of use for short documents.

    There the commonest n-gram is a large share of the text even if it stands there once. Of the paragraphs of our story
    grammar's stories, 61 words long, datatrove's filter drops 13 % for that; here an n-gram that stands once is no
    repetition. The thresholds are the paper's.
    """

    name = "Gopher repetition, short documents"

    def __init__(self) -> None:
        super().__init__(language=cast(Any, _words()))
        self._limits = cast(Sequence[tuple[int, float]], self.top_n_grams)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether it stays, or which of the thresholds it passes."""
        found = split_into_words(doc.text, self.language)
        grams = {n: get_n_grams(found, n) for n, _ in self._limits}
        self.top_n_grams = cast(
            Any, tuple((n, limit) for n, limit in self._limits if len(set(grams[n])) < len(grams[n]))
        )
        return super().filter(doc)


class KeepFirst(PipelineStep):
    """Of every cluster of near duplicates the first document stays: behind `MinhashDedupCluster`, with cluster ids.

    Args:
        input_folder: of the clusters. output_folder: for the documents to remove, as `MinhashDedupFilter` reads them.
    """

    type = "🫂 - DEDUP"
    name = "the first of each cluster stays"

    def __init__(self, input_folder: Path, output_folder: Path) -> None:
        super().__init__()
        self.input_folder, self.output_folder = input_folder, output_folder

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write RANK.remove for every RANK.clusters, in the order of ranks; in one task."""
        seen: set[int] = set()
        self.output_folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.input_folder.glob("*.clusters")):
            removed = bytearray()
            for document, cluster in struct.iter_unpack("<2I", path.read_bytes()):
                if cluster in seen:
                    removed += struct.pack("<I", document)
                    self.stat_update("removed")
                seen.add(cluster)
            (self.output_folder / f"{path.stem}.remove").write_bytes(removed)


class KeepRows(PipelineStep):
    """Lets those documents through that an earlier `WriteRows` has left.

    Args:
        folder: of that step.
    """

    type = "🔻 - FILTER"
    name = "rows that stay so far"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The documents of a rank whose ids are on its list."""
        kept = set(_rows(self.folder, rank))
        return (document for document in data if int(document.id) in kept)


class WriteRows(PipelineStep):
    """Writes which documents have come through, by their ids, which are numbers; the end of a pipeline.

    Args:
        folder: for one file a rank, which is there as soon as it is whole, and without documents, too.
    """

    type = "💽 - WRITER"
    name = "rows that stay"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:
        """Write the file of a rank."""
        rows = [int(document.id) for document in data]
        self.stat_update("rows", value=len(rows))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(_rows_path(self.folder, rank), json.dumps(rows))


@dataclass(frozen=True)
class Stage:
    """One pipeline of datatrove.

    Attributes:
        name: of the step and what of it is done. pipeline: its blocks. tasks: how many ranks it has.
        logging_dir: for its logs, statistics and completions.
    """

    name: str
    pipeline: list[PipelineStep]
    tasks: int
    logging_dir: Path


def clean(
    table: pa.Table, work: str | Path, steps: Sequence[str] = STEPS, tasks: int = 1
) -> tuple[pa.Table, Counter[str]]:
    """Drop rows by their column `text`, on this machine.

    Killed and called again it continues; called with what is done already, it only reads the result. datatrove runs in
    a process of its own, because it logs to the terminal and resets loguru in its process.

    Args:
        table: rows of any columns, `text` among them.
        work: folder for what datatrove writes, to be kept until the result is in hand; it may hold other things.
        steps: some of `STEPS`, which are done in the order given; `CODE_STEPS` for rows of code. Each is done to what
            the one before it left, so that order decides which reason a row is counted under.
            language: it is not English for sure (`LanguageFilter`). repetition: `RepetitionFilter`.
            exact_duplicate: the same text stands in an earlier row.
            near_duplicate: datatrove's MinHash as it comes, 5-grams in 14 buckets of 8 hashes: a pair whose 5-grams
            have a Jaccard similarity of 0.6, 0.7, 0.8 is found with a probability of 0.21, 0.56, 0.92. Likeness is
            passed on: if B is like A and C is like B, A alone stays. All numbers count as the same. Rows of fewer
            than five words have no near duplicates.
        tasks: processes at a time, and pieces that the rows are cut into.

    Returns:
        the rows that stay, in their order; reason -> how many rows went for it, which is the step's name, or "empty"
        for rows without text. Neither depends on `tasks`.

    Raises:
        UserError: an unknown step or one twice, no column `text`, `tasks` out of range, or no package for a step.
        OSError: as it befell datatrove's process, such as a full disk.
        RuntimeError: datatrove failed otherwise; the message says where its log is.
    """
    folder = prepare(table, work, steps, tasks)
    # The stages are made here, too, so that a missing package is the caller's UserError.
    if (made := stages(folder, steps, tasks)) and not _is_finished(folder / steps[-1], tasks):
        _run(made, folder, steps, tasks)
    return collect(table, folder, steps, tasks)


def across(
    table: pa.Table, earlier: Sequence[str], work: str | Path, steps: Sequence[str] = DUPLICATES, tasks: int = 1
) -> tuple[pa.Table, Counter[str]]:
    """Drop rows that duplicate a text which was kept before, by their column `text`.

    Args:
        table: rows that are no duplicates of one another, by the same steps: what `clean` has left.
        earlier: the texts of tables before this one; all of them stay, whatever they are to one another.
        work, tasks: see `clean`. steps: some of `DUPLICATES`.

    Returns:
        the rows that stay, in their order; reason -> how many went for it: "exact_duplicate_of_earlier_part", the very
        text, or "near_duplicate_of_earlier_part".

    Raises:
        as `clean`, and UserError for a step that finds no duplicates.
    """
    if others := [step for step in steps if step not in DUPLICATES]:
        raise UserError(f"step {others[0]!r} finds no duplicates; those that do: {', '.join(DUPLICATES)}")
    texts = table["text"].to_pylist()
    both = pa.table({"text": [*earlier, *texts], "row": range(-len(earlier), len(texts))})
    stay = [row for row in clean(both, work, steps, tasks)[0]["row"].to_pylist() if row >= 0]
    known, gone = {*earlier}, {*range(len(texts))} - {*stay}
    reasons = Counter("exact" if texts[row] in known else "near" for row in gone)
    dropped = Counter({f"{kind}_duplicate_of_earlier_part": count for kind, count in sorted(reasons.items())})
    return table.take(pa.array(stay, pa.int64())), dropped


def prepare(table: pa.Table, work: str | Path, steps: Sequence[str] = STEPS, tasks: int = 1) -> Path:
    """Write the rows that have text as documents, in contiguous pieces, one for each task.

    Args:
        table, work, steps, tasks: see `clean`.

    Returns:
        the folder of this request, for `stages` and `collect`. It is the same as ever for the same request.

    Raises:
        UserError: as `clean`.
    """
    _check(steps, tasks)
    if "text" not in table.column_names:
        raise UserError(f"no column 'text' in the table; it has {', '.join(table.column_names) or 'none'}")
    folder = Path(work).resolve() / _request_hash(table, steps, tasks)
    if (folder / "documents").is_dir():
        return folder
    part = folder / "documents.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    texts = table["text"]
    filled = pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False)  # type: ignore[attr-defined]
    rows = pc.indices_nonzero(filled)  # type: ignore[attr-defined]
    for rank in range(tasks):
        start, stop = (len(rows) * edge // tasks for edge in (rank, rank + 1))
        piece = rows.slice(start, stop - start)
        documents = {"id": piece.cast(pa.string()), "text": texts.take(piece)}
        pq.write_table(pa.table(documents), part / f"{rank:05d}.parquet")
    part.rename(folder / "documents")
    return folder


def stages(folder: Path, steps: Sequence[str] = STEPS, tasks: int = 1) -> list[Stage]:
    """The pipelines of datatrove that do the steps, in order; each needs the one before it to be finished.

    Args:
        folder: of `prepare`. steps, tasks: as they were there.

    Raises:
        UserError: as `clean`.
    """
    _check(steps, tasks)
    made: list[Stage] = []
    for step, before in zip(steps, [None, *steps], strict=False):
        made += _STAGES[step](_Home(folder, step, before, tasks))
    return made


def chain(stages: Sequence[Stage], executor: Callable[..., Any] = LocalPipelineExecutor, **settings: Any) -> Any:
    """Put stages under an executor of datatrove, each depending on the one before it.

    Example: `chain(stages(folder), SlurmPipelineExecutor, time="1:00:00", partition="cpu").run()`

    Args:
        stages: at least one. executor: `LocalPipelineExecutor`, `SlurmPipelineExecutor`, `RayPipelineExecutor`.
        settings: more arguments of the executor.

    Returns:
        the executor of the last stage, whose `run` runs them all.
    """
    last = None
    for stage in stages:
        last = executor(
            pipeline=stage.pipeline, tasks=stage.tasks, logging_dir=str(stage.logging_dir), depends=last, **settings
        )
    return last


def collect(
    table: pa.Table, folder: Path, steps: Sequence[str] = STEPS, tasks: int = 1
) -> tuple[pa.Table, Counter[str]]:
    """What the finished stages have left of a table; see `clean`.

    Args:
        table, steps, tasks: as they were for `prepare`. folder: of `prepare`.

    Raises:
        UserError: a stage is not finished.
    """
    kept = [int(row) for rank in range(tasks) for row in _documents(folder, rank)["id"].to_pylist()]
    dropped = Counter({EMPTY: len(table) - len(kept)})
    for step in steps:
        if not _is_finished(folder / step, tasks):
            raise UserError(f"the step {step!r} in {str(folder)!r} is not finished; run its stages again")
        rows = [row for rank in range(tasks) for row in _rows(folder / step, rank)]
        dropped[step] = len(kept) - len(rows)
        kept = rows
    return table.take(pa.array(kept, pa.int64())), +dropped


@dataclass(frozen=True)
class _Home:
    """Where a step reads and writes.

    Attributes:
        folder: of the request. step: its name. before: that of the step before it. tasks: ranks of its filter.
    """

    folder: Path
    step: str
    before: str | None
    tasks: int

    def __truediv__(self, name: str) -> str:
        """A folder for what one stage leaves to another."""
        return str(self.folder / self.step / name)

    def over_documents(self, what: str, *blocks: PipelineStep, last: bool = False) -> Stage:
        """A stage that goes through the documents that stay so far; the last one says which stay now."""
        read: list[PipelineStep] = [ParquetReader(str(self.folder / "documents"))]
        if self.before is not None:
            read.append(KeepRows(self.folder / self.before))
        write = [WriteRows(self.folder / self.step)] if last else []
        return self.stage(what, *read, *blocks, *write, tasks=self.tasks)

    def stage(self, what: str, *blocks: PipelineStep, tasks: int) -> Stage:
        """A stage with its logs."""
        return Stage(f"{self.step} {what}", list(blocks), tasks, Path(self / "logs") / what)


def _language(home: _Home) -> list[Stage]:
    return [home.over_documents("filter", LanguageFilter(), last=True)]


def _repetition(home: _Home) -> list[Stage]:
    return [home.over_documents("filter", RepetitionFilter(), last=True)]


def _exact_duplicate(home: _Home) -> list[Stage]:
    config = ExactDedupConfig(content_getter=_text, document_priority=_priority, hash_config=_HASH)
    return [
        home.over_documents("signatures", ExactDedupSignature(home / "signatures", config)),
        home.stage("find", ExactFindDedups(home / "signatures", home / "duplicates", config), tasks=1),
        home.over_documents("filter", ExactDedupFilter(home / "duplicates", config), last=True),
    ]


def _near_duplicate(home: _Home) -> list[Stage]:
    config = MinhashConfig(hash_config=_HASH)
    signatures = MinhashDedupSignature(home / "signatures", config, language=cast(Any, _words()))
    clusters = MinhashDedupCluster(home / "pairs", home / "clusters", config, save_cluster_id=True)
    first = KeepFirst(Path(home / "clusters"), Path(home / "duplicates"))
    return [
        home.over_documents("signatures", signatures),
        home.stage(
            "pairs", MinhashDedupBuckets(home / "signatures", home / "pairs", config=config), tasks=config.num_buckets
        ),
        home.stage("clusters", clusters, first, tasks=1),
        home.over_documents("filter", MinhashDedupFilter(home / "duplicates"), last=True),
    ]


_STAGES: dict[str, Callable[[_Home], list[Stage]]] = {
    "language": _language,
    "repetition": _repetition,
    "exact_duplicate": _exact_duplicate,
    "near_duplicate": _near_duplicate,
}


def _text(document: Document) -> str:
    return document.text


def _priority(document: Document) -> int:
    """Of equal texts datatrove keeps the one of highest priority, and of those in one file the first."""
    return MAX_TASKS - int(Path(str(document.metadata["file_path"])).stem)


@cache
def _words() -> Words:
    """One tokenizer a process: datatrove caches words by the tokenizer."""
    return Words()


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _check(steps: Sequence[str], tasks: int) -> None:
    for step in steps:
        if step not in _STAGES:
            raise unknown_name("step", step, _STAGES)
    if len(set(steps)) < len(steps):
        raise UserError(f"steps {', '.join(steps)}: one stands there twice; give each once")
    if not 1 <= tasks <= MAX_TASKS:
        raise UserError(f"tasks is {tasks}; give a number from 1 to {MAX_TASKS}")


def _request_hash(table: pa.Table, steps: Sequence[str], tasks: int) -> str:
    packages = ["datatrove", *(["py3langid"] if "language" in steps else [])]
    versions = {name: version(name) for name in packages}
    sources = [Path(__file__).read_text("utf-8"), inspect.getsource(words)]
    found = xxhash.xxh3_128(json.dumps([list(steps), tasks, versions, sources]).encode())
    for text in table["text"].to_pylist():
        found.update(json.dumps(text).encode())
    return found.hexdigest()


def _run(made: Sequence[Stage], folder: Path, steps: Sequence[str], tasks: int) -> None:
    """Run all stages in a new process, and let nothing of it outlive this one."""
    console = Console(stderr=True)
    log = folder / "datatrove.log"
    command = [sys.executable, "-c", f"from {__name__} import _main; _main()", str(folder), str(tasks), *steps]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("clean", total=sum(stage.tasks for stage in made))
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TICK)
            progress.update(bar, completed=_completed(made))
    if process.returncode:
        said = log.read_text("utf-8", errors="replace").strip().rpartition("\n")[2]
        if found := re.search(r"\[Errno (\d+)\]", said):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder))
        raise RuntimeError(f"datatrove failed ({said or process.returncode}); its log: {str(log)!r}")


def _completed(made: Sequence[Stage]) -> int:
    """How many tasks datatrove has noted as done, of this run or of those before it."""
    return sum(len(list((stage.logging_dir / "completions").glob("*"))) for stage in made)


def _main() -> None:
    """What the new process does."""
    folder, tasks, *steps = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    chain(stages(Path(folder), steps, int(tasks)), workers=int(tasks), start_method="fork").run()


def _end_with_parent() -> None:
    # The pipe ends when the parent does, however it does; datatrove's own processes belong to our group.
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def _documents(folder: Path, rank: int) -> pa.Table:
    return pq.read_table(folder / "documents" / f"{rank:05d}.parquet", columns=["id"])


def _rows_path(folder: Path, rank: int) -> Path:
    return folder / f"{rank:05d}.json"


def _rows(folder: Path, rank: int) -> list[int]:
    return json.loads(_rows_path(folder, rank).read_text("utf-8"))


def _is_finished(folder: Path, tasks: int) -> bool:
    return all(_rows_path(folder, rank).exists() for rank in range(tasks))
