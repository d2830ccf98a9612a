"""Which samples a step trains on: a global cursor over one permutation per epoch.

Positions are counted over the endless row of permutations: position p is sample `permutation(epoch)[p % n]`
of epoch `p // n`. Step s takes the positions `[s * batch_size, (s + 1) * batch_size)`, whoever the workers are,
so every sample is used exactly once per epoch and a batch may run on from one epoch into the next.

The permutation of a dataset is a table, which is quick to look things up in; that of one with more than 16 million
samples is computed position by position (feistel.py), as a table of them would take long to make.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from manyhands.training.feistel import ROUNDS, places
from manyhands.training.seeds import stream_seed

TABLE = 1 << 24
"""The most samples whose order is a table: 0.13 GB, made in 3 s. A change changes the results of larger datasets."""


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """The order of the samples in an epoch, as a table.

    Sorts by raw Philox output, whose stream NumPy promises never to change (its `permutation` may).
    """
    key = stream_seed(seed, "permutation", epoch)
    return np.argsort(np.random.Philox(key=key).random_raw(samples), kind="stable")


def sample_indices(seed: int, samples: int, start: int, count: int) -> list[int]:
    """The dataset indices at positions `[start, start + count)`."""
    indices: list[int] = []
    while count > 0:
        epoch, position = divmod(start, samples)
        taken = _taken(seed, epoch, samples, position, min(position + count, samples))
        indices += taken
        start += len(taken)
        count -= len(taken)
    return indices


def _taken(seed: int, epoch: int, samples: int, first: int, end: int) -> list[int]:
    """The dataset indices at the positions from `first` up to `end` of an epoch."""
    if samples <= TABLE:
        return permutation(seed, epoch, samples)[first:end].tolist()
    keys = [stream_seed(seed, "permutation", epoch, number) for number in range(ROUNDS)]
    return places(keys, samples, np.arange(first, end, dtype=np.uint64)).tolist()
