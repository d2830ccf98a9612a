"""What measurements of links say: a `Cluster`.

A rail on which all pairs together are as fast as alone is a mesh of links of their own; otherwise its ranks hang on a
switch by links as fast as the most that they sent, or received, at once. A rail between two ranks is a link. Ranks of
the same host are joined by `memory` links of an assumed speed, far above any network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from manyhands.cluster import Cluster, Link, Node
from manyhands.transport.link import MEMORY
from manyhands.transport.planner import names

MEMORY_RATE = 8 * 10**9
MEMORY_LATENCY = 5e-6
"""Seconds that are assumed between ranks of a host; `MEMORY_RATE` likewise, in bytes/s."""
_ALIKE = 0.9
_SHARED = 0.8
"""Share of the speed alone below which pairs, all at the same time, share something."""

Rates = dict[str, dict[str, float]]
"""Figures by peer (as text, for JSON) and rail."""


@dataclass
class Measured:
    """What one rank saw: bytes/s that it received, and seconds one way, by sender and rail."""

    alone: Rates = field(default_factory=dict)
    together: Rates = field(default_factory=dict)
    latency: Rates = field(default_factory=dict)
    local: list[int] = field(default_factory=list)


def cluster_of(rows: Sequence[Measured], name: str = "probed") -> Cluster:
    """What all ranks' measurements say about the links."""
    members = names(len(rows))
    hosts = _hosts(rows)
    nodes = {m: Node(name=m, kind="host", host=f"host{hosts[r]}") for r, m in enumerate(members)}
    links = [
        Link(source=members[p], target=members[r], bandwidth=MEMORY_RATE, latency=MEMORY_LATENCY, kind=MEMORY)
        for r, row in enumerate(rows)
        for p in row.local
    ]
    switches: dict[str, Node] = {}
    for rail in _rails(rows):
        alone, together, latency = (_table(rows, attribute, rail) for attribute in ("alone", "together", "latency"))
        pairs = len({h for pair in alone for h in (hosts[pair[0]], hosts[pair[1]])})
        if (pairs == 2 and len({r for pair in alone for r in pair}) == 2) or _of_their_own(alone, together):
            links += [
                _link(members[a], members[b], rate, latency[a, b], rail) for (a, b), rate in sorted(alone.items())
            ]
            continue
        hub = rail or "network"
        switches[hub] = Node(name=hub, kind="switch")
        links += _star(hub, rail, members, hosts, alone, together, latency, switches)
    return Cluster(name=name, nodes=(*nodes.values(), *switches.values()), links=_evened(links))


Pairs = dict[tuple[int, int], float]


def _rails(rows: Sequence[Measured]) -> list[str]:
    """The rails that are links. Pairs without a common subnet were measured as the routing tables lead, over links of
    others: that counts only if there is no other way to some rank."""
    rails = sorted({rail for row in rows for rates in row.alone.values() for rail in rates})
    reached, todo = {0}, [0]
    while todo:
        row, at = rows[todo[-1]], todo.pop()
        near = {int(peer) for peer, rates in row.alone.items() if set(rates) - {""}} | set(row.local)
        todo += near - reached - {at}
        reached |= near
    return [rail for rail in rails if rail or len(reached) < len(rows)]


def _table(rows: Sequence[Measured], attribute: str, rail: str) -> Pairs:
    """A rail's figures, by (sender, receiver)."""
    table: Pairs = {}
    for receiver, row in enumerate(rows):
        for sender, rates in getattr(row, attribute).items():
            if rail in rates:
                table[int(sender), receiver] = rates[rail]
    return table


def _hosts(rows: Sequence[Measured]) -> list[int]:
    """The lowest rank of each rank's host."""
    return [min([r, *row.local]) for r, row in enumerate(rows)]


def _of_their_own(alone: Pairs, together: Pairs) -> bool:
    return all(together.get(pair, 0.0) >= _SHARED * rate for pair, rate in alone.items())


def _star(
    hub: str,
    rail: str,
    members: Sequence[str],
    hosts: Sequence[int],
    alone: Pairs,
    together: Pairs,
    latency: Pairs,
    switches: dict[str, Node],
) -> list[Link]:
    """Everyone on one switch. Ranks of a host share its interface: a node that passes on."""
    links = []
    for host in sorted({hosts[r] for pair in alone for r in pair}):
        ranks = [r for r in range(len(members)) if hosts[r] == host]
        out = max(
            max((v for (a, _), v in alone.items() if a in ranks), default=1.0),
            sum(v for (a, _), v in together.items() if a in ranks),
        )
        into = max(
            max((v for (_, b), v in alone.items() if b in ranks), default=1.0),
            sum(v for (_, b), v in together.items() if b in ranks),
        )
        half = min((v for pair, v in latency.items() if pair[0] in ranks), default=0.0) / 2
        end = members[ranks[0]]
        if len(ranks) > 1:
            end = f"host{host} {rail}".strip()
            switches[end] = Node(name=end, kind="switch", host=f"host{host}")
            for r in ranks:
                links += [
                    _link(members[r], end, MEMORY_RATE, 0.0, rail),
                    _link(end, members[r], MEMORY_RATE, 0.0, rail),
                ]
        links += [_link(end, hub, out, half, rail), _link(hub, end, into, half, rail)]
    return links


def _link(source: str, target: str, rate: float, latency: float, rail: str) -> Link:
    return Link(
        source=source,
        target=target,
        bandwidth=max(1, round(rate)),
        latency=max(0.0, latency),
        kind="ethernet",
        rail=rail,
    )


def _evened(links: Sequence[Link]) -> tuple[Link, ...]:
    """Speeds that differ by less than measurements do become one, so that plans are simple: the highest of a run in
    which each is within a tenth of the next, since what disturbs a measurement makes it slower."""
    speeds: dict[int, int] = {}
    previous = top = 0
    for speed in sorted({link.bandwidth for link in links}, reverse=True):
        if speed < _ALIKE * previous or not top:
            top = speed
        speeds[speed], previous = top, speed
    return tuple(replace(link, bandwidth=speeds[link.bandwidth]) for link in links)
