"""Jobs that are no files: functions and `Job`s of a script or a notebook, held by the process that trains them.

Such a job cannot be imported by another process, so the process that workers are forked from is itself a fork of this
one (engine/forked.py), and finds the job here, under the name that the run's `Spec` gives.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from manyhands.job import Job


@dataclass(frozen=True)
class HeldJob:
    """A job, or a function that makes one of some flags."""

    job: Job | Callable[..., Job]
    flags: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the job is called, to people."""
        return getattr(self.job, "__name__", "job") if not isinstance(self.job, Job) else "job"

    @property
    def sha256(self) -> str:
        """A digest of the job's source as far as there is one, to notice that it has changed."""
        of = self.job.model if isinstance(self.job, Job) else self.job
        try:
            text = inspect.getsource(of)
        except (OSError, TypeError):
            text = repr(getattr(of, "__code__", of))
        return hashlib.sha256(f"{text}{sorted(self.flags.items())}".encode()).hexdigest()


_held: dict[str, HeldJob] = {}
_numbers = itertools.count(1)


def hold(job: HeldJob) -> str:
    """Hold a job until `let_go`; the name by which it is found in forks that are made meanwhile."""
    name = f"job-{next(_numbers)}"
    _held[name] = job
    return name


def held(name: str) -> HeldJob:
    """The job of this name."""
    return _held[name]


def let_go(name: str) -> None:
    """Forget the job of this name: no fork will ask for it any more."""
    _held.pop(name, None)
