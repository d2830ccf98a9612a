"""Tensors on a device, staged through pinned host memory, piece by piece.

While one piece is on the wire and being added, the next comes down from the device and the one before goes back
up: copies run on streams of their own. Several ranks may share a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PIECE = 8 << 20
"""Bytes of a piece: large enough that a copy runs at the bus's full speed."""


def on_device(tensor: Tensor) -> bool:
    """Whether a tensor has to be staged."""
    return tensor.device.type != "cpu"


class Staging:
    """Streams and host memory for one device; used by one thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cuda = device.type == "cuda"
        self._down = torch.cuda.Stream(device) if self._cuda else None
        self._up = torch.cuda.Stream(device) if self._cuda else None
        self._host = torch.empty(0, dtype=torch.uint8)

    def ready(self) -> Callable[[], None]:
        """Call where the caller's work is queued; the result makes this thread's copies wait for that work."""
        if not self._cuda:
            return lambda: None
        event = torch.cuda.current_stream(self.device).record_event()
        return lambda: self._down.wait_event(event)  # type: ignore[union-attr]

    def in_pieces(self, source: Tensor, target: Tensor) -> Iterator[Tensor]:
        """Host copies of `source`, piece by piece; what is in them when the next is asked for goes to `target`.

        Both are contiguous, of one dtype and size.
        """
        flat, back = source.reshape(-1), target.reshape(-1)
        length = max(1, PIECE // source.element_size())
        starts = range(0, max(1, flat.numel()), length)
        with self._on(self._down):
            hosts = list(self._memory(flat).split(length)) if flat.numel() else [self._memory(flat)]
            arrived = [
                self._copy(host, flat[start : start + length]) for host, start in zip(hosts, starts, strict=True)
            ]
        for host, start, arrival in zip(hosts, starts, arrived, strict=True):
            if arrival is not None:
                arrival.synchronize()
            yield host
            with self._on(self._up):
                self._copy(back[start : start + length], host)
        if self._up is not None:
            self._up.synchronize()

    def fetch(self, source: Tensor) -> Tensor:
        """All of a tensor on the host, until this object is used again."""
        with self._on(self._down):
            host = self._memory(source.reshape(-1)).view(source.shape)
            arrived = self._copy(host, source)
        if arrived is not None:
            arrived.synchronize()
        return host

    def put(self, target: Tensor, host: Tensor) -> None:
        """Copy back to the device, and wait until that is done."""
        with self._on(self._up):
            self._copy(target, host)
        if self._up is not None:
            self._up.synchronize()

    def _memory(self, flat: Tensor) -> Tensor:
        size = flat.numel() * flat.element_size()
        if self._host.numel() < size:
            self._host = torch.empty(size, dtype=torch.uint8, pin_memory=self._cuda)
        return self._host[:size].view(flat.dtype)

    def _copy(self, target: Tensor, source: Tensor) -> Any:
        target.copy_(source, non_blocking=True)
        return torch.cuda.current_stream(self.device).record_event() if self._cuda else None

    @contextmanager
    def _on(self, stream: torch.cuda.Stream | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        with torch.cuda.stream(stream):
            yield
