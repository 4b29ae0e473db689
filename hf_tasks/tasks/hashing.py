"""Counter-based randomness and hashing, both vectorised over rows.

- Every random number of a task comes from Philox, keyed by a hash of what is asked for and counted by block and chunk,
  so that any block can be made first, last, or in another process.
- The split of a problem is a hash of its digits. `mix64` maps 0 to 0 and absent places are 0, so that leading zeros and
  the width of a matrix cannot change it.
- All arithmetic here is modulo 2**64 on purpose.
"""

import hashlib
import json

import numpy as np

SPLITS = ("train", "validation", "test")
SPLIT_SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}
_BOUNDARIES = np.array([int(2**64 * share) for share in (SPLIT_SHARES["train"], 1 - SPLIT_SHARES["test"])], np.uint64)


def mix64(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words one to one (the finalizer of splitmix64, Steele et al. 2014); 0 stays 0."""
    z = values.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_places(places: np.ndarray) -> np.ndarray:
    """Hash the last axis of a matrix of small numbers, (..., W) -> (...) uint64; trailing zeros do not count."""
    multipliers = mix64(np.arange(1, places.shape[-1] + 1))
    return mix64(places.astype(np.uint64) @ multipliers)


def hash_name(*parts: object) -> int:
    """A 128-bit number for JSON-able values, the same in every process (Python's own `hash` is not)."""
    text = json.dumps(parts, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def stream(key: int, block: int, chunk: int) -> np.random.Generator:
    """The generator of one chunk of one block: 2**128 numbers that no other (key, block, chunk) shares."""
    words = np.array([key & (2**64 - 1), key >> 64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words, counter=np.array([0, 0, chunk, block], dtype=np.uint64)))


def split_codes(hashes: np.ndarray) -> np.ndarray:
    """Index into `SPLITS` for every hash: 90 % train, 5 % validation, 5 % test."""
    return np.searchsorted(_BOUNDARIES, hashes, side="right")


def noise_integers(noise: np.ndarray, columns: int, high: int) -> np.ndarray:
    """Integers in [0, high) that depend on the row's noise and the column alone, (n,) -> (n, columns) int64.

    A row's choices of layout are made this way, because rows of one block may be written in slices of any size.
    """
    steps = mix64(np.arange(1, columns + 1))
    return ((mix64(noise[:, None] + steps) >> np.uint64(32)) % np.uint64(high)).astype(np.int64)
