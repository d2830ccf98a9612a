"""`manyhands simulate`: what policies would do to the jobs of a trace on a cluster."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from manyhands.cli.cluster import cluster_of_user
from manyhands.cli.command import Command
from manyhands.errors import UsageError
from manyhands.plan import Option

if TYPE_CHECKING:
    from manyhands.jobs.simulator import Figures, Trace


@dataclass(frozen=True, kw_only=True)
class Simulate(Command):
    """Try policies on the jobs of a trace.

        manyhands simulate --policies fifo,las
        manyhands simulate examples/trace.csv --cluster 4x8 --policies fifo,las,fifo+elastic

    A trace is a CSV with the columns submitted, workers, seconds (docs/simulator.md has the others); without one, jobs
    are generated. Policies: fifo, priority, las (least attained service), fair (between users); +elastic, +consolidate
    and +pack add to any, as in las+elastic. las:600:6000 has other levels, in slot-seconds.
    """

    trace: Annotated[Path | None, Option("TRACE", "generated jobs", positional=True)] = None
    """CSV with columns submitted, workers, seconds (docs/simulator.md), or a public trace."""
    cluster: Annotated[str, Option("HOSTSxSLOTS|CLUSTER")] = "8x8"
    """How many hosts with how many slots each; or a preset (see `manyhands cluster presets`) or a file, whose devices
    are slots."""
    policies: Annotated[str, Option("POLICY,...")] = "fifo,las"
    """Policies to try, side by side."""
    jobs: Annotated[int | None, Option("N", "all of a trace; 2000 generated ones")] = None
    """How many jobs there are, at most: the first ones."""
    load: Annotated[float | None, Option("X", "1; of a trace, as it was")] = None
    """Slot-seconds asked for, over those that there are while jobs come."""
    elastic: Annotated[float, Option("FRACTION")] = 0.0
    """The share of generated jobs that can use four times the workers that they need."""
    spread: Annotated[float, Option("FRACTION")] = 1.0
    """The speed of generated jobs' gangs on more hosts than they need, over that on as few as can be."""
    seed: int = 0
    """Which jobs are generated."""
    pairs: Annotated[Path | None, Option("FILE", "of generated jobs, 26 generated kinds")] = None
    """Speeds of jobs that share slots, by kind, for +pack (docs/simulator.md). Generated jobs are of its kinds."""
    trial: Annotated[float, Option("SECONDS")] = 60.0
    """The time after which +pack knows the speeds of two that share slots. 0: all are known from the start."""
    restart: Annotated[float, Option("SECONDS")] = 5.0
    """How long a job stands still after a pause, a move or a resize."""
    tick: Annotated[float, Option("SECONDS")] = 300.0
    """Time between decisions while jobs wait and none comes or ends; up to four times as much while nothing is
    decided."""
    output: Annotated[Path | None, Option("FILE.html", "nowhere", short="-o")] = None
    """Where to write a page: who held which slot when, and how many waited."""
    json: bool = False
    """Print JSON: the figures of every policy, instead of the table."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.jobs.policies import policy_of
        from manyhands.jobs.simulator import World, figures, simulate

        names = [name.strip() for name in self.policies.split(",")]
        try:
            policies = {name: policy_of(name, self.restart) for name in names}
        except UsageError as error:
            raise UsageError(str(error).replace("--policy", "--policies", 1)) from None
        self._check()
        hosts = _hosts(self.cluster)
        trace, pairs = self._trace(sum(hosts), any("pack" in name for name in names))
        for note in _without_effect(trace, names, pairs):
            print(f"note: {note}", file=sys.stderr if self.json else sys.stdout)
        world = World(hosts=hosts, restart=self.restart, tick=self.tick, pairs=pairs, trial=self.trial or None)
        found: dict[str, dict[str, Any]] = {}
        results: dict[str, Figures] = {}
        outcomes = {}
        refused = 0
        for name, policy in policies.items():
            began = time.perf_counter()
            outcome = simulate(trace, world, policy)
            outcomes[name], results[name], refused = outcome, figures(outcome), len(outcome.refused)
            found[name] = results[name].as_dict() | {"simulated_in": time.perf_counter() - began}
        if self.json:
            about = {"trace": trace.name, "jobs": len(trace), "hosts": list(hosts), "load": trace.load(sum(hosts))}
            print(json.dumps({**about, "refused": refused, "policies": found}, indent=2))
        else:
            _print(trace, hosts, results, refused)
        if self.output is not None:
            from manyhands.jobs.history import history_page

            about = _about(trace, hosts)
            self.output.write_text(history_page(trace.name, about, hosts, outcomes, results))
            print(f"page: {self.output}", file=sys.stderr if self.json else sys.stdout)
        return 0

    def _check(self) -> None:
        if self.trace is not None and not self.trace.is_file():
            raise UsageError(
                f"there is no trace {self.trace}. A trace is a CSV with the columns submitted, workers, seconds "
                "(docs/simulator.md; examples/trace.csv is one). Without one, jobs are generated."
            )
        if self.output is not None and self.output.suffix != ".html":
            raise UsageError(f"--output {self.output}: the name must end in .html. --json prints the figures.")
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"--jobs must be at least 1; it is {self.jobs}.")
        if not 0 <= self.elastic <= 1 or not 0 < self.spread <= 1:
            raise UsageError("--elastic is from 0 to 1, and --spread above 0 and at most 1.")
        if (self.load is not None and self.load <= 0) or self.tick <= 0 or min(self.restart, self.trial) < 0:
            raise UsageError("--load and --tick must be above 0, and --restart and --trial not below.")

    def _trace(self, slots: int, packs: bool) -> tuple[Trace, Mapping[tuple[int, int], tuple[float, float]]]:
        """The trace of the jobs, and the speeds of their kinds' pairs."""
        from manyhands.jobs.simulator import generate, generate_pairs, read_pairs, read_trace

        measured = read_pairs(self.pairs) if self.pairs is not None else None
        if self.trace is None:
            kinds = len(measured.kinds) if measured else _KINDS if packs else 1
            trace = generate(
                self.jobs or 2000,
                slots,
                seed=self.seed,
                load=self.load or 1.0,
                elastic=self.elastic,
                spread=self.spread,
                kinds=kinds,
            )
            return trace, measured.speeds if measured else generate_pairs(kinds, self.seed) if packs else {}
        trace = read_trace(self.trace).first(self.jobs)
        if not len(trace):
            raise UsageError(f"{self.trace} has no job that asks for a worker.")
        if self.load is not None:
            trace = trace.at_load(self.load, slots)
        if measured is None:
            return trace, {}
        own = {kind: index for index, kind in enumerate(trace.kinds)}
        names = [own.get(kind) for kind in measured.kinds]
        known = {(names[a], names[b]): speeds for (a, b), speeds in measured.speeds.items()}
        return trace, {(a, b): speeds for (a, b), speeds in known.items() if a is not None and b is not None}


