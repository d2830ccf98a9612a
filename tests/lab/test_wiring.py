"""The plan of a lab, without making one."""

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.cluster import Cluster, Link, Node, preset
from manyhands.errors import UserError
from manyhands.lab.wiring import Wiring, wire


def cluster_of(nodes: dict[str, str], cables: list[tuple[str, str, int]]) -> Cluster:
    links = [Link(source=a, target=b, bandwidth=speed) for x, y, speed in cables for a, b in ((x, y), (y, x))]
    return Cluster(name="c", nodes=tuple(Node(name=n, kind=k) for n, k in nodes.items()), links=tuple(links))


@st.composite
def networks(draw) -> Cluster:
    """Hosts and switches, the switches a forest."""
    hosts = [f"h{i}" for i in range(draw(st.integers(1, 6)))]
    switches = [f"s{i}" for i in range(draw(st.integers(0, 3)))]
    speed = st.integers(1, 5)
    pairs = [(a, b) for i, a in enumerate(hosts) for b in [*hosts[i + 1 :], *switches]]
    cables = [(a, b, draw(speed)) for a, b in pairs if draw(st.booleans())]
    cables += [(switches[i], draw(st.sampled_from(switches[:i])), draw(speed)) for i in range(1, len(switches))]
    kinds = dict.fromkeys(hosts, "host") | dict.fromkeys(switches, "switch")
    return cluster_of(kinds, draw(st.permutations(cables)))


def owner_of(wiring: Wiring) -> dict[str, str]:
    return {end.address: end.place for cable in wiring.cables for end in cable.ends if end.address}


@given(networks())
def test_every_host_that_can_be_reached_is_reached_over_the_fewest_hops(cluster):
    wiring = wire(cluster)
    owner = owner_of(wiring)
    for source in cluster.ranks:
        hops = distances(cluster, source)
        for target, address in wiring.hosts.items():
            assert (target in hops) == (
                source == target or any(r.destination == address for r in wiring.routes[source])
            )
            here, count = source, 0
            while here != target and target in hops:
                (route,) = [route for route in wiring.routes[here] if route.destination == address]
                here, count = owner[route.via], count + 1
            assert count == hops.get(target, 0)


def distances(cluster: Cluster, source: str) -> dict[str, int]:
    """Hops between hosts; switches cost nothing."""
    found, queue = {source: 0}, deque([source])
    while queue:
        here = queue.popleft()
        for a, b in cluster.capacity:
            if a == here:
                cost = 0 if cluster.by_name[b].kind == "switch" else 1
                if found[here] + cost < found.get(b, 1 << 30):
                    found[b] = found[here] + cost
                    queue.append(b)
    return {name: count for name, count in found.items() if name in cluster.ranks}


@given(networks())
def test_what_shares_a_subnet_reaches_each_other_without_routing(cluster):
    wiring = wire(cluster)
    addresses = [end.address for cable in wiring.cables for end in cable.ends if end.address]
    assert len(set(addresses)) == len(addresses)
    ends = [(cable, end) for cable in wiring.cables for end in cable.ends]
    assert max(Counter((end.place, end.interface) for _, end in ends).values(), default=1) == 1
    for cable in wiring.cables:
        a, b = cable.ends
        assert (a.bandwidth, b.bandwidth) == (
            cluster.capacity[a.node, b.node],
            cluster.capacity[b.node, a.node],
        )
        if a.address and b.address:
            subnet = a.address.rsplit(".", 1)[0]
            assert [end for _, end in ends if end.address.rsplit(".", 1)[0] == subnet] == [a, b]


def test_a_preferred_route_is_the_widest_of_the_shortest():
    hosts = dict.fromkeys("abcd", "host")
    wiring = wire(cluster_of(hosts, [("a", "b", 5), ("b", "d", 1), ("a", "c", 3), ("c", "d", 3)]))
    owner = owner_of(wiring)
    (route,) = [route for route in wiring.routes["a"] if route.destination == wiring.hosts["d"]]
    assert owner[route.via] == "c"


def test_subnets_follow_the_order_of_the_links():
    wiring = wire(preset("two-rail-3:25MB,10MB"))
    assert [end.address for _, end in wiring.ends_at("h1")] == ["10.1.0.2", "10.1.1.2"]
    assert [end.interface for _, end in wiring.ends_at("h1")] == ["eth0", "eth1"]
    assert [end.bandwidth for _, end in wiring.ends_at("h1")] == [25_000_000, 10_000_000]


def test_interfaces_are_named_after_rails():
    links = [
        Link(source=a, target=b, bandwidth=1, rail=rail)
        for rail in ("wifi", "lo", "much too long for Linux")
        for a, b in ("xy", "yx")
    ]
    nodes = tuple(Node(name=name, kind="host") for name in "xy")
    wiring = wire(Cluster(name="c", nodes=nodes, links=tuple(links)))
    assert [end.interface for _, end in wiring.ends_at("x")] == ["wifi", "eth0", "eth1"]


def test_devices_of_a_machine_share_it():
    wiring = wire(preset("2x-dgx-a100"))
    assert wiring.places == ("h0", "h1", "ib")
    assert len(wiring.cables) == 16  # one NIC for each GPU; NVLinks stay inside
    assert {cable.ends[1].place for cable in wiring.cables} == {"ib"}
    assert wire(preset("dgx1v")).cables == ()
    assert len(wire(preset("dgx1v").apart()).cables) == 16 + 8 + 4 + 1


def test_what_cannot_be_emulated():
    one_way = Cluster(
        name="c",
        nodes=(Node(name="a", kind="host"), Node(name="b", kind="host")),
        links=(Link(source="a", target="b", bandwidth=1),),
    )
    with pytest.raises(UserError, match="no counterpart"):
        wire(one_way)
    circle = dict.fromkeys("xyz", "switch")
    with pytest.raises(UserError, match="circle of switches"):
        wire(cluster_of(circle, [("x", "y", 1), ("y", "z", 1), ("x", "z", 1)]))
    with pytest.raises(UserError, match="too large"):
        wire(preset("star-251"))
