"""From a task to a folder of parquet files and a dataset card, which `datasets.load_dataset(DIR, CONFIG)` reads back.

- Memory is bounded: batches go to row groups, row groups to shards, both sized in bytes and not in rows.
- A split is a folder, `CONFIG/SPLIT/` (`data/SPLIT/` in the config "default"), that appears whole or not at all. Its
  shards gather in a hidden `.partial` folder, each under a temporary name until it is complete, and one rename makes
  them the split; a killed run leaves whole shards and continues from them.
- Many processes, on one machine or with a common disk, can each write a share of the shards; whoever then calls without
  a share finds them, writes what is missing and finishes. Any number of them writes the same bytes.
- Every split says beside its parquet files what made it and what is in it (`provenance.json`: command, parameters,
  sources, column descriptions, statistics, first rows); the card and its picture are rendered from those files alone:
  a second command can add a split, and a folder that holds another dataset is recognised and refused. Prose of your own
  belongs into the template: the card is written anew whenever it differs.
- Provenance holds no date: the same command writes the same bytes.
"""

import errno
import inspect
import json
import platform
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from hf_tasks import __version__, tasks
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.files import hash_files, write_bytes, write_text
from hf_tasks.tasks.base import BLOCK, Task
from hf_tasks.tasks.hashing import SPLITS

BATCH_BYTES = 8 * 2**20  # of text, before compression; one batch is one row group
SHARD_BYTES = 256 * 2**20
PROVENANCE, PICTURE = "provenance.json", "statistics.png"
DEFAULT_CONFIG, DEFAULT_FOLDER = "default", "data"  # as `Dataset.push_to_hub` lays them out
EXAMPLE_ROWS = 3
CATEGORIES = 32  # a text column with at most so many values is counted by value, others by length
BINS = 64  # of a histogram in provenance.json
# Lists that say where or which and not how much, of which a histogram would tell nothing.
UNCOUNTED = ("read_positions", "clause_starts", "clause_ends", "parents", "second_parents", "chains",
             "chain_positions", "elements")  # fmt: skip

MadeBy = dict[str, Any]
_PROVENANCE_TYPES: dict[str, type] = {
    "task": str, "description": str, "config": str, "name": str, "split": str, "size": int, "seed": int,
    "parameters": dict, "columns": dict, "source": str, "command": str, "statistics": dict, "examples": list,
}  # fmt: skip


