"""`manyhands report`: write a run's report again."""

from __future__ import annotations

from dataclasses import dataclass

from manyhands.cli.groups import ExistingRun
from manyhands.run import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Report(ExistingRun):
    """Write report.html of a run, also while it runs."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.report import write_report

        directory = RunDirectory.open(self.directory)
        write_report(directory)
        print(directory.report)
        return 0
