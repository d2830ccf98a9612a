"""A cluster as tables on the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manyhands.cluster import Cluster, Link, Node


def print_cluster(cluster: Cluster) -> None:
    """Print a cluster's nodes and links as tables."""
    from rich.console import Console
    from rich.table import Table

    from manyhands.cluster import format_bandwidth, format_latency

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
    """The lines of the table of links: a link with its equal counterpart counts as one."""
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
