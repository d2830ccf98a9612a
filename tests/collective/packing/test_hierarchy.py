"""Boxes packed one by one and composed: feasible always, optimal where the certificate says so."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_checker import check
from packing_clusters import a100_boxes, both

from manyhands.cluster import Cluster, Node
from manyhands.collective.packing import packed
from manyhands.collective.packing.entries import forest_of
from manyhands.collective.packing.hierarchy import pack_hierarchical
from manyhands.collective.packing.network import network_of
from manyhands.collective.packing.spanning import pack_spanning

OPERATIONS = ["all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce"]


@st.composite
def boxed(draw):
    """Two or three boxes of one to four devices, joined by one or two switches; links inside and out of any width."""
    switches = [f"s{i}" for i in range(draw(st.integers(1, 2)))]
    nodes, links = [Node(name=name, kind="switch") for name in switches], []
    for box in range(draw(st.integers(2, 3))):
        members = [f"{box}.{i}" for i in range(draw(st.integers(1, 4)))]
        nodes += [Node(name=name, kind="device", host=f"box{box}") for name in members]
        nodes.append(Node(name=f"inner{box}", kind="switch", host=f"box{box}"))
        for name in members:
            links += both(name, f"inner{box}", draw(st.integers(1, 9)))
        for name in draw(st.lists(st.sampled_from(members), min_size=1, max_size=3, unique=True)):
            links += both(name, draw(st.sampled_from(switches)), draw(st.integers(1, 4)))
    if len(switches) == 2:
        links += both(*switches, draw(st.integers(1, 4)))
    return Cluster(name="boxed", nodes=tuple(nodes), links=tuple(links))


@settings(max_examples=30)
@given(cluster=boxed(), operation=st.sampled_from(OPERATIONS))
def test_a_composition_fits_and_is_at_most_the_optimum(cluster, operation):
    network = network_of(cluster)
    index = 0 if operation in ("broadcast", "reduce") else None
    composed = pack_hierarchical(network, operation, index)
    best = pack_spanning(network, operation, index)
    if composed is None:
        assert len(set(network.hosts)) in (1, network.ranks)
        return
    root = None if index is None else cluster.ranks[index]
    check(forest_of(network, operation, composed.weights), cluster, composed.rate * network.unit, root)
    assert 0 < composed.rate <= best.rate <= composed.bound


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce"])
def test_boxes_joined_by_slow_links_are_optimal(operation):
    """What crosses the boxes binds: 4 boxes of 8 cards of 25 GB/s."""
    cluster = a100_boxes(4)
    network = network_of(cluster)
    index = 5 if operation in ("broadcast", "reduce") else None
    composed = pack_hierarchical(network, operation, index)
    assert composed.rate == composed.bound == pack_spanning(network, operation, index).rate


def test_128_devices():
    result = packed(a100_boxes(16))
    check(result.forest, a100_boxes(16), result.certificate.rate)
    assert result.certificate.rate == Fraction(16 * 200 * 10**9, 30) and result.certificate.exact


@pytest.mark.slow
def test_1024_devices():
    result = packed(a100_boxes(128))
    check(result.forest, a100_boxes(128), result.certificate.rate)
    assert result.certificate.rate == Fraction(128 * 200 * 10**9, 254) and result.certificate.exact


@pytest.mark.slow
def test_128_devices_as_a_whole_agree_with_their_boxes():
    network = network_of(a100_boxes(16))
    assert pack_spanning(network, "all_reduce", None).rate == pack_hierarchical(network, "all_reduce", None).rate
