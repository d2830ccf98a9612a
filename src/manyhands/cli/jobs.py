"""`manyhands jobs`: the controller's jobs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from manyhands.cli.command import Command


@dataclass(frozen=True, kw_only=True)
class Jobs(Command):
    """Show the jobs of the controller: how each stands, what it has, and who waits."""

    json: bool = False
    """Print JSON: `controller` with its `pid`, `hosts`, and `jobs` with `id`, `name`, `status`, `step`, `workers`
    (rank, pid, host), `slots`, `weights_sha256`, `directory` and more."""
    all: bool = False
    """Show also jobs that were over an hour ago."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.jobs.controller import Client

        found = Client().get("/api/cluster")
        if self.json:
            print(json.dumps(found))
            return 0
        _print(found, self.all)
        return 0


def _print(found: dict[str, Any], everything: bool) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from manyhands.jobs.history import duration

    now = found["now"]
    jobs = [job for job in found["jobs"] if everything or not job["ended"] or now - job["ended"] < 3600]
    used = len({slot for job in jobs for slot in job["slots"]})
    total = sum(host["slots"] for host in found["hosts"] if host["there"])
    gone = [host["name"] for host in found["hosts"] if not host["there"]]
    console = Console(highlight=False)
    controller = found["controller"]
    console.print(f"process {controller['pid']}, policy {controller['policy']}: {used} of {total} slots in use")
    if gone:
        console.print(f"not there: {', '.join(gone)}")
    table = Table(padding=(0, 1, 0, 0), box=SIMPLE)
    for heading in ("id", "name", "status", "step", "workers", "priority", "user", "submitted"):
        table.add_column(heading, justify="right" if heading in ("id", "step", "workers", "priority") else "left")
    for job in jobs:
        steps = f"{job['step']}/{job['total_steps'] or '?'}"
        asked = str(job["least"]) if job["most"] == job["least"] else f"{job['least']}:{job['most']}"
        workers = f"{len(job['slots'])} of {asked}" if job["slots"] else asked
        cells = [str(job["id"]), job["name"], job["status"], steps, workers, str(job["priority"]), job["user"]]
        table.add_row(*cells, f"{duration(max(0.0, now - job['submitted']))} ago")
    console.print(table)
    for job in jobs:
        if job["error"]:
            console.print(f"job {job['id']}: {job['error']}", markup=False, soft_wrap=True)
    if not jobs:
        console.print(f"no jobs at {time.strftime('%H:%M')}; manyhands submit FILE")
