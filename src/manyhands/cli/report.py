"""`manyhands report`: write a run's report again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from manyhands.run import RunDirectory


@dataclass(frozen=True)
class Report:
    """Write report.html of a run, also while it runs."""

    directory: tyro.conf.Positional[Path]
    """The run directory."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.report import write_report

        directory = RunDirectory.open(self.directory)
        write_report(directory)
        print(directory.report)
        return 0
