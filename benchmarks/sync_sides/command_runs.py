"""Our side on this machine: `manyhands train` with all that it does by default."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from common import EXAMPLE_JOB
from runs import Run, Tail

from sync_sides.course import Course, Trial, smoothed

_LOOK_SECONDS = 0.05
_START_SECONDS = 120.0
_numbers = itertools.count()


def train(folder: Path, trial: Trial, sync: str, workers: int, slow: str = "") -> Course:
    """Train until the trial is over, then have the run stop."""
    directory = folder / f"run-{next(_numbers)}"
    options = ["--workers", str(workers), "--threads", "1", "--sync", sync, *(["--slow", slow] if slow else [])]
    flags = ["--example", trial.case.example, f"--flags={trial.flags}"]
    course, began = Course(), 0.0
    with Run(directory, EXAMPLE_JOB, flags, options) as run:
        journal = Tail(run.files.metrics)
        until = time.time() + _START_SECONDS
        while not _over(course, trial):
            if run.process.poll() is not None or time.time() > until:
                break
            for line in journal.new():
                if line["kind"] == "membership" and line["change"] == "began" and not began:
                    began = line["time"]
                    until = began + trial.limit
                elif line["kind"] == "step":
                    course.add(line["time"] - began, line["loss"])
            time.sleep(_LOOK_SECONDS)
        if run.process.poll() is None:
            run.stop()
        else:
            run.finish(1.0)
    return course


def _over(course: Course, trial: Trial) -> bool:
    return len(course.losses) >= trial.last or smoothed(course.losses) <= trial.goal
