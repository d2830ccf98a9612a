"""`manyhands resize`: change the number of workers of a running job, or how they divide the work."""

from __future__ import annotations

from dataclasses import dataclass, field

from manyhands.cli.groups import ExistingRun
from manyhands.errors import UsageError
from manyhands.plan import GangOptions, Layout
from manyhands.run import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Resize(ExistingRun):
    """Change the workers of a running job at its next step boundary.

        manyhands resize RUN --workers 4
        manyhands resize RUN --layout pp=2,dp=2
        manyhands resize RUN --sync server,servers=2

    What is not given stays as it is; --workers alone changes the number of replicas. The result stays the same, unless
    --sync local has a part in it.
    """

    gang: GangOptions = field(default_factory=GangOptions)
    """What the gang is to be."""

    def run(self, job_arguments: list[str]) -> int:
        given = self.gang.given()
        if not given:
            raise UsageError("say to what: --workers 4, --layout pp=2,dp=2, --sync server,servers=2 or --hosts here,a.")
        workers = self.gang.workers
        what = f"{workers} worker(s)" if workers is not None else "the same workers"
        if self.gang.layout is not None:
            layout = Layout.parse(self.gang.layout, workers)
            what = f"{layout} on {layout.workers} worker(s)"
        for name in ("sync", "hosts", "server_hosts"):
            what += f", --{name.replace('_', '-')} {given[name]}" if name in given else ""
        from manyhands.api import Run

        Run(RunDirectory.open(self.directory).path).resize(**given)
        print(f"{self.directory}: going to {what} at the next step boundary")
        return 0
