"""What a stage does in every forward pass, worked out once from the recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyhands.errors import UserError
from manyhands.pipeline.stages.placeholder import Placeholder
from manyhands.pipeline.stages.recording import Call, Operation, Recording, Value
from manyhands.pipeline.stages.structure import Path, builder, has_arguments, locate


class Step:
    """A recorded call or operation: how to give back its result without computing, and where its values are."""

    def __init__(self, source: Call | Operation, sends: frozenset[int]) -> None:
        self.name, self.writes = source.name, source.writes
        self.random = isinstance(source, Operation) and source.random
        self.is_module = isinstance(source, Operation) and source.is_module
        self.build: Callable[[list[Any], list[Any], Mapping[str, Any]], Any] = builder(source.output)
        self.needs_arguments = has_arguments(source.output) or bool(source.writes)
        places: dict[int, Path] = locate(source.output)
        self.values = tuple(places.values())
        self.sent = tuple((number, path) for number, path in places.items() if number in sends)
        self.sent_writes = tuple((index, number) for index, number in source.writes if number in sends)

    @property
    def makes_sent(self) -> bool:
        return bool(self.sent or self.sent_writes)


class Script:
    """The steps of one stage.

    Attributes:
        first, last: the stage's calls are `range(first, last)`.
        modules: of every call.
        calls, gaps: their steps.
        counted: operations in gaps up to this one are followed while the stage computes.
        base: a placeholder for every value.
    """

    def __init__(
        self,
        model: nn.Module,
        recording: Recording,
        mine: range,
        receives: Sequence[Value],
        sends: Sequence[Value],
        owned: Mapping[str, nn.Parameter],
    ) -> None:
        self.model = model
        self.first, self.last = mine.start, mine.stop
        self.receives, self.sends = receives, sends
        self.inputs, self.output = recording.inputs, recording.output
        self.by_name = by_name = dict(model.named_modules())
        self.modules = [_module(by_name, call.name) for call in recording.calls]
        numbers = frozenset(value.id for value in sends)
        self.calls = [Step(call, numbers) for call in recording.calls]
        self.gaps = [[Step(operation, numbers) for operation in gap] for gap in recording.gaps]
        self.between = {_module(by_name, o.name) for gap in recording.gaps for o in gap if o.is_module}
        self.sees_functions = any(o.name.endswith(".apply") for gap in recording.gaps for o in gap)
        self.draws = any(step.random for gap in self.gaps for step in gap)
        self.checkpointed = recording.checkpointed
        self.parameters = dict(model.named_parameters())
        self.absent = {
            id(self.parameters[name]): Placeholder.of(
                f"parameter {name}", p.shape, p.dtype, self.parameters[name].device, p.requires_grad
            )
            for name, p in recording.parameters.items()
            if name not in owned
        }
        device = _device(self.parameters.values())
        self.base = [_placeholder(value, device) for value in recording.values]
        self.copied = {v.id for v in receives if any(2 * self.first < t <= 2 * self.last for t in v.written)}
        self.counted = self._last_counted(recording, owned)

    def _last_counted(self, recording: Recording, owned: Mapping[str, nn.Parameter]) -> int:
        begin = self.first + 1 if self.first else 0
        return max(
            (
                gap
                for gap in range(begin, self.last + 1)
                if any(step.makes_sent for step in self.gaps[gap])
                or any(name not in owned for name in recording.described.get(gap, ()))
            ),
            default=-1,
        )


def _module(modules: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in modules:
        raise UserError(
            f"the model has no module {name!r} here, though the one that was recorded has. Build the same model."
        )
    return modules[name]


def _device(parameters: Any) -> torch.device:
    return next((p.device for p in parameters), torch.device("cpu"))


def _placeholder(value: Value, device: torch.device) -> Tensor:
    where = device if device.type == value.device else torch.device(value.device)
    return Placeholder.of(value.maker, value.shape, value.dtype, where, value.requires_grad)
