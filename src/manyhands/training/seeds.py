"""Random streams that belong to the job: one per micro-batch, none that depends on who computes it."""

from __future__ import annotations

import hashlib
import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


def stream_seed(seed: int, *labels: int | str) -> int:
    """A 63-bit seed for the stream named by the labels, for example `(step, micro_batch)`."""
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_everything(value: int, device: torch.device) -> None:
    """Seed the generators a model or a dataset may draw from: torch's, Python's and NumPy's global ones."""
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)


class Generators(NamedTuple):
    """Where the generators stand that a model or a dataset may draw from."""

    torch: Tensor
    cuda: Tensor | None
    """State of the device's generator, where there is one."""
    python: tuple[Any, ...]
    numpy: tuple[Any, ...]

    @classmethod
    def read(cls, device: torch.device) -> Generators:
        """Read the states that the generators have now."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, random.getstate(), np.random.get_state(legacy=True))  # type: ignore[arg-type]

    def write(self, device: torch.device) -> None:
        """Have the generators go on from these states."""
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)
        random.setstate(self.python)
        np.random.set_state(self.numpy)

    def moved_from(self, other: Generators) -> bool:
        """Whether anything was drawn between the other states and these."""
        same_cuda = self.cuda is None or (other.cuda is not None and torch.equal(self.cuda, other.cuda))
        kind, words, *rest = self.numpy
        other_kind, other_words, *other_rest = other.numpy
        same_numpy = (kind, rest) == (other_kind, other_rest) and np.array_equal(words, other_words)
        return not (torch.equal(self.torch, other.torch) and same_cuda and same_numpy and self.python == other.python)

    def as_tree(self) -> dict[str, Any]:
        """The states as plain data and tensors, to be sent."""
        version, words, gauss = self.python
        kind, key, *rest = self.numpy
        return {
            "torch": self.torch,
            "cuda": self.cuda,
            "python": [version, list(words), gauss],
            "numpy": [kind, torch.from_numpy(key.astype(np.int64)), rest],
        }

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Generators:
        """The states of which `as_tree` was made, here or on another worker."""
        (version, words, gauss), (kind, key, rest) = tree["python"], tree["numpy"]
        numpy = (kind, key.cpu().numpy().astype(np.uint32), *rest)
        cuda = tree["cuda"].cpu() if tree["cuda"] is not None else None
        return cls(tree["torch"].cpu().clone(), cuda, (version, tuple(words), gauss), numpy)
