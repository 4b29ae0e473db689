"""Many strings at once: a matrix of ASCII codes in which 0 means "no character here".

A row of text is laid out on a fixed grid of cells and the empty cells fall out at the end, so that rows of different
lengths are joined, reversed and interleaved with plain array operations.
"""

import numpy as np
import pyarrow as pa

Cells = np.ndarray  # (rows, cells) uint8


def literal(text: str, rows: int) -> Cells:
    """The same ASCII text in every row."""
    return np.broadcast_to(np.frombuffer(text.encode("ascii"), np.uint8), (rows, len(text)))


def join(*parts: Cells) -> Cells:
    """Write the parts one after the other."""
    return np.concatenate(parts, axis=1)


def interleave(first: Cells, second: Cells) -> Cells:
    """first[0] second[0] first[1] second[1] ...; `second` may have k cells for each of `first`, (rows, W, k)."""
    second = second if second.ndim == 3 else second[:, :, None]
    both = np.concatenate([first[:, :, None], second], axis=2)
    return both.reshape(len(both), both.shape[1] * both.shape[2])


def text_array(cells: Cells) -> pa.StringArray:
    """The rows as Arrow strings. The matrix must hold fewer than 2**31 characters."""
    kept = cells != 0
    offsets = np.zeros(len(cells) + 1, dtype=np.int32)
    np.cumsum(np.count_nonzero(kept, axis=1), out=offsets[1:])
    return pa.StringArray.from_buffers(len(cells), pa.py_buffer(offsets), pa.py_buffer(cells[kept]))
