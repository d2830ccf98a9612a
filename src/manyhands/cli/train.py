"""`manyhands train`: train a job, here or on several machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from manyhands.cli.command import FOR_THE_JOB, Command
from manyhands.cli.groups import TokenOption
from manyhands.cli.interrupts import tell_how_to_end
from manyhands.errors import UsageError
from manyhands.plan import Option, PlanOptions
from manyhands.supervise import Care


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a job, or go on with a run.

        manyhands train my_job.py --workers 2 -- --width 256
        manyhands train --resume RUN

    What follows -- are the flags of the job file's `job` function; `manyhands train my_job.py -- --help` lists them.
    """

    after_dashes = FOR_THE_JOB

    job_file: Annotated[Path | None, Option("JOB_FILE", "that of the run that is resumed", positional=True)] = None
    """Python file with a function `job(...) -> manyhands.Job`."""
    run_dir: Annotated[Path | None, Option("DIR", "runs/NAME-TIME")] = None
    """Where what is made is written: a directory that is not there yet, or empty."""
    resume: Annotated[Path | None, Option("RUN")] = None
    """Go on with the run in this directory, from its newest whole checkpoint."""
    plan: PlanOptions = field(default_factory=PlanOptions)
    """How the job is run."""
    token: TokenOption = field(default_factory=TokenOption)
    """What the agents know."""
    tracker: Annotated[Literal["tensorboard"] | None, Option("tensorboard", "none")] = None
    """Where the figures are written besides the run's own files."""
    care: Care = field(default_factory=Care)
    """How the gang is looked after."""
    quiet: bool = False
    """Print nothing but what the workers print and what goes wrong."""
    debug: bool = False
    """Show the trace behind a failure."""

    def run(self, job_arguments: list[str]) -> int:
        if (self.job_file is None) == (self.resume is None):
            raise UsageError(
                "give either a job file or --resume DIR: manyhands train FILE, manyhands train --resume DIR"
            )
        if self.resume is not None and self.run_dir is not None:
            raise UsageError("--resume and --run-dir exclude each other: a resumed run stays in its directory.")
        from manyhands import api

        if not self.quiet:
            tell_how_to_end()
        given: dict[str, Any] = {
            **self.plan.given(),
            **vars(self.care),
            "trackers": (self.tracker,) if self.tracker else (),
            "token": self.token.token,
            "quiet": self.quiet,
            "debug": self.debug,
        }
        if self.resume is not None:
            run = api.resume(self.resume, arguments=job_arguments, **given)
        else:
            assert self.job_file is not None
            run = api.train(self.job_file, run_dir=self.run_dir, arguments=job_arguments, **given)
        return run.exit_code or 0
