"""What a row is before its first update: a pure function of (seed, row, column).

Problem: a table that exceeds memory cannot be filled with random numbers beforehand, and a row must not depend on
when, by whom or with which others it is first read. Idea: a counter-based generator, so every element is hashed from
its own place. The four 16-bit fields of the hash are four uniform numbers; their sum, centred and scaled, is
bell-shaped with mean 0 and standard deviation `std` (kurtosis 2.7, a normal distribution's is 3) and never beyond
3.46 `std`. Integers only, then one multiplication: the same bits on every machine, which no logarithm or cosine
promises.

Cost: one 64-bit hash per element, about 10 ns. Source: Steele, Lea and Flood 2014 (SplitMix64).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIELDS = np.uint64(0x0000FFFF0000FFFF)
_MEAN = 2 * 65535
_SPREAD = math.sqrt((2.0**32 - 1) / 3)
"""Standard deviation of the sum of four whole numbers drawn from 0..65535."""


def initial_rows(ids: NDArray[np.int64], width: int, seed: int, std: float) -> NDArray[np.float32]:
    """The rows `ids` [n] of a table nobody has trained: [n, width]."""
    key = hash_words(np.array([seed], dtype=np.uint64))
    places = ids.astype(np.uint64)[:, None] * np.uint64(width) + np.arange(1, width + 1, dtype=np.uint64)
    bits = hash_words(places * _GOLDEN + key)
    pairs = (bits & _FIELDS) + ((bits >> np.uint64(16)) & _FIELDS)
    sums = (pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))
    return ((sums.astype(np.float64) - _MEAN) * (std / _SPREAD)).astype(np.float32)


def hash_words(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every word over all 64 bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
