"""Training: the loop that one worker runs, and what a worker of a gang does around it."""

from manyhands.train.jobfile import load_job
from manyhands.train.losses import NotFiniteError
from manyhands.train.trainer import Step, Trainer

__all__ = ["NotFiniteError", "Step", "Trainer", "load_job"]
