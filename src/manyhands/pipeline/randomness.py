"""The random generators' state on its way through a pipeline.

A micro-batch has one random stream, and one worker would draw from it from the first layer to the last. A stage
therefore goes on where the one before left off: the state travels with the activations, as 5 KB of bytes (torch's
Mersenne twister; 16 bytes for a CUDA generator).
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WORDS = 625
"""Words of a Mersenne twister's state: 624, and the position in them."""


class Randomness:
    """Reads and sets the generators that a model may draw from.

    Args:
        device: whose generator counts besides the CPU's.
        others: whether Python's and NumPy's global generators take part; few models draw from them in forward.
    """

    def __init__(self, device: torch.device, others: bool = False) -> None:
        self._device, self._others = device, others
        self._sizes = [torch.get_rng_state().numel()]
        if device.type == "cuda":
            self._sizes.append(torch.cuda.get_rng_state(device).numel())
        if others:
            self._sizes += [_WORDS * 4] * 2
        self.size = sum(self._sizes)
        """Bytes of the state. What NumPy keeps of half a normal pair is not part of it."""

    def read(self) -> Tensor:
        """The state now: uint8, (size,)."""
        parts = [torch.get_rng_state()]
        if self._device.type == "cuda":
            parts.append(torch.cuda.get_rng_state(self._device))
        if self._others:
            parts += [_bytes(random.getstate()[1]), _bytes(_numpy_words())]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def write(self, state: Tensor) -> None:
        """Go on from a state that `read` gave, here or on another worker."""
        parts = list(state.split(self._sizes))
        torch.set_rng_state(parts.pop(0).contiguous())
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(parts.pop(0).contiguous(), self._device)
        if self._others:
            words = [part.numpy().view(np.uint32) for part in parts]
            random.setstate((3, tuple(map(int, words[0])), None))
            np.random.set_state(("MT19937", words[1][:-1], int(words[1][-1]), 0, 0.0))


def other_generators() -> tuple[Any, bytes]:
    """The state of Python's and NumPy's generators, to compare."""
    return random.getstate(), _numpy_words().tobytes()


def _numpy_words() -> np.ndarray:
    _, words, position, *_ = np.random.get_state()
    return np.append(words, np.uint32(position))  # type: ignore[call-overload]


def _bytes(words: Any) -> Tensor:
    return torch.from_numpy(np.array(words, dtype=np.uint32).view(np.uint8))
