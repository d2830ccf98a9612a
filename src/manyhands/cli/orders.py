"""`manyhands pause`, `resume`, `cancel` and `move`: what may be done to a job of the controller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from manyhands.cli.command import Command
from manyhands.errors import UsageError
from manyhands.plan import Option


@dataclass(frozen=True, kw_only=True)
class _Order(Command):
    of_a_run: ClassVar[str]
    """The command that does the same to a run in a directory."""

    job: Annotated[str, Option("JOB", positional=True)]
    """The job's number; `manyhands jobs` lists them."""

    def order(self, what: str, means: str, body: dict[str, object] | None = None) -> int:
        """Have the controller do something with the job."""
        number = self.number(what)
        from manyhands.jobs.controller import Client

        Client().post(f"/api/jobs/{number}/{what}", body)
        print(f"job {number} {means}.")
        return 0

    def number(self, what: str) -> int:
        """The job's number.

        Raises:
            UsageError: it is none; says what to do with a run in a directory.
        """
        if self.job.isdecimal():
            return int(self.job)
        raise UsageError(
            f"`manyhands {what}` takes the number of a job of the controller (`manyhands jobs` lists them), and "
            f"{self.job!r} is none. For a run in a directory: {self.of_a_run.format(self.job)}"
        )


@dataclass(frozen=True, kw_only=True)
class Pause(_Order):
    """Have a job stop at its next step boundary and give up its slots.

    It goes on after: manyhands resume JOB
    """

    of_a_run = "manyhands stop {}"

    def run(self, job_arguments: list[str]) -> int:
        return self.order("pause", "will pause at its next step boundary")


@dataclass(frozen=True, kw_only=True)
class Resume(_Order):
    """Let a job that was paused, or has failed, go on from where it was.

    A run in a directory goes on with: manyhands train --resume RUN
    """

    of_a_run = "manyhands train --resume {}"

    def run(self, job_arguments: list[str]) -> int:
        return self.order("resume", "goes on as soon as there are slots for it")


@dataclass(frozen=True, kw_only=True)
class Cancel(_Order):
    """End a job for good; its run directory is kept.

    A run in a directory ends with: manyhands stop RUN
    """

    of_a_run = "manyhands stop {}"

    def run(self, job_arguments: list[str]) -> int:
        return self.order("cancel", "ends at its next step boundary")


@dataclass(frozen=True, kw_only=True)
class Move(_Order):
    """Bring a running job to other hosts.

    manyhands move 3 --to lab1,lab2
    """

    of_a_run = "manyhands resize {} --hosts HOST,..."

    to: Annotated[str, Option("HOST,...")]
    """Hosts to move to; those named first are filled first."""

    def run(self, job_arguments: list[str]) -> int:
        self.number("move")
        from manyhands.plan import parse_hosts

        hosts = parse_hosts("--to", self.to)
        if not hosts:
            raise UsageError("--to needs a host: --to lab1,lab2.")
        return self.order("move", f"goes to {', '.join(hosts)}", {"to": list(hosts)})
