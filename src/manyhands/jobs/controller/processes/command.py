"""What a job's supervisor is told when it begins and when its slots change: a command line, and a request."""

from __future__ import annotations

from pathlib import Path

from manyhands.jobs.controller.storage.record import Job
from manyhands.run import Resize


def train(job: Job, run: Path, begun: bool, hosts: str | None) -> list[str]:
    """The arguments of `manyhands` that train a job on as many workers as its target has.

    Args:
        run: the run's directory.
        begun: whether there is a run in it, to be gone on with.
        hosts: where the workers are to be; None on a cluster of this machine alone, whatever hosts the run had before.
    """
    command = ["train", *(("--resume", str(run)) if begun else (job.file, "--run-dir", str(run)))]
    command += ["--workers", str(len(job.target))]
    if hosts is not None or begun:
        command += ["--hosts", hosts or ""]
    for name, value in job.flags.items():
        command += [f"--{name.replace('_', '-')}", value]
    if not begun and job.arguments:
        command += ["--", *job.arguments]
    return command


def resize(job: Job, hosts: str | None) -> Resize:
    """The request that has a job's gang go on with the job's target.

    Args:
        hosts: as for `train`.
    """
    return Resize(workers=len(job.target), hosts=hosts)
