"""A small state of every worker, put together on one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manyhands.state.image import Image, read_image
from manyhands.transport import Group

_TAG = 0x57A7E


def gather_trees(gang: Group, tree: Any) -> list[Any]:
    """Every rank's tree, in rank order, on rank 0; the others get an empty list. All ranks call it.

    Raises:
        GroupError: a rank was lost.
    """
    raw = pack(tree)
    lengths = [int(text) for text in gang.all_gather_bytes(str(raw.numel()).encode())]
    if gang.rank:
        gang.send(raw, 0, _TAG).result()
        return []
    others = [torch.empty(length, dtype=torch.uint8) for length in lengths[1:]]
    for peer, other in enumerate(others, 1):
        gang.receive(other, peer, _TAG).result()
    return [unpack(blob) for blob in (raw, *others)]


def pack(tree: Any) -> Tensor:
    """A tree's image, as a tensor of bytes."""
    image = Image(tree)
    raw = torch.empty(image.length, dtype=torch.uint8)
    image.write(memoryview(raw.numpy()))  # type: ignore[arg-type]
    return raw


def unpack(raw: Tensor) -> Any:
    """The tree of `pack`; its tensors look into `raw`."""
    return read_image(memoryview(raw.numpy()))[0]  # type: ignore[arg-type]
