"""Exact arithmetic on matrices of decimal digits, one number a row, least significant digit first.

- Numbers have any length: none passes through a machine integer, only the sum of a column and what a division leaves.
- A number's places above its length are 0; the length of zero is 1.
- The carry chain of a calculation is the longest run of neighbouring places that each hand a carry (or borrow) upwards.
"""

from collections.abc import Sequence

import numpy as np

LARGEST_DIVISOR = 10**17  # ten times it, and a digit, is an int64


def draw_lengths(rng: np.random.Generator, spans: Sequence[tuple[int, int]], count: int, lengths: str) -> np.ndarray:
    """Lengths of operands, (count, operands) int64.

    "balanced": every tuple of lengths is equally likely. "range": as often as numbers drawn uniformly from all those
    with lo ... hi digits have that length. "paired": balanced, but in half of the rows all take the length of the
    first, as far as their span lets them.
    """
    columns = []
    for low, high in spans:
        sizes = np.arange(low, high + 1)
        # Numbers of n digits relative to 10**high; a single digit may also be zero.
        weights = np.where(sizes == 1, 10.0 ** (1 - high), 9.0 * 10.0 ** (sizes - 1.0 - high))
        weights = weights if lengths == "range" else np.ones(len(sizes))
        bounds = np.cumsum(weights) / weights.sum()
        columns.append(low + np.searchsorted(bounds[:-1], rng.random(count), side="right"))
    drawn = np.stack(columns, axis=1)
    if lengths == "paired":
        low, high = np.array(spans).T
        drawn = np.where(rng.random((count, 1)) < 0.5, np.clip(drawn[:, :1], low, high), drawn)
    return drawn


def draw_numbers(rng: np.random.Generator, lengths: np.ndarray, places: int) -> np.ndarray:
    """Uniform numbers of exactly the given lengths, (...,) -> (..., places) uint8; only 0 itself has 0 on top."""
    digits = rng.integers(0, 10, (*lengths.shape, places), dtype=np.uint8)
    digits *= np.arange(places) < lengths[..., None]
    leading = rng.integers(1, 10, lengths.shape, dtype=np.uint8)
    top = (lengths - 1)[..., None]
    leading = np.where(lengths > 1, leading, digits[..., 0])
    np.put_along_axis(digits, top, leading[..., None], axis=-1)
    return digits


def number_lengths(digits: np.ndarray) -> np.ndarray:
    """How many digits each number has, (..., places) -> (...) int32."""
    return np.maximum(((digits != 0) * np.arange(1, digits.shape[-1] + 1, dtype=np.int32)).max(axis=-1), 1)


def widen(digits: np.ndarray, places: int) -> np.ndarray:
    """The same numbers in a matrix of at least `places` places."""
    missing = max(places - digits.shape[-1], 0)
    return np.pad(digits, [(0, 0)] * (digits.ndim - 1) + [(0, missing)])


def column_sums(digits: np.ndarray) -> np.ndarray:
    """The sum of all operands place by place, (rows, operands, places) -> (rows, places) int32, for `settle`."""
    columns = digits[:, 0].astype(np.int32)
    for operand in range(1, digits.shape[1]):
        columns += digits[:, operand]
    return columns


