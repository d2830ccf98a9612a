"""Running a model to look at it, and leaving no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Afterwards every buffer and every random generator is as before."""
    buffers = [
        (m, key, b, b.detach().clone()) for m in model.modules() for key, b in m._buffers.items() if b is not None
    ]
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for module, key, buffer, value in buffers:
                module._buffers[key] = buffer.copy_(value)
