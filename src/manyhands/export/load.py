"""A run's model: built as its job says, with the newest whole checkpoint's weights; no trainer, optimizer or data."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manyhands.errors import UsageError, UserError
from manyhands.gang.held import HeldJob, hold, let_go
from manyhands.job import Job
from manyhands.run import RunDirectory, newest_checkpoint, read_json
from manyhands.state import check_same_model, read_image
from manyhands.training.jobfile import held_job, load_job, where


def load_model(
    directory: RunDirectory, held: HeldJob | None = None, note: Callable[[str], None] = lambda text: None
) -> nn.Module:
    """The run's model with the newest whole checkpoint's weights and buffers, on the CPU, in evaluation mode.

    Args:
        held: the run's job, if that is no file.
        note: told of damaged checkpoints.

    Raises:
        UsageError: the job is not to be had any more.
        UserError: no checkpoint is whole, or the job's model is another one by now.
    """
    checkpoint = newest_checkpoint(directory.checkpoints, note)
    if checkpoint is None:
        raise UserError(
            f"the run {directory.path} has no whole checkpoint yet. Let it train on until it has written one."
        )
    model = build_model(directory, held)
    with open_state(checkpoint.state) as tree:
        check_same_model({**tree["buffers"], **tree["model"]}, model)
        model.load_state_dict(tree["model"])
        buffers = dict(model.named_buffers())
        with torch.no_grad():
            for name, value in tree["buffers"].items():
                buffers[name].copy_(value)
    return model.eval()


def build_model(directory: RunDirectory, held: HeldJob | None = None) -> nn.Module:
    """The run's model, untrained.

    Raises:
        UsageError: the job is not to be had any more.
        UserError: it fails; says where.
    """
    settings = read_json(directory.run)
    job_file = Path(settings["job_file"]) if settings["job_file"] else None
    with _inside(Path(settings["cwd"])):
        job = _job(directory, job_file, settings["arguments"], held)
        torch.manual_seed(job.seed)
        try:
            return job.model()
        except Exception as error:
            raise UserError(f"model() in {job_file or 'the job'} failed: {where(error, job_file)}") from error


def _job(directory: RunDirectory, job_file: Path | None, arguments: list[str], held: HeldJob | None) -> Job:
    if held is not None:
        name = hold(held)
        try:
            return held_job(name)
        finally:
            let_go(name)
    if job_file is None:
        raise UsageError(
            f"the job of {directory.path} is no file: it was in memory when the run began. Give it: "
            f"manyhands.load({str(directory.path)!r}, job)"
        )
    return load_job(job_file, arguments)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in the directory where the run began, as long as there is one: its flags may hold relative paths."""
    before = Path.cwd()
    if folder.is_dir():
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def open_state(path: Path) -> Iterator[Any]:
    """The tree of a checkpoint, whose tensors look into the file."""
    with path.open("rb") as file:
        # A private copy, since torch wants memory that may be written; pages that are not written are the file's.
        yield read_image(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)))[0]
