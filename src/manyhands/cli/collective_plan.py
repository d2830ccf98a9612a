"""`manyhands collective plan`: how data should travel, how fast, and why not faster."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from manyhands.cli.collective_bench import parse_size
from manyhands.cli.collective_options import How, Planned, Where, make_plan, write_text
from manyhands.cli.command import Command
from manyhands.plan import Option

if TYPE_CHECKING:
    from manyhands.cluster import Cluster
    from manyhands.collective.forest import Edge, Forest, Tree

SIZES = tuple(4096 * 16**power for power in range(5))
"""Bytes that times are predicted for: 4 KiB to 256 MiB."""
_MOST_ROWS = 24
_MOST_RING = 256
"""Ranks up to which a ring is predicted beside the plan: it has a tree for each, with edges between all."""


@dataclass(frozen=True, kw_only=True)
class Plan(Command):
    """Plan a collective: how data should travel, how fast, and why not faster.

    manyhands collective plan --cluster dgx1v --devices 0,1,4
    """

    where: Where
    """Which machines, links and operation."""
    how: How = field(default_factory=How)
    """Which algorithm."""
    max_trees: Annotated[int | None, Option("N", "as many as it takes")] = None
    """Pack at most so many trees."""
    size: Annotated[str, Option("BYTES")] = "16MiB"
    """How much data `--algorithm auto` is to be fast for."""
    json: bool = False
    """Print JSON: rates in bytes/s, times in s, and every tree with its edges."""
    msccl: Annotated[Path | None, Option("FILE", "nowhere")] = None
    """Where to write it as MSCCL XML besides."""
    chakra: Annotated[Path | None, Option("DIR", "nowhere")] = None
    """Where to write it as Chakra execution traces of --size bytes besides, RANK.et each."""

    def run(self, job_arguments: list[str]) -> int:
        size = parse_size(self.size, "--size")
        cluster = self.where.select()
        root = self.where.rooted(cluster)
        planned = make_plan(cluster, self.where.operation, root, self.how, max_trees=self.max_trees, size=size)
        facts = describe(cluster, planned, canonical=self.how.canonical)
        if self.msccl is not None:
            from manyhands.collective.formats import to_msccl

            write_text(self.msccl, to_msccl(planned.forest))
        if self.chakra is not None:
            from manyhands.collective.formats import chakra_traces

            for rank, trace in enumerate(chakra_traces(planned.forest, size)):
                write_text(self.chakra / f"{planned.forest.algorithm}.{rank}.et", trace)
        if self.json:
            print(json.dumps(facts))
        else:
            _print(cluster, planned, facts)
        return 0


def describe(cluster: Cluster, planned: Planned, *, canonical: bool) -> dict[str, Any]:
    """All there is to say of a plan, as plain data."""
    from manyhands.collective.algorithms import ring
    from manyhands.collective.cost import predict
    from manyhands.collective.loads import rate
    from manyhands.collective.partials import one_leaf_each

    forest, certificate = planned.forest, planned.certificate
    blocks = one_leaf_each(len(cluster.ranks)) if canonical else None
    travels = any(tree.reduce or tree.broadcast for tree in forest.trees)
    rooted = forest.operation in ("broadcast", "reduce")
    others: list[Forest] = []
    if len(cluster.ranks) <= _MOST_RING:
        others = [ring(cluster, forest.operation, root=forest.trees[0].root if rooted else None)]
    predicted = []
    for size in SIZES:
        cost, *beside = (predict(item, cluster, size, contributions=blocks) for item in (forest, *others))
        row = {"bytes": size, "seconds": cost.seconds, "chunks": cost.chunks}
        predicted.append(row | {"ring_seconds": beside[0].seconds if beside else None})
    cost = predict(forest, cluster, SIZES[-1], contributions=blocks)
    return {
        "cluster": cluster.name,
        "operation": forest.operation,
        "algorithm": forest.algorithm,
        "members": list(forest.members),
        "helpers": list(forest.helpers),
        "canonical": canonical,
        "rate": float(rate(forest, cluster, contributions=blocks)) if travels else None,
        "bound": float(certificate.bound) if certificate else None,
        "cut": certificate.cut if certificate else None,
        "price_of_canonical": float(certificate.price) if certificate and certificate.price is not None else None,
        "bottleneck": cost.bottleneck,
        "idle_links": cost.idle,
        "links": cost.links,
        "reason": planned.reason or None,
        "trees": [_plain(tree) for tree in forest.trees],
        "predicted": predicted,
    }


def _plain(tree: Tree) -> dict[str, Any]:
    edges = {part: [edge._asdict() for edge in getattr(tree, part)] for part in ("reduce", "broadcast")}
    return {"share": float(tree.share), "root": tree.root, **edges}


def _print(cluster: Cluster, planned: Planned, facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from manyhands.collective.cost import format_rate

    forest, certificate = planned.forest, planned.certificate
    console = Console(highlight=False, soft_wrap=True)
    count = len(forest.trees)
    lines = [f"{forest.operation} on {cluster.name}: {forest.algorithm}, {count} tree{'s' * (count != 1)}"]
    if facts["rate"] is not None:
        lines.append(f"rate   {format_rate(facts['rate'])}")
    if certificate is not None and facts["rate"] is not None:
        reached = facts["rate"] / facts["bound"]
        lines.append(f"bound  {format_rate(facts['bound'])}, of which this is {reached:.1%}")
        lines.append(f"cut    {certificate.cut}")
        if certificate.price is not None:
            lines.append(f"price  {float(certificate.price):.1%} of the rate without --canonical")
    lines.append(f"links  {facts['idle_links']} of {facts['links']} idle; busiest {facts['bottleneck']}")
    if planned.reason:
        lines.append(f"chosen {planned.reason}")
    console.print("\n".join(lines), markup=False)
    trees = Table("share", "root", "adds up along", "hands out along", box=None, pad_edge=False)
    for tree in forest.trees[:_MOST_ROWS]:
        share = str(tree.share) if tree.share.denominator < 100 else f"{float(tree.share):.4f}"
        trees.add_row(share, tree.root, _edges(tree.reduce), _edges(tree.broadcast))
    console.print()
    Console(highlight=False).print(trees)
    if count > _MOST_ROWS:
        console.print(f"... {count - _MOST_ROWS} more (--json gives all)")
    times = Table("bytes", "predicted", "ring", box=None, pad_edge=False)
    for row in facts["predicted"]:
        times.add_row(f"{row['bytes']:,}", _seconds(row["seconds"]), _seconds(row["ring_seconds"]))
    console.print()
    console.print(times)


def _edges(edges: tuple[Edge, ...]) -> str:
    words = [
        f"{edge.source}>{edge.target}"
        + (f" via {','.join(edge.via)}" if edge.via else "")
        + (f" on {edge.rail}" if edge.rail else "")
        for edge in edges
    ]
    return ", ".join(words) or "-"


def _seconds(value: float | None) -> str:
    from manyhands.report.chart import duration

    return "-" if value is None else duration(value)
