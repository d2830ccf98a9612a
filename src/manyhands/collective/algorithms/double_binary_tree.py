"""The double binary tree: two trees, so that nobody idles as a leaf.

Problem: a ring takes n-1 steps, which small messages feel; a binary tree takes log2 n, but its leaves, half of all
ranks, send nothing.
Idea: give each half of the data a tree of its own, built so that a rank with children in one tree is a leaf of the
other. Tree one is the in-order binary tree over the ranks (the parent of r is found in its lowest set bit, odd ranks
are leaves); tree two is its mirror image for even n, itself shifted by one for odd n. Nobody then has more than two
children in all, so each link of a rank carries at most M up and M down.
Cost: about 4 log2 n latency + 2 M / b (full-duplex links into a switch).
Source: Sanders, Speck, Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", Parallel
Computing 35 (2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.routes import Routes, grow, members_of, parts, pick_root, refuse
from manyhands.collective.forest import Forest, Operation, Tree


def double_binary_tree(cluster: Cluster, operation: Operation = "all_reduce", *, root: str | None = None) -> Forest:
    """Two complementary binary trees of half the data each.

    Args:
        root: of a broadcast or reduce; it stands above both trees. Default: the first rank.

    Raises:
        UserError: the operation scatters or gathers, or two ranks have no path between them.
    """
    if operation in ("reduce_scatter", "all_gather"):
        raise refuse("the double binary tree", operation, ["ring", "halving_doubling"])
    routes, members = Routes(cluster), members_of(cluster)
    top = pick_root(cluster, root) if operation in ("broadcast", "reduce") else None
    below = [name for name in _by_host(cluster) if name != top]
    adds, hands_out = parts(operation)
    trees = []
    for parents in two_trees(len(below)):
        up = {below[child]: below[parent] for child, parent in enumerate(parents) if parent >= 0}
        start = below[parents.index(-1)]
        if top is not None:
            up[start], start = top, top
        trees.append(grow(routes, Fraction(1, 2), start, up=up if adds else None, down=up if hands_out else None))
    return Forest("double_binary_tree", operation, members, tuple(trees) or (Tree(Fraction(1), members[0]),))


def two_trees(count: int) -> list[tuple[int, ...]]:
    """The parents of ranks 0 .. count-1 in either tree; -1 marks the root."""
    if not count:
        return []
    first = tuple(_parent(rank, count) for rank in range(count))
    if count % 2 == 0:
        places = [count - 1 - rank for rank in range(count)]
    else:
        places = [(rank - 1) % count for rank in range(count)]
    at = {place: rank for rank, place in enumerate(places)}
    second = tuple(-1 if first[place] < 0 else at[first[place]] for place in places)
    return [first, second]


def _parent(rank: int, count: int) -> int:
    if rank == 0:
        return -1
    bit = rank & -rank
    above = (rank ^ bit) | bit << 1
    return above if above < count else rank ^ bit


def _by_host(cluster: Cluster) -> Sequence[str]:
    """Ranks of a host side by side, so that the low levels of the tree stay inside it."""
    hosts: dict[str, list[str]] = {}
    for name in cluster.ranks:
        hosts.setdefault(cluster.by_name[name].host or name, []).append(name)
    return [name for names in hosts.values() for name in names]
