"""The bidirectional ring: half of the data goes round one way, half the other way.

Problem: links carry both directions at once, a ring uses one of them.
Idea: every share of the ring in two halves, the second one against the first.
Cost: 2 (n-1) latency + (n-1)/n M / b, half of the ring's bandwidth term.
Source: as for the ring; two rings in opposite directions are what NCCL builds by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.ring import chain
from manyhands.collective.algorithms.ring_order import ring_order
from manyhands.collective.algorithms.routes import Routes, members_of, pick_root
from manyhands.collective.forest import Forest, Operation


def bidirectional_ring(
    cluster: Cluster,
    operation: Operation = "all_reduce",
    *,
    root: str | None = None,
    order: Sequence[str] | None = None,
) -> Forest:
    """A ring used in both directions; arguments as for `ring`."""
    routes = Routes(cluster)
    around = tuple(order) if order is not None else ring_order(routes, members_of(cluster))
    ways = (around, around[::-1])
    roots = [pick_root(cluster, root)] if operation in ("broadcast", "reduce") else list(cluster.ranks)
    share = Fraction(1, 2 * len(roots))
    trees = tuple(chain(routes, way, share, name, operation) for name in roots for way in ways)
    return Forest("bidirectional_ring", operation, members_of(cluster), trees)
