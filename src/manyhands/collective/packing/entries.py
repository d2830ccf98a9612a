"""From packed trees to the entries of a forest: physical paths, reduce and broadcast trees in pairs, exact shares.

An entry is one tree of the forest over physical paths. Trees of a root that adds up and trees of the same root that
hands out are cut into pieces of equal weight and paired. Where links are as fast backwards as forwards, an entry is an
undirected tree: any of its nodes may be the root, and the middle is taken because it is nearest to all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from manyhands.collective.forest import Forest, Operation, Tree
from manyhands.collective.packing.arborescences import Batch
from manyhands.collective.packing.network import Arc, Network
from manyhands.collective.packing.splitting import Path, Routes


class Entry(NamedTuple):
    """A root and the paths of its trees, in the order in which a forest wants them."""

    root: int
    reduce: tuple[Path, ...]
    broadcast: tuple[Path, ...]

    def loads(self) -> dict[Arc, int]:
        """How many times the entry sends its share over each link."""
        loads: dict[Arc, int] = {}
        for path in (*self.reduce, *self.broadcast):
            for arc in pairwise(path):
                loads[arc] = loads.get(arc, 0) + 1
        return loads


Weights = dict[Entry, Fraction]


def broadcasts(batches: Iterable[Batch], routes: Routes) -> dict[Entry, int]:
    """Trees over direct links as trees over physical paths; a tree is cut where a link has several paths."""
    entries: dict[Entry, int] = {}
    for batch in batches:
        choices = [routes.take(arc, batch.weight) for arc in batch.arcs]
        for weight, paths in _pieces(choices, batch.weight):
            entry = Entry(batch.root, (), tuple(paths))
            entries[entry] = entries.get(entry, 0) + weight
    return entries


def backwards(entry: Entry) -> Entry:
    """The tree with every link turned round: handing out becomes adding up."""
    return Entry(entry.root, flipped(entry.broadcast), flipped(entry.reduce))


def flipped(paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(path[::-1] for path in reversed(paths))


def mirrored(weights: Mapping[Entry, Fraction]) -> Weights:
    """Each tree to hand out together with itself backwards, out of its middle."""
    result: Weights = {}
    for entry, weight in weights.items():
        tree = centred(entry.broadcast)
        result[tree] = result.get(tree, Fraction(0)) + weight
    return result


def paired(reduces: Mapping[Entry, int], handouts: Mapping[Entry, int]) -> dict[Entry, int]:
    """Trees that add up with trees that hand out of the same root, whose weights are the same for each root."""
    result: dict[Entry, int] = {}
    for root in sorted({entry.root for entry in handouts}):
        ups = [(entry.reduce, weight) for entry, weight in reduces.items() if entry.root == root]
        downs = [(entry.broadcast, weight) for entry, weight in handouts.items() if entry.root == root]
        for weight, (up, down) in _pieces([ups, downs], sum(weight for _, weight in downs)):
            result[Entry(root, up, down)] = result.get(Entry(root, up, down), 0) + weight
    return result


def forest_of(network: Network, operation: Operation, weights: Mapping[Entry, Fraction]) -> Forest:
    """Entries in the order of their roots, heavy ones first, with shares that add up to 1."""
    total = sum(weights.values(), Fraction(0))
    ordered = sorted(weights.items(), key=lambda item: (item[0].root, -item[1], item[0]))
    trees = tuple(
        Tree(
            share=weight / total,
            root=network.names[entry.root],
            reduce=tuple(network.edge(path) for path in entry.reduce),
            broadcast=tuple(network.edge(path) for path in entry.broadcast),
        )
        for entry, weight in ordered
        if weight
    )
    return Forest(algorithm="packed", operation=operation, members=network.names[: network.ranks], trees=trees)


def _pieces(choices: Sequence[Sequence[tuple]], weight: int) -> list[tuple[int, list]]:
    """Cut several rows of (thing, weight), each of the same total, into common pieces: one thing of each row."""
    rows = [list(row) for row in choices]
    result = []
    while weight > 0:
        part = min((row[-1][1] for row in rows), default=weight)
        result.append((part, [row[-1][0] for row in rows]))
        for row in rows:
            thing, much = row.pop()
            if much > part:
                row.append((thing, much - part))
        weight -= part
    return result


def centred(paths: Sequence[Path]) -> Entry:
    """An undirected tree out of its middle, with a canonical order of its paths."""
    near: dict[int, list[Path]] = {}
    for path in paths:
        near.setdefault(path[0], []).append(path)
        near.setdefault(path[-1], []).append(path[::-1])
    for links in near.values():
        links.sort()
    longest = _from(near, _from(near, min(near))[-1][-1])
    back = {path[-1]: path[0] for path in longest}
    end = longest[-1][-1]
    trail = [end]
    while trail[-1] in back:
        trail.append(back[trail[-1]])
    outward = tuple(_from(near, trail[len(trail) // 2]))
    return Entry(outward[0][0], flipped(outward), outward)


def _from(near: Mapping[int, Sequence[Path]], root: int) -> list[Path]:
    """The paths of a tree in breadth-first order."""
    order: list[Path] = []
    seen = {root}
    queue = [root]
    for node in queue:
        for path in near[node]:
            if path[-1] not in seen:
                seen.add(path[-1])
                order.append(path)
                queue.append(path[-1])
    return order
