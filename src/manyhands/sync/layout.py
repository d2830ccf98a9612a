"""Where each tensor of an exchange lies: tensors in buckets, buckets in a flat region.

A bucket is the unit of overlap: it is exchanged as soon as its last gradient exists, while backward goes on.
Backward yields gradients in about the reverse order of the parameters, so the caller lists them reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_ALIGNMENT = 64
"""Bytes of a cache line, to which items are aligned so that two workers never write to the same one."""


@dataclass(frozen=True)
class Bucket:
    """A run of items of one dtype.

    `offset` and `size` are bytes in the region; `starts[i]` is the first element of `items[i]` in the bucket.
    """

    dtype: torch.dtype
    offset: int
    size: int
    items: tuple[int, ...]
    starts: tuple[int, ...]

    @property
    def numel(self) -> int:
        return self.size // self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """Buckets over `shapes[i]`, `dtypes[i]`; `size` bytes in all."""

    shapes: tuple[torch.Size, ...]
    buckets: tuple[Bucket, ...]
    size: int

    def views(self, region: torch.Tensor) -> list[torch.Tensor]:
        """Each item's view into a flat uint8 tensor of `size` bytes, shaped like the item."""
        views: list[torch.Tensor] = [torch.empty(0)] * len(self.shapes)
        for bucket, flat in zip(self.buckets, self.flats(region), strict=True):
            for item, start in zip(bucket.items, bucket.starts, strict=True):
                shape = self.shapes[item]
                views[item] = flat[start : start + shape.numel()].view(shape)
        return views

    def flats(self, region: torch.Tensor) -> list[torch.Tensor]:
        """Each bucket as a flat tensor of its dtype, viewing a flat uint8 tensor of `size` bytes."""
        return [region[b.offset : b.offset + b.size].view(b.dtype) for b in self.buckets]


def lay_out(
    tensors: Sequence[torch.Tensor], bucket_bytes: int = 4 << 20, boundary: int = -1, goals: Sequence[int] = ()
) -> Layout:
    """Pack tensors into buckets in the given order.

    A bucket closes when it holds `bucket_bytes`; all close before item `boundary`, so that what is ready at
    another time than the items before it shares no bucket with them.

    Args:
        goals: per tensor, where it goes: those of a bucket go to the same place.
    """
    groups: list[list[int]] = []
    opened: dict[tuple[torch.dtype, int], list[int]] = {}
    filled: dict[tuple[torch.dtype, int], int] = {}
    for item, tensor in enumerate(tensors):
        if item == boundary:
            opened.clear()
            filled.clear()
        kind = tensor.dtype, goals[item] if goals else 0
        group = opened.get(kind)
        if group is None:
            group = opened[kind] = []
            groups.append(group)
        group.append(item)
        filled[kind] = filled.get(kind, 0) + tensor.numel() * tensor.dtype.itemsize
        if filled[kind] >= bucket_bytes:
            del opened[kind], filled[kind]
    buckets, offset = [], 0
    for group in groups:
        dtype = tensors[group[0]].dtype
        starts, size = [], 0
        for item in group:
            starts.append(size // dtype.itemsize)
            size = _align(size + tensors[item].numel() * dtype.itemsize)
        buckets.append(Bucket(dtype, offset, size, tuple(group), tuple(starts)))
        offset += size
    return Layout(tuple(t.shape for t in tensors), tuple(buckets), offset)


def _align(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