def write_dataset(
    task: Task,
    output: str | Path,
    sizes: Mapping[str, int],
    seed: int = 0,
    command: str = "",
    config: str = DEFAULT_CONFIG,
    name: str | None = None,
    card: bool = True,
    share: tuple[int, int] | None = None,
) -> Path:
    """Write splits of a task as parquet shards with a dataset card.

    Splits that the folder already holds, made by the same task with the same parameters, seed and sources, are kept;
    the same call again changes nothing.

    Args:
        task: what to generate.
        output: the folder; created, or empty, or holding a dataset to which these splits belong or are a new config.
        sizes: split -> number of rows.
        seed: the seed of every split.
        command: the command line to record as provenance.
        config: the config of the dataset that the splits belong to.
        name: the name of the split in the dataset, if it is not its own; for one split only. A named split may have
            other parameters than the rest of its config (a longer test set beside the usual one).
        card: False leaves the card as it is, for one who writes more splits and calls `write_card` behind the last.
        share: (i, n) writes shards i, i + n, ... alone, and no split is finished; others write theirs meanwhile. The
            same call without a share then finishes.

    Returns:
        the folder.

    Raises:
        UserError: an unknown split, a size below 1 or no name for a config or split; a split too small to exist; a
            folder that holds something else; a full disk, in which case unfinished splits are deleted and finished ones
            stay; a share that is none, or of a split that others are writing otherwise.
    """
    output = Path(output)
    check_sizes(sizes)
    check_names(config, name, sizes)
    if share is not None and not 0 <= share[0] < share[1]:
        raise UserError(f"share {share[0]}/{share[1]} is none; n processes take 0/n to n-1/n")
    wanted = _missing_splits(
        output, [_request(task, split, size, seed, config, name or split) for split, size in sizes.items()]
    )
    for made_by in wanted:
        task.table(made_by["split"], size=1, seed=seed)  # refuses what cannot be generated before anything is on disk
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            for made_by in wanted:
                bar = progress.add_task(f"{task.name} {made_by['name']}", total=made_by["size"])
                made_by = made_by | {"command": command, "versions": _versions()}
                _write_split(task, output, made_by, lambda rows, bar=bar: progress.advance(bar, rows), share)
                if card and share is None:
                    write_card(output)
        if card and share is None:  # an earlier run may have been killed between a split and its card
            write_card(output)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if share is not None:
            raise UserError(
                f"no space left on the disk of {str(output)!r}: free some, and write this share again"
            ) from error
        _drop_unfinished(output)
        raise UserError(
            f"no space left on the disk of {str(output)!r}: unfinished splits were deleted, finished ones kept; "
            "free some space or choose another output folder, and run the same command again"
        ) from error
    return output


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raise UserError unless `sizes` maps splits to numbers of rows, one at least."""
    if not sizes:
        raise UserError(f"no split to write; name at least one of {', '.join(SPLITS)} with its number of rows")
    for split, size in sizes.items():
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"size {size!r} of split {split!r} is no number of rows; give a whole number of at least 1")


def source_hash() -> str:
    """16 hexadecimal digits that change with any source file of `hf_tasks.tasks`, and so with what is generated."""
    return hash_files(Path(inspect.getfile(tasks)).parent.glob("*.py"))


def shard_rows(task: Task) -> int:
    """How many rows one shard holds: a whole number of batches of about `SHARD_BYTES` bytes together."""
    batch = _batch_rows(task)
    return max(1, SHARD_BYTES // (batch * _row_bytes(task))) * batch


def split_path(config: str, name: str) -> str:
    """Where a split lies in the folder of its dataset."""
    return f"{DEFAULT_FOLDER if config == DEFAULT_CONFIG else config}/{name}"


def finished_splits(output: Path) -> dict[str, MadeBy]:
    """Path -> provenance of every finished split of a folder, in the order in which cards show them.

    Raises:
        UserError: a provenance that cannot be read, or of an older version.
    """
    paths = output.glob(f"[!.]*/*/{PROVENANCE}")
    found = {str(path.parent.relative_to(output)): path.read_bytes() for path in paths}
    return in_order({path: read_provenance(text, f"{path}/{PROVENANCE}", str(output)) for path, text in found.items()})


def in_order(splits: Mapping[str, MadeBy]) -> dict[str, MadeBy]:
    """The default config first, then configs by name; in each the usual splits, then the others by their numbers."""

    def rank(item: tuple[str, MadeBy]) -> Any:
        config, name = item[1]["config"], item[1]["name"]
        numbers = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
        return config != DEFAULT_CONFIG, config, SPLITS.index(name) if name in SPLITS else len(SPLITS), numbers

    return dict(sorted(splits.items(), key=rank))


def read_provenance(content: bytes, path: str, where: str) -> MadeBy:
    """The content of a `provenance.json`, checked to be of this version and at home.

    Args:
        content: of the file.
        path: its path in the dataset.
        where: the folder or repository, for the message.

    Raises:
        UserError: it cannot be read, lacks a key, or says that it belongs elsewhere.
    """
    try:
        made_by = json.loads(content)
        missing = _PROVENANCE_TYPES.keys() - made_by.keys()
        wrong = [key for key, kind in _PROVENANCE_TYPES.items() if not isinstance(made_by.get(key), kind)]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path!r} in {where!r} is no provenance of a split ({error}); delete its folder") from error
    if missing or wrong:
        what = f"no {min(missing)!r}" if missing else f"{wrong[0]!r} is {made_by[wrong[0]]!r}"
        raise UserError(f"{path!r} in {where!r} is of another version ({what}): delete its folder, generate it again")
    if f"{split_path(made_by['config'], made_by['name'])}/{PROVENANCE}" != path:
        raise UserError(
            f"{path!r} in {where!r} is that of split {made_by['name']!r} of config {made_by['config']!r}: delete it"
        )
    return made_by


def write_card(output: Path) -> None:
    """Render the card and its picture from the provenance of the finished splits, if they are not right already."""
    from hf_tasks.analysis.plots import draw_statistics  # matplotlib: slow to import
    from hf_tasks.cards import render_dataset_card

    splits = finished_splits(output)
    text = render_dataset_card(splits)
    if not _holds(output / "README.md", text) or not (output / PICTURE).exists():
        write_bytes(output / PICTURE, draw_statistics(splits))
        write_text(output / "README.md", text)


def _request(task: Task, split: str, size: int, seed: int, config: str, name: str) -> MadeBy:
    """What is asked for, as it looks when read back from JSON."""
    request = {
        "task": task.name,
        "description": (inspect.getdoc(type(task)) or "").split("\n\n")[0],
        "config": config,
        "name": name,
        "split": split,
        "size": size,
        "seed": seed,
        "parameters": task.parameters(),
        "columns": task.columns,
        "source": source_hash(),
    }
    return json.loads(json.dumps(request))


def check_names(config: str, name: str | None, sizes: Mapping[str, int]) -> None:
    """Refuse what can be no name of a config, or of the one split that `sizes` then has to hold.

    Raises:
        UserError: such a name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", config) or config == DEFAULT_FOLDER:
        raise UserError(f"{config!r} is no name for a config: use letters, digits and _ -, and not {DEFAULT_FOLDER!r}")
    if name is None:
        return
    if len(sizes) > 1:
        raise UserError(f"name {name!r} is for one split, not for {', '.join(sizes)}")
    if not re.fullmatch(r"\w+", name, re.ASCII) or name == "all":
        raise UserError(f"{name!r} is no name for a split: use letters, digits and _ (and not all, which means every)")
    if name in SPLITS and name not in sizes:
        raise UserError(f"name {name!r} is for problems of that split, not of {next(iter(sizes))!r}; choose another")


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("numpy", "pyarrow")}
    return {"hf-tasks": __version__, "python": platform.python_version()} | libraries


