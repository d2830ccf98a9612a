"""The ring visits everyone once, over the best order there is."""

from itertools import combinations, pairwise, permutations

import pytest
from clusters import BANDWIDTH, clusters, mesh_cluster, star_cluster
from hypothesis import given, settings

from manyhands.cluster import Cluster, Link, Node, preset
from manyhands.collective.algorithms import bidirectional_ring, ring
from manyhands.collective.algorithms.ring_order import EXACT, bottleneck, ring_order
from manyhands.collective.algorithms.routes import Routes
from manyhands.errors import UserError


def two_way(pairs: dict[tuple[str, str], int]) -> tuple[Link, ...]:
    return tuple(
        Link(source=a, target=b, bandwidth=width) for (x, y), width in pairs.items() for a, b in ((x, y), (y, x))
    )


@settings(max_examples=60)
@given(cluster=clusters(most=6, least=2))
def test_order_is_as_good_as_any_where_every_hop_is_a_link(cluster):
    """Where no hop shares a link, the order is the best of all."""
    routes, members = Routes(cluster), cluster.ranks
    if any(len(routes.between(a, b).links) > 1 for a, b in permutations(members, 2)):
        return
    best = max(bottleneck(routes, order) for order in permutations(members))
    assert bottleneck(routes, ring_order(routes, members)) == best


def test_order_is_the_best_on_a_dgx1v():
    """Also where the ring has to pass some links twice: all connected sets of 3 to 5 GPUs, against all orders."""
    machine, checked = preset("dgx1v"), 0
    for count in (3, 4, 5):
        for names in combinations(machine.ranks, count):
            part = machine.subset(names, kinds=["nvlink"])
            routes = Routes(part)
            try:
                order = ring_order(routes, part.ranks)
            except UserError:  # not connected
                continue
            best = max(bottleneck(routes, (names[0], *rest)) for rest in permutations(names[1:]))
            assert bottleneck(routes, order) == best
            checked += 1
    assert checked == 144


def test_order_avoids_the_slow_link():
    names = "abcdef"
    wide = {(names[i], names[(i + 1) % 6]): 10 for i in range(6)}
    every = {(a, b): 1 for i, a in enumerate(names) for b in names[i + 1 :]}
    every |= {tuple(sorted(pair)): width for pair, width in wide.items()}
    nodes = tuple(Node(name=name, kind="device") for name in "adbecf")
    cluster = Cluster(name="c", nodes=nodes, links=two_way(every))
    order = ring_order(Routes(cluster), cluster.ranks)
    assert bottleneck(Routes(cluster), order) == 10
    assert order[0] == "a" and set(order) == set(names)


def test_order_prefers_no_relay():
    """A path without a cycle: the ring has to come back through the others, on every link both ways."""
    links = two_way({("a", "b"): 10, ("b", "c"): 10, ("c", "d"): 10})
    cluster = Cluster(name="line", nodes=tuple(Node(name=n, kind="host") for n in "acbd"), links=links)
    routes = Routes(cluster)
    order = ring_order(routes, cluster.ranks)
    assert bottleneck(routes, order) == 10
    assert sum(len(routes.between(a, b).links) for a, b in pairwise((*order, order[0]))) == 6


def test_long_rings_are_ordered_greedily():
    count = EXACT + 6
    names = [f"d{i * 7 % count}" for i in range(count)]
    wide = {(f"d{i}", f"d{(i + 1) % count}"): 10 for i in range(count)}
    wide |= {(f"d{i}", f"d{(i + 5) % count}"): 1 for i in range(count)}
    cluster = Cluster(name="c", nodes=tuple(Node(name=n, kind="device") for n in names), links=two_way(wide))
    routes = Routes(cluster)
    assert bottleneck(routes, cluster.ranks) <= 1
    assert bottleneck(routes, ring_order(routes, cluster.ranks)) == 10


def test_shares_go_round_once():
    forest = ring(star_cluster(4), order=["h2", "h0", "h3", "h1"])
    around = [("h2", "h0"), ("h0", "h3"), ("h3", "h1"), ("h1", "h2")]
    assert [tree.root for tree in forest.trees] == ["h0", "h1", "h2", "h3"]
    for tree in forest.trees:
        assert len(tree.reduce) == len(tree.broadcast) == 3
        assert {edge[:2] for edge in (*tree.reduce, *tree.broadcast)} <= set(around)
        assert tree.reduce[-1].target == tree.root == tree.broadcast[0].source
        assert all(edge.via == ("switch",) for edge in tree.reduce)


def test_both_ways():
    forest = bidirectional_ring(star_cluster(3))
    used = {edge[:2] for tree in forest.trees for edge in tree.reduce}
    assert used == {(a, b) for a in forest.members for b in forest.members if a != b}


def test_no_path_is_said():
    cluster = mesh_cluster(3)
    nodes = (*cluster.nodes, Node(name="far", kind="host"))
    apart = Cluster(name="apart", nodes=nodes, links=cluster.links)
    with pytest.raises(UserError, match=r"no path leads from .* Leave one of them out"):
        ring(apart)


def test_the_widest_rail_is_taken():
    nodes = tuple(Node(name=n, kind="host") for n in "ab")
    links = tuple(
        Link(source=s, target=t, bandwidth=BANDWIDTH * (1 + (rail == "ib0")), rail=rail)
        for s, t in ("ab", "ba")
        for rail in ("eth0", "ib0")
    )
    forest = ring(Cluster(name="c", nodes=nodes, links=links))
    assert {edge.rail for tree in forest.trees for edge in tree.reduce} == {"ib0"}
