"""How the data is cut, and when each edge of a tree carries its pieces. See compile.py."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from manyhands.collective.forest import Edge, Forest, Tree

NETWORK_CHUNK = 1 << 16
MEMORY_CHUNK = 1 << 18
"""Bytes of a chunk in memory: below, what a message costs is more than what pipelining gains."""
LEAD = 1 << 18
"""Bytes: 10 ms at 25 MB/s. With twice as many a mesh of such links takes 5 % longer for 16 MiB: what stands in queues
delays the acknowledgements of what comes the other way."""


def ranges(forest: Forest, numel: int, granularity: int = 16) -> list[tuple[int, int]]:
    """The elements `[start, stop)` of the data that each tree carries; parts of ranks are never rounded."""
    parts = len(forest.members) if forest.operation in ("reduce_scatter", "all_gather") else 1
    part = numel // parts
    cuts, before = [], Fraction(0)
    for tree in forest.trees:
        before += tree.share
        whole, rest = divmod(before * parts, 1)
        cuts.append(int(whole) * part + min(part, round(rest * part / granularity) * granularity))
    cuts[-1] = numel
    return list(zip([0, *cuts[:-1]], cuts, strict=True))


def count_chunks(forest: Forest, size: int, smallest: int = NETWORK_CHUNK) -> int:
    """A good number of chunks for `size` bytes of data.

    Enough to fill the pipeline, none below `smallest` bytes, and none above four times that: a rank that takes chunks
    from several others in turn leaves those idle whose next one does not fit into the buffers between them.
    """
    largest = max(float(tree.share) for tree in forest.trees) * size
    depth = max(_depth(tree) for tree in forest.trees)
    filling = min(int(largest / smallest), max(48, 24 * depth))
    return max(1, filling, int(largest / (4 * smallest)))


def count_ahead(forest: Forest, size: int, chunks: int, lead: int = LEAD) -> int:
    """How many chunks, besides one, are sent before the first must have been taken: `lead` bytes are on their way then.

    Else a link stands idle whenever a rank is late to take a chunk and to send the next: ranks that compute while
    they communicate wait some milliseconds for a core.
    """
    largest = max(float(tree.share) for tree in forest.trees) * size / chunks
    return max(0, min(chunks, int(lead / max(1.0, largest))) - 1)


class Levels(NamedTuple):
    """When each edge is used for the first chunk, in steps from the start."""

    reduce: dict[Edge, int]
    broadcast: dict[Edge, int]


def _depth(tree: Tree) -> int:
    levels = levels_of(tree)
    return 1 + max(max(levels.reduce.values(), default=0), max(levels.broadcast.values(), default=0))


def levels_of(tree: Tree, hop: int = 1) -> Levels:
    """When each edge is used for the first chunk. Edges into a node are used in their order, or at once.

    Args:
        hop: from one level to the next.
    """
    reduce: dict[Edge, int] = {}
    ready: dict[str, int] = {}
    for edge in tree.reduce:
        level = max(ready.get(edge.source, 0), ready.get(edge.target, hop) - hop)
        reduce[edge] = level
        ready[edge.target] = level + hop
    start = ready.get(tree.root, 0)
    broadcast: dict[Edge, int] = {}
    arrived = {tree.root: start}
    for edge in tree.broadcast:
        broadcast[edge] = arrived[edge.source]
        arrived[edge.target] = broadcast[edge] + hop
    return Levels(reduce, broadcast)
