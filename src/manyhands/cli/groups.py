"""Options that several commands have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from manyhands.cli.command import FOR_THE_JOB, Command
from manyhands.plan import Option


@dataclass(frozen=True, kw_only=True)
class ExistingRun(Command):
    """A command about a run that there is."""

    directory: Annotated[Path, Option("RUN", positional=True)]
    """The run's directory, as `manyhands train` printed it."""


@dataclass(frozen=True, kw_only=True)
class ForJob(Command):
    """A command that trains a job of a file."""

    after_dashes = FOR_THE_JOB

    job_file: Annotated[Path, Option("JOB_FILE", positional=True)]
    """Python file with a function `job(...) -> manyhands.Job`."""


@dataclass(frozen=True, kw_only=True)
class TokenOption:
    """How runs and agents know each other."""

    token: Annotated[Path | None, Option("FILE", "token in $MANYHANDS_HOME, or in ~/.manyhands")] = None
    """File with the token that agents and those who use them have to share. The first `manyhands agent` makes it."""


@dataclass(frozen=True, kw_only=True)
class ScaleOption:
    """How fast an emulated cluster is."""

    scale: float = 1.0
    """Multiply the bandwidths of the cluster: one machine cannot emulate NVLinks, but a thousandth of them."""
