"""Which forest a group uses for which operation and size.

Rank 0 decides, so that all decide alike whatever their hardware, and tells the others once per operation, root and
order of magnitude. On one host no plan is needed: everyone reaches everyone through memory, so each rank adds up
its share and hands it out.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from manyhands.collective import Edge, Forest, Operation, Tree

SMALL = 32 << 10
"""Bytes: below, few messages matter more than sharing the work."""

Planner = Callable[[Operation, int, int], Forest]
"""(operation, bytes of data, root) -> forest. Members are named by `names`."""


def names(world: int) -> tuple[str, ...]:
    """What ranks are called where no cluster gives them names."""
    return tuple(f"rank{rank}" for rank in range(world))


def size_class(size: int) -> int:
    """Sizes are planned for by their order of magnitude (a power of four)."""
    return max(10, (max(1, size).bit_length() + 1) // 2 * 2)


def direct(members: tuple[str, ...]) -> Planner:
    """For members that reach each other equally well: stars."""

    def plan(operation: Operation, size: int, root: int) -> Forest:
        if operation in ("broadcast", "reduce"):
            trees = [_path(members, root) if size > SMALL else _star(members, root)]
        elif operation == "all_reduce" and (size <= SMALL or len(members) == 1):
            trees = [_star(members, 0)]
        else:
            trees = [_star(members, rank) for rank in range(len(members))]
        return _forest("direct", operation, members, trees)

    return plan


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
    """All in a row: no rank moves the data more than once in and once out."""
    row = [members[(root + i) % len(members)] for i in range(len(members))]
    steps = list(pairwise(row))
    return Tree(
        Fraction(1),
        members[root],
        tuple(Edge(b, a) for a, b in reversed(steps)),
        tuple(Edge(a, b) for a, b in steps),
    )
