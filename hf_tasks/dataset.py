"""From a task to a folder of parquet files and a dataset card, which `datasets.load_dataset(DIR)` reads back.

- Memory is bounded: batches go to row groups, row groups to shards, both sized in bytes and not in rows.
- A split is a folder that appears whole or not at all. Its shards gather in `.SPLIT.partial/`, each under a temporary
  name until it is complete, and one rename publishes them; a killed run leaves whole shards and continues from them.
- Every split says beside its parquet files what made it (`provenance.json`); the card is rendered from those files
  alone, so a second command can add a split, and a folder that holds another dataset is recognised and refused. Prose
  of your own belongs into the template: the card is written anew whenever it differs.
- Provenance holds no date: the same command writes the same bytes.
"""

import errno
import hashlib
import inspect
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData
from rich.console import Console
from rich.progress import Progress

from hf_tasks import __version__, tasks
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.files import write_text
from hf_tasks.tasks.base import BLOCK, Task
from hf_tasks.tasks.hashing import SPLIT_SHARES, SPLITS

BATCH_BYTES = 8 * 2**20  # of text, before compression; one batch is one row group
SHARD_BYTES = 256 * 2**20
PROVENANCE = "provenance.json"
EXAMPLE_ROWS, EXAMPLE_WIDTH = 3, 60


