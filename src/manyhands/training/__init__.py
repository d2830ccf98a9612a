"""Training: the loop that one worker runs, and what a worker of a gang does around it."""

from manyhands.training.jobfile import load_job
from manyhands.training.losses import NotFiniteError
from manyhands.training.trainer import Step, Trainer

__all__ = ["NotFiniteError", "Step", "Trainer", "load_job"]
