"""What there is to compute on: nodes and links, as presets, files, or measured."""

from manyhands.cluster.cluster import Cluster, Kind, Link, Node
from manyhands.cluster.files import format_toml, parse_toml, read_toml, write_toml
from manyhands.cluster.nccl import parse_nccl, read_nccl
from manyhands.cluster.nvidia_smi import parse_nvidia_smi, read_nvidia_smi
from manyhands.cluster.presets import PRESET_HELP, PRESETS, preset
from manyhands.cluster.read import read_cluster
from manyhands.cluster.units import format_bandwidth, format_latency, parse_bandwidth, parse_latency

__all__ = [
    "PRESETS",
    "PRESET_HELP",
    "Cluster",
    "Kind",
    "Link",
    "Node",
    "format_bandwidth",
    "format_latency",
    "format_toml",
    "parse_bandwidth",
    "parse_latency",
    "parse_nccl",
    "parse_nvidia_smi",
    "parse_toml",
    "preset",
    "read_cluster",
    "read_nccl",
    "read_nvidia_smi",
    "read_toml",
    "write_toml",
]
