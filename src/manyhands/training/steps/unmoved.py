"""A forward pass may move buffers, and no weights: what it makes of a weight goes from one micro-batch to the next, and
each replica computes others of them. Of buffers the step knows what to make (buffers.py).

torch counts how often a tensor was written to (`_version`), so to notice costs some 30 ns for each weight.
"""

from __future__ import annotations

from torch import nn

from manyhands.errors import UserError


class Unmoved:
    """Watches the weights of a model on one of several workers.

    Args:
        model: whose weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names, self._weights = zip(*model.named_parameters(), strict=True)
        self._versions: list[int] = []

    def before(self) -> None:
        """A forward pass comes next."""
        self._versions = [weight._version for weight in self._weights]

    def after(self) -> None:
        """The forward pass is done.

        Raises:
            UserError: it has moved a weight; says which.
        """
        now = [weight._version for weight in self._weights]
        if now != self._versions:
            moved = [n for n, a, b in zip(self._names, self._versions, now, strict=True) if a != b]
            more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
            raise UserError(
                f"the forward pass changes weights ({', '.join(moved[:3])}{more}), so each worker would train others. "
                "Make what it moves a buffer (register_buffer), or train with --workers 1."
            )
