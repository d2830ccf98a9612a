"""`manyhands resize`: change the number of workers of a running job, or how they divide the work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from manyhands.cli.groups import ExistingRun
from manyhands.errors import UsageError
from manyhands.plan import GangOptions, Layout, Sync
from manyhands.run import RunDirectory

_ANSWER_SECONDS = 60.0
"""The supervisor first reaches for hosts that are new, and bears with a busy one for half a minute."""


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
    """To what."""

    def run(self, job_arguments: list[str]) -> int:
        given = self.gang.given()
        if not given:
            raise UsageError("say to what: --workers 4, --layout pp=2,dp=2, --sync server,servers=2 or --hosts here,a.")
        workers = self.gang.workers
        request: dict[str, Any] = {"command": "resize", "workers": workers} | given
        what = f"{workers} worker(s)" if workers is not None else "the same workers"
        if self.gang.layout is not None:
            layout = Layout.parse(self.gang.layout, workers)
            request |= {"workers": layout.workers, "layout": str(layout)}
            what = f"{layout} on {layout.workers} worker(s)"
        if self.gang.sync is not None:
            request["sync"] = str(Sync.parse(self.gang.sync))
        for name in ("sync", "hosts", "server_hosts"):
            what += f", --{name.replace('_', '-')} {given[name]}" if name in given else ""
        RunDirectory.open(self.directory).ask(request, _ANSWER_SECONDS)
        print(f"{self.directory}: going to {what} at the next step boundary")
        return 0
