"""What one rank has asked for and what has come: messages matched by sender and tag, first come first served.

A message goes straight into the tensor of who asked for it before it came; else it is kept until somebody asks. No
sockets and no locks: whoever shares a mailbox between threads holds one.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import NamedTuple

import torch
from torch import Tensor

from manyhands.transport.errors import MismatchError
from manyhands.transport.interpreter import DTYPES


class Wanted(NamedTuple):
    """A message that somebody waits for."""

    tensor: Tensor
    raw: Tensor
    """The tensor's bytes."""
    peer: int | None
    """The rank that is to send; None: any."""
    tag: int
    future: Future[int]
    """The future of the sender's rank."""


class Arrived(NamedTuple):
    """A message that nobody has asked for yet."""

    peer: int
    tag: int
    dtype: torch.dtype
    data: Tensor


class Mailbox:
    """What one rank has asked for and what has come."""

    def __init__(self) -> None:
        self._wanted: deque[Wanted] = deque()
        self._arrived: deque[Arrived] = deque()

    def want(self, wanted: Wanted) -> None:
        self._wanted.append(wanted)

    def keep(self, arrived: Arrived) -> None:
        self._arrived.append(arrived)

    def take_arrived(self, peer: int | None, tag: int) -> Arrived | None:
        """The first message of this tag that has come from this rank, or from any; no longer kept then."""
        for index, arrived in enumerate(self._arrived):
            if arrived.tag == tag and peer in (None, arrived.peer):
                del self._arrived[index]
                return arrived
        return None

    def take_wanted(self, peer: int, tag: int) -> Wanted | None:
        """Who waits for a message of this tag from this rank; no longer waiting then."""
        for index, wanted in enumerate(self._wanted):
            if wanted.tag == tag and wanted.peer in (None, peer):
                del self._wanted[index]
                return wanted
        return None

    def give_up(self, peer: int | None = None) -> list[Wanted]:
        """The requests that wait for this rank alone (None: all), no longer waiting."""
        left = [wanted for wanted in self._wanted if peer is None or wanted.peer == peer]
        self._wanted = deque(wanted for wanted in self._wanted if not (peer is None or wanted.peer == peer))
        return left


def raw(tensor: Tensor) -> Tensor:
    """A tensor's bytes, in place.

    Raises:
        ValueError: it is not contiguous, or of a dtype that cannot travel.
    """
    if tensor.dtype not in DTYPES or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(
            f"messages are contiguous tensors on the CPU of a number's dtype; got one of {tensor.dtype} on "
            f"{tensor.device} with strides {tensor.stride()}. Pass a contiguous copy, or view it as another dtype."
        )
    return tensor.detach().view(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def mismatch(wanted: Wanted, peer: int, dtype: torch.dtype, size: int) -> MismatchError | None:
    """Why a message of so many bytes is not what was asked for; None if it is."""
    expected = wanted.tensor.numel() * wanted.tensor.element_size()
    if dtype == wanted.tensor.dtype and size == expected:
        return None
    return MismatchError(
        f"rank {peer} sent {size} bytes of {dtype} (tag {wanted.tag}) where {expected} bytes of {wanted.tensor.dtype} "
        "were to be received. Give the receiver a tensor of the sender's shape and dtype."
    )


def deliver(wanted: Wanted, arrived: Arrived) -> None:
    """Give a message that was kept to who asks for it."""
    error = mismatch(wanted, arrived.peer, arrived.dtype, arrived.data.numel())
    if error is not None:
        wanted.future.set_exception(error)
        return
    wanted.raw.copy_(arrived.data)
    wanted.future.set_result(arrived.peer)
