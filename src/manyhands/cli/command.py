"""What every command is."""

from __future__ import annotations

from typing import ClassVar

FOR_THE_JOB = "Flags of the job go after --"
"""What may follow `--` in commands that have a job file."""


class Command:
    """A file of this folder declares one as a frozen dataclass: its fields are the options, its docstring the help."""

    after_dashes: ClassVar[str] = ""
    """What may follow `--`, as a sentence; empty where nothing may."""

    def run(self, job_arguments: list[str]) -> int:
        """Carry the command out, with what followed `--`; returns the exit code."""
        raise NotImplementedError
