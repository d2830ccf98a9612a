"""Questions and answers between two processes, over a group of two.

Both may ask: each direction has its own tags. A message is a dataclass of messages.py, and the tensors that it
announces follow it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from manyhands.transport import Group
from manyhands.wire import Codec, encode

_TAGS = 4
"""Tags of a direction: the length of a message, the message, tensors; for what is asked and for what is answered."""
M = TypeVar("M")
A = TypeVar("A")


class Line:
    """One side of a direction.

    Args:
        group: of two.
        asks: whether it is this side that asks, and the other that answers.
    """

    def __init__(self, group: Group, asks: bool) -> None:
        self.group, self._peer = group, 1 - group.rank
        asker = group.rank if asks else self._peer
        self._out = _TAGS * (2 * asker + (not asks))
        self._in = _TAGS * (2 * asker + asks)

    def say(self, message: object, tensors: Iterable[Tensor] = ()) -> None:
        """Send a message, and tensors after it. They must stay as they are until the other side has answered.

        Raises:
            PeerLostError: the other side is gone.
        """
        raw = torch.frombuffer(bytearray(json.dumps(encode(message)).encode()), dtype=torch.uint8)
        self.group.send(torch.tensor([raw.numel()]), self._peer, self._out)
        self.group.send(raw, self._peer, self._out + 1)
        self.give(tensors)

    def give(self, tensors: Iterable[Tensor]) -> None:
        """Send tensors that the other side knows how to take."""
        for tensor in tensors:
            self.group.send(tensor, self._peer, self._out + 2)

    def hear(self, codec: Codec[M]) -> M:
        """The next message.

        Raises:
            PeerLostError: the other side is gone.
            MessageError: it said what does not belong here.
        """
        length = torch.empty(1, dtype=torch.int64)
        self.group.receive(length, self._peer, self._in).result()
        raw = torch.empty(int(length), dtype=torch.uint8)
        self.group.receive(raw, self._peer, self._in + 1).result()
        return codec.decode(json.loads(raw.numpy().tobytes()))

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Receive into these tensors, in their order."""
        for future in [self.group.receive(tensor, self._peer, self._in + 2) for tensor in tensors]:
            future.result()

    def ask(self, question: object, kind: type[A], tensors: Iterable[Tensor] = ()) -> A:
        """Say something and hear the kind of answer that there is to it.

        Raises:
            PeerLostError: the other side is gone.
            MessageError: it said something else.
        """
        self.say(question, tensors)
        return self.hear(_codec(kind))


@functools.cache
def _codec(kind: type[A]) -> Codec[A]:
    return Codec(kind)
