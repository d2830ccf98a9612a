"""How long tests wait for what should come: the one place that says so.

A deadline is there so that a hang ends, and is never what a test is about. So it lies far above what is waited for,
and grows with what the machine gives: with 30 processes at work on 2 cores, everything takes 15 times as long. What a
run under test takes for a hang (`--patience`) grows along, so that nobody is killed for having been starved.
"""

import os
import time

MOST = 15.0
"""However busy the machine is, a hang ends at last."""
_USUAL_SECONDS = 0.1
"""What the arithmetic below takes on an idle core of 2020."""


def _measured() -> float:
    """How many times longer than usual a bit of computing takes: a slow machine, or one that is shared."""
    began = time.perf_counter()
    sum(number * number for number in range(1_500_000))
    return (time.perf_counter() - began) / _USUAL_SECONDS


_AT_FIRST = _measured()


def slowness() -> float:
    """By what to multiply a deadline now, 1 on an idle machine: as measured once, or by who waits for a core by now."""
    return min(MOST, max(1.0, _AT_FIRST, os.getloadavg()[0] / (os.cpu_count() or 1)))


def stretched(seconds: float) -> float:
    """So many seconds of an idle machine, on this one, now."""
    return seconds * slowness()


QUIET = 240.0
"""Seconds after which whatever a test waits for counts as hung, on an idle machine."""
DEADLINE = stretched(QUIET)
"""The same on this one, as it was when the tests began: for waits that take a number once."""


class Deadline:
    """Of a wait that looks again and again: it moves when the machine becomes busy meanwhile."""

    def __init__(self, seconds: float = QUIET) -> None:
        self._seconds, self._began = seconds, time.monotonic()

    def __str__(self) -> str:
        return f"{stretched(self._seconds):.0f} s"

    @property
    def passed(self) -> bool:
        return time.monotonic() - self._began > stretched(self._seconds)


PATIENT = (f"--patience={stretched(600):.0f}", f"--startup-patience={stretched(600):.0f}")
"""For runs in which nobody hangs: who is held by a brake, or gets no core, is not taken for hung."""
HASTY = (f"--patience={stretched(3):.0f}",)
"""For runs in which somebody does."""
