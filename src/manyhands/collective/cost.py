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
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from manyhands.cluster import Cluster
from manyhands.collective.blocks import Block
from manyhands.collective.forest import Edge, Forest, Tree
from manyhands.collective.partials import partials_of

OVERHEAD = 20e-6
"""Seconds that a message costs besides its bytes: system calls and a wake-up, about this much from Python."""
SMALLEST = 4096
"""Bytes of a chunk below which nothing is gained any more."""

Wire = tuple[str, str, str]
"""A physical link: source, target, rail."""
Neighbours = dict[tuple[str, str], dict[str, tuple[Wire, int]]]
"""Between two nodes, the links by rail and their bandwidth."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a forest is predicted to take for some amount of data."""

    seconds: float
    bandwidth_seconds: float
    """What the busiest link takes to carry its bytes."""
    latency_seconds: float
    """The rest: latencies, overheads, filling and draining the pipeline."""
    bottleneck: str
    """The busiest link and what it carries, in words."""
    chunks: int
    """Chunks that the largest tree is cut into."""
    idle: int
    """Links that carry nothing."""
    links: int


@dataclass
class _Hop:
    """An edge, or a part of one between two nodes that receive and send."""

    wires: list[tuple[Wire, float]]
    """The physical links and the part of the hop's data that each carries."""
    bandwidth: float
    latency: float
    copies: int
    """How many partial sums travel side by side."""


@dataclass
class _Ways:
    """A tree's hops, each with what comes before and after it."""

    share: float
    hops: list[_Hop] = field(default_factory=list)
    before: list[list[int]] = field(default_factory=list)
    """The hops that must be through before this one begins."""


def rate(forest: Forest, cluster: Cluster, *, contributions: Sequence[Block] | None = None) -> Fraction:
    """Bytes/s of data for large amounts of it, exactly: 1 / the greatest load / bandwidth of a link.

    Args:
        contributions: if given, sums are in the order of the aligned tree, and each rank's block of its leaves is
            this; reduce edges then carry as many partial sums as `partials` says.
    """
    carried = loads(forest, cluster, contributions=contributions)
    width = {(link.source, link.target, link.rail): link.bandwidth for link in cluster.links}
    if not carried:
        raise ValueError("a forest without edges has no rate")
    return 1 / max(load / width[wire] for wire, load in carried.items())


def loads(forest: Forest, cluster: Cluster, *, contributions: Sequence[Block] | None = None) -> dict[Wire, Fraction]:
    """How many times the data each physical link carries; links without load are left out."""
    wires = _wires(cluster)
    total: dict[Wire, Fraction] = {}
    for tree in forest.trees:
        copies = partials_of(forest, tree, contributions) if contributions is not None else {}
        for edge in tree.reduce:
            _carry(total, edge, tree.share * copies.get(edge.source, 1), wires)
        for edge in tree.broadcast:
            _carry(total, edge, tree.share, wires)
    return total


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
    largest = max(ways.share for ways in model.trees) * size
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
        idle=len(cluster.links) - len(model.load),
        links=len(cluster.links),
    )


