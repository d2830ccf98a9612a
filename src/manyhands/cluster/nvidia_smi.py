"""Clusters from the text of `nvidia-smi topo -m`.

The text is a matrix: how each GPU and NIC reaches each other one, NV# (# lanes of NVLink), or else the closest thing
in common: PIX (one PCIe bridge), PXB (several), PHB (the host bridge), NODE (a NUMA node), SYS (only what joins CPUs).

- GPUs become devices gpu0, ...; NICs become switches that lead nowhere, as the text does not say what they are
  cabled to.
- Those with the same closest thing form nested groups, and a group becomes a switch. Where NV# hides what two GPUs have
  in common, the NICs and the NUMA affinity beside it tell.
- A GPU has at most 18 lanes of NVLink. Where every pair shows the same NV# and that would take more, as NV12 among
  8, they are on an NVSwitch, which each GPU reaches with all # lanes. Otherwise NV# are direct links.

The text holds no bandwidths. Assumed unless given: 25 GB/s a lane to an NVSwitch (A100, H100), 23 GB/s a lane between
GPUs (V100), PCIe 3.0 x16, QPI: the units of the presets, and low rather than high for what is newer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations, takewhile
from pathlib import Path

from manyhands.cluster.cluster import Cluster, Link, Node
from manyhands.cluster.machines import NVLINK2_LANE, NVLINK3_LANE, NVLINK_LATENCY, PCIE3, PCIE_LATENCY, QPI, pair
from manyhands.errors import UserError

MAX_LANES = 18
"""Lanes of NVLink that one GPU has at most, so far."""
_LEVELS = (("PIX",), ("PXB",), ("PHB", "NODE"))
"""How devices are joined, from close to far; SYS is what is left. The host bridges of a NUMA node count as one."""
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_CELL = re.compile(r"X|NV[0-9]+|PIX|PXB|PHB|NODE|SYS")


def read_nvidia_smi(path: str | Path, *, lane: int | None = None, pcie: int = PCIE3, qpi: int = QPI) -> Cluster:
    """The cluster of a file with that text; `lane`, `pcie`, `qpi` are bytes/s in each direction.

    Raises:
        UserError: the file cannot be read or holds no such matrix.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the topology file {path}: {error}") from None
    return parse_nvidia_smi(text, source=str(path), lane=lane, pcie=pcie, qpi=qpi)


def parse_nvidia_smi(
    text: str, *, source: str = "nvidia-smi", lane: int | None = None, pcie: int = PCIE3, qpi: int = QPI
) -> Cluster:
    """The cluster of that text; `source` is what errors call it.

    Raises:
        UserError: there is no matrix in it, or it contradicts itself.
    """
    matrix = _read_matrix(text, source)
    names = {name: matrix.node_name(name) for name in matrix.names}
    nodes = [
        Node(name=names[name], kind="device" if name.startswith("GPU") else "switch", host="h0")
        for name in sorted(matrix.names, key=lambda name: not name.startswith("GPU"))
    ]
    links, switches = _nvlinks(matrix, names, lane)
    tree_links, bridges = _pcie(matrix, names, pcie, qpi)
    nodes += [Node(name=name, kind="switch", host="h0") for name in (*switches, *bridges)]
    return Cluster(name=Path(source).stem, nodes=tuple(nodes), links=(*links, *tree_links))


@dataclass
class _Matrix:
    names: list[str]
    """Columns: GPU0, ..., then NICs."""
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    """What is between two of them; the same both ways."""
    numa: dict[str, str] = field(default_factory=dict)
    """NUMA or CPU affinity of GPUs, where it is told."""
    legend: dict[str, str] = field(default_factory=dict)
    """What NICs are called: NIC0 -> mlx5_0."""

    @property
    def gpus(self) -> list[str]:
        return [name for name in self.names if name.startswith("GPU")]

    def node_name(self, name: str) -> str:
        return name.lower() if name.startswith("GPU") else self.legend.get(name, name)


