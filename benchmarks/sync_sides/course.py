"""How the loss of a training went, and when it was good enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

WINDOW = 10
"""Steps over which training losses are averaged: those of single batches scatter too much to name a goal by."""


@dataclass(frozen=True)
class Case:
    """An example that is trained until its loss is good enough.

    Its schedule is laid out for three times the steps that the pilot takes, so that every side has the same learning
    rates and may need many more steps than all-reduce.
    """

    example: str
    flags: str
    steps: int
    """Of the pilot."""

    def all_flags(self, seed: int) -> str:
        return f"{self.flags} --steps {3 * self.steps} --seed {seed}"


GPT = "--layers 2 --width 64 --context 64 --batch-size 32 --micro-batches 8 --lr 3e-3"
LIGHT = "--layers 2 --width 128 --context 64 --batch-size 8 --micro-batches 8 --lr 2e-3"
DIGITS = "--batch-size 128 --micro-batches 8"
CASES = {"gpt": Case("gpt", GPT, 240), "digits": Case("digits", DIGITS, 200), "light": Case("gpt", LIGHT, 240)}
QUICK = {name: replace(case, steps=40) for name, case in CASES.items()}


@dataclass(frozen=True)
class Trial:
    """One training. It ends when the goal is reached, when time is up, or after the last step."""

    case: Case
    seed: int
    goal: float = -math.inf
    limit: float = 300.0
    """Seconds, from when all workers are ready."""
    most: int | None = None
    """Steps after which it ends in any case."""

    @property
    def flags(self) -> str:
        return self.case.all_flags(self.seed)

    @property
    def last(self) -> int:
        return self.most or 3 * self.case.steps


@dataclass
class Course:
    """Losses of training steps, and when each became known, in seconds from when all workers were ready."""

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    late: str = ""
    """Why there is nothing: whoever trained did not come to an end."""

    def add(self, seconds: float, loss: float) -> None:
        self.seconds.append(seconds)
        self.losses.append(loss)

    def smoothed(self, steps: int) -> float:
        """The mean loss of the last steps of so many; infinite before there are enough."""
        return smoothed(self.losses[:steps])

    def reached(self, goal: float) -> int | None:
        """The first step after which the smoothed loss is no more than the goal."""
        return next((s for s in range(WINDOW, len(self.losses) + 1) if self.smoothed(s) <= goal), None)

    def best(self, steps: int) -> float:
        """The lowest smoothed loss of so many steps."""
        return min(self.smoothed(step) for step in range(WINDOW, min(steps, len(self.losses)) + 1))

    def outcome(self, trial: Trial) -> dict[str, Any]:
        """Of a trial: when it reached its goal, and how fast its steps were."""
        step = self.reached(trial.goal)
        seconds = self.seconds[step - 1] if step else None
        if seconds is not None and seconds > trial.limit:
            step = seconds = None
        return {
            "seconds": seconds,
            "steps": step,
            "seconds_per_step": self.seconds[-1] / len(self.seconds) if self.seconds else None,
            "best": self.best(len(self.losses)) if len(self.losses) >= WINDOW else None,
            "limit": trial.limit,
            **({"late": self.late} if self.late else {}),
        }

    def curve(self) -> list[tuple[float, float]]:
        """Seconds and smoothed losses, every few steps."""
        steps = range(WINDOW, len(self.losses) + 1, WINDOW)
        return [(round(self.seconds[s - 1], 3), round(self.smoothed(s), 4)) for s in steps]


def smoothed(losses: Sequence[float]) -> float:
    """The mean of the last losses; infinite before there are enough."""
    return math.fsum(losses[-WINDOW:]) / WINDOW if len(losses) >= WINDOW else math.inf
