"""Who computes steps under a plan."""

from __future__ import annotations

from manyhands.plan import Plan
from manyhands.training.steps.computer import MakeSteps
from manyhands.training.steps.whole import Whole


def steps_for(plan: Plan) -> MakeSteps:
    """What computes steps: whether a plan divides the model is asked here, and nowhere else while it trains."""
    if plan.layout.split:
        from manyhands.training.steps.parts import Parts  # torch's pipelines and sharding take half a second

        return Parts
    return Whole


def load_steps(plan: Plan) -> None:
    """Import what steps under this plan need, before workers are forked."""
    steps_for(plan)
