"""Which policy a plan asks for."""

from __future__ import annotations

from manyhands.plan import Plan
from manyhands.sync import AllReduce, LocalSteps, OnWait, Outer, Policy, Task
from manyhands.transport import Group


def make_policy(plan: Plan, task: Task, gang: Group | None, on_wait: OnWait) -> Policy:
    """This worker's side of the plan's policy."""
    sync = plan.sync
    match sync.policy:
        case "local":
            outer = Outer(sync.outer_lr, sync.outer_momentum, sync.outer == "nesterov")
            return LocalSteps(task, gang, on_wait, sync.every, None if sync.outer == "average" else outer, sync.wire)
        case _:
            return AllReduce(task, gang, on_wait, plan.collective)
