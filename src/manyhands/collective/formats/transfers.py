"""A forest as one list of transfers, in an order that no execution can get stuck in.

Problem: formats that list steps per device and channel need the same order at both ends of each channel, and no
circle of devices that wait for each other.
Idea: give every edge the number of edges before it on the longest way to it, and sort by that, then by tree. Whatever
an edge waits for has a lower number, so among the transfers that are not done, the first can always go.
"""

from __future__ import annotations

from typing import NamedTuple

from manyhands.collective.forest import Forest


class Transfer(NamedTuple):
    """One edge of one tree."""

    level: int
    tree: int
    adds: bool
    """Whether the target adds what it receives to what it has, or takes it as the result."""
    source: int
    target: int
    """The rank that receives; `source` is the one that sends."""


def transfers(forest: Forest) -> list[Transfer]:
    """All edges of all trees, in an order in which they could happen one after the other."""
    found: list[Transfer] = []
    for index, tree in enumerate(forest.trees):
        ready: dict[str, int] = {}
        for edge in tree.reduce:
            level = max(ready.get(edge.source, 0), ready.get(edge.target, 0))
            ready[edge.target] = level + 1
            found.append(Transfer(level, index, True, forest.rank[edge.source], forest.rank[edge.target]))
        has = {tree.root: ready.get(tree.root, 0)}
        for edge in tree.broadcast:
            level = has[edge.source]
            has[edge.target] = level + 1
            found.append(Transfer(level, index, False, forest.rank[edge.source], forest.rank[edge.target]))
    return sorted(found, key=lambda transfer: transfer[:2])