def _missing_splits(output: Path, requests: list[MadeBy]) -> list[MadeBy]:
    """Those of `requests` that the folder lacks; refuses a folder that holds anything but a dataset they belong to."""
    if output.exists() and not output.is_dir():
        raise UserError(f"output {str(output)!r} is a file; choose a folder")
    made = finished_splits(output) if output.is_dir() else {}
    visible = [path.name for path in output.iterdir() if not path.name.startswith(".")] if output.is_dir() else []
    if visible and not made:
        raise UserError(f"output {str(output)!r} holds other files ({min(visible)!r}); choose a new or an empty folder")
    for request in requests:
        for path, made_by in made.items():
            keys = _must_agree(made_by, request)
            other = [f"{key} {made_by[key]!r}, not {request[key]!r}" for key in keys if made_by[key] != request[key]]
            if other:
                raise UserError(
                    f"output {str(output)!r} holds another dataset: its split {path.removeprefix('data/')!r} was made "
                    f"with {'; '.join(other)}; choose another folder, config or name, or delete this one"
                )
    return [request for request in requests if split_path(request["config"], request["name"]) not in made]


def _must_agree(made_by: MadeBy, request: MadeBy) -> list[str]:
    """In which keys a split that is asked for must agree with one that stands."""
    if made_by["config"] != request["config"]:
        return []
    keys = ["task", "columns", "source"]
    if made_by["name"] == request["name"]:
        return [*keys, "parameters", "seed", "split", "size"]
    usual = made_by["name"] in SPLITS and request["name"] in SPLITS
    return [*keys, "parameters", "seed"] if usual else keys


def _write_split(
    task: Task, output: Path, made_by: MadeBy, advance: Callable[[int], None], share: tuple[int, int] | None
) -> None:
    size, rows = made_by["size"], shard_rows(task)
    path = split_path(made_by["config"], made_by["name"])
    staging = output / f".{path.removeprefix('data/').replace('/', '.')}.partial"
    _prepare(staging, made_by, share is not None)
    starts, (first, step) = range(0, size, rows), share or (0, 1)
    for shard, start in list(enumerate(starts))[first::step]:
        file, stop = staging / f"{shard:05d}-of-{len(starts):05d}.parquet", min(start + rows, size)
        if file.exists():  # from an interrupted run of the same command, or another process
            advance(stop - start)
        else:
            _write_shard(task, file, range(start, stop, _batch_rows(task)), stop, made_by, advance)
    if share is None:
        _write_provenance(staging, made_by | describe(staging))
        for rest in staging.glob(".*.part"):  # of processes that were killed
            rest.unlink()
        (output / path).parent.mkdir(exist_ok=True)
        staging.rename(output / path)


def _prepare(staging: Path, made_by: MadeBy, shared: bool) -> None:
    """The folder for the shards of a request. What is left of another one is deleted, or refused if it is shared."""
    if _was_asked_for(staging / PROVENANCE, made_by):
        return
    if not shared:
        shutil.rmtree(staging, ignore_errors=True)
    elif (staging / PROVENANCE).exists():
        raise UserError(
            f"{str(staging)!r} holds shards of another request, or of another version of the package: delete it, or "
            "give every process the same one"
        )
    staging.mkdir(parents=True, exist_ok=True)
    _write_provenance(staging, made_by)


