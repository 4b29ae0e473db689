"""Writing files so that bad luck leaves nothing half-written."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none: to a temporary name beside it, then one rename."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
