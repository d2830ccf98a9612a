"""Placement against brute force, and where the answer is plain to see."""

import math
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.cluster import Cluster, Link, Node, preset
from manyhands.errors import UsageError, UserError
from manyhands.plan import Layout, place

SHAPES = [(dp, pp, tp) for dp in (1, 2, 3) for pp in (1, 2, 3) for tp in (1, 2, 3) if 2 <= dp * pp * tp <= 6]


def make_cluster(bandwidths: dict[tuple[int, int], int], count: int) -> Cluster:
    """Hosts, every two joined by a link of their own."""
    links = []
    for (a, b), bandwidth in bandwidths.items():
        links += [Link(source=f"n{x}", target=f"n{y}", bandwidth=bandwidth) for x, y in ((a, b), (b, a))]
    return Cluster(
        name="random", nodes=tuple(Node(name=f"n{i}", kind="host") for i in range(count)), links=tuple(links)
    )


@st.composite
def meshes(draw):
    count = draw(st.integers(2, 6))
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    return make_cluster({pair: draw(st.integers(1, 5)) for pair in pairs}, count)


@st.composite
def fitting(draw):
    cluster = draw(meshes())
    dp, pp, tp = draw(st.sampled_from([shape for shape in SHAPES if math.prod(shape) <= len(cluster.ranks)]))
    schedule = draw(st.sampled_from(["1f1b", "interleaved"])) if pp > 1 else "1f1b"
    return cluster, Layout(dp=dp, pp=pp, tp=tp, schedule=schedule)


def merit(layout, nodes, capacity):
    """Slowest pair of tensor groups, of replicas, of neighbouring stages: from the coordinates alone."""
    slowest = {"tp": math.inf, "dp": math.inf, "pp": math.inf}
    for a in range(layout.workers):
        for b in range(layout.workers):
            here, there = layout.coordinates(a), layout.coordinates(b)
            differing = [i for i in range(3) if here[i] != there[i]]
            if len(differing) != 1:
                continue
            dimension = ("pp", "dp", "tp")[differing[0]]
            hop = abs(here.stage_rank - there.stage_rank)
            around = layout.schedule == "interleaved" and hop == layout.pp - 1
            if dimension != "pp" or hop == 1 or around:
                slowest[dimension] = min(slowest[dimension], capacity[nodes[a], nodes[b]])
    return slowest["tp"], slowest["dp"], slowest["pp"]


@settings(max_examples=40)
@given(fitting())
def test_as_good_as_trying_everything(case):
    cluster, layout = case
    placed = place(layout, cluster)
    assert len(set(placed)) == layout.workers
    best = max(merit(layout, nodes, cluster.capacity) for nodes in permutations(cluster.ranks, layout.workers))
    assert merit(layout, placed, cluster.capacity) == best


def test_equal_links_keep_the_order():
    cluster = preset("star-8")
    assert place(Layout(dp=2, pp=2, tp=2), cluster) == cluster.ranks
    assert place(Layout(tp=2), cluster) == cluster.ranks[:2]


def test_tensor_groups_stay_in_a_box():
    """Two boxes of eight GPUs, whose numbers go round between the boxes."""
    cluster = preset("2x-dgx-a100")
    mixed = [name for pair in zip(cluster.ranks[:8], cluster.ranks[8:], strict=True) for name in pair]
    shuffled = cluster.subset(mixed)
    host = {node.name: node.host for node in shuffled.nodes}
    for layout in (Layout(tp=8, dp=2), Layout(tp=8, pp=2), Layout(tp=2, dp=4, pp=2), Layout(tp=4, dp=2, pp=2)):
        placed = place(layout, shuffled)
        for dimension in ("tp", "dp") if layout.pp > 1 else ("tp",):
            assert all(len({host[placed[rank]] for rank in group}) == 1 for group in layout.groups(dimension)), layout


def test_tensor_pairs_have_the_double_links_of_a_dgx1v():
    cluster = preset("dgx1v")
    nvlinks = cluster.subset(cluster.ranks, kinds=["nvlink"])
    layout = Layout(tp=2, dp=4)
    placed = place(layout, nvlinks)
    assert all(nvlinks.capacity[placed[a], placed[b]] == 46 * 10**9 for a, b in layout.groups("tp"))


def test_stages_follow_a_line():
    """On a line whose names are mixed up every hop is between neighbours: others would have to pass data on."""
    cluster = preset("line-4")
    mixed = cluster.subset([cluster.ranks[i] for i in (2, 0, 3, 1)])
    placed = place(Layout(pp=4), mixed)
    at = [cluster.ranks.index(name) for name in placed]
    assert at in ([0, 1, 2, 3], [3, 2, 1, 0])


def test_nodes_that_are_shared():
    cluster = preset("star-2")
    a, b = cluster.ranks
    assert place(Layout(tp=2, pp=2), cluster, per_node=2) == (a, a, b, b)


def test_memory_joins_nodes_of_one_machine():
    nodes = tuple(Node(name=f"n{i}", kind="host", host=f"h{i // 2}") for i in (0, 2, 1, 3))
    links = [Link(source=x.name, target=y.name, bandwidth=5) for x in nodes for y in nodes if x.host != y.host]
    cluster = Cluster(name="two machines", nodes=nodes, links=tuple(links))
    assert place(Layout(tp=2, dp=2), cluster) == ("n0", "n1", "n2", "n3")


def test_large_ones_come_back():
    """Unequal links in numbers that cannot be searched to the end: an answer, whole, and the box still kept."""
    import random

    chance = random.Random(1)
    cluster = make_cluster({(a, b): chance.randint(1, 10**9) for a in range(16) for b in range(a)}, 16)
    placed = place(Layout(tp=4, dp=2, pp=2), cluster)
    assert sorted(placed) == sorted(cluster.ranks)


def test_refusals():
    with pytest.raises(UsageError, match=r"has 6 workers, and cluster star-4 has places for 4"):
        place(Layout(dp=3, pp=2), preset("star-4"))
    apart = Cluster(name="apart", nodes=(Node(name="a", kind="host"), Node(name="b", kind="host")), links=())
    with pytest.raises(UserError, match="no path"):
        place(Layout(dp=2), apart)