def write_dataset(task: Task, output: str | Path, sizes: Mapping[str, int], seed: int = 0, command: str = "") -> Path:
    """Write splits of a task as parquet shards with a dataset card.

    Splits that the folder already holds, made by the same task with the same parameters, seed and sources, are kept;
    the same call again changes nothing.

    Args:
        task: what to generate.
        output: the folder; created, or empty, or holding splits of this very dataset.
        sizes: split -> number of rows.
        seed: the seed of every split.
        command: the command line to record as provenance.

    Returns:
        the folder.

    Raises:
        UserError: an unknown split or a size below 1; a split too small to exist; a folder that holds something else; a
            full disk, in which case unfinished splits are deleted and finished ones stay.
    """
    output = Path(output)
    check_sizes(sizes)
    origin = _origin(task, seed)
    wanted = _missing_splits(output, origin, sizes)
    for split in wanted:
        task.table(split, size=1, seed=seed)  # refuses what cannot be generated before anything is on disk
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            for split, size in wanted.items():
                bar = progress.add_task(f"{task.name} {split}", total=size)
                made_by = origin | {"split": split, "size": size, "command": command, "versions": _versions()}
                _write_split(task, output, made_by, lambda rows, bar=bar: progress.advance(bar, rows))
                _write_card(task, output)
        _write_card(task, output)  # an earlier run may have been killed between a split and its card
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
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
    digest = hashlib.sha256()
    for path in sorted(Path(inspect.getfile(tasks)).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def shard_rows(task: Task) -> int:
    """How many rows one shard holds: a whole number of batches of about `SHARD_BYTES` bytes together."""
    batch = _batch_rows(task)
    return max(1, SHARD_BYTES // (batch * _row_bytes(task))) * batch


def card_template(name: str) -> Path:
    """The path of a card template, in an installed package or in a checkout."""
    package = Path(__file__).parent
    installed = package / "model_cards" / name
    return installed if installed.exists() else package.parent / "model_cards" / name


def render_card(task: Task, output: Path) -> str:
    """The text of README.md, from the provenance of the splits in the folder and their first rows."""
    splits = _splits(output)
    rows = sum(made_by["size"] for made_by in splits.values())
    data_files = [{"split": split, "path": f"data/{split}/*.parquet"} for split in splits]
    metadata = DatasetCardData(
        pretty_name=f"{task.name} (hf_tasks)",
        license="apache-2.0",
        annotations_creators="machine-generated",
        task_categories=["text-generation"],
        size_categories=_size_category(rows),
        tags=["synthetic", "reasoning", "length-generalization", "hf-tasks", task.name],
        configs=[{"config_name": "default", "data_files": data_files, "default": True}],
    )
    first = next(iter(splits.values()))
    card = DatasetCard.from_template(
        metadata,
        template_path=str(card_template("dataset_card.md.jinja")),
        task=task.name,
        description=(inspect.getdoc(type(task)) or "").split("\n\n")[0],
        splits=splits,
        shares={split: f"{share:.0%}" for split, share in SPLIT_SHARES.items()},
        origin=first,
        columns=task.columns,
        example=_example(output / "data" / first["split"]),
    )
    return str(card).rstrip() + "\n"


def _origin(task: Task, seed: int) -> dict[str, Any]:
    """What two splits must have in common to be one dataset, as it looks when read back from JSON."""
    origin = {"task": task.name, "parameters": task.parameters(), "seed": seed, "source": source_hash()}
    return json.loads(json.dumps(origin))


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("numpy", "pyarrow")}
    return {"hf-tasks": __version__, "python": platform.python_version()} | libraries


def _splits(output: Path) -> dict[str, dict[str, Any]]:
    """The finished splits of a folder with their provenance."""
    paths = {split: output / "data" / split / PROVENANCE for split in SPLITS}
    return {split: json.loads(path.read_text("utf-8")) for split, path in paths.items() if path.exists()}


def _missing_splits(output: Path, origin: dict[str, Any], sizes: Mapping[str, int]) -> dict[str, int]:
    """Those of `sizes` that the folder lacks; refuses a folder that holds anything but this dataset."""
    made = _splits(output) if output.is_dir() else {}
    visible = [path.name for path in output.iterdir() if not path.name.startswith(".")] if output.is_dir() else []
    if output.exists() and not output.is_dir():
        raise UserError(f"output {str(output)!r} is a file; choose a folder")
    if visible and not made:
        raise UserError(f"output {str(output)!r} holds other files ({min(visible)!r}); choose a new or an empty folder")
    for split, made_by in made.items():
        wanted = origin | {"size": sizes.get(split, made_by["size"])}
        other = [f"{key} {made_by[key]!r}, not {value!r}" for key, value in wanted.items() if made_by[key] != value]
        if other:
            raise UserError(
                f"output {str(output)!r} holds another dataset: its split {split!r} was made with {'; '.join(other)}; "
                "choose another folder or delete this one"
            )
    return {split: size for split, size in sizes.items() if split not in made}


def _write_card(task: Task, output: Path) -> None:
    text = render_card(task, output)
    if not _holds(output / "README.md", text):
        write_text(output / "README.md", text)


def _write_split(task: Task, output: Path, made_by: dict[str, Any], advance: Callable[[int], None]) -> None:
    split, size, rows = made_by["split"], made_by["size"], shard_rows(task)
    staging = output / f".{split}.partial"
    provenance = json.dumps(made_by, indent=2) + "\n"
    if not _holds(staging / PROVENANCE, provenance):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write_text(staging / PROVENANCE, provenance)
    starts = range(0, size, rows)
    for shard, start in enumerate(starts):
        path, stop = staging / f"{shard:05d}-of-{len(starts):05d}.parquet", min(start + rows, size)
        if path.exists():  # from an interrupted run of the same command
            advance(stop - start)
        else:
            _write_shard(task, path, range(start, stop, _batch_rows(task)), stop, made_by, advance)
    (output / "data").mkdir(exist_ok=True)
    staging.rename(output / "data" / split)


def _write_shard(
    task: Task, path: Path, starts: range, stop: int, made_by: dict[str, Any], advance: Callable[[int], None]
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


def _row_bytes(task: Task) -> int:
    return sum(task.max_lengths) + 8 * len(task.columns)


def _batch_rows(task: Task) -> int:
    # A task draws rows by the block: a batch of whole blocks draws none twice.
    return max(1, BATCH_BYTES // (_row_bytes(task) * BLOCK)) * BLOCK


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text("utf-8") == text


def _drop_unfinished(output: Path) -> None:
    """Delete what is not part of a finished split, and the folder itself if nothing is left in it."""
    for split in SPLITS:
        shutil.rmtree(output / f".{split}.partial", ignore_errors=True)
    for folder in (output / "data", output):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _size_category(rows: int) -> str:
    """The Hub's name for a number of rows: '1K<n<10K' holds 1,000 up to 9,999."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    power = len(str(rows)) - 3
    if power < 1:
        return "n<1K"
    return f"{bounds[power - 1]}<n<{bounds[power]}" if power < len(bounds) else "n>1T"


def _example(folder: Path) -> list[dict[str, str]]:
    """The first rows of a split, each value as it may stand in a cell of a markdown table."""
    with pq.ParquetFile(min(folder.glob("*.parquet"))) as shard:
        rows = next(shard.iter_batches(batch_size=EXAMPLE_ROWS)).to_pylist()
    return [{name: _in_cell(value) for name, value in row.items()} for row in rows]


def _in_cell(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
    short = text if len(text) <= EXAMPLE_WIDTH else text[: EXAMPLE_WIDTH - 1] + "…"
    return "`" + short.replace("|", r"\|") + "`"
