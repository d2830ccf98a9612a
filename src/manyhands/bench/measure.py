"""Times fleets in turn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from manyhands.bench.fleet import Fleet
from manyhands.errors import UserError

LEAST = 0.02
"""Seconds that a measurement lasts at least: short operations are repeated."""
_MOST_REPEATS = 200
WARM_UP = 16 << 20
"""Bytes at most of the operation before every measurement. It fills connections' windows, and empties the buckets of
emulated links, which let a burst through when they were idle."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one operation, as its slowest rank saw it, in rounds that alternate with those of other fleets."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    def over(self, other: Timing) -> float:
        """How many times as fast this timing is as another one: the median of the ratios within rounds."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def alternate(fleets: Mapping[str, Fleet], operation: str, size: int, rounds: int) -> dict[str, Timing]:
    """Time all fleets in turn, each round in the other direction.

    Raises:
        UserError: a rank failed, or a result was wrong.
    """
    repeats: dict[str, int] = {}
    for name, fleet in fleets.items():
        if not all(fleet.ask("check", operation=operation, size=size)):
            raise UserError(f"{name}: {operation} of {size} bytes over {fleet.world} ranks gave a wrong result.")
        once = max(fleet.ask("time", operation=operation, size=size, repeat=1))
        repeats[name] = min(_MOST_REPEATS, math.ceil(LEAST / once))
    seconds: dict[str, list[float]] = {name: [] for name in fleets}
    for number in range(rounds):
        for name in list(fleets)[:: -1 if number % 2 else 1]:
            arguments = {"size": size, "repeat": repeats[name], "warm_up": min(size, WARM_UP)}
            seconds[name].append(max(fleets[name].ask("time", operation=operation, **arguments)))
    return {name: Timing(values) for name, values in seconds.items()}
