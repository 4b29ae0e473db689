"""Every answer ever received, kept by what was asked.

- One file, only ever appended to: a JSON object a line, its key first. An answer counts once its line is on the disk.
- Opening reads no JSON: it notes where each line lies and which key it has. Answers are read when they are asked for,
  so that memory holds 100,000 keys and no text.
- A line that a kill or a full disk has cut is the last one; it is dropped on opening.
- One process a file: the lock (flock) is on the file itself, and goes with the process however that ends.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from hf_tasks.corpora.base import Reply
from hf_tasks.errors import UserError
from hf_tasks.tasks.hashing import hash_name

FILE = "replies.jsonl"
_HEAD, _TAIL = b'{"key": "', b"}\n"
_KEY = slice(len(_HEAD), len(_HEAD) + 32)


def reply_key(
    messages: Sequence[Mapping[str, str]],
    schema: Mapping[str, Any] | None,
    max_tokens: int,
    label: str,
    sampling: Mapping[str, Any],
    attempt: int,
) -> str:
    """32 hexadecimal digits of everything that an answer depends on: what was asked, of whom, how, and which time."""
    return f"{hash_name([*map(dict, messages)], schema, max_tokens, label, sampling, attempt):032x}"


class ReplyCache:
    """The replies of a folder, in `replies.jsonl`; made if it is not there.

    Use it in a `with` statement, or close it. Any thread may call it.

    Raises:
        UserError: another process has it open.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock_file(path)
            self._places, self._end = _places(path)
            os.ftruncate(self._file, self._end)
            _sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise
        self._writing = Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order in which their replies came."""
        return iter([*self._places])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which also gives up the lock."""
        os.close(self._file)

    def get(self, key: str) -> Reply | None:
        """The reply kept under a key; None if there is none, or if its line is damaged."""
        if (place := self._places.get(key)) is None:
            return None
        try:
            fields = json.loads(os.pread(self._file, place[1], place[0]))
            del fields["key"]
            return Reply(**fields)
        except (ValueError, TypeError, KeyError):
            return None

    def append(self, replies: Mapping[str, Reply]) -> None:
        """Keep replies under their keys. They are on the disk when this returns.

        Raises:
            OSError: the disk is full, or worse. What is in the file stays readable, and so do those of `replies` that
                were written whole.
        """
        lines = [json.dumps({"key": key, **asdict(reply)}).encode() + b"\n" for key, reply in replies.items()]
        with self._writing:
            try:
                self._write(b"".join(lines))
            except OSError:
                self._places, self._end = _places(self._file)
                with suppress(OSError):
                    os.ftruncate(self._file, self._end)
                raise
            for key, line in zip(replies, lines, strict=True):
                self._places[key] = (self._end, len(line))
                self._end += len(line)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)

    def _lock_file(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise UserError(
                f"{str(path)!r} is being written by another process; wait until it ends, or choose another folder"
            ) from None


def _places(path: Path | int) -> tuple[dict[str, tuple[int, int]], int]:
    """Key -> (offset, length) of its line in bytes, and where the last whole line ends."""
    places, offset = {}, 0
    with open(path, "rb", closefd=not isinstance(path, int)) as file:
        file.seek(0)
        for line in file:
            if not line.endswith(b"\n"):
                break
            if line.startswith(_HEAD) and line.endswith(_TAIL):
                places[line[_KEY].decode("ascii", "replace")] = (offset, len(line))
            offset += len(line)
    return places, offset


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file as lasting as its content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
