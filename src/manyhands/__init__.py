"""manyhands trains PyTorch models on whatever machines you have, and always gets the same model.

The public map: a `Job` says what to compute, a `Plan` how, and a `Trainer` does it. Each is loaded when it is first
used: importing this package takes milliseconds, and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from manyhands.errors import JobError, UsageError, UserError

if TYPE_CHECKING:
    from manyhands.job import Evaluation, Job
    from manyhands.plan import Plan
    from manyhands.run.tracker import Tracker
    from manyhands.timeline import Event
    from manyhands.train import Step, Trainer

__version__ = "0.1.0"

_LAZY = {
    "Evaluation": "manyhands.job",
    "Event": "manyhands.timeline",
    "Job": "manyhands.job",
    "Plan": "manyhands.plan",
    "Step": "manyhands.train",
    "Tracker": "manyhands.run.tracker",
    "Trainer": "manyhands.train",
}

__all__ = ["Evaluation", "Event", "Job", "JobError", "Plan", "Step", "Tracker", "Trainer", "UsageError", "UserError"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'manyhands' has no attribute {name!r}")
