"""What a step is made of: on a worker that has the whole model (whole.py), and on one that has a part (parts.py)."""

from manyhands.train.steps.choose import load_steps, steps_for
from manyhands.train.steps.computer import MakeSteps, Setting, StepComputer

__all__ = ["MakeSteps", "Setting", "StepComputer", "load_steps", "steps_for"]
