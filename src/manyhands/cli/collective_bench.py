"""`manyhands collective bench`: how fast collectives are, beside another backend and beside what the links allow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from manyhands.cli.command import Command
from manyhands.cli.groups import ScaleOption
from manyhands.errors import UsageError
from manyhands.plan import Option

if TYPE_CHECKING:
    from manyhands.bench import Fleet, Timing
    from manyhands.cluster import Cluster

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_OWN = "manyhands"


@dataclass(frozen=True, kw_only=True)
class Bench(ScaleOption, Command):
    """Time collectives on this machine, or on a cluster that it emulates.

        manyhands collective bench --ranks 4
        sudo manyhands collective bench --cluster star-4

    Ranks of this machine talk through shared memory. With --cluster every host is emulated (see `manyhands lab`; needs
    root), and times stand beside the bound: no schedule at all is faster on those links.
    """

    ranks: Annotated[int, Option("N", "2, or what --cluster has")] = 2
    """How many processes take part."""
    cluster: Annotated[str, Option("CLUSTER", "this machine")] = ""
    """A preset (see `manyhands cluster presets`) or a file: TOML, NCCL_TOPO_DUMP_FILE's XML, `nvidia-smi topo -m`."""
    sizes: Annotated[str, Option("BYTES,...")] = "64KiB,1MiB,16MiB"
    """How much data there is in all: what all-gather gives out, what reduce-scatter takes in."""
    operations: Annotated[str, Option("OPERATION,...")] = "all_reduce"
    """What is timed: all_reduce, reduce_scatter, all_gather, broadcast, reduce."""
    against: Annotated[str, Option("BACKEND|none")] = "gloo"
    """Another backend of torch.distributed to alternate with."""
    rounds: int = 5
    """Measurements of each."""

    def run(self, job_arguments: list[str]) -> int:
        sizes = [parse_size(text) for text in _listed(self.sizes)]
        operations = _listed(self.operations)
        for operation in operations:
            if operation not in OPERATIONS:
                raise UsageError(f"--operations {operation}: there are {', '.join(OPERATIONS)}.")
        if not sizes or not operations or self.ranks < 1 or self.rounds < 1 or self.scale <= 0:
            raise UsageError("--sizes and --operations need one each; --ranks, --rounds and --scale must be positive.")
        cluster = _cluster(self.cluster, self.scale) if self.cluster else None
        names = [_OWN] if self.against in ("none", "", _OWN) else [_OWN, self.against]
        from manyhands.bench import alternate

        rows = []
        with fleets(names, self.ranks, cluster) as started:
            for operation in operations:
                for size in sizes:
                    timings = alternate(started, operation, size, self.rounds)
                    rows.append(_row(operation, size, timings, bound(cluster, operation, size)))
        _print(rows, names, cluster)
        return 0


@contextlib.contextmanager
def fleets(names: list[str], ranks: int, cluster: Cluster | None) -> Iterator[Mapping[str, Fleet]]:
    """A fleet for each backend, on this machine or in a lab."""
    from manyhands.bench import Fleet, in_lab, local

    with contextlib.ExitStack() as opened:
        if cluster is None:
            yield {name: opened.enter_context(Fleet(name, ranks, local(ranks))) for name in names}
            return
        from manyhands.lab import Lab

        lab = opened.enter_context(Lab(cluster))
        world = len(cluster.ranks)
        yield {name: opened.enter_context(Fleet(name, world, in_lab(lab, number))) for number, name in enumerate(names)}


def bound(cluster: Cluster | None, operation: str, size: int) -> float | None:
    """Seconds that no schedule beats on these links."""
    from manyhands.collective.packing import packed

    if cluster is None or len(cluster.ranks) < 2:
        return None
    root = cluster.ranks[0] if operation in ("broadcast", "reduce") else None
    return size / float(packed(cluster, operation, root=root).certificate.bound)  # type: ignore[arg-type]


def parse_size(text: str, flag: str = "--sizes") -> int:
    """Bytes of "4096", "64KiB", "16MB"."""
    digits = text.rstrip("BKMGibkmg ")
    unit = text[len(digits) :].strip().lower()
    unit = unit + "b" if unit in ("k", "m", "g", "ki", "mi", "gi") else unit
    if not digits.isdigit() or int(digits) < 1 or unit not in _UNITS:
        raise UsageError(f"{flag} {text}: write bytes as 4096, 64KiB or 16MB.")
    return int(digits) * _UNITS[unit]


def _cluster(text: str, scale: float) -> Cluster:
    from manyhands.cli.cluster import cluster_of_user

    cluster = cluster_of_user(text).scaled(scale)
    if any(node.host for node in cluster.nodes):  # links inside of machines are to be seen too
        cluster = cluster.apart()
    if not cluster.ranks:
        raise UsageError(f"--cluster {text} has no host or device for a rank.")
    return cluster


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _row(operation: str, size: int, timings: Mapping[str, Timing], least: float | None) -> list[str]:
    from manyhands.report.chart import duration

    own, *others = timings.values()
    cells = [operation, format_size(size), duration(own.best), duration(own.median), f"{size / own.median / 1e6:,.0f}"]
    if least is not None:
        cells += [duration(least), f"{least / own.median:.2f}"]
    return cells + [cell for other in others for cell in (duration(other.median), f"{own.over(other):.2f}x")]


def format_size(size: int) -> str:
    """A size as people write it: 64 KiB, 16 MiB."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size:,} B"


def _print(rows: list[list[str]], names: list[str], cluster: Cluster | None) -> None:
    from rich.console import Console
    from rich.table import Table

    headings = ["operation", "bytes", "least", "median", "MB/s"]
    headings += ["bound", "of it"] if len(rows[0]) > len(headings) + 2 * len(names[1:]) else []
    headings += [heading for name in names[1:] for heading in (name, "as fast")]
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(f"on {cluster.name}, emulated" if cluster else "through shared memory", markup=False)
    console.print(table)
