"""Clusters by name: `dgx1v`, `2x-dgx-a100`, `star-4+2:25MB,25MB,25MB,5MB`."""

from __future__ import annotations

import re
from dataclasses import replace

import manyhands.cluster.machines as machines
import manyhands.cluster.networks as networks
from manyhands.cluster.cluster import Cluster
from manyhands.cluster.units import is_latency, parse_bandwidth, parse_latency
from manyhands.errors import UserError

PRESETS = {
    "dgx1v": "8 V100s: NVLink hybrid cube mesh, PCIe switches, host bridges",
    "dgx-a100": "8 A100s around an NVSwitch",
    "Nx-dgx-a100": "N such boxes, an InfiniBand port for each GPU",
    "mesh-N": "N hosts, every two joined by a link of their own",
    "ring-N": "N hosts, each linked to the next and the last to the first",
    "line-N": "N hosts, each linked to the next",
    "star-N": "N hosts on one Ethernet switch; star-N+K adds K helper hosts",
    "two-rail-N": "N hosts with two interfaces, each to a switch of its own; two-rail-N+K adds K helper hosts",
}
PRESET_HELP = (
    "After networks :BANDWIDTH,... and a latency may follow: mesh-4:50MB,100us (one for all), "
    "star-4:25MB,25MB,25MB,5MB (each host), two-rail-4:25MB,10MB (each rail). Default: 25MB/s, 50us."
)
_WIRED = {"mesh": networks.mesh, "ring": networks.ring, "line": networks.line}
_SWITCHED = {"star": networks.star, "two-rail": networks.two_rail}
_MACHINES = re.compile(r"(?:([0-9]+)x-)?dgx-a100")
_NETWORK = re.compile(r"(mesh|ring|line|star|two-rail)-([0-9]+)(?:\+([0-9]+))?")


def is_preset(text: str) -> bool:
    """Whether the text is meant as a preset, be its values right or wrong."""
    name = text.split(":", 1)[0]
    return name == "dgx1v" or any(form.fullmatch(name) for form in (_MACHINES, _NETWORK))


def preset(text: str) -> Cluster:
    """The cluster of that name.

    Raises:
        UserError: there is no such preset, or its values do not fit.
    """
    name, _, values = text.partition(":")
    if not is_preset(text):
        known = "\n".join(f"  {name:12} {what}" for name, what in PRESETS.items())
        raise UserError(f"there is no preset {text}. Presets:\n{known}\n{PRESET_HELP}")
    network = _NETWORK.fullmatch(name)
    if network is not None:
        return replace(_network(network, text, values), name=text)
    if values:
        raise UserError(f"preset {text}: {name} takes no values after a colon. Write {name}.")
    boxed = _MACHINES.fullmatch(name)
    if boxed is None:
        return machines.dgx1v()
    boxes = int(boxed[1] or 1)
    if boxes < 1:
        raise UserError(f"preset {text}: there must be at least 1 box.")
    return machines.dgx_a100(boxes)


def _network(match: re.Match[str], text: str, values: str) -> Cluster:
    form, hosts, helpers = match[1], int(match[2]), int(match[3] or 0)
    if hosts < 1:
        raise UserError(f"preset {text}: there must be at least 1 host.")
    bandwidths, latencies = _values(text, values)
    latency = latencies[0] if latencies else networks.LATENCY
    if form in _SWITCHED:
        return _SWITCHED[form](hosts, helpers=helpers, bandwidths=bandwidths or (networks.BANDWIDTH,), latency=latency)
    if helpers:
        raise UserError(f"preset {text}: helpers need a switch to be on. Use star-{hosts}+{helpers}.")
    if len(bandwidths) > 1:
        raise UserError(f"preset {text}: {form} has one bandwidth for all links. Give one, or write a TOML file.")
    return _WIRED[form](hosts, bandwidth=bandwidths[0] if bandwidths else networks.BANDWIDTH, latency=latency)


def _values(text: str, values: str) -> tuple[list[int], list[float]]:
    """The bandwidths and latencies behind the colon."""
    fields = [field.strip() for field in values.split(",")] if values else []
    try:
        latencies = [parse_latency(field) for field in fields if is_latency(field)]
        bandwidths = [parse_bandwidth(field) for field in fields if not is_latency(field)]
    except UserError as error:
        raise UserError(f"preset {text}: {error}") from None
    if len(latencies) > 1:
        raise UserError(f"preset {text}: {len(latencies)} latencies. Give one for all links.")
    return bandwidths, latencies
