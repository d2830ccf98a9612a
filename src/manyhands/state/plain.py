"""Weights alone, as a plain safetensors file that any reader opens: names, dtypes, shapes, bytes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, uint8

from manyhands.state.image import DTYPES

_ALIGNMENT = 64


def write_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors, which are on the CPU; returns when the disk has them.

    Raises:
        OSError: the disk is full or gone.
    """
    named = sorted(tensors.items(), key=lambda entry: (-entry[1].dtype.itemsize, entry[0]))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in named:
        end = offset + tensor.numel() * tensor.dtype.itemsize
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    padded = -(-(8 + len(header)) // _ALIGNMENT) * _ALIGNMENT - 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", padded) + header.ljust(padded))
        for _, tensor in named:
            file.write(tensor.detach().contiguous().reshape(-1).view(uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
