"""manyhands trains PyTorch models on whatever machines you have, and always gets the same model.

The public map: a `Job` says what to compute, `train` trains it with as many workers as you like and gives a `Run`, and
`load` gives a run's model; a `Trainer` is the loop that one worker runs. Each is loaded when it is first used:
importing this package takes milliseconds, and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from manyhands.errors import JobError, UsageError, UserError

if TYPE_CHECKING:
    from manyhands.api import Run, load, resume, train
    from manyhands.job import Evaluation, Job
    from manyhands.plan import Plan
    from manyhands.run.tracker import Tracker
    from manyhands.timeline import Event
    from manyhands.training import Step, Trainer

__version__ = "0.1.0"

_LAZY = {
    "Evaluation": "manyhands.job",
    "Event": "manyhands.timeline",
    "Job": "manyhands.job",
    "Plan": "manyhands.plan",
    "Run": "manyhands.api",
    "Step": "manyhands.training",
    "Tracker": "manyhands.run.tracker",
    "Trainer": "manyhands.training",
    "load": "manyhands.api",
    "resume": "manyhands.api",
    "train": "manyhands.api",
}

__all__ = [
    "Evaluation",
    "Event",
    "Job",
    "JobError",
    "Plan",
    "Run",
    "Step",
    "Tracker",
    "Trainer",
    "UsageError",
    "UserError",
    "load",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'manyhands' has no attribute {name!r}")
