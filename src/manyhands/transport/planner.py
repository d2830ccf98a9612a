"""Which forest a group uses for which operation and size.

Rank 0 decides, so that all decide alike whatever their hardware, and tells the others once per operation, root and
order of magnitude. On one host no plan is needed: everyone reaches everyone through memory, so each rank adds up
its share and hands it out.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from manyhands.cluster import Cluster
from manyhands.collective import Edge, Forest, Operation, Tree

SMALL = 32 << 10
"""Bytes below which few messages matter more than sharing the work."""
_LARGE = 16 << 20

Planner = Callable[[Operation, int, int], Forest]
"""(operation, bytes of data, root) -> forest. Members are named by `names`."""


def names(world: int) -> tuple[str, ...]:
    """What ranks are called where no cluster gives them names."""
    return tuple(f"rank{rank}" for rank in range(world))


def size_class(size: int) -> int:
    """Sizes are planned for by their order of magnitude (a power of four)."""
    return max(10, (max(1, size).bit_length() + 1) // 2 * 2)


def direct(members: tuple[str, ...]) -> Planner:
    """A planner for members that reach each other equally well: stars."""

    def plan(operation: Operation, size: int, root: int) -> Forest:
        if operation in ("broadcast", "reduce"):
            trees = [_path(members, root) if size > SMALL else _star(members, root)]
        elif operation == "all_reduce" and (size <= SMALL or len(members) == 1):
            trees = [_star(members, 0)]
        else:
            trees = [_star(members, rank) for rank in range(len(members))]
        return _forest("direct", operation, members, trees)

    return plan


def planned(cluster: Cluster) -> Planner:
    """A planner for members joined by the links of a cluster: what the cost model finds fastest."""

    def plan(operation: Operation, size: int, root: int) -> Forest:
        from manyhands.collective.choose import choose  # and with it SciPy's solvers

        rooted = operation in ("broadcast", "reduce")
        return choose(cluster, size, operation, root=cluster.ranks[root] if rooted else None).forest

    return plan


def describe(cluster: Cluster) -> str:
    """What is chosen for large data, and its predicted rate, in one line."""
    from manyhands.collective.choose import choose

    choice = choose(cluster, _LARGE)
    return f"{cluster.name}: {choice.reason}; predicted {_LARGE / choice.cost.seconds / 1e6:.0f} MB/s"


def ways(cluster: Cluster, own: str, peer: str) -> list[str]:
    """What tells the ways to a neighbour apart in plans: the rails of direct links, then switches between, in order."""
    rails = [link.rail for link in cluster.links if (link.source, link.target) == (own, peer)]
    onward = {link.source for link in cluster.links if link.target == peer}
    between = [link.target for link in cluster.links if link.source == own and link.target in onward]
    return list(dict.fromkeys([*rails, *(b for b in between if cluster.by_name[b].kind == "switch")]))


def _forest(algorithm: str, operation: Operation, members: tuple[str, ...], trees: list[Tree]) -> Forest:
    reduces = operation in ("all_reduce", "reduce_scatter", "reduce")
    broadcasts = operation in ("all_reduce", "all_gather", "broadcast")
    share = Fraction(1, len(trees))
    kept = [Tree(share, t.root, t.reduce if reduces else (), t.broadcast if broadcasts else ()) for t in trees]
    return Forest(algorithm, operation, members, tuple(kept))


def _star(members: tuple[str, ...], root: int) -> Tree:
    # Everyone begins with its right neighbour, so that no root is asked by all at once.
    others = [members[(root + i) % len(members)] for i in range(1, len(members))]
    center = members[root]
    return Tree(
        Fraction(1), center, tuple(Edge(m, center) for m in reversed(others)), tuple(Edge(center, m) for m in others)
    )


def _path(members: tuple[str, ...], root: int) -> Tree:
    """A tree that has all in a row: no rank moves the data more than once in and once out."""
    row = [members[(root + i) % len(members)] for i in range(len(members))]
    steps = list(pairwise(row))
    return Tree(
        Fraction(1),
        members[root],
        tuple(Edge(b, a) for a, b in reversed(steps)),
        tuple(Edge(a, b) for a, b in steps),
    )
