"""A whole state goes straight from the worker that has it to those that are to go on with it.

They form a group for it, and the state's image (state/image.py) is broadcast in chunks: while one travels, the giver
copies the next out of its tensors. To several hosts it goes along the forest that fits machines behind one switch each,
so that it leaves the giver once. Bound: bytes of the state over the bandwidth of the slowest machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyhands.cluster import Cluster, preset
from manyhands.state import Image
from manyhands.transport import Group

CHUNK = 16 << 20
"""Bytes of the state that are sent at once."""


def machines(count: int) -> Cluster:
    """Links that are assumed between machines: there is no time to measure them."""
    return preset(f"star-{count}")


def give(group: Group, image: Image) -> None:
    """Send a state to all others.

    Raises:
        GroupError: one of them was lost.
    """
    group.broadcast(torch.tensor([image.length]), group.rank).result()
    buffers = [torch.empty(CHUNK, dtype=torch.uint8) for _ in range(2)]
    travels = None
    for index, start in enumerate(range(0, image.length, CHUNK)):
        chunk = buffers[index % 2][: min(CHUNK, image.length - start)]
        image.write_part(chunk, start)
        if travels is not None:
            travels.result()
        travels = group.broadcast(chunk, group.rank)
    if travels is not None:
        travels.result()


def room(length: int) -> Tensor:
    """Memory for an image of about so many bytes. It is touched now, since the first touch of fresh memory takes longer
    than what is then put there, and the giver still trains."""
    return torch.empty(length + CHUNK, dtype=torch.uint8).fill_(0)


def receive(group: Group, giver: int, memory: Tensor | None = None) -> memoryview:
    """The image of the state that the giver sends.

    Args:
        memory: for it, if that is large enough (`room`).

    Raises:
        GroupError: one of the group was lost.
    """
    length = torch.zeros(1, dtype=torch.int64)
    group.broadcast(length, giver).result()
    if memory is None or len(memory) < int(length):
        memory = torch.empty(int(length), dtype=torch.uint8)
    image = memory[: int(length)]
    futures = [group.broadcast(chunk, giver) for chunk in image.split(CHUNK)]
    for future in futures:
        future.result()
    return image.numpy().data
