"""`manyhands submit`: hand a job to the controller."""

from __future__ import annotations

import getpass
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import tyro

from manyhands.errors import UsageError
from manyhands.plan import Device, Layout, Sync


@dataclass(frozen=True)
class Submit:
    """Have the controller train a job: manyhands submit job.py --workers 2 -- --layers 6

    What follows -- are the flags of the job file's `job` function.
    """

    job_file: tyro.conf.Positional[Path]
    """Python file with a function `job(...) -> manyhands.Job`."""
    workers: str | None = None
    """N, or MIN:MAX for a job that may grow and shrink while it runs. Default: 1, or what the layout has."""
    priority: int = 0
    """Higher goes first."""
    name: str | None = None
    """Default: the file's."""
    user: str | None = None
    """On whose behalf. Default: you."""
    layout: str | None = None
    """How the work is divided among the workers: pp=2,dp=2 and so on (docs/layouts.md)."""
    sync: str | None = None
    """When replicas agree (docs/sync.md)."""
    device: Device | None = None
    """Default: CUDA where there is some, else the CPU."""
    threads: int | None = None
    """Threads per worker on the CPU. Default: 1."""
    json: bool = False
    """Print the new job as JSON: `id`, `status`."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.jobs.controller import Client

        if not self.job_file.is_file():
            raise UsageError(f"the job file {self.job_file} does not exist.")
        layout = Layout.parse(self.layout) if self.layout is not None else None
        least, most = _workers(self.workers, layout)
        sync = str(Sync.parse(self.sync)) if self.sync is not None else None
        given = {"layout": self.layout, "sync": sync, "device": self.device, "threads": self.threads}
        answer = Client().post(
            "/api/jobs",
            {
                "key": secrets.token_hex(16),
                "file": str(self.job_file.resolve()),
                "arguments": job_arguments,
                "cwd": str(Path.cwd()),
                "name": self.name or self.job_file.stem,
                "user": self.user or getpass.getuser(),
                "least": least,
                "most": most,
                "priority": self.priority,
                "flags": {name: str(value) for name, value in given.items() if value is not None},
            },
        )
        if self.json:
            print(json.dumps(answer))
        else:
            print(f"job {answer['id']} is submitted. See `manyhands jobs`, `manyhands logs {answer['id']} -f`.")
        return 0


def _workers(text: str | None, layout: Layout | None) -> tuple[int, int]:
    """The fewest and the most."""
    if text is None:
        return (layout.workers, layout.workers) if layout else (1, 1)
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise UsageError(f"--workers {text}: write N, or MIN:MAX with 1 <= MIN <= MAX.")
    if layout is not None and (least, most) != (layout.workers, layout.workers):
        raise UsageError(f"--layout {layout} has {layout.workers} workers, and --workers is {text}. Leave it out.")
    return least, most