def _write_provenance(folder: Path, made_by: MadeBy) -> None:
    part = folder / f".{uuid.uuid4().hex}.part"  # several processes may write the same at once
    part.write_text(json.dumps(made_by, indent=2) + "\n", "utf-8")
    part.replace(folder / PROVENANCE)


def _was_asked_for(path: Path, made_by: MadeBy) -> bool:
    """Whether a staged provenance has the same request; an interruption may have struck after its statistics.

    Shares of a split differ in their command lines.
    """
    wanted = {key: value for key, value in made_by.items() if key != "command"}
    return path.exists() and json.loads(path.read_text("utf-8")).items() >= wanted.items()


def _write_shard(
    task: Task, path: Path, starts: range, stop: int, made_by: MadeBy, advance: Callable[[int], None]
) -> None:
    """Write rows `starts.start` .. `stop` into one parquet file, a row group for each of `starts`."""

    def batch(start: int) -> pa.Table:
        return task.table(made_by["split"], size=min(starts.step, stop - start), seed=made_by["seed"], start=start)

    temporary = path.with_suffix(".tmp")
    try:
        table = batch(starts[0])
        with pq.ParquetWriter(temporary, table.schema, compression="zstd") as writer:
            for start in starts:
                table = batch(start) if start > starts[0] else table
                writer.write_table(table)
                advance(table.num_rows)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def describe(folder: Path) -> dict[str, Any]:
    """Statistics and first rows of the parquet files of a folder, read batch by batch.

    Returns:
        `statistics`: column -> {"values": [...], "counts": [...]}, a histogram of whole numbers (in lists too; true is
        1), of the values of a text column that has few, or of the lengths of another ("characters of COLUMN"); those in
        `UNCOUNTED` have none. `examples`: the first rows.
    """
    counters: dict[str, Counter[Any]] = {}
    examples: list[dict[str, Any]] = []
    named: dict[str, str] = {}
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as shard:
            for batch in shard.iter_batches(BLOCK):
                examples = examples or batch.slice(0, EXAMPLE_ROWS).to_pylist()
                named = named or {
                    column: _name_of_statistic(column, batch[column])
                    for column in batch.schema.names
                    if column not in UNCOUNTED
                }
                for column, name in named.items():
                    values = _flat(batch[column])
                    if name != column:
                        values = pc.utf8_length(values)  # type: ignore[attr-defined]  # pyarrow makes it at import
                    counts = values.value_counts()
                    pairs = zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)
                    counters.setdefault(name, Counter()).update(dict(pairs))
    return {"statistics": {name: _histogram(counter) for name, counter in counters.items()}, "examples": examples}


def _flat(values: pa.Array) -> pa.Array:
    """The entries of all lists, if it is an array of lists; booleans as 0 and 1."""
    values = values.flatten() if pa.types.is_list(values.type) else values
    return values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values


def _name_of_statistic(column: str, values: pa.Array) -> str:
    distinct = len(values.unique()) if pa.types.is_string(values.type) else 0
    return column if distinct <= min(CATEGORIES, len(values) / 2) else f"characters of {column}"


def _histogram(counter: Counter[Any]) -> dict[str, list[Any]]:
    """Exact while there are few values; else the commonest texts, or numbers in `BINS` bins, each by its lower end."""
    if len(counter) > BINS and isinstance(next(iter(counter)), str):
        counter = Counter(dict(counter.most_common(BINS)))
    elif len(counter) > BINS:
        low, high = min(counter), max(counter)
        width = -(-(high - low + 1) // BINS)
        binned: Counter[Any] = Counter()
        for value, count in counter.items():
            binned[low + (value - low) // width * width] += count
        counter = binned
    values = sorted(counter)
    return {"values": values, "counts": [counter[value] for value in values]}


def _row_bytes(task: Task) -> int:
    # A task that labels clauses has lists, mostly of 32-bit numbers, with about an entry for each unit of length.
    entries = task.longest if task.classes else 0
    return sum(task.max_lengths) + (8 + 4 * entries) * len(task.columns)


def _batch_rows(task: Task) -> int:
    # A task draws rows by the block: a batch of whole blocks draws none twice.
    return max(1, BATCH_BYTES // (_row_bytes(task) * BLOCK)) * BLOCK


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text("utf-8") == text


def _drop_unfinished(output: Path) -> None:
    """Delete what is not part of a finished split, and every folder in which nothing is left."""
    for staging in output.glob(".*.partial"):
        shutil.rmtree(staging, ignore_errors=True)
    for folder in (*output.glob("[!.]*/"), output):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
