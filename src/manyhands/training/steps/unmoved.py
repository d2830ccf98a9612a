"""What a forward pass may not do to weights, on one of several workers: move them, or begin to train them.

Buffers may move, and the step knows what to make of that (buffers.py). What a forward pass makes of a weight goes from
one micro-batch to the next, and each worker computes others of them. Which weights train was settled when the workers
agreed on what to exchange.

torch counts how often a tensor was written to (`_version`), so to notice costs some 30 ns for each weight.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from manyhands.errors import UserError


class Unmoved:
    """Watches the weights of a model on one of several workers.

    Args:
        model: whose weights.
        moves: others may write to them during a forward pass: only which of them train is watched.
    """

    def __init__(self, model: nn.Module, moves: bool = False) -> None:
        self._names, self._weights = zip(*model.named_parameters(), strict=True)
        self._train = [weight.requires_grad for weight in self._weights]
        self._watched = () if moves else self._weights
        self._versions: list[int] = []

    def before(self) -> None:
        """A forward pass comes next."""
        self._versions = [weight._version for weight in self._watched]

    def after(self) -> None:
        """The forward pass is done.

        Raises:
            UserError: it has moved a weight, or one has begun to train, or ended; says which.
        """
        now = [weight._version for weight in self._watched]
        if now != self._versions:
            moved = [n for n, a, b in zip(self._names, self._versions, now, strict=True) if a != b]
            raise UserError(
                f"the forward pass changes weights ({_some(moved)}), so each worker would train others. Make what it "
                "moves a buffer (register_buffer), or train with --workers 1."
            )
        train = [weight.requires_grad for weight in self._weights]
        if train != self._train:
            changed = [n for n, a, b in zip(self._names, self._train, train, strict=True) if a != b]
            raise UserError(
                f"weights begin or cease to train in the middle of the run ({_some(changed)}), and several workers "
                "agreed at its beginning on which do. Freeze them when the model is built, or train with --workers 1."
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
