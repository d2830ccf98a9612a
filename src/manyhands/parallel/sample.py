"""A batch by which a model is looked at before it is placed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from manyhands.parallel.call import call
from manyhands.pipeline.randomness import other_generators


class Sample:
    """Calls the whole model with one batch, as often as it is wanted.

    Args:
        inputs: of the batch.
        autocast: makes what a forward pass runs in.

    Attributes:
        draws_elsewhere: whether the model draws from Python's or NumPy's generators, as far as was seen.
    """

    def __init__(self, inputs: Any, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self._inputs, self._autocast = inputs, autocast
        self.draws_elsewhere = False

    def runs(self) -> Callable[[nn.Module], Any]:
        """A function that calls the model that it is given, with inputs that the model may change."""
        inputs = copied(self._inputs)

        def run(model: nn.Module) -> Any:
            before = other_generators()
            try:
                with self._autocast():
                    return call(model, inputs)
            finally:
                self.draws_elsewhere |= other_generators() != before

        return run


def copied(value: Any) -> Any:
    """A batch, or a part of one, for who may change its tensors."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)
