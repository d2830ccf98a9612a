"""Packing a large cluster box by box: trees across the boxes, trees within each box, composed.

Problem: the exact packing takes O(n) max-flows for each of O(n) links, seconds for 128 ranks and an hour for 1,024.

Idea: solve the boxes as single nodes with all their ports (the outer network), spread every outer tree over the ports
of its links in proportion, and within each box hand on from where a tree enters, with trees of that network alone.
The rate is the least of the outer one and of what each box can hand on; boxes that look alike are solved once. The
outer bound holds for the whole, as it takes the boxes for infinitely fast, and so does the bound of all ranks taken one
by one; where the rate meets the lesser, the composition is optimal, and the certificate says so.

Cost: one packing of as many nodes as boxes, one of each kind of box; and writing the trees down, which is most of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from manyhands.collective.forest import Operation
from manyhands.collective.packing.boxes import Boxes, boxes_of
from manyhands.collective.packing.entries import Entry, Weights, flipped
from manyhands.collective.packing.network import Arc, Network
from manyhands.collective.packing.spanning import Packing, pack_broadcasts, turned
from manyhands.collective.packing.splitting import Path

Mixture = list[tuple[Fraction, tuple[Path, ...]]]
"""Trees with the parts of a whole that they carry."""


def pack_hierarchical(network: Network, operation: Operation, root: int | None) -> Packing | None:
    """A composed packing. None: the cluster is not made of boxes, or a box is not connected in itself."""
    if operation in ("reduce", "reduce_scatter"):
        packing = pack_hierarchical(network.reversed(), "broadcast" if root is not None else "all_gather", root)
        return packing and turned(packing)
    boxes = boxes_of(network)
    both_ways = operation == "all_reduce"
    if boxes is None or (both_ways and not network.is_duplex):
        return None
    outer = pack_broadcasts(boxes.outer, None if both_ways else _outer_shares(boxes, network.ranks, root))
    if not outer.rate:
        return outer
    pieces = [piece for entry, weight in outer.weights.items() for piece in _with_ports(boxes, entry, weight)]
    rooted = [rooted for piece in pieces for rooted in _with_roots(boxes, piece, operation, root)]
    within = _within(boxes, rooted, both_ways)
    rate = min([outer.rate * boxes.outer.unit, *(rate for rate, _ in within)]) / network.unit
    if not rate:
        return None
    weights = _composed(boxes, rooted, [mixtures for _, mixtures in within], rate / outer.rate)
    if both_ways:
        weights = {Entry(e.root, flipped(e.broadcast), e.broadcast): weight for e, weight in weights.items()}
    bound, cuts = _bound(network, boxes, outer, operation, root)
    return Packing(weights, bound, cuts)


def _outer_shares(boxes: Boxes, ranks: int, root: int | None) -> dict[int, Fraction]:
    if root is not None:
        return {index: Fraction(1) for index, members in enumerate(boxes.ranks) if root in members}
    return {index: Fraction(len(members), ranks) for index, members in enumerate(boxes.ranks)}


Piece = tuple[Fraction, int, tuple[tuple[Path, int], ...]]
"""Weight, root (a box, later a rank), and physical paths, each with the box that it enters; parents first."""


def _with_ports(boxes: Boxes, entry: Entry, weight: Fraction) -> Iterator[Piece]:
    """Spread an outer tree over the ports of its links."""
    size = len(boxes.ranks)
    links = {arc: boxes.ports[arc] for path in entry.broadcast for arc in _ends(path)}
    for part, chosen in _cut({arc: [(share, link) for link, share in ports] for arc, ports in links.items()}):
        paths = []
        for path in entry.broadcast:
            middle = tuple(boxes.outside[node - size] for node in path[1:-1])
            first, last = (chosen[arc] for arc in _ends(path))
            paths.append(((first[0], *middle, last[-1]), path[-1]))
        yield weight * part, entry.root, tuple(paths)


def _ends(path: Path) -> tuple[Arc, Arc]:
    return (path[0], path[1]), (path[-2], path[-1])


def _with_roots(boxes: Boxes, piece: Piece, operation: Operation, root: int | None) -> Iterator[Piece]:
    """The piece with a rank of the root's box to start from: the box's first port, where any will do."""
    weight, box, paths = piece
    if operation == "broadcast":
        assert root is not None
        yield weight, root, paths
    elif operation == "all_reduce":
        yield weight, next(path[0] for path, _ in paths if path[0] in boxes.ranks[box]), paths
    else:
        for rank in boxes.ranks[box]:
            yield weight / len(boxes.ranks[box]), rank, paths


def _entered(boxes: Boxes, piece: Piece) -> dict[int, int]:
    """Where a piece enters each box."""
    _, root, paths = piece
    home = next(index for index, members in enumerate(boxes.ranks) if root in members)
    return {home: root} | {box: path[-1] for path, box in paths}


def _within(boxes: Boxes, pieces: Sequence[Piece], both_ways: bool) -> list[tuple[Fraction, dict[int, Mixture]]]:
    """For each box how many bytes/s it can hand on, and the trees for each rank where pieces enter."""
    demands: list[dict[int, Fraction]] = [{} for _ in boxes.ranks]
    for piece in pieces:
        for box, rank in _entered(boxes, piece).items():
            demands[box][rank] = demands[box].get(rank, Fraction(0)) + piece[0]
    total = sum((piece[0] for piece in pieces), Fraction(0))
    known: dict[object, tuple[Fraction, dict[int, Mixture]]] = {}
    found = []
    for inside, nodes, demand in zip(boxes.inside, boxes.nodes, demands, strict=True):
        shares = {nodes.index(rank): weight / total for rank, weight in sorted(demand.items())}
        key = (inside.unit, inside.ranks, tuple(sorted(inside.capacity.items())), tuple(shares.items()))
        if key not in known:
            known[key] = _box(inside, shares, both_ways)
        rate, mixtures = known[key]
        found.append((rate, {nodes[rank]: _renamed(mixture, nodes) for rank, mixture in mixtures.items()}))
    return found


def _box(inside: Network, shares: Mapping[int, Fraction], both_ways: bool) -> tuple[Fraction, dict[int, Mixture]]:
    if inside.ranks == 1:
        return Fraction(10**30), {0: [(Fraction(1), ())]}
    packing = pack_broadcasts(inside, shares, both_ways=both_ways)
    mixtures: dict[int, Mixture] = {root: [] for root in shares}
    for entry, weight in packing.weights.items():
        mixtures[entry.root].append((weight / (packing.rate * shares[entry.root]), entry.broadcast))
    return packing.rate * inside.unit, mixtures


def _renamed(mixture: Mixture, nodes: Sequence[int]) -> Mixture:
    return [(part, tuple(tuple(nodes[node] for node in path) for path in paths)) for part, paths in mixture]


def _composed(
    boxes: Boxes, pieces: Sequence[Piece], within: Sequence[Mapping[int, Mixture]], scale: Fraction
) -> Weights:
    """Each piece with a tree of every box, cut where a box changes trees."""
    weights: Weights = {}
    for piece in pieces:
        weight, root, paths = piece
        entered = _entered(boxes, piece)
        home = next(iter(entered))
        for part, chosen in _cut({box: within[box][rank] for box, rank in entered.items()}):
            tree = list(chosen[home])
            for path, box in paths:
                tree.append(path)
                tree += chosen[box]
            entry = Entry(root, (), tuple(tree))
            weights[entry] = weights.get(entry, Fraction(0)) + weight * part * scale
    return weights


def _cut(mixtures: Mapping) -> Iterator[tuple[Fraction, dict]]:
    """Cut several mixtures, each of parts that add up to 1, into common parts: one thing of each."""
    rows = {name: list(mixture) for name, mixture in mixtures.items()}
    left = Fraction(1)
    while left > 0:
        part = min((row[-1][0] for row in rows.values()), default=left)
        yield part, {name: row[-1][1] for name, row in rows.items()}
        for row in rows.values():
            much, thing = row.pop()
            if much > part:
                row.append((much - part, thing))
        left -= part


def _bound(
    network: Network, boxes: Boxes, outer: Packing, operation: Operation, root: int | None
) -> tuple[Fraction, tuple[tuple[int, frozenset[int]], ...]]:
    """The lesser of the bound across boxes and that of all ranks one by one."""
    across = outer.bound * boxes.outer.unit / network.unit
    into = dict.fromkeys(range(network.ranks), 0)
    for (_, v), amount in network.capacity.items():
        if v in into:
            into[v] += amount
    alone = {rank: Fraction(amount) for rank, amount in into.items() if rank != root}
    if operation == "all_gather":
        single = min(alone.values()) * network.ranks / (network.ranks - 1)
    else:
        single = min(alone.values())
    if operation == "all_reduce":
        single = min(single, sum(into.values()) / Fraction(2 * (network.ranks - 1)))
    if single < across:
        return single, tuple((0, frozenset([rank])) for rank in alone)
    return across, tuple(
        (layer, frozenset(rank for box in inside if box < len(boxes.ranks) for rank in boxes.ranks[box]))
        for layer, inside in outer.cuts
    )
