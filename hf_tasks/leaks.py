"""What must not leave the house: secrets inside files, and rows that two splits share.

- Memory is bounded whatever the size: files are read in pieces; hashes of rows lie on disk and are compared in passes.
- Two splits share a row if they share its problem, the column `prompt`, whatever else stands beside it; data without
  such a column are compared by whole rows. Hashes only find candidates: a row is named only once its text is compared.
"""

import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

PIECE = 2**20
OVERLAP = 4096  # longer than any secret below is when it begins to look like one
HASHES_AT_ONCE = 2**22
ROWS_AT_ONCE = 2**13

# A column of opened parquet files; opening is left to the caller, as some lie on the Hub.
Shards = Sequence[Callable[[], AbstractContextManager[IO[bytes]]]]

_NAMES = re.compile(r"(^|/)(\.env(\..*)?|\.netrc|\.git-credentials|id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|key|p12|pfx))$")
_SECRETS = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----",
    "an OpenAI or Anthropic key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})",
    "a GitLab token": rb"\bglpat-[A-Za-z0-9_-]{20,}",
    "an AWS key": rb"\bAKIA[0-9A-Z]{16}\b",
    "a Slack token": rb"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a Google key": rb"\bAIza[0-9A-Za-z_-]{35}",
}
_ANY_SECRET = re.compile(b"|".join(b"(%s)" % pattern for pattern in _SECRETS.values()))
# Compressed: neither text, nor quick to read.
_NOT_TEXT = (".parquet", ".png")


def find_secret(name: str, content: Path | bytes) -> str | None:
    """What secret a file seems to be or to hold ("a private key"), or None.

    Args:
        name: its path in the repository.
        content: the file, or its bytes.
    """
    if _NAMES.search(name):
        return "a file of secrets by its name"
    if name.endswith(_NOT_TEXT):
        return None
    pieces = [_header(content)] if name.endswith(".safetensors") else _pieces(content)
    for piece in pieces:
        if found := _ANY_SECRET.search(piece):
            return list(_SECRETS)[(found.lastindex or 1) - 1]
    return None


def _header(content: Path | bytes) -> bytes:
    """The JSON before the numbers of a safetensors file, where anything may be written; its length comes first."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), 100 * PIECE))


def _pieces(content: Path | bytes) -> Iterator[bytes]:
    """A file in overlapping pieces, so that no secret is cut in two."""
    if isinstance(content, bytes):
        yield content
        return
    tail = b""
    with content.open("rb") as file:
        while piece := file.read(PIECE):
            yield tail + piece
            tail = piece[-OVERLAP:]


def find_shared_row(splits: Mapping[str, Shards]) -> tuple[str, str, str] | None:
    """A row that two splits share: the names of both, and the row; None if there is none.

    Args:
        splits: name -> how to open each of its parquet files.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch) / str(number) for number, name in enumerate(splits)}
        rows = 0
        for name, shards in splits.items():
            with files[name].open("wb") as file:
                for keys in _keys(shards):
                    rows += len(keys)
                    _hashes(keys).tofile(file)
        passes = -(-rows // HASHES_AT_ONCE)
        for number in range(passes):
            suspects = _in_two(files.values(), number, passes)
            if len(suspects) and (found := _compare(splits, suspects)):
                return found
    return None


def _keys(shards: Shards) -> Iterator[pa.RecordBatch]:
    """The columns that tell rows apart, batch by batch."""
    for opened in shards:
        with opened() as file, pq.ParquetFile(file) as shard:
            columns = ["prompt"] if "prompt" in shard.schema_arrow.names else None
            yield from shard.iter_batches(ROWS_AT_ONCE, columns=columns)


def _hashes(keys: pa.RecordBatch) -> np.ndarray:
    """A 64-bit hash a row, (rows,) uint64, the same in every process."""
    return np.fromiter(map(xxh3_64_intdigest, _texts(keys)), np.uint64, keys.num_rows)


def _texts(keys: pa.RecordBatch) -> list[bytes]:
    column = keys.column(0)
    if keys.num_columns == 1 and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.cast(pa.binary()).fill_null(b"").to_pylist()
    return [json.dumps(row, sort_keys=True, default=str).encode() for row in keys.to_pylist()]


def _in_two(files: Any, number: int, passes: int) -> np.ndarray:
    """Hashes of one residue class that occur in more than one file, sorted."""
    unique = []
    for file in files:
        stored = np.memmap(file, np.uint64, mode="r") if file.stat().st_size else np.empty(0, np.uint64)
        parts = (stored[start : start + HASHES_AT_ONCE] for start in range(0, len(stored), HASHES_AT_ONCE))
        chosen = [part[part % np.uint64(passes) == number] for part in parts]
        unique.append(np.unique(np.concatenate(chosen or [stored])))
    values, counts = np.unique(np.concatenate(unique), return_counts=True)
    return values[counts > 1]


def _compare(splits: Mapping[str, Shards], suspects: np.ndarray) -> tuple[str, str, str] | None:
    """The first row among those of suspect hashes that really stands in two splits."""
    seen: dict[bytes, str] = {}
    for name, shards in splits.items():
        for keys in _keys(shards):
            rows = np.flatnonzero(np.isin(_hashes(keys), suspects))
            for text in _texts(keys.take(pa.array(rows))):
                if seen.setdefault(text, name) != name:
                    return seen[text], name, text.decode()
    return None
