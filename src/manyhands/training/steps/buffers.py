"""Buffers (batch norm's running statistics and the like) that do not depend on the number of workers.

A step's micro-batches all start from the buffers that the step started with. What the step leaves behind is

* floating-point buffers: their start plus the average change over the micro-batches (summed in the tree's order),
* other buffers (counters, masks): as micro-batch 0 left them.

For batch norm that is running statistics updated once per step with the mean of the micro-batches'
statistics, each normalised over its own micro-batch. A buffer that nothing changes keeps its value. With one
micro-batch this is what plain PyTorch does.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn

from manyhands.errors import UserError


class BufferChanges:
    """Watches a model's buffers over a step.

    With one micro-batch the buffers are left as it leaves them, and only put back if the step is abandoned.

    Args:
        model: whose buffers.
        micro_batches: of a step.
        names: the buffers to watch; None: all of them.
        summed: sum changes up even if there is one micro-batch.
    """

    def __init__(
        self, model: nn.Module, micro_batches: int, names: Collection[str] | None = None, summed: bool = False
    ) -> None:
        self._micro_batches = micro_batches
        self._single = micro_batches == 1 and not summed
        self._places: list[tuple[nn.Module, str, str]] = []
        seen: set[int] = set()
        for prefix, module in model.named_modules():
            for key, buffer in module._buffers.items():
                name = f"{prefix}.{key}".lstrip(".")
                wanted = names is None or name in names
                if buffer is not None and buffer.numel() and id(buffer) not in seen and wanted:
                    seen.add(id(buffer))
                    self._places.append((module, key, name))
        self._live: list[Tensor] = [cast(Tensor, module._buffers[key]) for module, key, _ in self._places]
        self._start = [buffer.clone() for buffer in self._live]
        averaged = () if self._single else range(len(self._live))
        self._floats = [i for i in averaged if self._live[i].is_floating_point()]
        self._others = [i for i in averaged if not self._live[i].is_floating_point()]
        self.floats = [self._live[i] for i in self._floats]
        """The floating-point buffers: their changes are summed like gradients."""
        self._infinite: set[int] = set()
        self.others: dict[str, str] = {}
        """What micro-batch 0 changed of the other buffers, as text: index -> base64 of the bytes."""

    def resize(self, micro_batches: int) -> None:
        """Steps have so many micro-batches from now on."""
        self._micro_batches = micro_batches

    @torch.no_grad()
    def begin_step(self) -> None:
        """Remember where the step starts."""
        if self._single:
            self._live = [self._value(i) for i in range(len(self._live))]
        if self._live:
            torch._foreach_copy_(self._start, self._live)
            self._find_infinite()
        self.others = {}

    @torch.no_grad()
    def lend(self) -> None:
        """Give the model copies to change: in a pipeline other micro-batches come between a forward and its backward,
        which may not find changed what the forward has read."""
        if not self._single:
            for (module, key, _), start in zip(self._places, self._start, strict=True):
                module._buffers[key] = start.clone()

    @torch.no_grad()
    def after_micro_batch(self, micro_batch: int) -> list[Tensor]:
        """The change of each of `floats`; puts the buffers back to the step's start."""
        if not self._live or self._single:
            return []
        values = [self._value(i) for i in range(len(self._live))]
        if not self._floats:
            changes = []
        else:
            changes = list(
                torch._foreach_sub([values[i] for i in self._floats], [self._start[i] for i in self._floats])
            )
        for change, i in zip(changes, self._floats, strict=True):
            if i in self._infinite:  # what is still infinite has not changed; what has become finite counts in full
                start = self._start[i]
                change.copy_(torch.where(torch.isinf(start), values[i], change)).masked_fill_(values[i] == start, 0)
        if micro_batch == 0:
            self.others = {
                str(i): _encode(values[i]) for i in self._others if not torch.equal(values[i], self._start[i])
            }
        self.abandon()
        return changes

    @torch.no_grad()
    def abandon(self) -> None:
        """Put the buffers back to the step's start."""
        if self._live:
            for (module, key, _), live in zip(self._places, self._live, strict=True):
                module._buffers[key] = live
            torch._foreach_copy_(self._live, self._start)

    @torch.no_grad()
    def finish(self, sums: list[Tensor], others: dict[str, str]) -> None:
        """Leave the buffers as the step leaves them.

        Args:
            sums: the change of each of `floats`, summed over all micro-batches; none where nobody looks at them.
            others: `others` of the worker that computed micro-batch 0.
        """
        if self._floats and sums:
            steps = torch._foreach_div(sums, self._micro_batches)
            moved = list(torch._foreach_add([self._start[i] for i in self._floats], steps))
            for place, i in enumerate(self._floats):
                if i in self._infinite:
                    left = torch.isinf(self._start[i]) & (steps[place] != 0)
                    moved[place] = torch.where(left, steps[place], moved[place])
            torch._foreach_copy_(self.floats, moved)
        for index, text in others.items():
            live = self._live[int(index)]
            raw = bytearray(base64.b64decode(text))
            live.copy_(torch.frombuffer(raw, dtype=torch.uint8).view(live.dtype).view(live.shape))

    def _find_infinite(self) -> None:
        """Find the floating-point buffers that hold infinities, as masks do."""
        if self._floats:
            largest = torch.stack([norm.float() for norm in torch._foreach_norm(self.floats, math.inf)]).tolist()
            self._infinite = {i for i, value in zip(self._floats, largest, strict=True) if not math.isfinite(value)}

    def _value(self, index: int) -> Tensor:
        module, key, name = self._places[index]
        value = module._buffers[key]
        live = self._live[index]
        if value is None or value.shape != live.shape or value.dtype != live.dtype:
            found = "None" if value is None else f"{value.dtype} {tuple(value.shape)}"
            raise UserError(
                f"buffer {name} was {live.dtype} {tuple(live.shape)} and became {found} in a forward pass. "
                "Buffers must keep their shape and dtype; keep such values in a plain attribute."
            )
        return value


def _encode(value: Tensor) -> str:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return base64.b64encode(flat.view(torch.uint8).numpy().tobytes()).decode()
