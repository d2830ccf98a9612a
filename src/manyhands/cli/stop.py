"""`manyhands stop`: end a running job cleanly."""

from __future__ import annotations

from dataclasses import dataclass

from manyhands.cli.groups import ExistingRun
from manyhands.run import RunDirectory, commands


@dataclass(frozen=True, kw_only=True)
class Stop(ExistingRun):
    """End a running job at its next step boundary, with a checkpoint.

    Go on later: manyhands train --resume RUN
    """

    def run(self, job_arguments: list[str]) -> int:
        RunDirectory.open(self.directory).ask(commands.Stop(), commands.Done)
        print(f"{self.directory}: stopping. Go on later: manyhands train --resume {self.directory}")
        return 0
