"""Families of additions on which models fail although random sums come out right.

Every family draws (rows, 2, places) digits, least significant first, for operands of at most `high` digits; the longer
operand has low ... high digits, all lengths equally likely.
"""

from collections.abc import Callable

import numpy as np

from hf_tasks.tasks.digits import draw_numbers

# Below this many digits a family has too few problems for a test split of its own.
SHORTEST = 3
# The share of zeros among the digits of a sparse number.
SPARSITY = 0.9

Span = tuple[int, int]


def nines_plus_one(low: int, high: int, places: int) -> np.ndarray:
    """99...9 + 1 and 1 + 99...9 for every length, the longest first: one carry through the whole number."""
    lengths = np.arange(high, low - 1, -1)
    nines = 9 * (np.arange(places) < lengths[:, None])
    ones = np.broadcast_to(np.arange(places) == 0, nines.shape)
    pairs = np.stack([np.stack([nines, ones], axis=1), np.stack([ones, nines], axis=1)], axis=1)
    return pairs.reshape(-1, 2, places).astype(np.uint8)


def _zeros(rng: np.random.Generator, count: int, span: Span, places: int) -> np.ndarray:
    """In equal parts x + 0, 0 + x, and two numbers nearly all of whose digits are 0."""
    lengths = rng.integers(span[0], span[1] + 1, (count, 2))
    digits = draw_numbers(rng, lengths, places)
    kind = rng.integers(0, 3, count)
    digits[kind == 0, 1] = 0
    digits[kind == 1, 0] = 0
    emptied = rng.random(digits.shape) < SPARSITY
    emptied &= np.arange(places) < lengths[:, :, None] - 1
    digits[(kind == 2)[:, None, None] & emptied] = 0
    return digits


def _carry_chain(rng: np.random.Generator, count: int, span: Span, places: int) -> np.ndarray:
    """Equal lengths; every pair of digits sums to 9 but the lowest pair, which sums to 10 or more."""
    lengths = rng.integers(span[0], span[1] + 1, count)
    first = draw_numbers(rng, lengths, places)
    top = lengths - 1
    # A 9 on top would leave the other number one digit short.
    first[np.arange(count), top] = rng.integers(1, 9, count)
    first[:, 0] = rng.integers(1, 10, count)
    second = (9 - first) * (np.arange(places) < lengths[:, None])
    second[:, 0] = rng.integers(10 - first[:, 0], 10)
    return np.stack([first, second], axis=1).astype(np.uint8)


def _unequal_lengths(rng: np.random.Generator, count: int, span: Span, places: int) -> np.ndarray:
    """One operand, the first or the second, has at most half as many digits as the other."""
    long = rng.integers(max(span[0], 2), span[1] + 1, count)
    short = rng.integers(1, long // 2 + 1)
    lengths = np.stack([long, short], axis=1)
    swap = rng.random(count) < 0.5
    lengths[swap] = lengths[swap][:, ::-1]
    return draw_numbers(rng, lengths, places)


FAMILIES: dict[str, Callable[[np.random.Generator, int, Span, int], np.ndarray]] = {
    "zeros": _zeros,
    "carry_chain": _carry_chain,
    "unequal_lengths": _unequal_lengths,
}
