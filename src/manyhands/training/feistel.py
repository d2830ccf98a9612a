"""A permutation of a huge range that is computed by position, in no time and no memory.

Problem: to shuffle n samples by sorting takes 20 bytes and 0.2 us a sample, in every worker at every epoch's boundary:
for 10^9 of them, minutes and 20 GB.
Idea: split the 2k bits of a position into halves, and a few times over replace (left, right) by (right, left XOR
f(right)). Whatever f is, each round can be undone, so the whole is a bijection of [0, 4^k); keyed by f it looks random.
A value that is n or more goes through again until it is below n ("cycle walking"): a bijection of [0, n). As 4^k < 4n
that takes fewer than 4 turns on average.
Cost: rounds x turns, some 30 operations, a position.
Source: M. Luby, C. Rackoff, "How to construct pseudorandom permutations", 1988; J. Black, P. Rogaway, "Ciphers with
arbitrary finite domains", 2002. f is the mixer of SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
"""Four make a permutation that no test tells from a random one if f is random; twice as many, as f is not quite."""
_LARGEST = 1 << 62


def places(keys: Sequence[int], size: int, positions: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Where the permutation of `range(size)` that the keys choose has these positions.

    Args:
        keys: `ROUNDS` numbers below 2^64, one per round.
        size: at most 2^62.
        positions: below `size`; any shape, which the result has, too.
    """
    assert 0 < size <= _LARGEST and len(keys) == ROUNDS
    bits = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    found = _permute(keys, bits, positions)
    while (outside := found >= size).any():
        found[outside] = _permute(keys, bits, found[outside])
    return found


def _permute(keys: Sequence[int], bits: np.uint64, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The bijection of all numbers of `2 * bits` bits."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ np.uint64(key)) & mask)
    return left << bits | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result depends on every bit of the value. Products are those modulo 2^64."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
