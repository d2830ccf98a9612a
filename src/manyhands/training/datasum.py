"""Whether two processes read the same data: a digest of a few samples, read on a stream of their own."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from manyhands.training.seeds import seed_everything, stream_seed


def data_sha256(data: Any, seed: int) -> str:
    """The digest of the number of samples and of the first, the middle and the last one; empty if they cannot be read,
    which the training says better."""
    digest = hashlib.sha256(str(len(data)).encode())
    try:
        for index in dict.fromkeys((0, len(data) // 2, len(data) - 1)):
            seed_everything(stream_seed(seed, "digest", index), torch.device("cpu"))
            for leaf in tree_leaves(data[index]):
                digest.update(_bytes(leaf))
    except Exception:
        return ""
    return digest.hexdigest()


def _bytes(leaf: Any) -> bytes:
    """What a leaf of a sample is, and its value; of an object that is neither number nor text, its type alone."""
    if isinstance(leaf, Tensor):
        leaf = leaf.detach().cpu()
        array = leaf.float().numpy() if leaf.dtype == torch.bfloat16 else leaf.numpy()
        return f"{leaf.dtype}{tuple(leaf.shape)}".encode() + array.tobytes()
    if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype != object:
        return f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()
    return repr(leaf).encode() if isinstance(leaf, int | float | str | bytes) else type(leaf).__name__.encode()