_WIDTH = 120
"""Width of the table, in characters, where it does not go to a terminal."""
_KINDS = 26
"""Kinds of generated jobs: as many as Gavel's figures have on one device."""


def _hosts(text: str) -> list[int]:
    """The number of slots of each host."""
    if found := re.fullmatch(r"(\d+)x(\d+)", text):
        count, slots = map(int, found.groups())
        if not count or not slots:
            raise UsageError(f"--cluster {text}: there is no slot in it.")
        return [slots] * count
    cluster = cluster_of_user(text)
    hosts: dict[str, int] = {}
    for node in cluster.nodes:
        if node.holds_data:
            hosts[node.host or node.name] = hosts.get(node.host or node.name, 0) + 1
    if not hosts:
        raise UsageError(f"cluster {cluster.name} has no host or device that a job could run on.")
    return list(hosts.values())


def _without_effect(trace: Trace, names: list[str], pairs: Mapping[tuple[int, int], object]) -> list[str]:
    """Which options make no difference for these jobs, and why."""
    notes = []
    if any("elastic" in name for name in names) and (trace.most == trace.least).all():
        notes.append("no job can use more workers than it needs, so none grows (a column most, or --elastic).")
    if any("consolidate" in name for name in names) and (trace.spread == 1).all():
        notes.append("no job minds being spread, so nothing is consolidated (a column spread, or --spread).")
    if any("pack" in name for name in names) and not pairs:
        notes.append("nobody has measured pairs of these jobs, so nothing is packed (--pairs, a column kind).")
    return notes


def _about(trace: Trace, hosts: list[int]) -> str:
    slots = sum(hosts)
    return f"{len(trace)} jobs on {len(hosts)} host(s) with {slots} slots, load {trace.load(slots):.2f}"


def _print(trace: Trace, hosts: list[int], results: dict[str, Figures], refused: int) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from manyhands.jobs.history import duration

    slots = sum(hosts)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    console.print(f"{trace.name}: {_about(trace, hosts)}", markup=False, soft_wrap=True)
    if trace.left_out:
        console.print(f"{trace.left_out} that ask for no worker, or never ran, are left out.")
    if refused:
        console.print(f"{refused} that ask for more than {slots} workers are refused.")
    table = Table(padding=(0, 0, 0, 1), box=SIMPLE)
    table.add_column("policy", overflow="fold", min_width=6)
    for heading in ("done in", "p50", "p95", "p99", "waited", "p99", "used", "useful", "span", "fair"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, f in results.items():
        times = [f.completion[key] for key in ("mean", "p50", "p95", "p99")] + [f.wait["mean"], f.wait["p99"]]
        cells = [duration(seconds) for seconds in times]
        used = f"{f.utilisation:.0%}", f"{f.useful:.0%}"
        fair = f"{f.fairness:.2f}" if len(trace.users) > 1 else "-"
        table.add_row(name, *cells, *used, duration(f.makespan), fair)
    console.print(table)
    console.print("Means and percentiles, from submission to the end (done in), and without slots on the way (waited).")
