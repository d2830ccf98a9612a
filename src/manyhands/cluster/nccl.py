"""Clusters from NCCL's topology files (`NCCL_TOPO_DUMP_FILE=topo.xml`).

The file is a tree of <system>, <cpu>, nested <pci>, and at its leaves <gpu> or <nic><net>; each <gpu> lists its
NVLinks by the PCI address and class of the other end. It becomes:

- a <gpu>: a device `gpuN`, N its number on the machine (its rank, where the file holds several machines);
- a <pci> with children of its own: a switch `pcie-ADDRESS`; a <cpu>: a switch `cpuN`, all of a machine joined;
- a <net>: a switch named like it, behind its <pci>; where the file holds several machines, all lead to `network`;
- NVLinks of class 0x0680 (bridges) all lead to one NVSwitch, the machine's or the rack's: `nvswitch`; others to a GPU.

Bandwidths. NVLinks: lanes times what a lane of the GPU's generation carries (`NVLINK_LANES`, the units of the
presets). PCIe: `link_speed` times `link_width`, of which packets leave 3/4 (PCIe 3.0 x16: 12 of 16 GB/s); a virtual
machine that hides them counts as PCIe 3.0 x16. <net>: its `speed`. Between <cpu>s: the preset's QPI.

The format is described by what NCCL writes (github.com/NVIDIA/nccl, src/graph/xml.cc). The parser refuses DTDs, so no
entities are ever expanded.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from manyhands.cluster.cluster import Cluster, Kind, Link, Node
from manyhands.cluster.machines import (
    GB,
    INFINIBAND_LATENCY,
    NVLINK2_LANE,
    NVLINK3_LANE,
    NVLINK_LATENCY,
    PCIE3,
    PCIE_LATENCY,
    QPI,
    pair,
)
from manyhands.errors import UserError

NVLINK_LANES = {60: 18 * GB, 70: NVLINK2_LANE, 80: NVLINK3_LANE, 86: 14 * GB, 90: 25 * GB, 100: 50 * GB}
"""Bytes/s of a lane in one direction, from this compute capability on."""
MAX_BYTES = 16 * 2**20
"""Larger files are refused; that of a 72-GPU rack is 0.1 MB."""


def read_nccl(path: str | Path) -> Cluster:
    """The cluster of a topology file.

    Raises:
        UserError: the file cannot be read or is no topology of NCCL.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES} bytes. Is it a topology file of NCCL?")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the topology file {path}: {error}") from None
    return parse_nccl(text, source=str(path))


def parse_nccl(text: str, *, source: str = "topology") -> Cluster:
    """The cluster of a topology file's text; `source` is what errors call it.

    Raises:
        UserError: no XML, with a DTD, or no topology of NCCL.
    """
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise UserError(f"{source} has a document type definition, which NCCL never writes. Remove it.")
    try:
        system = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{source} is not XML: {error}.") from None
    if system.tag != "system":
        raise UserError(f"{source}: the outermost element is <{system.tag}>; a topology of NCCL has <system>.")
    return _Topology(source, system).cluster()


