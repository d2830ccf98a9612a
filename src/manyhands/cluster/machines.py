"""Presets of multi-GPU machines.

Units. DGX-1V: a lane of NVLink 2 counts as 23 GB/s in each direction, what it delivers of its nominal 25 GB/s. This is
the unit behind the published figures: 24 lanes on 8 GPUs give an all-reduce of 24/7 * 23 = 78.9 GB/s (ForestColl), and
the triangle {0,1,2} 2 * 23 = 46.0 GB/s. PCIe 3.0 x16 counts as 12 GB/s and QPI as 6 GB/s in each direction, what GPUs
reach over them. DGX A100: nominal figures, as ForestColl uses: 12 lanes of NVLink 3 of 25 GB/s each, 300 GB/s in
all, and one HDR InfiniBand port of 200 Gbit/s for each GPU. Two such boxes gather 15/16 of the data of all others
through 325 GB/s: 346.7 GB/s, and all-reduce at half that.

Latencies are orders of magnitude (a kernel-driven copy over NVLink about 2 us, over PCIe or InfiniBand 5 us).
"""

from __future__ import annotations

from manyhands.cluster.cluster import Cluster, Link, Node

GB = 10**9
NVLINK2_LANE = 23 * GB
"""Bytes/s of an NVLink lane of DGX-1V, each direction."""
NVLINK3_LANE = 25 * GB
"""Bytes/s of an NVLink lane of DGX A100, each direction."""
PCIE3 = 12 * GB
QPI = 6 * GB
INFINIBAND_HDR = 25 * GB
NVLINK_LATENCY = 2e-6
PCIE_LATENCY = 5e-6
INFINIBAND_LATENCY = 5e-6

_DGX1V_LANES = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2,
    (1, 2): 2, (1, 3): 1, (1, 5): 2,
    (2, 3): 2, (2, 6): 1,
    (3, 7): 1,
    (4, 5): 1, (4, 6): 1, (4, 7): 2,
    (5, 6): 2, (5, 7): 1,
    (6, 7): 2,
}  # fmt: skip
"""The hybrid cube mesh: two complete quads, joined corner to corner; every GPU has six lanes."""


def pair(a: str, b: str, bandwidth: int, latency: float, kind: str, rail: str = "") -> tuple[Link, Link]:
    """The two directions of a cable."""
    return (
        Link(source=a, target=b, bandwidth=bandwidth, latency=latency, kind=kind, rail=rail),
        Link(source=b, target=a, bandwidth=bandwidth, latency=latency, kind=kind, rail=rail),
    )


def dgx1v() -> Cluster:
    """Eight V100s; PCIe switches with two GPUs each, two of them on each of two host bridges.

    NVLinks have the kind "nvlink", the paths through switches "pcie", the host bridges are joined by "qpi".
    """
    host = "h0"
    nodes = [Node(name=f"gpu{gpu}", kind="device", host=host) for gpu in range(8)]
    nodes += [Node(name=f"pcie{switch}", kind="switch", host=host) for switch in range(4)]
    nodes += [Node(name=f"bridge{bridge}", kind="switch", host=host) for bridge in range(2)]
    links: list[Link] = []
    for (a, b), lanes in _DGX1V_LANES.items():
        links += pair(f"gpu{a}", f"gpu{b}", lanes * NVLINK2_LANE, NVLINK_LATENCY, "nvlink")
    for gpu in range(8):
        links += pair(f"gpu{gpu}", f"pcie{gpu // 2}", PCIE3, PCIE_LATENCY, "pcie")
    for switch in range(4):
        links += pair(f"pcie{switch}", f"bridge{switch // 2}", PCIE3, PCIE_LATENCY, "pcie")
    links += pair("bridge0", "bridge1", QPI, PCIE_LATENCY, "qpi")
    return Cluster(name="dgx1v", nodes=tuple(nodes), links=tuple(links))


def dgx_a100(boxes: int = 1) -> Cluster:
    """Boxes of eight A100s around an NVSwitch; between boxes each GPU has an InfiniBand port of its own.

    GPUs are numbered through all boxes. The port is part of the link: a NIC between the GPU and the InfiniBand switch
    would only repeat its bandwidth.
    """
    nodes: list[Node] = []
    links: list[Link] = []
    switches: list[Node] = []
    for box in range(boxes):
        host = f"h{box}"
        switch = "nvswitch" if boxes == 1 else f"nvswitch{box}"
        switches.append(Node(name=switch, kind="switch", host=host))
        for gpu in range(8 * box, 8 * box + 8):
            nodes.append(Node(name=f"gpu{gpu}", kind="device", host=host))
            links += pair(f"gpu{gpu}", switch, 12 * NVLINK3_LANE, NVLINK_LATENCY, "nvlink")
    if boxes > 1:
        switches.append(Node(name="ib", kind="switch"))
        for gpu in range(8 * boxes):
            links += pair(f"gpu{gpu}", "ib", INFINIBAND_HDR, INFINIBAND_LATENCY, "infiniband")
    name = "dgx-a100" if boxes == 1 else f"{boxes}x-dgx-a100"
    return Cluster(name=name, nodes=(*nodes, *switches), links=tuple(links))
