"""`manyhands resize`: change the number of workers of a running job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from manyhands.run import RunDirectory


@dataclass(frozen=True)
class Resize:
    """Change the number of workers of a running job at its next step boundary. The result stays the same."""

    directory: tyro.conf.Positional[Path]
    """The run directory."""
    workers: int
    """How many workers from now on."""

    def run(self, job_arguments: list[str]) -> int:
        RunDirectory.open(self.directory).ask({"command": "resize", "workers": self.workers})
        print(f"{self.directory}: going to {self.workers} worker(s) at the next step boundary")
        return 0
