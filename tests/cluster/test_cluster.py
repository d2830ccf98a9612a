"""What a cluster refuses, and its parts."""

import pytest

from manyhands.cluster import Cluster, Link, Node, preset
from manyhands.errors import UserError

A, B = Node(name="a", kind="host"), Node(name="b", kind="host")
AB = Link(source="a", target="b", bandwidth=1)


@pytest.mark.parametrize(
    ("nodes", "links", "words"),
    [
        ((A, A), (), "node a occurs twice"),
        ((A, B), (AB, AB), "a -> b occurs twice"),
        ((A,), (AB,), "there is no node b"),
        ((A,), (Link(source="a", target="a", bandwidth=1),), "to itself"),
        ((A, B), (Link(source="a", target="b", bandwidth=0),), "bandwidth must be positive"),
        ((A, B), (Link(source="a", target="b", bandwidth=1, latency=-1.0),), "latency must not be negative"),
    ],
)
def test_what_is_no_cluster(nodes, links, words):
    with pytest.raises(UserError, match=words):
        Cluster(name="c", nodes=nodes, links=links)


def test_rails_are_links_of_their_own_and_add_up():
    links = [Link(source="a", target="b", bandwidth=speed, rail=rail) for speed, rail in ((3, "x"), (4, "y"))]
    assert Cluster(name="c", nodes=(A, B), links=tuple(links)).capacity == {("a", "b"): 7}


def test_a_subset_keeps_the_switches_that_lead_on():
    cluster = preset("dgx1v").subset(["gpu4", "gpu0"])
    assert cluster.ranks == ("gpu4", "gpu0")
    assert {"pcie0", "pcie2", "bridge0", "bridge1"} <= set(cluster.by_name)
    assert "pcie1" not in cluster.by_name  # its GPUs are gone, so it leads nowhere but back
    nvlink = preset("dgx1v").subset(["gpu0", "gpu4"], kinds=["nvlink"])
    assert set(nvlink.by_name) == {"gpu0", "gpu4"}
    assert len(nvlink.links) == 2
    with pytest.raises(UserError, match="no device or host gpu9"):
        preset("dgx1v").subset(["gpu9"])


def test_scaled_and_apart():
    cluster = preset("dgx1v").subset(["gpu0", "gpu3"], kinds=["nvlink"])
    scaled = cluster.scaled(1e-3)
    assert scaled.capacity == {("gpu0", "gpu3"): 46_000_000, ("gpu3", "gpu0"): 46_000_000}
    assert {node.host for node in scaled.nodes} == {"h0"}
    assert {node.host for node in scaled.apart().nodes} == {""}
    assert scaled.apart().links == scaled.links
