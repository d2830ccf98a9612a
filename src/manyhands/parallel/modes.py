"""A model in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode for a while; then each is in the mode it had, and every buffer has its value."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, key, b, b.clone()) for module, _ in modes for key, b in module._buffers.items() if b is not None
    ]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, key, buffer, value in buffers:
                module._buffers[key] = buffer.copy_(value)
