"""Split a model inside its layers: every worker of a tensor group computes a part of each projection.

    plan = derive(model, lambda: model(example), degree=2)
    print(plan)
    apply(model, plan, mesh["tp"])
    with context():
        loss(model(inputs), targets).backward()

Parameters keep their names; `gather` and `scatter_` translate between a worker's share and the one-worker value.
"""

from manyhands.tensor_parallel.apply import apply, context
from manyhands.tensor_parallel.derive import derive
from manyhands.tensor_parallel.plan import ModulePlan, Style, TensorPlan
from manyhands.tensor_parallel.tensor import gathered
from manyhands.tensor_parallel.values import (
    gather,
    gradient,
    is_split,
    scatter_,
    share,
    squared_norm_share,
    whole,
    whole_shape,
)

__all__ = [
    "ModulePlan",
    "Style",
    "TensorPlan",
    "apply",
    "context",
    "derive",
    "gather",
    "gathered",
    "gradient",
    "is_split",
    "scatter_",
    "share",
    "squared_norm_share",
    "whole",
    "whole_shape",
]
