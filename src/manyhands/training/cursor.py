"""Which samples a step trains on: a global cursor over one permutation per epoch.

Positions are counted over the endless row of permutations: position p is sample `permutation(epoch)[p % n]`
of epoch `p // n`. Step s takes the positions `[s * batch_size, (s + 1) * batch_size)`, whoever the workers are,
so every sample is used exactly once per epoch and a batch may run on from one epoch into the next.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from manyhands.training.seeds import stream_seed


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """The order of the samples in an epoch.

    Sorts by raw Philox output, whose stream NumPy promises never to change (its `permutation` may).
    """
    key = stream_seed(seed, "permutation", epoch)
    return np.argsort(np.random.Philox(key=key).random_raw(samples), kind="stable")


def sample_indices(seed: int, samples: int, start: int, count: int) -> list[int]:
    """The dataset indices at positions `[start, start + count)`."""
    indices: list[int] = []
    while count > 0:
        epoch, position = divmod(start, samples)
        taken = permutation(seed, epoch, samples)[position : position + count].tolist()
        indices += taken
        start += len(taken)
        count -= len(taken)
    return indices
