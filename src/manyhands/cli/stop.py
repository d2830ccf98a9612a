"""`manyhands stop`: end a running job cleanly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from manyhands.run import RunDirectory


@dataclass(frozen=True)
class Stop:
    """End a running job at its next step boundary, with a checkpoint from which it can be resumed."""

    directory: tyro.conf.Positional[Path]
    """The run directory."""

    def run(self, job_arguments: list[str]) -> int:
        RunDirectory.open(self.directory).ask({"command": "stop"})
        print(f"{self.directory}: stopping. Go on later: manyhands train --resume {self.directory}")
        return 0
