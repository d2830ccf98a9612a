"""Where to cut a model into stages, so that the slowest is as fast as possible.

Problem: the embedding, the head and uneven layers make stages of equally many layers unequal, and a pipeline runs at
the pace of its slowest stage.
Idea: units stay in order, so a stage is a range of them. Dynamic programming over (stages, units before the cut):
first for the least possible time T of the slowest stage, F + I + W; then, among all cuts whose stages take at most T,
for the fewest bytes that cross, and among those for the evenest (the least sum of squared stage times, for what is
slow elsewhere). Two passes, since the best beginning of a cut that is bound by a later stage need not be the fastest.
Cost: O(stages * units^2); 64 units in 16 stages take 20 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from manyhands.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """What one unit of a model costs for one micro-batch. A model can be cut before every unit but the first."""

    name: str
    forward: float
    """Seconds of the forward pass."""
    input: float
    """Seconds of the gradient of the unit's inputs."""
    weight: float
    """Seconds of the gradient of the unit's weights."""
    parameter_bytes: int = 0
    activation_bytes: int = 0
    """What one live micro-batch holds from its forward to its backward."""
    crossing_bytes: int = 0
    """Bytes that cross the cut before the unit, one way."""

    @property
    def seconds(self) -> float:
        return self.forward + self.input + self.weight


def balance(
    units: Sequence[UnitCost],
    stages: int,
    memory: Sequence[int] | None = None,
    *,
    live: Sequence[int] | None = None,
    copies: float = 4.0,
) -> tuple[int, ...]:
    """The first unit of each stage.

    Args:
        memory: bytes that each stage may use; None: no limit.
        live: how many micro-batches each stage holds at once (`verify(table).by_stage`); None: one.
        copies: how many times the bytes of its parameters a stage keeps: weights, gradients, two moments of AdamW.

    Raises:
        UsageError: fewer units than stages, or no cut whose stages fit; says which works or what is too large.
    """
    if not 1 <= stages <= len(units):
        raise UsageError(
            f"A model of {len(units)} units cannot be cut into {stages} stages: each needs at least one. "
            f"Use {max(1, len(units))} stages or fewer (pp times virtual)."
        )
    for name, values in (("memory", memory), ("live", live)):
        if values is not None and len(values) != stages:
            raise ValueError(f"{name} has {len(values)} values for {stages} stages")
    model = _Model(units, stages, memory, live or (1,) * stages, copies)
    slowest = _search(model, lambda stage, first, last: (model.seconds(first, last),), _slower, (0.0,))
    if slowest is None:
        raise UsageError(_too_large(model))
    bound = slowest.value[0]

    def cost(stage: int, first: int, last: int) -> tuple[float, ...] | None:
        seconds = model.seconds(first, last)
        return None if seconds > bound else (units[first].crossing_bytes if first else 0, seconds * seconds)

    best = _search(model, cost, _sum, (0, 0.0))
    assert best is not None  # the first pass found one
    return best.cuts


class _Model:
    """Sums over ranges of units, and which ranges fit into which stage."""

    def __init__(
        self,
        units: Sequence[UnitCost],
        stages: int,
        memory: Sequence[int] | None,
        live: Sequence[int],
        copies: float,
    ) -> None:
        self.units, self.stages, self.memory, self.live, self.copies = units, stages, memory, live, copies
        self._seconds = (0.0, *accumulate(unit.seconds for unit in units))
        self._parameters = (0, *accumulate(unit.parameter_bytes for unit in units))
        self._activations = (0, *accumulate(unit.activation_bytes for unit in units))

    def seconds(self, first: int, last: int) -> float:
        return self._seconds[last] - self._seconds[first]

    def bytes(self, stage: int, first: int, last: int) -> float:
        parameters = self._parameters[last] - self._parameters[first]
        activations = self._activations[last] - self._activations[first]
        return self.copies * parameters + self.live[stage] * activations

    def fits(self, stage: int, first: int, last: int) -> bool:
        return self.memory is None or self.bytes(stage, first, last) <= self.memory[stage]


class _Best(NamedTuple):
    value: tuple[float, ...]
    cuts: tuple[int, ...]


Value = tuple[float, ...]
_Cost = Callable[[int, int, int], Value | None]
_Join = Callable[[Value, Value], Value]


def _slower(before: Value, stage: Value) -> Value:
    return max(before, stage)


def _sum(before: Value, stage: Value) -> Value:
    return tuple(a + b for a, b in zip(before, stage, strict=True))


def _search(model: _Model, cost: _Cost, join: _Join, start: Value, fits: bool = True) -> _Best | None:
    """The cuts of the least value, where a stage of units [first, last) costs `cost(stage, first, last)`.

    None if there are no cuts whose stages all fit (where that is asked for) and have a cost.
    """
    count, stages = len(model.units), model.stages
    before: dict[int, _Best] = {0: _Best(start, ())}
    for stage in range(stages):
        here: dict[int, _Best] = {}
        left = stages - 1 - stage
        for last in (count,) if not left else range(stage + 1, count - left + 1):
            found = [
                _Best(join(best.value, value), (*best.cuts, first))
                for first, best in before.items()
                if first < last
                and (not fits or model.fits(stage, first, last))
                and (value := cost(stage, first, last)) is not None
            ]
            if found:
                here[last] = min(found)
        before = here
    return before.get(count)


def _too_large(model: _Model) -> str:
    """Why no cut fits: a unit that is too large for every stage, or how much the best cut would need."""
    assert model.memory is not None
    most = max(model.memory)
    least = min(model.live)
    for index, unit in enumerate(model.units):
        alone = model.copies * unit.parameter_bytes + least * unit.activation_bytes
        if alone > most:
            return (
                f"Unit {unit.name} alone needs {_size(alone)}, and no stage may use more than {_size(most)}. Cut the "
                f"model within it, split it by tp, or use smaller micro-batches (unit {index} of {len(model.units)})."
            )

    def over(stage: int, first: int, last: int) -> Value:
        return (model.bytes(stage, first, last) / max(1, model.memory[stage]),)

    nearest = _search(model, over, _slower, (0.0,), fits=False)
    assert nearest is not None  # without a limit there always is one
    return (
        f"No cut into {model.stages} stages fits into memory: the best needs {nearest.value[0]:.3g} times what a stage "
        "may use. Use more stages, smaller micro-batches, or a schedule that holds fewer of them (1f1b)."
    )


def _size(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} bytes"
