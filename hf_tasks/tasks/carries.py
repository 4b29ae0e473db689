"""Operands on which carries travel far, or are large: rare among random numbers, and what models fail on first.

A carry entering a place whose digits sum to 9 leaves it again, and so does a borrow where both digits are equal. A
heavy row is made of stretches of such places. Below each stand two digits that set a carry (or borrow) off, by a sum of
10 to 18 (or a difference of 1 to 9), all equally likely, or their complements, which stop one. Drawn like others the
extremes would be rare, and once written they look like their neighbours: the 9 of 9 + 9 with a carry is that of a place
that only passes one on, the 0 of 0 + 0 that of 5 + 5. Networks that seldom saw them lose or invent that carry.
"""

import numpy as np

# A heavy row begins a new stretch at any place with a probability of its own, drawn from [0, this).
MOST_BREAKS = 0.5


def make_heavy(
    rng: np.random.Generator, digits: np.ndarray, lengths: np.ndarray, share: float, borrow: bool = False
) -> np.ndarray:
    """Turn a share of the rows into carry-heavy ones, keeping every operand's length.

    Args:
        rng: where the choices come from.
        digits: (rows, 2, places), least significant first.
        lengths: (rows, 2).
        share: the probability that a row is turned.
        borrow: for subtraction, where equal digits pass a borrow on.

    Returns:
        the new digits, (rows, 2, places). The shorter operand keeps its digits where a stretch does not begin.
    """
    rows = np.flatnonzero(rng.random(len(digits)) < share)
    if not len(rows):
        return digits
    places = digits.shape[2]
    starts = rng.random((len(rows), places)) < MOST_BREAKS * rng.random((len(rows), 1))
    starts[:, 0] = True
    # Of two equally long operands either one may be the one that is fitted to the other.
    order = np.argsort(lengths[rows] + 0.5 * rng.random((len(rows), 2)), axis=1)
    short, long = (digits[rows, order[:, side]] for side in (0, 1))
    short_length, long_length = (lengths[rows, order[:, side]][:, None] for side in (0, 1))
    place = np.arange(places)
    starts &= place < short_length

    excess = rng.integers(1, 10, starts.shape, dtype=digits.dtype)
    first = rng.integers(excess, 10, dtype=digits.dtype)
    second = first - excess if borrow else 9 + excess - first
    # Not at the top, where a complement may be 0.
    stops = (rng.random(starts.shape) < 0.5) & (place < short_length - 1)
    first, second = (np.where(stops, 9 - side, side) for side in (first, second))
    short = np.where(starts, first, short)
    fitted = np.where(starts, second, short if borrow else 9 - short)
    # The top digit of a number of several digits stays what it was where the fitted one would be 0.
    top_zero = (place == long_length - 1) & (fitted == 0) & (long_length > 1)
    fitted = np.where((place < long_length) & ~top_zero, fitted, long)

    digits = digits.copy()
    digits[rows, order[:, 0]], digits[rows, order[:, 1]] = short, fitted
    return digits


def make_large(rng: np.random.Generator, digits: np.ndarray, lengths: np.ndarray, share: float) -> np.ndarray:
    """Turn a share of the rows into ones of large digits, each the largest of three draws, keeping every length.

    In products all but small digits meet, and the sums of their columns come up to what random ones seldom reach.

    Args:
        rng, digits, lengths, share: as in `make_heavy`, of any number of operands.

    Returns:
        the new digits.
    """
    rows = np.flatnonzero(rng.random(len(digits)) < share)
    others = rng.integers(0, 10, (2, len(rows), *digits.shape[1:]), dtype=digits.dtype).max(axis=0)
    others *= np.arange(digits.shape[2]) < lengths[rows][..., None]
    digits = digits.copy()
    digits[rows] = np.maximum(digits[rows], others)
    return digits
