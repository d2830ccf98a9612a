"""How long a forest takes: the alpha-beta model with chunks that follow each other.

Problem: choose between schedules without running them.
Idea: two bounds that no execution beats, and that a pipelined one comes close to. A link is busy for what it carries,
and cannot begin before the first chunk has reached it nor be the end before the last has got from it to its goal. A
tree takes as long as one chunk on its longest way, plus the other chunks over its slowest hop. With s = overhead +
chunk / b on a hop,

    T = max( max over links  [first arrival] + [bytes / b + chunks * overhead] + latency + [way on from there],
             max over trees  [sum of (latency + s) on the longest way] + (chunks - 1) * max s )

Smaller chunks fill the pipeline sooner and cost more overhead; the best of a few sizes is taken. For one chunk per
share this is 2(n-1) (latency + M/(n b)) for a ring, 2 log2 n latency + 2 (n-1)/n M/b for halving-doubling.
Source: Hockney, Parallel Computing 20 (1994), for latency and bandwidth; the bounds are those of job-shop scheduling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from manyhands.cluster import Cluster
from manyhands.collective.blocks import Block
from manyhands.collective.forest import Edge, Forest, Tree
from manyhands.collective.loads import Wire, fill, lane_of, lanes, loads, rate
from manyhands.collective.partials import partials_of

__all__ = ["Cost", "format_rate", "loads", "predict", "rate"]

OVERHEAD = 20e-6
"""Seconds that a message costs besides its bytes: system calls and a wake-up, about this much from Python."""
SMALLEST = 4096
"""Bytes of a chunk below which nothing is gained any more."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a forest is predicted to take for some amount of data."""

    seconds: float
    bandwidth_seconds: float
    """What the busiest link takes to carry its bytes."""
    latency_seconds: float
    """Seconds of all else: latencies, overheads, filling and draining the pipeline."""
    bottleneck: str
    """The busiest link and what it carries, in words."""
    chunks: int
    """Chunks that the largest tree is cut into."""
    idle: int
    """Links that carry nothing."""
    links: int


