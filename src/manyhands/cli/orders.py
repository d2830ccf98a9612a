"""`manyhands pause`, `resume`, `cancel` and `move`: what may be done to a job of the controller."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Pause:
    """Have a job stop at its next step boundary and give up its slots, until `manyhands resume`."""

    job: tyro.conf.Positional[int]
    """Its id."""

    def run(self, job_arguments: list[str]) -> int:
        return _order(self.job, "pause", "will pause at its next step boundary")


@dataclass(frozen=True)
class Resume:
    """Let a job that was paused, or has failed, go on from where it was."""

    job: tyro.conf.Positional[int]
    """Its id."""

    def run(self, job_arguments: list[str]) -> int:
        return _order(self.job, "resume", "goes on as soon as there are slots for it")


@dataclass(frozen=True)
class Cancel:
    """End a job for good; what it has trained is kept in its run directory."""

    job: tyro.conf.Positional[int]
    """Its id."""

    def run(self, job_arguments: list[str]) -> int:
        return _order(self.job, "cancel", "ends at its next step boundary")


@dataclass(frozen=True)
class Move:
    """Bring a running job to other hosts: manyhands move 3 --to lab1 lab2"""

    job: tyro.conf.Positional[int]
    """Its id."""
    to: tuple[str, ...]
    """Hosts; those named first are filled first."""

    def run(self, job_arguments: list[str]) -> int:
        return _order(self.job, "move", f"goes to {', '.join(self.to)}", {"to": list(self.to)})


def _order(job: int, what: str, means: str, body: dict[str, object] | None = None) -> int:
    from manyhands.jobs.controller import Client

    Client().post(f"/api/jobs/{job}/{what}", body)
    print(f"job {job} {means}.")
    return 0
