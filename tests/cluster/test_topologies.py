"""What NCCL and nvidia-smi write about machines gives the same clusters as the presets that describe them."""

import subprocess
import sys
from pathlib import Path

import pytest

from manyhands.cluster import Cluster, parse_nccl, parse_nvidia_smi, preset, read_cluster
from manyhands.errors import UserError

DATA = Path(__file__).parent / "data"


def links(cluster: Cluster, kind: str) -> dict[tuple[str, str], int]:
    return {(link.source, link.target): link.bandwidth for link in cluster.links if link.kind == kind}


def bottleneck(cluster: Cluster, source: str, target: str) -> tuple[list[str], int]:
    """Nodes and the least bandwidth of the only way over PCIe."""
    ways = [([source], 10**15)]
    for way, least in ways:
        if way[-1] == target:
            return way, least
        for link in cluster.links:
            if link.source == way[-1] and link.target not in way and link.kind in ("pcie", "qpi"):
                ways.append(([*way, link.target], min(least, link.bandwidth)))
    raise AssertionError(f"no way from {source} to {target}")


@pytest.mark.parametrize("file", ["dgx1v.xml", "dgx1v.txt"])
def test_a_dgx1v_is_its_preset(file):
    cluster = read_cluster(DATA / file)
    assert cluster.ranks == preset("dgx1v").ranks
    assert links(cluster, "nvlink") == links(preset("dgx1v"), "nvlink")
    for target, hops, least in (("gpu1", 3, 12), ("gpu2", 5, 12), ("gpu6", 6, 6)):
        way, bandwidth = bottleneck(cluster, "gpu0", target)
        expected, _ = bottleneck(preset("dgx1v"), "gpu0", target)
        assert (len(way), bandwidth) == (hops, least * 10**9)
        assert len(way) == len(expected)
    assert len(bottleneck(cluster, "gpu4", "mlx5_2")[0]) == 3
    assert {node.host for node in cluster.nodes} == {"h0"}


def test_two_machines_in_one_file():
    cluster = read_cluster(DATA / "two-a100.xml")
    assert {node.name: node.host for node in cluster.nodes if node.kind == "device"} == {
        "gpu0": "h0", "gpu1": "h0", "gpu2": "h1", "gpu3": "h1",
    }  # fmt: skip
    nvlinks = links(cluster, "nvlink")
    assert nvlinks["gpu0", "h0.nvswitch"] == nvlinks["h1.nvswitch", "gpu3"] == 300 * 10**9  # six chips, two lanes each
    assert links(cluster, "network")["h1.mlx5_1", "network"] == 25 * 10**9
    assert cluster.capacity["gpu0", "h0.pcie-0000:01:00.0"] == 24 * 10**9


def test_a_rack_shares_its_nvswitch():
    text = (DATA / "two-a100.xml").read_text()
    for chip in range(4, 10):
        text = text.replace(f"0000:c{chip}:00.0", "fffffff:ff:ff.0")
    cluster = parse_nccl(text)
    assert {target for source, target in links(cluster, "nvlink") if source.startswith("gpu")} == {"nvswitch"}
    assert links(cluster, "nvlink")["gpu3", "nvswitch"] == 300 * 10**9


def test_a_virtual_machine_that_hides_pcie():
    cluster = read_cluster(DATA / "cloud.xml")
    assert links(cluster, "nvlink") == {("gpu0", "gpu1"): 300 * 10**9, ("gpu1", "gpu0"): 300 * 10**9}
    assert cluster.capacity["gpu0", "cpu0"] == 12 * 10**9
    assert [node.name for node in cluster.nodes if node.kind == "switch"] == ["cpu0", "eth0", "cpu1"]