def _read_matrix(text: str, source: str) -> _Matrix:
    lines = [_ESCAPE.sub("", line) for line in text.splitlines()]
    starts = [index for index, line in enumerate(lines) if line.split()[:1] == ["GPU0"]]
    start = next((index for index in starts if _CELL.fullmatch((lines[index].split() * 2)[1])), 0)
    header = next((line for line in lines[:start][::-1] if line.strip()), "")
    names = list(takewhile(lambda word: word != "CPU", header.split()))
    if "GPU0" not in names:
        raise UserError(f"{source}: no matrix with a column and a row GPU0. Save what `nvidia-smi topo -m` prints.")
    matrix = _Matrix(names)
    for line in lines[start:]:
        words = line.split()
        if words and words[0].rstrip(":") != words[0]:  # the legend: "NIC0: mlx5_0"
            matrix.legend[words[0].rstrip(":")] = " ".join(words[1:])
        elif words and words[0] in names:
            _read_row(matrix, words, line, source)
    missing = [name for name in names if (name, name) not in matrix.cells]
    if missing:
        raise UserError(f"{source}: there is no row for {', '.join(missing)}. Save the whole matrix.")
    return matrix


def _read_row(matrix: _Matrix, words: list[str], line: str, source: str) -> None:
    name, cells = words[0], words[1 : len(matrix.names) + 1]
    if len(cells) < len(matrix.names) or not all(_CELL.fullmatch(cell) for cell in cells):
        raise UserError(
            f"{source}: row {name} has not {len(matrix.names)} entries like X, NV2, PIX, SYS: {line.strip()}"
        )
    for other, cell in zip(matrix.names, cells, strict=True):
        told = matrix.cells.setdefault((other, name), cell)
        if told != cell:
            raise UserError(f"{source}: {name} to {other} is {cell}, but {other} to {name} is {told}. Save it again.")
        matrix.cells[name, other] = cell
    if name.startswith("GPU") and len(words) > len(cells) + 1:
        matrix.numa[name] = words[len(cells) + 1]  # the CPU affinity differs exactly where the NUMA node does


def _nvlinks(matrix: _Matrix, names: dict[str, str], lane: int | None) -> tuple[list[Link], list[str]]:
    """The NVLinks, and the name of the NVSwitch if there is one."""
    pairs = list(combinations(matrix.gpus, 2))
    lanes = {(a, b): int(cell[2:]) for a, b in pairs if (cell := matrix.cells[a, b]).startswith("NV")}
    links: list[Link] = []
    each = max(lanes.values(), default=0)
    if len(lanes) == len(pairs) and len(set(lanes.values())) == 1 and each * (len(matrix.gpus) - 1) > MAX_LANES:
        for gpu in matrix.gpus:
            links += pair(names[gpu], "nvswitch", each * (lane or NVLINK3_LANE), NVLINK_LATENCY, "nvlink")
        return links, ["nvswitch"]
    for (a, b), count in lanes.items():
        links += pair(names[a], names[b], count * (lane or NVLINK2_LANE), NVLINK_LATENCY, "nvlink")
    return links, []


def _pcie(matrix: _Matrix, names: dict[str, str], pcie: int, qpi: int) -> tuple[list[Link], list[str]]:
    """The tree of PCIe switches and host bridges, the bridges joined by the link between CPUs."""
    top = {name: names[name] for name in matrix.names}  # the node through which each is reached so far
    links: list[Link] = []
    switches: list[str] = []
    near: set[str] = set()
    for level in _LEVELS:
        near |= set(level)
        close = [(a, b) for a, b in combinations(matrix.names, 2) if matrix.cells[a, b] in near]
        kind = "bridge" if level is _LEVELS[-1] else "pcie"
        if kind == "bridge":
            numa = matrix.numa
            close += [(a, b) for a, b in combinations(matrix.gpus, 2) if a in numa and numa[a] == numa.get(b)]
        for group in _components(matrix.names, close):
            below = list(dict.fromkeys(top[name] for name in group))
            if len(below) > 1 or kind == "bridge":
                switch = f"{kind}{sum(name.startswith(kind) for name in switches)}"
                switches.append(switch)
                for name in below:
                    links += pair(name, switch, pcie, PCIE_LATENCY, "pcie")
                top.update(dict.fromkeys(group, switch))
    for a, b in combinations([name for name in switches if name.startswith("bridge")], 2):
        links += pair(a, b, qpi, PCIE_LATENCY, "qpi")
    return links, switches


def _components(names: list[str], close: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that are joined, in the order of their first."""
    group = {name: [name] for name in names}
    for a, b in close:
        if group[a] is not group[b]:
            joined = group[a] + group[b]
            group.update(dict.fromkeys(joined, joined))
    return [sorted(members, key=names.index) for members in {id(m): m for m in group.values()}.values()]
