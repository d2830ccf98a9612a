"""Predictions against closed forms, and partial sums against brute force."""

import math
from fractions import Fraction

import pytest
from clusters import BANDWIDTH, clusters, mesh_cluster, star_cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.cluster import Cluster, Link, Node
from manyhands.collective.algorithms import (
    ALGORITHMS,
    bidirectional_ring,
    double_binary_tree,
    halving_doubling,
    ring,
    star,
)
from manyhands.collective.blocks import Block, assign_blocks
from manyhands.collective.cost import predict
from manyhands.collective.loads import fill, loads, rate
from manyhands.collective.partials import largest_nodes, one_leaf_each, partials
from manyhands.collective.tree import Node as TreeNode
from manyhands.errors import UserError

SIZE = 48_000_000
LATENCY = 1e-3


def whole(forest, cluster):
    """One chunk for each tree, no overhead: the textbook's case."""
    return predict(forest, cluster, SIZE, SIZE, overhead=0.0)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 12])
def test_ring(n):
    cluster = star_cluster(n, latency=LATENCY)
    expected = 2 * (n - 1) * LATENCY + 2 * (n - 1) / n * SIZE / BANDWIDTH
    cost = whole(ring(cluster), cluster)
    # Through a switch a chunk is not stored, so its time counts once per hop.
    assert cost.seconds == pytest.approx(expected)
    assert cost.bandwidth_seconds == pytest.approx(2 * (n - 1) / n * SIZE / BANDWIDTH)
    assert rate(ring(cluster), cluster) == Fraction(n * BANDWIDTH, 2 * (n - 1))
    half = whole(ring(cluster, "reduce_scatter"), cluster)
    assert half.seconds == pytest.approx(expected / 2)


@pytest.mark.parametrize("n", [3, 4, 8])
def test_bidirectional_ring(n):
    nodes = tuple(Node(name=f"h{i}", kind="host") for i in range(n))
    links = tuple(
        Link(source=f"h{i}", target=f"h{(i + step) % n}", bandwidth=BANDWIDTH, latency=LATENCY)
        for i in range(n)
        for step in (1, -1)
    )
    cluster = Cluster(name="ring", nodes=nodes, links=links)
    assert rate(bidirectional_ring(cluster), cluster) == Fraction(n * BANDWIDTH, n - 1)
    assert whole(bidirectional_ring(cluster), cluster).seconds == pytest.approx(
        2 * (n - 1) * LATENCY + (n - 1) / n * SIZE / BANDWIDTH
    )


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_halving_doubling(n):
    """On a full mesh round k takes latency + M / 2^k b, in both halves."""
    cluster = star_cluster(n, latency=LATENCY)
    assert rate(halving_doubling(cluster), cluster) == Fraction(n * BANDWIDTH, 2 * (n - 1))
    bound = whole(halving_doubling(cluster), cluster).seconds
    rounds = math.log2(n)
    assert 2 * (n - 1) / n * SIZE / BANDWIDTH <= bound <= 2 * rounds * LATENCY + 2 * (n - 1) / n * SIZE / BANDWIDTH
    small = predict(halving_doubling(cluster), cluster, 8, overhead=0.0)
    assert small.seconds == pytest.approx(2 * rounds * LATENCY, rel=1e-2)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_star(n):
    cluster = star_cluster(n, latency=LATENCY)
    one = whole(star(cluster, root="h0"), cluster)
    # All sums pass the root's link, and then the last result is sent on.
    assert one.bandwidth_seconds == pytest.approx((n - 1) * SIZE / BANDWIDTH)
    assert one.seconds == pytest.approx((n - 1) * SIZE / BANDWIDTH + SIZE / BANDWIDTH + 2 * LATENCY)
    mesh = mesh_cluster(n, latency=LATENCY)
    assert rate(star(mesh), mesh) == Fraction(n * BANDWIDTH, 2)
    assert whole(star(mesh), mesh).seconds == pytest.approx(2 * LATENCY + 2 * SIZE / (n * BANDWIDTH))


