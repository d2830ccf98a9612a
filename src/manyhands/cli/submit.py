"""`manyhands submit`: hand a job to the controller."""

from __future__ import annotations

import getpass
import json
import re
import secrets
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from manyhands.cli.groups import ForJob
from manyhands.errors import UsageError
from manyhands.plan import JobOptions, Layout, Option, Plan
from manyhands.supervise import Care


@dataclass(frozen=True, kw_only=True)
class Submit(ForJob):
    """Have the controller train a job.

        manyhands submit my_job.py --workers 2 -- --width 256
        manyhands submit my_job.py --workers 1:4 --priority 2

    What follows -- are the flags of the job file's `job` function. `manyhands up` starts a controller.
    """

    workers: Annotated[str | None, Option("N|MIN:MAX", "1, or what the layout has")] = None
    """Processes that share every batch. With MIN:MAX the job may grow and shrink while it runs."""
    priority: int = 0
    """Higher goes first."""
    name: Annotated[str | None, Option("NAME", "the file's")] = None
    """What the job is called."""
    user: Annotated[str | None, Option("NAME", "you")] = None
    """On whose behalf it runs."""
    plan: JobOptions = field(default_factory=JobOptions)
    """How the job is run."""
    care: Care = field(default_factory=Care)
    """How its workers are looked after."""
    json: bool = False
    """Print JSON: the new job's `id` and `status`."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.jobs.controller import Client

        if not self.job_file.is_file():
            raise UsageError(f"the job file {self.job_file} does not exist.")
        layout = Layout.parse(self.plan.layout) if self.plan.layout is not None else None
        least, most = _workers(self.workers, layout)
        Plan(**self.plan.given())  # refuses now what would fail when it is started
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
                "flags": {name: str(value) for name, value in (self.plan.given() | _changed(self.care)).items()},
            },
        )
        if self.json:
            print(json.dumps(answer))
        else:
            print(f"job {answer['id']} is submitted. See `manyhands jobs`, `manyhands logs {answer['id']} -f`.")
        return 0


def _changed(care: Care) -> dict[str, Any]:
    """The settings of the care that are not as they are by default."""
    return {f.name: getattr(care, f.name) for f in fields(care) if getattr(care, f.name) != f.default}


def _workers(text: str | None, layout: Layout | None) -> tuple[int, int]:
    """The fewest and the most workers that a job may have."""
    if text is None:
        return (layout.workers, layout.workers) if layout else (1, 1)
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise UsageError(f"--workers {text}: write N, or MIN:MAX with 1 <= MIN <= MAX.")
    if layout is not None and (least, most) != (layout.workers, layout.workers):
        raise UsageError(f"--layout {layout} has {layout.workers} workers, and --workers is {text}. Leave it out.")
    return least, most