@dataclass
class _Topology:
    """A walk through the file that gathers nodes and links."""

    source: str
    system: ElementTree.Element
    several: bool = False
    """Whether it holds several machines; then what belongs to one is called hN.NAME."""
    nodes: dict[str, Node] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    gpu_at: dict[tuple[str, str], str] = field(default_factory=dict)
    """Names of GPUs by host and PCI address."""
    nvlinks: list[tuple[str, str, ElementTree.Element]] = field(default_factory=list)
    """(name of the GPU, its host, its element)"""

    def cluster(self) -> Cluster:
        cpus = self.system.findall("cpu")
        hosts = {key: f"h{index}" for index, key in enumerate(dict.fromkeys(cpu.get("host_hash", "") for cpu in cpus))}
        self.several = len(hosts) > 1
        bridges: dict[str, list[str]] = {host: [] for host in hosts.values()}
        for cpu in cpus:
            host = hosts[cpu.get("host_hash", "")]
            name = self._add(self._local(host, f"cpu{self._need(cpu, 'numaid')}"), "switch", host)
            bridges[host].append(name)
            self._walk(cpu, name, host, PCIE3, "")
        for names in bridges.values():
            for a, b in combinations(names, 2):
                self.links += pair(a, b, QPI, PCIE_LATENCY, "qpi")
        self._add_nvlinks()
        if not self.gpu_at:
            raise UserError(f"{self.source}: there is no <gpu> in it. Was it written by NCCL_TOPO_DUMP_FILE?")
        ordered = sorted(self.nodes.values(), key=_order)
        return Cluster(name=Path(self.source).stem, nodes=tuple(ordered), links=tuple(self.links))

    def _walk(self, element: ElementTree.Element, above: str, host: str, bandwidth: int, address: str) -> None:
        """Add what is below an element; it hangs on the node `above`, a leaf by a link of `bandwidth`."""
        for child in element:
            if child.tag == "gpu":
                self._add_gpu(child, above, host, bandwidth, address)
            elif child.tag == "nic":
                self._add_nets(child, above, host, bandwidth)
            elif child.tag == "pci":
                busid, speed, hook = self._need(child, "busid").lower(), _pcie_bandwidth(child), above
                if child.find("pci") is not None:
                    hook = self._add(self._local(host, f"pcie-{busid}"), "switch", host)
                    self.links += pair(hook, above, speed, PCIE_LATENCY, "pcie")
                self._walk(child, hook, host, speed, busid)

    def _add_gpu(self, gpu: ElementTree.Element, above: str, host: str, bandwidth: int, address: str) -> None:
        name = self._add(f"gpu{self._number(gpu, 'rank' if self.several else 'dev', least=0)}", "device", host)
        self.gpu_at[host, address] = name
        self.nvlinks.append((name, host, gpu))
        self.links += pair(name, above, bandwidth, PCIE_LATENCY, "pcie")

    def _add_nets(self, nic: ElementTree.Element, above: str, host: str, pcie: int) -> None:
        """Ports of a network card: to PCIe, and to the network where there are other machines to reach."""
        for net in nic.findall("net"):
            name = self._local(host, self._need(net, "name"))
            if name in self.nodes:  # NCCL lists an interface of a virtual machine under every <cpu>
                continue
            speed = self._number(net, "speed") * 10**6 // 8
            self._add(name, "switch", host)
            self.links += pair(name, above, min(pcie, speed), PCIE_LATENCY, "pcie")
            if self.several:
                self.nodes.setdefault("network", Node(name="network", kind="switch"))
                self.links += pair(name, "network", speed, INFINIBAND_LATENCY, "network")

    def _add(self, name: str, kind: Kind, host: str) -> str:
        if name in self.nodes:
            raise UserError(
                f"{self.source}: {name} occurs twice. Each <gpu>, <net> and <cpu> must have its own number."
            )
        self.nodes[name] = Node(name=name, kind=kind, host=host)
        return name

    def _local(self, host: str, name: str) -> str:
        return f"{host}.{name}" if self.several else name

    def _add_nvlinks(self) -> None:
        direct: dict[tuple[str, str], int] = {}
        for name, host, gpu in self.nvlinks:
            lane = _lane(self._number(gpu, "sm"))
            switched: dict[str, int] = {}
            for nvlink in gpu.findall("nvlink"):
                bandwidth = self._number(nvlink, "count") * lane
                target = self._need(nvlink, "target").lower()
                if nvlink.get("tclass", "").startswith("0x0680"):
                    switch = self._nvswitch(host, target)
                    switched[switch] = switched.get(switch, 0) + bandwidth
                elif (host, target) in self.gpu_at:  # else to a CPU, or to a GPU that this job does not have
                    direct[name, self.gpu_at[host, target]] = bandwidth
            for switch, bandwidth in switched.items():
                self.links += pair(name, switch, bandwidth, NVLINK_LATENCY, "nvlink")
        for a, b in direct:
            for source, target in ((a, b), (b, a)) if a < b or (b, a) not in direct else ():
                if (source, target) in direct:
                    self.links.append(_nvlink(source, target, direct[source, target]))

    def _nvswitch(self, host: str, address: str) -> str:
        """The switch at an address; ff..ff stands for a rack's, which several machines share."""
        shared = self.several and address.startswith("fffffff:")
        name = "nvswitch" if shared else self._local(host, "nvswitch")
        self.nodes.setdefault(name, Node(name=name, kind="switch", host="" if shared else host))
        return name

    def _need(self, element: ElementTree.Element, key: str) -> str:
        value = element.get(key)
        if value is None:
            raise UserError(f"{self.source}: <{element.tag}> has no {key}: {dict(element.attrib)}.")
        return value

    def _number(self, element: ElementTree.Element, key: str, least: int = 1) -> int:
        value = self._need(element, key)
        if not value.isascii() or not value.isdigit() or int(value) < least:
            raise UserError(f'{self.source}: <{element.tag} {key}="{value}">: not a whole number of at least {least}.')
        return int(value)


def _lane(sm: int) -> int:
    """Bytes/s of an NVLink lane of a GPU of this compute capability."""
    known = [from_sm for from_sm in NVLINK_LANES if from_sm <= sm]
    return NVLINK_LANES[max(known, default=min(NVLINK_LANES))]


def _nvlink(source: str, target: str, bandwidth: int) -> Link:
    return Link(source=source, target=target, bandwidth=bandwidth, latency=NVLINK_LATENCY, kind="nvlink")


def _pcie_bandwidth(pci: ElementTree.Element) -> int:
    """Bytes/s in each direction that packets leave."""
    speed = re.match(r"[0-9.]+", pci.get("link_speed", ""))
    width = pci.get("link_width", "")
    if speed is None or not width.isdigit() or int(width) == 0:
        return PCIE3
    return round(float(speed[0]) * 1e9 / 8 * int(width) * 0.75)


def _order(node: Node) -> tuple[bool, int]:
    """GPUs by their numbers, then the rest as it came."""
    return (node.kind == "switch", 0 if node.kind == "switch" else int(node.name.removeprefix("gpu")))
