"""Random numbers as hashes of what they are for, instead of generators, so that no draw depends on another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Words = NDArray[np.uint64]


def random_bits(*parts: int | IntArray | Words) -> Words:
    """64 random bits that depend on all parts; the parts broadcast.

    Each part goes through the output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, OOPSLA 2014), chained. A generator object for each example would cost more than its whole list.
    """
    bits = np.zeros(1, dtype=np.uint64)
    for part in parts:
        bits = bits + np.uint64(0x9E3779B97F4A7C15) + np.asarray(part).astype(np.uint64)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
    return bits


def uniform(bits: Words) -> NDArray[np.float64]:
    """The upper 53 bits as a number in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def pick(cumulated: IntArray, numbers: NDArray[np.float64]) -> IntArray:
    """The item whose share of the total weight holds the number, for numbers in [0, 1)."""
    items: IntArray = np.searchsorted(cumulated, np.floor(numbers * cumulated[-1]), side="right")
    return items


def shuffled(keys: Words, count: int) -> IntArray:
    """A uniformly random order of `count` places for each key, [keys, count]."""
    places = np.arange(count, dtype=np.uint64)
    return np.argsort(random_bits(keys[:, None], places[None, :]), axis=1)


def sample(users: IntArray, count: int | None, seed: int, purpose: int) -> IntArray:
    """A random sample of `count` users, ascending; all if `count` is None or there are not more."""
    if count is None or count >= len(users):
        return users
    return np.sort(users[np.argsort(random_bits(seed, users, purpose), kind="stable")[:count]])
