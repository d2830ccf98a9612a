"""Presets of hosts joined by Ethernet: every function gives hosts h0, h1, ... and, if asked, helpers helper0, ...

The default of 200 Mbit/s is slow enough for one machine to emulate many such links at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

from manyhands.cluster.cluster import Cluster, Link, Node
from manyhands.cluster.machines import pair
from manyhands.errors import UserError

BANDWIDTH = 25_000_000
"""200 Mbit/s in each direction."""
LATENCY = 50e-6


def mesh(hosts: int, *, bandwidth: int = BANDWIDTH, latency: float = LATENCY) -> Cluster:
    """Every two hosts have a cable of their own."""
    return _wired(f"mesh-{hosts}", hosts, combinations(range(hosts), 2), bandwidth, latency)


def ring(hosts: int, *, bandwidth: int = BANDWIDTH, latency: float = LATENCY) -> Cluster:
    """A cable from each host to the next and from the last to the first."""
    cables = list(pairwise(range(hosts)))
    if hosts > 2:
        cables.append((hosts - 1, 0))
    return _wired(f"ring-{hosts}", hosts, cables, bandwidth, latency)


def line(hosts: int, *, bandwidth: int = BANDWIDTH, latency: float = LATENCY) -> Cluster:
    """A cable from each host to the next."""
    return _wired(f"line-{hosts}", hosts, pairwise(range(hosts)), bandwidth, latency)


def star(
    hosts: int, *, helpers: int = 0, bandwidths: Sequence[int] = (BANDWIDTH,), latency: float = LATENCY
) -> Cluster:
    """One switch; `bandwidths` has one entry for all, one for each host, or one for each host and then helper.

    Raises:
        UserError: another number of bandwidths.
    """
    name = f"star-{hosts}" + (f"+{helpers}" if helpers else "")
    total = hosts + helpers
    if len(bandwidths) == 1:
        bandwidths = tuple(bandwidths) * total
    elif len(bandwidths) == hosts:  # helpers are usually there to be fast
        bandwidths = (*bandwidths, *[max(bandwidths)] * helpers)
    if len(bandwidths) != total:
        raise UserError(f"{name}: {len(bandwidths)} bandwidths for {total} hosts. Give one for all, or one for each.")
    ends = _ends(hosts, helpers)
    links: list[Link] = []
    for node, bandwidth in zip(ends, bandwidths, strict=True):
        links += pair(node.name, "switch", bandwidth, latency, "ethernet")
    return Cluster(name=name, nodes=(*ends, Node(name="switch", kind="switch")), links=tuple(links))


def two_rail(
    hosts: int, *, helpers: int = 0, bandwidths: Sequence[int] = (BANDWIDTH,), latency: float = LATENCY
) -> Cluster:
    """Hosts with two interfaces, each to a switch of its own, switch0 and switch1; `bandwidths` of the two rails.

    Raises:
        UserError: another number of bandwidths than 1 or 2.
    """
    name = f"two-rail-{hosts}" + (f"+{helpers}" if helpers else "")
    if len(bandwidths) not in (1, 2):
        raise UserError(f"{name}: {len(bandwidths)} bandwidths for 2 rails. Give one for both, or two.")
    ends = _ends(hosts, helpers)
    links: list[Link] = []
    for rail, bandwidth in enumerate((bandwidths[0], bandwidths[-1])):
        for node in ends:
            links += pair(node.name, f"switch{rail}", bandwidth, latency, "ethernet")
    switches = [Node(name=f"switch{rail}", kind="switch") for rail in range(2)]
    return Cluster(name=name, nodes=(*ends, *switches), links=tuple(links))


def _ends(hosts: int, helpers: int) -> list[Node]:
    return [
        *(Node(name=f"h{host}", kind="host") for host in range(hosts)),
        *(Node(name=f"helper{helper}", kind="helper") for helper in range(helpers)),
    ]


def _wired(name: str, hosts: int, cables: Iterable[tuple[int, int]], bandwidth: int, latency: float) -> Cluster:
    links: list[Link] = []
    for a, b in cables:
        links += pair(f"h{a}", f"h{b}", bandwidth, latency, "ethernet")
    return Cluster(name=name, nodes=tuple(_ends(hosts, 0)), links=tuple(links))
