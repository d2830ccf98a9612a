"""What a step is made of: on a worker that has the whole model (whole.py), and on one that has a part (parts.py)."""

from manyhands.training.steps.choose import load_steps, steps_for
from manyhands.training.steps.computer import MakeSteps, Setting, StepComputer

__all__ = ["MakeSteps", "Setting", "StepComputer", "load_steps", "steps_for"]
