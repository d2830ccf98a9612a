"""The ring: everyone talks to one neighbour only.

Problem: all-reduce M bytes over n ranks with one link out of and one into each.
Idea: cut the data into n shares. Share i sets out from the rank after its root, goes once around and is added up on the
way, so it is complete at the root; then it goes around once more. As a forest: n paths, each link used by all of them.
Cost: 2 (n-1) latency + 2 (n-1)/n M / b, b the slowest link. Optimal where the links form just a ring; links besides
it stay idle.
Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 69 (2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.ring_order import ring_order
from manyhands.collective.algorithms.routes import Routes, grow, members_of, parts, pick_root
from manyhands.collective.forest import Forest, Operation, Tree


def ring(
    cluster: Cluster,
    operation: Operation = "all_reduce",
    *,
    root: str | None = None,
    order: Sequence[str] | None = None,
) -> Forest:
    """A ring through all ranks.

    Args:
        root: of a broadcast or reduce, which go along the ring as a chain. Default: the first rank.
        order: the ranks around the ring. Default: the order whose slowest link is the fastest.

    Raises:
        UserError: two ranks have no path between them.
    """
    routes = Routes(cluster)
    around = tuple(order) if order is not None else ring_order(routes, members_of(cluster))
    if operation in ("broadcast", "reduce"):
        trees = (chain(routes, around, Fraction(1), pick_root(cluster, root), operation),)
    else:
        trees = tuple(chain(routes, around, Fraction(1, len(around)), name, operation) for name in cluster.ranks)
    return Forest("ring", operation, members_of(cluster), trees)


def chain(routes: Routes, around: Sequence[str], share: Fraction, root: str, operation: Operation) -> Tree:
    """One share's way around the ring: added up until it reaches the root, then handed on from there."""
    at = around.index(root)
    line = [*around[at:], *around[:at]]
    adds, hands_out = parts(operation)
    up = {source: line[(i + 1) % len(line)] for i, source in enumerate(line) if i > 0}
    down = {target: line[i] for i, target in enumerate(line[1:])}
    return grow(routes, share, root, up=up if adds else None, down=down if hands_out else None)
