"""Two levels: every share crosses the border of a group once each way."""

from collections import Counter

import pytest
from clusters import BANDWIDTH

from manyhands.cluster import Cluster, Link, Node
from manyhands.collective.algorithms import hierarchical
from manyhands.collective.verify import verify
from manyhands.errors import UserError


def boxes(sizes: list[int], switched: bool = True) -> Cluster:
    """Hosts whose devices share a fast switch or a chain, and each have a slow port to a common network."""
    nodes, links = [Node(name="net", kind="switch")], []

    def join(a: str, b: str, width: int) -> None:
        links.extend(Link(source=s, target=t, bandwidth=width) for s, t in ((a, b), (b, a)))

    for host, size in enumerate(sizes):
        names = [f"h{host}.{i}" for i in range(size)]
        nodes += [Node(name=name, kind="device", host=f"h{host}") for name in names]
        if switched:
            nodes.append(Node(name=f"nv{host}", kind="switch"))
        for i, name in enumerate(names):
            if switched:
                join(name, f"nv{host}", 10 * BANDWIDTH)
            elif i:
                join(names[i - 1], name, 10 * BANDWIDTH)
            if switched or i == 0:
                join(name, "net", BANDWIDTH)
    return Cluster(name="boxes", nodes=tuple(nodes), links=tuple(links))


@pytest.mark.parametrize("operation", ["all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce"])
@pytest.mark.parametrize("sizes", [[4, 4], [2, 2, 2], [3, 1, 2], [4], [1, 1, 1]])
def test_borders_are_crossed_once(sizes, operation):
    cluster = boxes(sizes)
    forest = hierarchical(cluster, operation)
    verify(forest, cluster)
    host = {node.name: node.host for node in cluster.nodes}
    for tree in forest.trees:
        for edges in (tree.reduce, tree.broadcast):
            assert sum(host[edge.source] != host[edge.target] for edge in edges) == (len(sizes) - 1 if edges else 0)


def test_every_lane_uses_its_own_port():
    forest = hierarchical(boxes([4, 4]))
    out = Counter(edge[:2] for tree in forest.trees for edge in tree.reduce if edge.source[1] != edge.target[1])
    assert out == {(f"h{a}.{i}", f"h{1 - a}.{i}"): 1 for a in (0, 1) for i in range(4)}


def test_chains_where_ranks_would_relay():
    cluster = boxes([3, 3], switched=False)
    forest = hierarchical(cluster)
    verify(forest, cluster)
    for tree in forest.trees:
        inside = [edge for edge in tree.reduce if edge.source[:2] == edge.target[:2]]
        assert set(Counter(edge.target for edge in inside).values()) == {1}


def test_groups_must_hold_everyone_once():
    with pytest.raises(UserError, match="every rank must be in exactly one group"):
        hierarchical(boxes([2, 2]), groups=[["h0.0", "h0.1"], ["h1.0"]])
    given = hierarchical(boxes([2, 2]), groups=[["h0.0", "h1.0"], ["h0.1", "h1.1"]])
    verify(given, boxes([2, 2]))
