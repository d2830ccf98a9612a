"""Two jobs that are packed: how fast each is alone, then together in every way, and the best way kept.

A trial goes through ways to share. In the first ones a job is `alone` (the other stands still), if it is not known how
fast its kind is; then both go together in one way after another. What a job gets done in each is measured over some
seconds of its own steps; speeds are rates over those alone. If no way gets more done than one job alone would, the pair
is remembered as one that loses, and the policy parts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from manyhands.errors import UserError

TRIED = ("together", "interleave", "ticktock")
"""Ways to go together, in the order of their trials; a later one has to be better by `BETTER`."""
BETTER = 0.02
SETTLE_SECONDS = 0.5
MEASURE_SECONDS = 3.0
MEASURE_STEPS = 8
LONGEST_SECONDS = 60.0
_LOOK_SECONDS = 0.1


class Mark(NamedTuple):
    """How far a job was at a moment."""

    step: int
    at: float
    """When that step was committed, in s of the supervisor's monotonic clock."""


class Runner(Protocol):
    """A job that runs, as a trial needs it."""

    def mark(self) -> Mark | None:
        """How far the job is; None if it has not said."""
        ...

    async def share(self, way: str | None) -> None:
        """Have the job share its slots in a way from now on; None: share them no more.

        Raises:
            UserError: the job cannot.
        """
        ...


class Tried(NamedTuple):
    """How a trial went: the best way, and what each got done in it, over what it does alone."""

    way: str
    speeds: tuple[float, float]
    all: Mapping[str, tuple[float, float]]
    """The speeds of both in every way that they could take."""
    alone: tuple[float, float]
    """Steps per second of each alone."""


async def trial(
    host: Runner, guest: Runner, alone: tuple[float | None, float | None], seconds: float = MEASURE_SECONDS
) -> Tried:
    """Find out how two jobs go together; they are left sharing in the best way.

    Args:
        alone: steps per second of each alone, where that is known.
        seconds: how long each measurement takes at least.

    Raises:
        UserError: one of them cannot share, or stands still.
    """
    rates = list(alone)
    for index, (runner, other) in enumerate(((host, guest), (guest, host))):
        if rates[index] is None:
            await other.share("interleave")
            await runner.share("alone")
            (rates[index],) = await _rates([runner], seconds)
            await runner.share("interleave")
            if not rates[index]:
                raise UserError("a job that has the slot for itself gets nothing done: it evaluates, perhaps.")
    known = (rates[0] or 1.0, rates[1] or 1.0)
    found: dict[str, tuple[float, float]] = {}
    for way in TRIED:
        try:
            await host.share(way)
            await guest.share(way)
        except UserError:
            if way == "together":
                raise
            continue
        first, second = await _rates([host, guest], seconds)
        found[way] = (first / known[0], second / known[1])
    best = TRIED[0]
    for way, speeds in found.items():
        if sum(speeds) > sum(found[best]) + BETTER:
            best = way
    await host.share(best)
    await guest.share(best)
    return Tried(best, found[best], found, known)


async def _rates(runners: list[Runner], seconds: float) -> list[float]:
    """Steps per second of each job, over the same time as far as steps allow."""
    await asyncio.sleep(SETTLE_SECONDS)
    loop = asyncio.get_running_loop()
    began = loop.time()
    starts = [runner.mark() for runner in runners]
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        marks = [runner.mark() for runner in runners]
        passed = loop.time() - began
        steps = [mark.step - start.step if mark and start else 0 for mark, start in zip(marks, starts, strict=True)]
        starts = [start or mark for start, mark in zip(starts, marks, strict=True)]
        if (passed >= seconds and min(steps) >= MEASURE_STEPS) or passed >= LONGEST_SECONDS:
            break
    rates = []
    for start, mark in zip(starts, marks, strict=True):
        took = mark.at - start.at if mark and start else 0.0
        rates.append((mark.step - start.step) / took if mark and start and took > 0 else 0.0)
    return rates
