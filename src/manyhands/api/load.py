"""From a run to its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhands.gang.held import HeldJob
from manyhands.job import Job
from manyhands.run import RunDirectory

if TYPE_CHECKING:
    from torch import nn


def load(
    run_dir: str | Path, job: Job | Callable[..., Job] | None = None, flags: Mapping[str, Any] | None = None
) -> nn.Module:
    """The model of a run, with the newest whole checkpoint's weights, on the CPU, in evaluation mode.

        model = manyhands.load("runs/gpt-20261130-120000")

    Args:
        run_dir: the run's directory.
        job: the job of a run that was begun with one in memory; others know their file.
        flags: what the function `job` is called with, as it was then.

    Raises:
        UsageError: there is no such run, or its job is not to be had.
        UserError: no checkpoint is whole, or the model is not the run's any more.
    """
    held = HeldJob(job, dict(flags or {})) if job is not None else None
    return load_from(RunDirectory.open(Path(run_dir)), held)


def load_from(directory: RunDirectory, held: HeldJob | None) -> nn.Module:
    """Return the model of a run's directory, as `load` does; `held` is the run's job if that is no file."""
    from manyhands.export import load_model

    return load_model(directory, held)
