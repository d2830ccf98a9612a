"""`manyhands logs`: what a job printed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

_LOOK_SECONDS = 0.3


@dataclass(frozen=True)
class Logs:
    """Show what a job has printed: manyhands logs 3 -f"""

    job: tyro.conf.Positional[int]
    """Its id."""
    follow: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False
    """Go on until the job is over."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.jobs.controller import Client, Home

        client = Client()
        find_job(client, self.job)
        output = Home().job(self.job).output
        position = 0
        while True:
            over = not self.follow or bool(find_job(client, self.job)["ended"])
            if output.exists():
                with output.open("rb") as file:
                    file.seek(position)
                    text = file.read()
                position += len(text)
                sys.stdout.write(text.decode(errors="replace"))
                sys.stdout.flush()
            if over:
                return 0
            time.sleep(_LOOK_SECONDS)


def find_job(client: object, number: int) -> dict[str, object]:
    """One of the controller's jobs.

    Raises:
        UsageError: there is none.
    """
    from manyhands.errors import UsageError
    from manyhands.jobs.controller import Client

    assert isinstance(client, Client)
    for job in client.get("/api/cluster")["jobs"]:
        if job["id"] == number:
            return job
    raise UsageError(f"there is no job {number}. `manyhands jobs` lists those there are.")
