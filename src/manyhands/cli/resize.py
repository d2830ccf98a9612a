"""`manyhands resize`: change the number of workers of a running job, or how they divide the work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from manyhands.errors import UsageError
from manyhands.plan import Layout, Sync
from manyhands.run import RunDirectory


@dataclass(frozen=True)
class Resize:
    """Change the gang of a running job at its next step boundary. The result stays the same, unless --sync local has a
    part in it.

    manyhands resize RUN --workers 4; manyhands resize RUN --layout pp=2,dp=2; manyhands resize RUN --sync server
    """

    directory: tyro.conf.Positional[Path]
    """The run directory."""
    workers: int | None = None
    """How many workers from now on. Without --layout the number of replicas changes, and nothing else."""
    layout: str | None = None
    """How they divide the work from now on: pp=2,dp=2 and so on (docs/layouts.md)."""
    sync: str | None = None
    """When replicas agree from now on: allreduce, server,servers=2 and so on (docs/sync.md)."""

    hosts: str | None = None
    """here,NAME,...: machines that the workers are on from now on, if the run was started with --hosts."""
    server_hosts: str | None = None
    """The same for parameter servers, a machine for each."""

    def run(self, job_arguments: list[str]) -> int:
        if not any((self.workers is not None, self.layout, self.sync, self.hosts, self.server_hosts)):
            raise UsageError("say to what: --workers 4, --layout pp=2,dp=2, --sync server,servers=2 or --hosts here,a.")
        request: dict[str, Any] = {"command": "resize", "workers": self.workers}
        what = f"{self.workers} worker(s)" if self.workers is not None else "the same workers"
        if self.layout is not None:
            layout = Layout.parse(self.layout, self.workers)
            request |= {"workers": layout.workers, "layout": str(layout)}
            what = f"{layout} on {layout.workers} worker(s)"
        if self.sync is not None:
            request |= {"sync": str(Sync.parse(self.sync))}
            what += f", --sync {self.sync}"
        for flag, hosts in (("hosts", self.hosts), ("server_hosts", self.server_hosts)):
            if hosts is not None:
                request |= {flag: hosts}
                what += f", --{flag.replace('_', '-')} {hosts}"
        RunDirectory.open(self.directory).ask(request)
        print(f"{self.directory}: going to {what} at the next step boundary")
        return 0