def test_the_sample_files_are_what_their_script_writes(tmp_path):
    before = {path.name: path.read_text() for path in DATA.glob("*.xml")}
    script = tmp_path / "make_nccl.py"
    script.write_text((DATA / "make_nccl.py").read_text())
    subprocess.run([sys.executable, script], check=True)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.xml")} == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><system/>', ["document type definition"]),
        ("<system>", ["is not XML"]),
        ("<graphs/>", ["outermost element is <graphs>"]),
        ('<system version="1"/>', ["no <gpu>"]),
        ("<system><cpu/></system>", ["<cpu> has no numaid"]),
        ('<system><cpu numaid="0"><pci><gpu dev="0" sm="70"/></pci></cpu></system>', ["<pci> has no busid"]),
        ('<system><cpu numaid="0"><pci busid="1"><gpu dev="x" sm="70"/></pci></cpu></system>', ['dev="x"']),
        ('<system><cpu numaid="0"><pci busid="1"><gpu dev="0"/></pci></cpu></system>', ["<gpu> has no sm"]),
        (
            '<system><cpu numaid="0"><pci busid="1"><gpu dev="0" sm="70"/><gpu dev="0" sm="70"/></pci></cpu></system>',
            ["gpu0 occurs twice"],
        ),
        (
            '<system><cpu numaid="0"><pci busid="1"><gpu dev="0" sm="70"><nvlink target="2" count="-1"/></gpu></pci>'
            "</cpu></system>",
            ['count="-1"'],
        ),
    ],
)
def test_wrong_topology_files(text, words, tmp_path):
    path = tmp_path / "topo.xml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_cluster(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_matrix_of_nvswitch_links():
    cluster = read_cluster(DATA / "dgx-a100.txt")
    preset_links = links(preset("dgx-a100"), "nvlink")
    assert links(cluster, "nvlink") == preset_links
    assert bottleneck(cluster, "gpu0", "mlx5_0")[0] == ["gpu0", "pcie0", "mlx5_0"]  # named by the legend
    assert len(bottleneck(cluster, "gpu0", "gpu7")[0]) == 6


def test_a_matrix_of_a_workstation():
    cluster = read_cluster(DATA / "workstation.txt")
    assert links(cluster, "nvlink") == {("gpu2", "gpu3"): 92 * 10**9, ("gpu3", "gpu2"): 92 * 10**9}
    assert bottleneck(cluster, "gpu0", "gpu1")[0] == ["gpu0", "pcie0", "gpu1"]
    assert bottleneck(cluster, "gpu0", "gpu2")[0] == ["gpu0", "pcie0", "bridge0", "gpu2"]


def test_bandwidths_can_be_given():
    text = (DATA / "workstation.txt").read_text()
    cluster = parse_nvidia_smi(text, lane=14 * 10**9, pcie=48 * 10**9)
    assert cluster.capacity["gpu2", "gpu3"] == 56 * 10**9
    assert cluster.capacity["gpu0", "pcie0"] == 48 * 10**9


def test_four_gpus_that_have_lanes_enough_are_wired_directly():
    def matrix(lanes: int) -> str:
        names = [f"GPU{i}" for i in range(4)]
        rows = ["\t" + "\t".join(names) + "\tCPU Affinity"]
        rows += [f"{a}\t" + "\t".join(" X " if a == b else f"NV{lanes}" for b in names) + "\t0-63" for a in names]
        return "\n".join(rows)

    assert ("gpu0", "gpu3") in parse_nvidia_smi(matrix(4)).capacity
    assert ("gpu0", "nvswitch") in parse_nvidia_smi(matrix(12)).capacity
    assert ("gpu0", "gpu3") not in parse_nvidia_smi(matrix(12)).capacity


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("No devices were found", ["no matrix"]),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV1\n", ["no row for GPU1"]),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV1\nGPU1\tNV2\t X \n", ["GPU1 to GPU0 is NV2", "GPU0 to GPU1 is NV1"]),
        ("\tGPU0\tGPU1\nGPU0\t X \nGPU1\tNV2\t X \n", ["row GPU0 has not 2 entries"]),
    ],
)
def test_wrong_matrices(text, words):
    with pytest.raises(UserError) as caught:
        parse_nvidia_smi(text, source="topo.txt")
    for word in ["topo.txt", *words]:
        assert word in str(caught.value)