def settle(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Carry the sums of columns upwards, (rows, places) -> digits (rows, places) uint8 and carry chain (rows,) int32.

    The places must suffice for the result: a carry out of the last one is lost.
    """
    digits = np.empty(columns.shape, dtype=np.uint8)
    carry = np.zeros(len(columns), dtype=columns.dtype)
    run = np.zeros(len(columns), dtype=np.int32)
    chain = run.copy()
    for place in range(columns.shape[1]):
        total = columns[:, place] + carry
        carry = total // 10
        digits[:, place] = total - 10 * carry
        run = (run + 1) * (carry > 0)
        np.maximum(chain, run, out=chain)
    return digits, chain


def _difference(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """first - second with borrows: digits modulo 10**places, the borrow out of the top (bool), the borrow chain."""
    digits = np.empty(first.shape, dtype=np.uint8)
    borrow = np.zeros(len(first), dtype=np.int8)
    run = np.zeros(len(first), dtype=np.int32)
    chain = run.copy()
    for place in range(first.shape[1]):
        total = first[:, place].astype(np.int8) - second[:, place].astype(np.int8) - borrow
        borrow = (total < 0).astype(np.int8)
        digits[:, place] = total + 10 * borrow
        run = (run + 1) * borrow
        np.maximum(chain, run, out=chain)
    return digits, borrow.astype(bool), chain


def subtract(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """|first - second| (rows, places), whether it is negative (rows,) and its borrow chain: larger minus smaller."""
    negative = _difference(first, second)[1]
    swap = negative[:, None]
    digits, _, chain = _difference(np.where(swap, second, first), np.where(swap, first, second))
    return digits, negative, chain


def remainder(digits: np.ndarray, divisor: int, places: int) -> np.ndarray:
    """Numbers modulo a divisor of at most LARGEST_DIVISOR, (rows, W) -> (rows, places), by Horner's rule."""
    left = np.zeros(len(digits), dtype=np.int64)
    for place in reversed(range(digits.shape[1])):
        left = (10 * left + digits[:, place]) % divisor
    return (left[:, None] // 10 ** np.arange(places, dtype=np.int64) % 10).astype(np.uint8)


def product_columns(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Column sums of the school multiplication, (rows, W) x (rows, W) -> (rows, 2W) int32, for `settle`."""
    rows, places = first.shape
    columns = np.zeros((rows, 2 * places), dtype=np.int32)
    for place in range(places):
        columns[:, place : place + places] += first[:, place, None].astype(np.int32) * second
    return columns


def horner(first: np.ndarray, second: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """first x second by Horner's rule with saved carries, one digit of `first` every three steps, the highest first.

    A number is two rows of digits, sums s and carries out of each place: the sum of s_k 10^k + out_k 10^(k + 1). Of
    three steps the first multiplies each digit of `second` by the digit at hand, which gives ones o and tens t, and
    brings carries up: total u_k = s_k + out_(k-1). The second adds the tens: subtotal v_k = u_k + t_k. The third takes
    that times ten and adds the ones: at place k,

        v_(k-1) + o_k  <=  11 + 8 + 9,

    whose last digit is the new sum and whose first the new carry: none runs through the number. Where no digit is left,
    v_k stays in its place. So every step is a small table, and looks at most one place down.

    Args:
        first, second: (rows, W). steps: how many states to tell.

    Returns:
        state after state. Of the first of three steps `ones`, `tens` and `total`, of the second `subtotal`, of the
        third `sum` and `carry` (out of the place), (rows, steps, 2 W) each; of the third also `multiplier` (rows,
        steps, W + 1): the digits of `first` as they move up to where they are used, the last being the one at hand, 10
        where there is none; and `end` (rows, steps, 2 W + 1): 1 at the place behind the number, which times ten moves
        from W to 2 W, else 0. -100 at other steps.
    """
    rows, places = first.shape
    waiting, padded = np.pad(first, [(0, 0), (0, 1)], constant_values=10), np.pad(second, [(0, 0), (0, places)])
    last = np.zeros((rows, 2 * places), dtype=np.int64)
    carry = last.copy()
    names = ("ones", "tens", "total", "subtotal", "sum", "carry")
    told = {name: np.full((rows, steps, 2 * places), -100) for name in names}
    told["multiplier"], told["end"] = (np.full((rows, steps, width), -100) for width in (places + 1, 2 * places + 1))
    for loop in range(-(-steps // 3)):
        digit = waiting[:, -1:]
        tens, ones = np.divmod(digit % 10 * padded, 10)
        total = last + _higher(carry)
        subtotal = total + tens
        carry, last = np.divmod(np.where(digit == 10, subtotal, _higher(subtotal) + ones), 10)
        waiting = np.pad(waiting, [(0, 0), (1, 0)], constant_values=10)[:, :-1]
        end = np.arange(2 * places + 1) == places + min(loop, places)
        states = (
            {"ones": ones, "tens": tens, "total": total},
            {"subtotal": subtotal},
            {"sum": last, "carry": carry, "multiplier": waiting, "end": end},
        )
        for step, state in enumerate(states[: steps - 3 * loop]):
            for name, values in state.items():
                told[name][:, 3 * loop + step] = values
    return told


def _higher(digits: np.ndarray) -> np.ndarray:
    """Every digit one place up."""
    return np.pad(digits, [(0, 0), (1, 0)])[:, :-1]


def from_text(numbers: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Strings of ASCII digits, least significant first, as one row: (1, operands, places) and lengths (1, operands)."""
    places = max(map(len, numbers))
    rows = [np.frombuffer(number.ljust(places, "0").encode("ascii"), np.uint8) - ord("0") for number in numbers]
    digits = np.stack(rows)[None]
    return digits, number_lengths(digits)


def at_least(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether first >= second, (rows, places) x (rows, places) or one number (places,) -> (rows,) bool."""
    return ~_difference(first, np.broadcast_to(second, first.shape))[1]


def draw_below(rng: np.random.Generator, bound: np.ndarray, count: int) -> np.ndarray:
    """Numbers uniform in [0, bound), (places,) -> (count, places) uint8, by drawing again until enough are below it."""
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < count:
        digits = rng.integers(0, 10, (count, len(bound)), dtype=np.uint8)
        kept.append(digits[~at_least(digits, bound)])
    return np.concatenate(kept)[:count]
