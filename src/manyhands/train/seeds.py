"""Random streams that belong to the job: one per micro-batch, none that depends on who computes it."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


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