@pytest.mark.parametrize(("n", "chunks"), [(2, 1), (5, 1), (5, 10), (8, 100)])
def test_chain_with_chunks(n, chunks):
    """(n - 2 + chunks) steps of a chunk, the classic pipeline."""
    nodes = tuple(Node(name=f"h{i}", kind="host") for i in range(n))
    links = tuple(
        Link(source=f"h{a}", target=f"h{b}", bandwidth=BANDWIDTH, latency=LATENCY)
        for i in range(n)
        for a, b in ((i, (i + 1) % n), ((i + 1) % n, i))
        if n > 2 or i == 0
    )
    cluster = Cluster(name="chain", nodes=nodes, links=links)
    forest = ring(cluster, "broadcast", order=[node.name for node in nodes])
    overhead = 1e-4
    cost = predict(forest, cluster, SIZE, SIZE // chunks, overhead=overhead)
    step = overhead + SIZE / chunks / BANDWIDTH
    assert cost.chunks == chunks
    assert cost.seconds == pytest.approx((n - 1) * LATENCY + (n - 2 + chunks) * step)
    assert cost.bandwidth_seconds == pytest.approx(SIZE / BANDWIDTH)


def test_chunk_size_is_chosen_well():
    """For s = M/(cB) + o, (D - 1 + c) s is least at c = sqrt((D - 1) M / (B o)); powers of two come within 6 %."""
    n, overhead = 9, 1e-3
    cluster = star_cluster(n)
    forest = ring(cluster, "broadcast")
    cost = predict(forest, cluster, SIZE, overhead=overhead)
    best = math.sqrt((n - 2) * SIZE / (BANDWIDTH * overhead))
    optimum = (n - 2 + best) * (SIZE / best / BANDWIDTH + overhead)
    assert optimum <= cost.seconds <= 1.06 * optimum


def test_tree_beats_ring_for_small_data():
    cluster = star_cluster(16, latency=LATENCY)
    tree, around = (predict(make(cluster), cluster, 10) for make in (double_binary_tree, ring))
    assert tree.seconds < around.seconds / 2.5
    big_tree, big_ring = (predict(make(cluster), cluster, 10 * SIZE) for make in (double_binary_tree, ring))
    assert big_ring.seconds < big_tree.seconds


def test_bottleneck_in_words():
    cluster = star_cluster(4, speeds=[BANDWIDTH, BANDWIDTH, BANDWIDTH, BANDWIDTH // 2])
    cost = predict(ring(cluster), cluster, SIZE)
    assert cost.bottleneck in (
        "h3 -> switch: 1.5 times the data at 500 kB/s",
        "switch -> h3: 1.5 times the data at 500 kB/s",
    )
    assert cost.idle == 0 and cost.links == 8
    assert predict(ring(mesh_cluster(4)), mesh_cluster(4), SIZE).idle == 8


def test_parallel_rails_share_a_hop_behind_a_switch():
    nodes = (Node(name="a", kind="host"), Node(name="b", kind="host"), Node(name="s", kind="switch"))
    links = [Link(source=x, target=y, bandwidth=BANDWIDTH) for x, y in (("a", "s"), ("b", "s"), ("s", "a"))]
    links += [Link(source="s", target="b", bandwidth=width, rail=rail) for width, rail in ((1, "x"), (3, "y"))]
    cluster = Cluster(name="c", nodes=nodes, links=tuple(links))
    carried = loads(star(cluster, "broadcast", root="a"), cluster)
    assert carried[("s", "b", "x")] == Fraction(1, 4) and carried[("s", "b", "y")] == Fraction(3, 4)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(0, 20),
)
def test_water_is_level(links, amount):
    """All is spread, nothing is taken away, and whatever got some is at the level of the fullest of those."""
    carried = [(Fraction(load), width) for load, width in links]
    parts = fill(carried, Fraction(amount))
    assert sum(parts) == amount and min(parts) >= 0
    levels = [(load + part) / width for (load, width), part in zip(carried, parts, strict=True)]
    wet = {level for level, part in zip(levels, parts, strict=True) if part}
    assert len(wet) <= 1
    assert all(level >= max(wet) for level in levels if wet)


@settings(max_examples=60)
@given(cluster=clusters(most=6, least=2), name=st.sampled_from(list(ALGORITHMS)), size=st.integers(0, 10**8))
def test_bounds_are_kept(cluster, name, size):
    """Never faster than the busiest link or the latencies, never negative, and the rate is what the seconds say."""
    forest = ALGORITHMS[name](cluster)
    cost = predict(forest, cluster, size)
    assert cost.seconds >= cost.bandwidth_seconds >= 0 and cost.latency_seconds >= 0
    assert cost.bandwidth_seconds == pytest.approx(size / float(rate(forest, cluster)))
    assert predict(forest, cluster, 2 * size + 1).seconds >= cost.seconds


@settings(max_examples=100)
@given(st.data())
def test_partial_sums_by_brute_force(data):
    """As many as there are aligned nodes within the leaves whose parents are not."""
    total = data.draw(st.integers(1, 20))
    leaves = data.draw(st.sets(st.integers(0, total - 1)))
    nodes = {
        frozenset(range(index << level, min(total, (index + 1) << level)))
        for level in range(6)
        for index in range(total)
        if index << level < total
    }
    inside = [node for node in nodes if node <= leaves]
    maximal = [node for node in inside if not any(node < other for other in inside)]
    found = largest_nodes([Block(leaf, leaf + 1) for leaf in leaves], total)
    assert len(found) == len(maximal)
    assert {frozenset(range(n.start, min(total, (n.index + 1) << n.level))) for n in found} == set(maximal)
    assert all(isinstance(node, TreeNode) for node in found)


def test_partial_sums_on_edges():
    cluster = star_cluster(4)
    in_order = ring(cluster, order=["h0", "h1", "h2", "h3"])
    tree = in_order.trees[0]  # h1 -> h2 -> h3 -> h0
    assert [partials(in_order, tree, edge) for edge in tree.reduce] == [1, 2, 2]
    uneven = assign_blocks(8, 3)
    blocks = list(uneven)
    forest = star(star_cluster(3), root="h0")
    counts = {edge.source: partials(forest, forest.trees[0], edge, blocks) for edge in forest.trees[0].reduce}
    assert counts == {f"h{i}": len(blocks[i].pieces(8)) for i in (1, 2)}


def test_canonical_order_has_its_price():
    cluster = star_cluster(8)
    free, bound = (rate(ring(cluster), cluster, contributions=c) for c in (None, one_leaf_each(8)))
    assert bound < free
    assert rate(star(cluster), cluster, contributions=one_leaf_each(8)) == rate(star(cluster), cluster)
    slower = predict(ring(cluster), cluster, SIZE, contributions=one_leaf_each(8))
    assert slower.bandwidth_seconds == pytest.approx(SIZE / float(bound))


def test_choice_says_why():
    from manyhands.collective.choose import choose

    mesh = mesh_cluster(4, bandwidth=25_000_000, latency=50e-6)
    choice = choose(mesh, 16_800_000, candidates=["ring", "star", "tree"])
    assert choice.forest.algorithm == "star" and next(iter(choice.considered)) == "star"
    assert (
        choice.reason
        == "star: 336 ms for 16.8 MB, against 1.01 s for ring and 672 ms for tree; ring leaves 8 of 12 links idle"
    )


def test_choice_depends_on_size():
    from manyhands.collective.choose import choose

    cluster = star_cluster(16, bandwidth=10**9, latency=1e-3)
    names = ["ring", "tree", "halving_doubling"]
    small, large = (choose(cluster, size, candidates=names) for size in (1000, 10**10))
    assert small.forest.algorithm != "ring" and "latency decides" in small.reason
    assert large.cost.bandwidth_seconds == pytest.approx(2 * 15 / 16 * 10)


def test_canonical_choice_also_weighs_trees_that_do_not_fit_the_order():
    from manyhands.collective.choose import choose

    nodes = tuple(Node(name=f"h{i}", kind="host") for i in range(3))
    links = tuple(
        Link(source=a, target=b, bandwidth=BANDWIDTH)
        for a, b in (("h0", "h2"), ("h2", "h0"), ("h1", "h2"), ("h2", "h1"))
    )
    line = Cluster(name="line", nodes=nodes, links=links)  # h2 is between h0 and h1, which are to be added first
    choice = choose(line, SIZE, canonical=True, candidates=["packed", "ring"])
    assert set(choice.considered) <= {"packed", "packed without order", "ring"}
    assert "packed without order" in choice.considered
    best = predict(choice.forest, line, SIZE, contributions=one_leaf_each(3))
    assert best.seconds == choice.cost.seconds == min(cost.seconds for cost in choice.considered.values())


def test_choice_without_candidates():
    from manyhands.collective.choose import choose

    with pytest.raises(UserError, match="serve all_reduce, not broadcast"):
        choose(star_cluster(3), 1, "broadcast", candidates=["helper_hosts"])
    with pytest.raises(UserError, match="no algorithm butterfly"):
        choose(star_cluster(3), 1, candidates=["butterfly"])
