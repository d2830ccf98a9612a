"""A model in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Callable[[], None]]:
    """All modules in evaluation mode for a while; then each is in the mode it had, and every buffer has its value.

    Yields:
        What gives every buffer its value in between.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [_Kept(module, key, b) for module, _ in modes for key, b in module._buffers.items() if b is not None]

    def restore() -> None:
        for buffer in buffers:
            buffer.restore()

    model.eval()
    try:
        yield restore
    finally:
        for module, training in modes:
            module.training = training
        restore()


class _Kept:
    """A buffer and its value.

    Args:
        module, key: where it is.
        buffer: what is there now.
    """

    def __init__(self, module: nn.Module, key: str, buffer: Tensor) -> None:
        self._module, self._key, self._buffer = module, key, buffer
        self._value, self._version = buffer.clone(), buffer._version

    def restore(self) -> None:
        """Put it back, if it was moved or replaced."""
        if self._module._buffers.get(self._key) is self._buffer and self._buffer._version == self._version:
            return
        with torch.no_grad():
            self._module._buffers[self._key] = self._buffer.copy_(self._value)
        self._version = self._buffer._version