class _Model:
    """A forest laid over the links of a cluster."""

    def __init__(
        self, forest: Forest, cluster: Cluster, contributions: Sequence[Block] | None, overhead: float
    ) -> None:
        self.overhead = overhead
        self.wires = _wires(cluster)
        self.width: dict[Wire, int] = {(link.source, link.target, link.rail): link.bandwidth for link in cluster.links}
        self.latency: dict[Wire, float] = {
            (link.source, link.target, link.rail): link.latency for link in cluster.links
        }
        self.forwards = {node.name for node in cluster.nodes if node.kind == "switch"}
        self.trees = [self._ways(forest, tree, contributions) for tree in forest.trees]
        self.load: dict[Wire, float] = {}
        for ways in self.trees:
            for hop in ways.hops:
                for wire, part in hop.wires:
                    self.load[wire] = self.load.get(wire, 0.0) + ways.share * part * hop.copies

    def busiest(self, size: int) -> tuple[str, float]:
        """The link that takes longest, in words, and its time."""
        if not self.load:
            return "nothing travels", 0.0
        wire = max(self.load, key=lambda wire: self.load[wire] / self.width[wire])
        source, target, rail = wire
        name = f"{source} -> {target}" + (f" ({rail})" if rail else "")
        words = f"{name}: {self.load[wire]:.3g} times the data at {format_rate(self.width[wire])}"
        return words, self.load[wire] * size / self.width[wire]

    def seconds(self, size: int, chunks: int) -> float:
        """The greater of the two bounds, every tree cut into so many chunks."""
        earliest: dict[Wire, float] = {}
        shortest: dict[Wire, float] = {}
        messages: dict[Wire, int] = {}
        longest = 0.0
        for ways in self.trees:
            chunk = ways.share * size / chunks
            steps = [hop.copies * (self.overhead + chunk / hop.bandwidth) for hop in ways.hops]
            start, rest = _ends(ways, [step + hop.latency for step, hop in zip(steps, ways.hops, strict=True)])
            if steps:
                whole = max(a + b for a, b in zip(start, rest, strict=True))
                longest = max(longest, whole + (chunks - 1) * max(steps))
            for at, hop in enumerate(ways.hops):
                onwards = rest[at] - steps[at]
                for wire, _ in hop.wires:
                    earliest[wire] = min(earliest.get(wire, math.inf), start[at])
                    shortest[wire] = min(shortest.get(wire, math.inf), onwards)
                    messages[wire] = messages.get(wire, 0) + chunks * hop.copies
        busy = (
            earliest[wire] + load * size / self.width[wire] + messages[wire] * self.overhead + shortest[wire]
            for wire, load in self.load.items()
        )
        return max([longest, *busy])

    def _ways(self, forest: Forest, tree: Tree, contributions: Sequence[Block] | None) -> _Ways:
        copies = partials_of(forest, tree, contributions) if contributions is not None else {}
        ways = _Ways(float(tree.share))
        into: dict[str, list[int]] = {}
        for edge in tree.reduce:
            last = self._append(ways, edge, copies.get(edge.source, 1), into.get(edge.source, []))
            into.setdefault(edge.target, []).append(last)
        result = {tree.root: into.get(tree.root, [])}
        for edge in tree.broadcast:
            result[edge.target] = [self._append(ways, edge, 1, result[edge.source])]
        return ways

    def _append(self, ways: _Ways, edge: Edge, copies: int, before: list[int]) -> int:
        """Add an edge's hops, one after the other; the index of the last."""
        stops, hop = (edge.source, *edge.via, edge.target), _Hop([], math.inf, 0.0, copies)
        for index, (source, target) in enumerate(pairwise(stops)):
            lanes = _lanes(edge, index, source, target, self.wires)
            width = sum(self.width[wire] for wire in lanes)
            hop.wires += [(wire, self.width[wire] / width) for wire in lanes]
            hop.bandwidth = min(hop.bandwidth, width)
            hop.latency += max(self.latency[wire] for wire in lanes)
            if target not in self.forwards or index == len(stops) - 2:
                ways.hops.append(hop)
                ways.before.append(before)
                before, hop = [len(ways.hops) - 1], _Hop([], math.inf, 0.0, copies)
        return before[0]


def _ends(ways: _Ways, times: list[float]) -> tuple[list[float], list[float]]:
    """When each hop can begin with its first chunk, and how long it takes from there to the end."""
    start, rest = [0.0] * len(times), list(times)
    for at, before in enumerate(ways.before):
        start[at] = max((start[b] + times[b] for b in before), default=0.0)
    for at in range(len(times) - 1, -1, -1):
        for b in ways.before[at]:
            rest[b] = max(rest[b], times[b] + rest[at])
    return start, rest


def _wires(cluster: Cluster) -> Neighbours:
    """Between neighbours, the links by rail."""
    wires: Neighbours = {}
    for link in cluster.links:
        wire = (link.source, link.target, link.rail)
        wires.setdefault((link.source, link.target), {})[link.rail] = (wire, link.bandwidth)
    return wires


def _lanes(edge: Edge, index: int, source: str, target: str, wires: Neighbours) -> list[Wire]:
    """The links that carry one step of an edge: the rail it names, and all there are where it names none."""
    rails = wires[source, target]
    if index == 0 and edge.rail in rails:
        return [rails[edge.rail][0]]
    return [wire for wire, _ in rails.values()]


def _carry(total: dict[Wire, Fraction], edge: Edge, amount: Fraction, wires: Neighbours) -> None:
    for index, (source, target) in enumerate(pairwise((edge.source, *edge.via, edge.target))):
        lanes = _lanes(edge, index, source, target, wires)
        width = sum(wires[source, target][wire[2]][1] for wire in lanes)
        for wire in lanes:
            part = amount * Fraction(wires[source, target][wire[2]][1], width)
            total[wire] = total.get(wire, Fraction(0)) + part


def format_rate(value: float | Fraction) -> str:
    """Bytes/s as people write them."""
    for unit, factor in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if value >= factor:
            return f"{float(value) / factor:.4g} {unit}"
    return f"{float(value):.4g} B/s"
