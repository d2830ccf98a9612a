"""What a loss has to be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from manyhands.errors import UserError


class NotFiniteError(UserError):
    """The loss became NaN or infinite. The state is the one before the step."""


def check_loss(loss: object) -> None:
    """Refuse what the job's loss returned, if nothing can be learned from it.

    Raises:
        UserError: it is no scalar, or depends on nothing that trains.
    """
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        shape = f"tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"the loss must be a scalar tensor; it is a {shape}. Return its mean, for example loss.mean().")
    if not loss.requires_grad:
        raise UserError("the loss does not depend on any trainable parameter. Check for .detach() or no_grad.")


def check_finite(losses: Sequence[float], first: int, step: int) -> None:
    """Refuse a step with a loss that is no number.

    Args:
        first: the number of the first loss's micro-batch.
        step: number of the step, from 1.

    Raises:
        NotFiniteError: one is NaN or infinite.
    """
    for micro_batch, loss in enumerate(losses, first):
        if not math.isfinite(loss):
            raise NotFiniteError(
                f"the loss became {loss} at step {step}, micro-batch {micro_batch}. Lower the learning rate, "
                "set clip_grad_norm, or check the data of that batch."
            )
