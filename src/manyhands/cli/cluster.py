"""`manyhands cluster`: what a cluster looks like, as described or as measured."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from manyhands.cli.cluster_probe import Probe
from manyhands.cluster import (
    PRESET_HELP,
    PRESETS,
    Cluster,
    Link,
    Node,
    format_bandwidth,
    format_latency,
    format_toml,
    read_cluster,
)
from manyhands.errors import UsageError, UserError


@dataclass(frozen=True)
class Show:
    """Show the nodes and links of a cluster: manyhands cluster show dgx1v"""

    cluster: tyro.conf.Positional[str]
    """A preset (see `manyhands cluster presets`) or a file: TOML, NCCL_TOPO_DUMP_FILE's XML, `nvidia-smi topo -m`."""
    json: bool = False
    """As JSON: `name`, `nodes`, `links`, with bandwidths in bytes/s and latencies in s."""
    toml: bool = False
    """As TOML, to be changed and read again."""

    def run(self, job_arguments: list[str]) -> int:
        if self.json and self.toml:
            raise UsageError("--json and --toml exclude each other.")
        cluster = cluster_of_user(self.cluster)
        if self.json:
            print(json.dumps(asdict(cluster)))
        elif self.toml:
            print(format_toml(cluster), end="")
        else:
            print_cluster(cluster)
        return 0


@dataclass(frozen=True)
class Presets:
    """List the clusters that are known by name."""

    def run(self, job_arguments: list[str]) -> int:
        for name, what in PRESETS.items():
            print(f"{name:12} {what}")
        print(PRESET_HELP)
        return 0


Command = (
    Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Presets, tyro.conf.subcommand("presets")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
)


@dataclass(frozen=True)
class ClusterCommand:
    """Describe clusters: hosts, devices, switches, and the links between them."""

    command: tyro.conf.OmitSubcommandPrefixes[Annotated[Command, tyro.conf.arg(name="")]]

    def run(self, job_arguments: list[str]) -> int:
        return self.command.run(job_arguments)


def cluster_of_user(text: str) -> Cluster:
    """What the command line names; a wrong name is wrong usage."""
    try:
        return read_cluster(text)
    except UserError as error:
        raise UsageError(str(error)) from None


def print_cluster(cluster: Cluster) -> None:
    """Its nodes and links as tables."""
    from rich.console import Console
    from rich.table import Table

    nodes = Table()
    for heading in ("node", "kind", "host", "can"):
        nodes.add_column(heading, overflow="fold")
    for node in cluster.nodes:
        nodes.add_row(node.name, node.kind, node.host, _abilities(node))
    links = Table()
    links.add_column("link", overflow="fold")
    for heading in ("bandwidth", "latency"):
        links.add_column(heading, justify="right")
    for heading in ("kind", "rail"):
        links.add_column(heading)
    for link, arrow in _paired(cluster.links):
        speed, wait = format_bandwidth(link.bandwidth, digits=3), format_latency(link.latency, digits=3)
        links.add_row(f"{link.source} {arrow} {link.target}", speed, wait, link.kind, link.rail)
    console = Console()
    console.print(f"{cluster.name}: {_summary(cluster)}", highlight=False, markup=False, soft_wrap=True)
    console.print(nodes)
    console.print(links)


def _summary(cluster: Cluster) -> str:
    kinds = Counter(node.kind for node in cluster.nodes)
    parts = [f"{count} {kind}{'es' if kind == 'switch' else 's'}" for kind, count in kinds.items() if count > 1]
    parts += [f"1 {kind}" for kind, count in kinds.items() if count == 1]
    return ", ".join(parts) or "empty"


def _abilities(node: Node) -> str:
    words = {"adds": node.can_add, "copies": node.can_copy}
    return ", ".join(word for word, can in words.items() if can) or "forwards"


def _paired(links: tuple[Link, ...]) -> list[tuple[Link, str]]:
    """A link with its equal counterpart counts as one line."""
    by_key = {(link.source, link.target, link.rail): link for link in links}
    rows: list[tuple[Link, str]] = []
    done: set[tuple[str, str, str]] = set()
    for key, link in by_key.items():
        mirror = (link.target, link.source, link.rail)
        back = by_key.get(mirror)
        equal = back is not None and (back.bandwidth, back.latency, back.kind) == (
            link.bandwidth,
            link.latency,
            link.kind,
        )
        if key not in done:
            rows.append((link, "<->" if equal else "-->"))
        if equal:
            done.add(mirror)
    return rows
