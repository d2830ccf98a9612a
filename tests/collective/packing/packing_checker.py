"""A strict checker of forests against clusters, independent of how they were made: it looks at links and sums only."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise


def check(forest, cluster, rate=None, root=None):
    """Assert that a forest does its operation and that its load fits; returns its exact rate in bytes/s."""
    members = set(forest.members)
    assert forest.members == cluster.ranks
    assert sum(tree.share for tree in forest.trees) == 1
    up = forest.operation in ("all_reduce", "reduce_scatter", "reduce")
    down = forest.operation in ("all_reduce", "all_gather", "broadcast")
    for tree in forest.trees:
        assert tree.share > 0
        _check_direction(tree.reduce, tree.root, members, cluster, "can_add") if up else _empty(tree.reduce)
        backward = [edge._replace(source=edge.target, target=edge.source) for edge in reversed(tree.broadcast)]
        _check_direction(backward, tree.root, members, cluster, "can_copy") if down else _empty(tree.broadcast)
    _check_roots(forest, root)
    widths = {(link.source, link.target, link.rail): link.bandwidth for link in cluster.links}
    widths |= {(u, v, None): width for (u, v), width in cluster.capacity.items()}
    possible = min(widths[link] / load for link, load in loads(forest, cluster).items())
    if rate is not None:
        assert possible >= rate, f"a link is overloaded: {float(possible)} < {float(rate)}"
    return possible


def _empty(edges):
    assert edges == ()


def _check_direction(edges, root, members, cluster, ability):
    """The edges lead every member to the root, once; each follows those into its source; only the able join."""
    sent, joined = set(), Counter()
    for edge in edges:
        assert edge.source not in sent, "a node sends twice"
        assert edge.target not in sent, "a node sends before all has arrived"
        assert edge.source in members or joined[edge.source], "a helper sends nothing"
        sent.add(edge.source)
        joined[edge.target] += 1
    assert root not in sent
    for name, children in joined.items():
        node = cluster.by_name[name]
        assert getattr(node, ability) or (children == 1 and name != root), f"{name} {ability}: no"
    assert sent | {root} >= members
    assert (set(joined) | {root}) - sent == {root}, "something leads nowhere"


def _check_roots(forest, root):
    roots = [tree.root for tree in forest.trees]
    if forest.operation in ("broadcast", "reduce"):
        assert set(roots) == {root}
    if forest.operation in ("all_gather", "reduce_scatter"):
        order = [forest.members.index(name) for name in roots]
        assert order == sorted(order)
        for name in forest.members:
            shares = sum(tree.share for tree in forest.trees if tree.root == name)
            assert shares == Fraction(1, len(forest.members))


def loads(forest, cluster):
    """Share of the data over each link; every hop of `via` counts, and must exist.

    An edge names the rail of its first hop only; parallel links further on count as one, whose rail is None.
    """
    between = Counter((link.source, link.target) for link in cluster.links)
    rail_of = {(link.source, link.target): link.rail for link in cluster.links}
    total = Counter()
    for tree in forest.trees:
        for edge in (*tree.reduce, *tree.broadcast):
            stops = (edge.source, *edge.via, edge.target)
            for number, (u, v) in enumerate(pairwise(stops)):
                assert between[u, v], f"there is no link {u} -> {v}"
                rail = rail_of[u, v] if between[u, v] == 1 else edge.rail if number == 0 else None
                total[u, v, rail] += tree.share
            for name in edge.via:
                assert not cluster.by_name[name].holds_data, "a rank does not forward"
    return total
