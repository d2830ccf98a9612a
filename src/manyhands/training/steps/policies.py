"""Which policy a plan asks for."""

from __future__ import annotations

from manyhands.job import Job
from manyhands.parallel.traits import find_coupling
from manyhands.plan import Plan
from manyhands.sync import AllReduce, LocalSteps, OnWait, Outer, Policy, Task
from manyhands.sync.server import SynchronousServer
from manyhands.transport import Group


def make_policy(job: Job, plan: Plan, gang: Group | None, on_wait: OnWait) -> Policy:
    """This worker's side of the plan's policy."""
    task, sync = Task(job.micro_batches, job.reproducible, job.clip_grad_norm, plan.sync.balance), plan.sync
    match sync.policy:
        case "local":
            outer = Outer(sync.outer_lr, sync.outer_momentum, sync.outer == "nesterov")
            return LocalSteps(task, gang, on_wait, sync.every, None if sync.outer == "average" else outer, sync.wire)
        case "server":
            assert gang is not None
            cut = find_coupling(job.optimizer) == "element"
            return SynchronousServer(task, gang, on_wait, sync.servers, cut, overlap=not job.compile)
        case _:
            return AllReduce(task, gang, on_wait, plan.collective)
