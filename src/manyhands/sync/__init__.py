"""When and how replicas agree: policies over a step; sums in the job's order, within a worker and across workers."""

from manyhands.sync.allreduce import AllReduce, sums
from manyhands.sync.choice import choose_forest
from manyhands.sync.exchange import Exchange
from manyhands.sync.layout import Layout, lay_out
from manyhands.sync.local import LocalSteps, Outer
from manyhands.sync.local_sum import LocalSum
from manyhands.sync.policy import Finished, Piece, Policy, Replica, Round, Sink, Task
from manyhands.sync.waiting import OnWait

__all__ = [
    "AllReduce",
    "Exchange",
    "Finished",
    "Layout",
    "LocalSteps",
    "LocalSum",
    "OnWait",
    "Outer",
    "Piece",
    "Policy",
    "Replica",
    "Round",
    "Sink",
    "Task",
    "choose_forest",
    "lay_out",
    "sums",
]
