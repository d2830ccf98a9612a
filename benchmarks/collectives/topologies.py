"""The clusters that are emulated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from manyhands.cluster import Cluster, preset

SLOW = "star-4:25MB,25MB,25MB,10MB"


@dataclass(frozen=True)
class Topology:
    name: str
    cluster: Cluster
    note: str = ""


def topologies() -> list[Topology]:
    gpus = preset("dgx1v").subset([f"gpu{i}" for i in (0, 1, 2, 4, 5)], kinds=["nvlink"]).apart().scaled(1e-3)
    return [
        Topology("mesh-4", preset("mesh-4"), "every two have a link"),
        Topology("mesh-4 without a link", without(preset("mesh-4"), ("h0", "h3"))),
        Topology("mesh-4 without two", without(preset("mesh-4"), ("h0", "h3"), ("h0", "h2")), "h0 hangs on h1"),
        Topology("line-3", preset("line-3")),
        Topology("ring-5", preset("ring-5")),
        Topology("star-4", preset("star-4"), "one switch; also: one rail"),
        Topology("star-4, one slow host", preset(SLOW), "h3 has 10 MB/s"),
        Topology("two-rail-4", preset("two-rail-4")),
        Topology("two-rail-4, unequal", preset("two-rail-4:25MB,10MB")),
        Topology("dgx1v 0,1,2,4,5 / 1000", replace(gpus, name="dgx1v-5"), "lanes of 23 MB/s"),
    ]


def without(cluster: Cluster, *cables: tuple[str, str]) -> Cluster:
    """The cluster without these links, in both directions."""
    gone = {frozenset(cable) for cable in cables}
    kept = tuple(link for link in cluster.links if frozenset((link.source, link.target)) not in gone)
    return replace(cluster, name=f"{cluster.name}-{len(gone)}", links=kept)
