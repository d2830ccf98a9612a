"""How far two runs' final weights are apart."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyhands.compare.measured import Trial
from manyhands.errors import UserError
from manyhands.run import newest_checkpoint

if TYPE_CHECKING:
    from torch import Tensor


def difference(one: Trial, other: Trial) -> tuple[float, bool]:
    """The largest difference of any weight, and whether all have the same bits.

    Raises:
        UserError: a run's last checkpoint is damaged.
    """
    if one.result["weights_sha256"] == other.result["weights_sha256"]:
        return 0.0, True
    return largest(_weights(one), _weights(other)), False


def largest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest absolute difference of any element; values that are not numbers differ by infinity."""
    found = 0.0
    for name, tensor in one.items():
        if not tensor.numel():
            continue
        apart = (tensor.double() - other[name].double()).abs().nan_to_num(nan=float("inf"))
        found = max(found, float(apart.max()))
    return found


def _weights(trial: Trial) -> dict[str, Any]:
    """The weights of a run's last checkpoint; they look into its file."""
    from manyhands.state import read_image

    checkpoint = newest_checkpoint(trial.directory.checkpoints, lambda text: None)
    if checkpoint is None or checkpoint.step != trial.result["steps"]:
        raise UserError(f"{trial.directory.path} has no whole checkpoint of its last step: compare again.")
    with checkpoint.state.open("rb") as file:  # the mapping goes with the last tensor that looks into it
        tree, _ = read_image(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)))
    return tree["model"]