def predict(
    forest: Forest,
    cluster: Cluster,
    size: int,
    chunk_bytes: int | None = None,
    *,
    contributions: Sequence[Block] | None = None,
    overhead: float = OVERHEAD,
) -> Cost:
    """What the forest takes for `size` bytes of data per rank.

    Args:
        chunk_bytes: what each tree's part of the data is cut into. Default: the best of a few sizes.
        contributions: as for `rate`.
        overhead: seconds per message besides its bytes.
    """
    model = _Model(forest, cluster, contributions, overhead)
    largest = model.largest * size
    if chunk_bytes is not None:
        counts = [max(1, math.ceil(largest / chunk_bytes))]
    else:
        most = max(1, int(largest // SMALLEST))
        counts = sorted({min(most, 1 << power) for power in range(11)})
    seconds, chunks = min((model.seconds(size, count), count) for count in counts)
    busiest, carrying = model.busiest(size)
    return Cost(
        seconds=seconds,
        bandwidth_seconds=carrying,
        latency_seconds=max(0.0, seconds - carrying),
        bottleneck=busiest,
        chunks=chunks,
        idle=int(np.count_nonzero(model.load == 0)),
        links=len(cluster.links),
    )


class _Model:
    """A forest laid over the links of a cluster, as arrays over all hops of all trees.

    A hop is an edge, or the part of one between two nodes that receive and send: switches only pass on.
    """

    def __init__(
        self, forest: Forest, cluster: Cluster, contributions: Sequence[Block] | None, overhead: float
    ) -> None:
        self.overhead = overhead
        self.names: list[Wire] = [(link.source, link.target, link.rail) for link in cluster.links]
        self.width = np.array([float(link.bandwidth) for link in cluster.links])
        hops = _Hops(cluster)
        for tree in forest.trees:
            hops.add(tree, partials_of(forest, tree, contributions) if contributions is not None else {})
        hops.settle()
        self.largest = max(float(tree.share) for tree in forest.trees)
        self.trees = len(forest.trees)
        self.share, self.bandwidth, self.latency, self.copies = np.array(hops.facts).reshape(-1, 4).T
        self.tree = np.array(hops.tree, dtype=np.intp)
        self.uses, self.used, part = _columns(hops.uses, 3)
        self.uses, self.used = self.uses.astype(np.intp), self.used.astype(np.intp)
        self.load = np.bincount(self.used, (self.share * self.copies)[self.uses] * part, len(self.names))
        first, then = _columns(hops.order, 2)
        self.order = _by_level(first.astype(np.intp), then.astype(np.intp), hops.level)

    def busiest(self, size: int) -> tuple[str, float]:
        """The link that takes longest, in words, and its time."""
        if not len(self.share):
            return "nothing travels", 0.0
        at = int(np.argmax(self.load / self.width))
        source, target, rail = self.names[at]
        name = f"{source} -> {target}" + (f" ({rail})" if rail else "")
        words = f"{name}: {self.load[at]:.3g} times the data at {format_rate(self.width[at])}"
        return words, float(self.load[at] * size / self.width[at])

    def seconds(self, size: int, chunks: int) -> float:
        """The greater of the two bounds, every tree cut into so many chunks."""
        if not len(self.share):
            return 0.0
        steps = self.copies * (self.overhead + self.share * size / chunks / self.bandwidth)
        times = steps + self.latency
        start, rest = np.zeros_like(times), times.copy()
        for first, then in self.order:
            np.maximum.at(start, then, start[first] + times[first])
        for first, then in reversed(self.order):
            np.maximum.at(rest, first, times[first] + rest[then])
        whole, slowest = np.zeros(self.trees), np.zeros(self.trees)
        np.maximum.at(whole, self.tree, start + rest)
        np.maximum.at(slowest, self.tree, steps)
        earliest, shortest = np.full((2, len(self.names)), np.inf)
        np.minimum.at(earliest, self.used, start[self.uses])
        np.minimum.at(shortest, self.used, (rest - steps)[self.uses])
        messages = np.bincount(self.used, self.copies[self.uses] * chunks, len(self.names))
        busy = earliest + self.load * size / self.width + messages * self.overhead + shortest
        return float(max(np.max(whole + (chunks - 1) * slowest), np.max(busy[np.isfinite(busy)])))


class _Hops:
    """Collects the hops of trees."""

    def __init__(self, cluster: Cluster) -> None:
        self.links = cluster.links
        self.number = {(link.source, link.target, link.rail): i for i, link in enumerate(cluster.links)}
        self.lanes = lanes(cluster)
        self.forwards = {node.name for node in cluster.nodes if node.kind == "switch"}
        self.facts: list[tuple[float, float, float, float]] = []
        """Share of the data, bandwidth, latency, and how many partial sums travel side by side."""
        self.tree: list[int] = []
        self.level: list[int] = []
        self.uses: list[tuple[int, int, float]] = []
        """Hop, link, and the part of the hop's data that it carries."""
        self.order: list[tuple[int, int]] = []
        """A hop, and one that waits for it."""
        self.open: dict[tuple[str, str], list[int]] = {}
        """For pairs of nodes with several links, the hops that leave open which of the links they take."""
        self.count = 0

    def add(self, tree: Tree, copies: Mapping[str, int]) -> None:
        share = float(tree.share)
        into: dict[str, list[int]] = {}
        for edge in tree.reduce:
            last = self._edge(share, edge, copies.get(edge.source, 1), into.get(edge.source, []))
            into.setdefault(edge.target, []).append(last)
        # What is handed out waits for all that is added up: through one hop that takes no time, not each for each.
        done = into.get(tree.root, [])
        result = {tree.root: [self._append((0.0, math.inf, 0.0, 0.0), done)] if done else []}
        for edge in tree.broadcast:
            result[edge.target] = [self._edge(share, edge, 1, result[edge.source])]
        self.count += 1

    def _edge(self, share: float, edge: Edge, copies: int, before: list[int]) -> int:
        """Add an edge's hops, one after the other; the index of the last."""
        stops, width, latency, index = (edge.source, *edge.via, edge.target), math.inf, 0.0, len(self.facts)
        for at, pair in enumerate(pairwise(stops)):
            taken, target = lane_of(edge, at, self.lanes[pair]), pair[1]
            if taken is None:
                self.open.setdefault(pair, []).append(index)
                numbers = [self.number[link.source, link.target, link.rail] for link in self.lanes[pair].values()]
            else:
                numbers = [self.number[taken]]
                self.uses.append((index, numbers[0], 1.0))
            width = min(width, sum(self.links[lane].bandwidth for lane in numbers))
            latency += max(self.links[lane].latency for lane in numbers)
            if target not in self.forwards or at == len(stops) - 2:
                before = [self._append((share, width, latency, copies), before)]
                width, latency, index = math.inf, 0.0, index + 1
        return before[0]

    def settle(self) -> None:
        """Spread what was left open over the links, as `loads` does."""
        carried = dict.fromkeys(self.number.values(), 0.0)
        for hop, lane, part in self.uses:
            carried[lane] += self.facts[hop][0] * self.facts[hop][3] * part
        for pair, hops in self.open.items():
            numbers = [self.number[link.source, link.target, link.rail] for link in self.lanes[pair].values()]
            amount = sum(self.facts[hop][0] * self.facts[hop][3] for hop in hops)
            parts = fill([(carried[lane], self.links[lane].bandwidth) for lane in numbers], amount)
            shares = [(lane, part / amount) for lane, part in zip(numbers, parts, strict=True) if part > 0]
            self.uses += [(hop, lane, share) for hop in hops for lane, share in shares]

    def _append(self, facts: tuple[float, float, float, float], before: list[int]) -> int:
        index = len(self.facts)
        self.facts.append(facts)
        self.tree.append(self.count)
        self.level.append(1 + max((self.level[first] for first in before), default=-1))
        self.order += [(first, index) for first in before]
        return index


def _columns(rows: Sequence[tuple[float, ...]], count: int) -> np.ndarray:
    return np.array(rows, dtype=float).reshape(-1, count).T


def _by_level(first: np.ndarray, then: np.ndarray, level: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which hop waits for which, in rounds such that what a round builds on is done before it."""
    levels = np.array(level, dtype=np.intp)[then]
    sorting = np.argsort(levels, kind="stable")
    cuts = np.flatnonzero(np.diff(levels[sorting])) + 1
    return list(zip(np.split(first[sorting], cuts), np.split(then[sorting], cuts), strict=True))


def format_rate(value: float | Fraction) -> str:
    """Bytes/s as people write them."""
    for unit, factor in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if value >= factor:
            return f"{float(value) / factor:.4g} {unit}"
    return f"{float(value):.4g} B/s"
