"""Writing files so that bad luck leaves nothing half-written."""

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or none: to a temporary name beside it, then one rename."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def public_name(source: str) -> str:
    """What reports and cards call a file, folder or name on the Hub: without the folders above it, on this machine."""
    return Path(source).resolve().name if Path(source).exists() else source


def hash_files(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits of the names and contents of files, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def full_disk_as_os_error(folder: Path) -> Iterator[None]:
    """Let a full disk be the OSError that it is: safetensors and torch.save raise errors of their own kinds.

    Raises:
        OSError: ENOSPC, with the folder as its file name.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from error
        # torch names neither the file nor the reason, only the place in its writer where bytes went missing.
        if "inline_container" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
