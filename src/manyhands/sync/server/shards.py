"""Which server holds which tensors.

Problem: every server should be done at the same time, so each should hold bytes in proportion to its bandwidth; but
a tensor that is whole on one server can be updated by any optimizer, and its norm is one number.
Idea: tensors over an eighth of a fair share are cut into runs, one per server, in proportion to the bandwidths (if the
optimizer works element by element); the rest goes, largest first, to the server that is least loaded for its
bandwidth. So no server has more than an eighth of a fair share too much.
Source: longest processing time first, Graham, SIAM J. Applied Mathematics 17 (1969); cutting large tensors, Li et
al., "Scaling distributed machine learning with the parameter server", OSDI 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_LINE = 16
"""Elements of a cache line: runs begin at multiples."""
_LARGE = 8


class Shard(NamedTuple):
    """A tensor, or a run of its elements, on a server."""

    tensor: int
    server: int
    start: int = 0
    stop: int | None = None
    """The end of the run of elements; None: the whole tensor."""


def assign(
    numels: Sequence[int], itemsizes: Sequence[int], weights: Sequence[float], *, cut: bool = True
) -> list[Shard]:
    """Shards in the order of the tensors, and of their elements.

    Args:
        numels, itemsizes: of the tensors, in elements and bytes.
        weights: per server, its bandwidth in any unit.
        cut: whether tensors may be cut.
    """
    sizes = [numel * itemsize for numel, itemsize in zip(numels, itemsizes, strict=True)]
    total, loads = sum(sizes), [0.0] * len(weights)
    shards: dict[int, list[Shard]] = {}
    for tensor, size in sorted(enumerate(sizes), key=lambda entry: -entry[1]):
        if cut and len(weights) > 1 and size * _LARGE * len(weights) > total and numels[tensor] >= 2 * _LINE:
            shards[tensor] = _runs(tensor, numels[tensor], weights)
        else:
            server = min(range(len(weights)), key=lambda s: ((loads[s] + size) / weights[s], s))
            shards[tensor] = [Shard(tensor, server)]
        for shard in shards[tensor]:
            count = numels[tensor] if shard.stop is None else shard.stop - shard.start
            loads[shard.server] += count * itemsizes[tensor]
    return [shard for tensor in sorted(shards) for shard in shards[tensor]]


def _runs(tensor: int, numel: int, weights: Sequence[float]) -> list[Shard]:
    runs, start, passed = [], 0, 0.0
    for server, weight in enumerate(weights):
        passed += weight
        last = server == len(weights) - 1
        stop = numel if last else int(numel * passed / sum(weights)) // _LINE * _LINE
        if stop > start:
            runs.append(Shard(tensor, server, start, stop))
            start = stop
    return runs if len(runs) > 1 else [Shard(tensor, runs[0].server)]
