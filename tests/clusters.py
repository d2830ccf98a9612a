"""Random clusters and other ones that several tests share."""

from __future__ import annotations

from hypothesis import strategies as st

from manyhands.cluster import Cluster, Link, Node

BANDWIDTH = 1_000_000


def star_cluster(
    hosts: int, *, helpers: int = 0, bandwidth: int = BANDWIDTH, latency: float = 0.0, speeds=None
) -> Cluster:
    """Hosts and helpers on one switch; all latency is on the way in."""
    nodes = [Node(name=f"h{i}", kind="host") for i in range(hosts)]
    nodes += [Node(name=f"helper{i}", kind="helper") for i in range(helpers)]
    links = []
    for i, node in enumerate(nodes):
        speed = speeds[i] if speeds else bandwidth
        links.append(Link(source=node.name, target="switch", bandwidth=speed, latency=latency))
        links.append(Link(source="switch", target=node.name, bandwidth=speed))
    return Cluster(name="star", nodes=(*nodes, Node(name="switch", kind="switch")), links=tuple(links))


def mesh_cluster(hosts: int, *, bandwidth: int = BANDWIDTH, latency: float = 0.0) -> Cluster:
    nodes = tuple(Node(name=f"h{i}", kind="host") for i in range(hosts))
    links = tuple(
        Link(source=a.name, target=b.name, bandwidth=bandwidth, latency=latency) for a in nodes for b in nodes if a != b
    )
    return Cluster(name="mesh", nodes=nodes, links=links)


@st.composite
def clusters(draw, most: int = 7, least: int = 1) -> Cluster:
    """Connected both ways: a random tree of links, each in both directions, and more links at random.

    Ranks on up to three hosts, up to two switches and two helpers, links of several speeds and rails.
    """
    count = draw(st.integers(least, most))
    nodes = [Node(name=f"d{i}", kind="device", host=f"host{draw(st.integers(0, 2))}") for i in range(count)]
    nodes += [Node(name=f"s{i}", kind="switch") for i in range(draw(st.integers(0, 2)))]
    nodes += [Node(name=f"x{i}", kind="helper") for i in range(draw(st.integers(0, 2)))]
    order = draw(st.permutations(nodes))
    speeds = st.sampled_from([1, 2, 3, 10]).map(lambda factor: factor * BANDWIDTH)
    links: dict[tuple[str, str, str], Link] = {}

    def join(a: Node, b: Node, rail: str) -> None:
        for source, target in ((a.name, b.name), (b.name, a.name)):
            links[source, target, rail] = Link(
                source=source,
                target=target,
                bandwidth=draw(speeds),
                latency=draw(st.sampled_from([0.0, 1e-5])),
                rail=rail,
            )

    for i, node in enumerate(order[1:], start=1):
        join(node, order[draw(st.integers(0, i - 1))], draw(st.sampled_from(["", "eth0"])))
    for _ in range(draw(st.integers(0, 2 * len(order)))):
        a, b = draw(st.sampled_from(order)), draw(st.sampled_from(order))
        if a != b:
            join(a, b, draw(st.sampled_from(["", "eth0", "eth1"])))
    return Cluster(name="random", nodes=tuple(nodes), links=tuple(links.values()))
