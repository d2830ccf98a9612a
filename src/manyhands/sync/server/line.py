"""Questions and answers between two processes, over a group of two.

Both may ask: each direction has its own tags. A message is JSON, and the tensors that it announces follow it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manyhands.transport import Group

_TAGS = 4
"""Of a direction: the length of a message, the message, tensors; for what is asked and for what is answered."""


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

    def say(self, message: Mapping[str, Any], tensors: Iterable[Tensor] = ()) -> None:
        """Send a message, and tensors after it. They must stay as they are until the other side has answered.

        Raises:
            PeerLostError: the other side is gone.
        """
        raw = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        self.group.send(torch.tensor([raw.numel()]), self._peer, self._out)
        self.group.send(raw, self._peer, self._out + 1)
        self.give(tensors)

    def give(self, tensors: Iterable[Tensor]) -> None:
        """Send tensors that the other side knows how to take."""
        for tensor in tensors:
            self.group.send(tensor, self._peer, self._out + 2)

    def hear(self) -> dict[str, Any]:
        """The next message.

        Raises:
            PeerLostError: the other side is gone.
        """
        length = torch.empty(1, dtype=torch.int64)
        self.group.receive(length, self._peer, self._in).result()
        raw = torch.empty(int(length), dtype=torch.uint8)
        self.group.receive(raw, self._peer, self._in + 1).result()
        return json.loads(raw.numpy().tobytes())

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Receive into these tensors, in their order."""
        for future in [self.group.receive(tensor, self._peer, self._in + 2) for tensor in tensors]:
            future.result()

    def ask(self, message: Mapping[str, Any], tensors: Iterable[Tensor] = ()) -> dict[str, Any]:
        """Say something and hear the answer."""
        self.say(message, tensors)
        return self.hear()
