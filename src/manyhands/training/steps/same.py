"""What has to be the same on all workers in every step, and costs next to nothing to tell: refused before it counts.

Each worker tells it with the facts of the step; the training loop compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from manyhands.errors import UserError

_RATES = "rates"
_GATHERS = "gathers"
OTHER_LAYERS = (
    "replicas have used different layers in this step, or in another order, as experts and dropped layers have it, and "
    "with shard=2 and 3 they exchange a layer's weights and gradients as they use it. Use shard=1, or have every "
    "micro-batch use every layer."
)


def rates(optimizer: Optimizer) -> dict[str, Any]:
    """The learning rates that the step will be made with."""
    return {_RATES: [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]}


def gathers(by_stage: Mapping[int, str]) -> dict[str, Any]:
    """Digests of which modules' weights were gathered in this step, one after another, by stage."""
    return {_GATHERS: {str(stage): digest for stage, digest in by_stage.items()}}


def check(looks: Sequence[Mapping[str, Any]]) -> None:
    """Compare what all workers told in a step.

    Args:
        looks: by rank.

    Raises:
        UserError: it is not the same on all.
    """
    told = [(rank, look[_RATES]) for rank, look in enumerate(looks) if _RATES in look]
    for rank, found in told:
        if found != told[0][1]:
            raise UserError(
                f"workers {told[0][0]} and {rank} would take a step with different learning rates ({_list(told[0][1])} "
                f"and {_list(found)}). A schedule must depend on nothing but the step and the loss: not on weights, of "
                "which a worker may hold a part, the clock, or what it has computed itself."
            )
    sequences: dict[str, tuple[int, str]] = {}
    for rank, look in enumerate(looks):
        for stage, digest in look.get(_GATHERS, {}).items():
            first, known = sequences.setdefault(stage, (rank, digest))
            if digest != known:
                raise UserError(f"workers {first} and {rank} have used different layers: {OTHER_LAYERS}")


def _list(found: Sequence[float]) -> str:
    return ", ".join(f"{rate:.6g}" for rate in found[:3]) + (", ..." if len(found) > 3 else "")
