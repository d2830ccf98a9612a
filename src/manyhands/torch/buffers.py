"""Tensors as the transport takes them: flat, contiguous, and of a dtype that can be added.

What has another form is copied, and the result is copied home when the operation is over. Booleans travel as bytes,
complex numbers as pairs of reals, wide unsigned integers as signed ones (the same bits, and the same bits when added).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The elements in one dimension, of a dtype that can travel; the same memory wherever that can be."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    elif tensor.dtype == torch.bool or (tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1):
        tensor = tensor.view(torch.uint8)
    elif tensor.dtype in SIGNED:
        tensor = tensor.view(SIGNED[tensor.dtype])
    return tensor.as_strided((tensor.numel(),), (1,))  # view(-1) keeps a stride of its own for a single element


class Results:
    """Flat buffers for an operation's results, and the way home for those that are copies."""

    def __init__(self) -> None:
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def empty(self, tensor: torch.Tensor) -> torch.Tensor:
        """A flat buffer that becomes this tensor's content."""
        home = tensor.detach()
        if in_place(home):
            return flat(home)
        copy = torch.empty(home.shape, dtype=home.dtype, device=home.device)
        self._copies.append((home, copy))
        return flat(copy)

    def filled(self, tensor: torch.Tensor) -> torch.Tensor:
        """A flat buffer that becomes this tensor's content, and has it to begin with."""
        buffer = self.empty(tensor)
        if not in_place(tensor):
            buffer.copy_(flat(tensor))
        return buffer

    def pieces(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """One flat buffer that becomes the content of these tensors, one after the other."""
        whole = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=tensors[0].dtype, device=tensors[0].device)
        parts = whole.split([tensor.numel() for tensor in tensors])
        homes = [tensor.detach() for tensor in tensors]
        self._copies += [(home, part.view(home.shape)) for home, part in zip(homes, parts, strict=True)]
        return flat(whole)

    @property
    def finish(self) -> Callable[[], None] | None:
        """What to call when the buffers are filled; None if they are the tensors themselves."""
        if not self._copies:
            return None
        copies = self._copies
        stream = next((torch.cuda.current_stream(home.device) for home, _ in copies if home.is_cuda), None)

        def bring_home() -> None:
            # On the caller's stream, so that what it runs next sees the result; in inference mode, because it may be
            # that the caller's tensors are inference tensors, and others do not mind.
            with torch.cuda.stream(stream), torch.inference_mode():
                for home, copy in copies:
                    home.copy_(copy)

        return bring_home


def in_place(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
