"""What one run of a model tells about where it can be cut, as plain data.

The forward pass is a row of *calls* (of units) with *gaps* between them (the code of the parents: residual additions,
masks, a tied head). Gap g lies before call g; the last one after all. Time counts both: gap g is at 2g, call k at
2k + 1. A cut before call k lies between times 2k and 2k + 1, and what crosses it are the values made before and used
after. Gap g belongs to the stage of call g - 1, the first gap to the first stage.

A *unit* is one call, or several with no legal cut between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch

from manyhands.pipeline.stages.structure import Template


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor that depends on parameters, made by a unit or between units."""

    id: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    device: str
    """The type of the tensor's device: `cpu`, `cuda`."""
    made: int
    """The time when the value was made; if it is an older tensor that was written into, when that was first."""
    used: int
    """The time of the value's last use."""
    written: tuple[int, ...] = ()
    """Times when the value was changed in place."""
    storage: int = 0
    """The memory that the value is in: equal numbers share it."""
    maker: str = ""
    """What made the value, in words."""

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Something that made or changed values between units: an operation of torch, or a module without parameters."""

    name: str
    output: Template
    is_module: bool = False
    random: bool = False
    """Whether the operation drew random numbers."""
    writes: tuple[tuple[int, int], ...] = ()
    """Tensors that depended on no parameter until the operation wrote into them: (leaf of its arguments, value)."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a module that is one unit or part of one."""

    name: str
    output: Template
    writes: tuple[tuple[int, int], ...] = ()
    """Tensors that depended on no parameter until the call wrote into them: (leaf of its arguments, value)."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of the model."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    calls: tuple[int, ...]
    """The calls that the parameter is used in, or right after."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The smallest part that a stage can hold."""

    name: str
    """The name of the unit's first module; a module that is called again has a number: `layer#1`."""
    first: int
    last: int
    """The end of the unit's calls, which are `range(first, last)`."""
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The calls of one forward pass, what was between them, and what travelled from one to another."""

    calls: tuple[Call, ...]
    gaps: tuple[tuple[Operation, ...], ...]
    values: tuple[Value, ...]
    parameters: dict[str, Parameter]
    """The parameters, by their first name in `model.named_parameters()`."""
    buffers: dict[str, tuple[int, ...]]
    """The calls in which each buffer is used, as for parameters: name -> calls."""
    described: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Gap -> parameters whose shape, dtype or device is asked for there."""
    output: Template = field(default_factory=lambda: ["missing", ""])
    """The template of what the model gave."""
    inputs: tuple[tuple[tuple[int, ...], torch.dtype], ...] = ()
    """Shapes and dtypes of the tensors that the model was called with."""
    refused: dict[int, str] = field(default_factory=dict)
    """Call -> why there can be no cut before it."""
    checkpointed: bool = False
    """Whether units are called through `torch.utils.checkpoint` from outside."""

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        starts = [k for k in range(len(self.calls)) if k == 0 or k not in self.refused]
        counts: dict[str, int] = {}
        made = []
        for first, last in zip(starts, [*starts[1:], len(self.calls)], strict=True):
            name = self.calls[first].name
            number = counts.get(name, 0)
            counts[name] = number + 1
            made.append(
                Unit(
                    name=f"{name}#{number}" if number else name,
                    first=first,
                    last=last,
                    parameters=tuple(n for n, p in self.parameters.items() if _within(p.calls, first, last)),
                    buffers=tuple(n for n, calls in self.buffers.items() if _within(calls, first, last)),
                )
            )
        return tuple(made)

    def crossing(self, unit: int) -> tuple[Value, ...]:
        """What crosses the cut before a unit. Nothing before the first."""
        if not 0 < unit < len(self.units):
            return ()
        cut = 2 * self.units[unit].first
        return tuple(value for value in self.values if value.made <= cut < value.used)

    def crossing_bytes(self, unit: int) -> int:
        """Bytes of `crossing`."""
        return sum(value.bytes for value in self.crossing(unit))

    @cached_property
    def ties(self) -> dict[str, tuple[int, ...]]:
        """Parameters that several units use, and which."""
        found = {
            name: tuple(k for k, unit in enumerate(self.units) if _within(p.calls, unit.first, unit.last))
            for name, p in self.parameters.items()
        }
        return {name: units for name, units in found.items() if len(units) > 1}

    def as_dict(self) -> dict[str, Any]:
        """The recording as JSON can carry it; `from_dict` gives it back."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recording:
        return cls(
            calls=tuple(Call(name=c["name"], output=c["output"], writes=_pairs(c["writes"])) for c in data["calls"]),
            gaps=tuple(tuple(map(_operation, gap)) for gap in data["gaps"]),
            values=tuple(Value(**_tuples(_typed(v))) for v in data["values"]),
            parameters={name: Parameter(**_tuples(_typed(p))) for name, p in data["parameters"].items()},
            buffers={name: tuple(calls) for name, calls in data["buffers"].items()},
            described={int(gap): tuple(names) for gap, names in data["described"].items()},
            output=data["output"],
            inputs=tuple((tuple(shape), _dtype(dtype)) for shape, dtype in data["inputs"]),
            refused={int(call): why for call, why in data["refused"].items()},
            checkpointed=data["checkpointed"],
        )


def _within(calls: Iterable[int], first: int, last: int) -> bool:
    return any(first <= call < last for call in calls)


def _operation(data: Any) -> Operation:
    fields: dict[str, Any] = {**data, "writes": _pairs(data["writes"])}
    return Operation(**fields)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


def _typed(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "dtype": _dtype(data["dtype"])}


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in data.items()}


def _pairs(rows: Iterable[Iterable[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((a, b) for a, b in rows)
