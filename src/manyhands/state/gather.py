"""A small state of every worker, put together on one."""

from __future__ import annotations

from typing import Any

import torch

from manyhands.state.image import Image, read_image
from manyhands.transport import Group

_TAG = 0x57A7E


def gather_trees(gang: Group, tree: Any) -> list[Any]:
    """Every rank's tree, in rank order, on rank 0; the others get an empty list. All ranks call it.

    Raises:
        GroupError: a rank was lost.
    """
    image = Image(tree)
    raw = torch.empty(image.length, dtype=torch.uint8)
    image.write(memoryview(raw.numpy()))  # type: ignore[arg-type]
    lengths = [int(text) for text in gang.all_gather_bytes(str(image.length).encode())]
    if gang.rank:
        gang.send(raw, 0, _TAG).result()
        return []
    others = [torch.empty(length, dtype=torch.uint8) for length in lengths[1:]]
    for peer, other in enumerate(others, 1):
        gang.receive(other, peer, _TAG).result()
    return [read_image(memoryview(blob.numpy()))[0] for blob in (raw, *others)]  # type: ignore[arg-type]
