"""When silence means a hang: a deadline learned from the steps that went before."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from manyhands.shm import Whereabouts
from manyhands.timeline import PHASES

_IDLE = PHASES.index("idle")
_DATA = PHASES.index("data")
_SLOW = {PHASES.index(phase) for phase in ("evaluate", "snapshot", "turn")}
_FACTOR = 10.0
_READING = 6.0
"""Reading a sample from a cold disk or over a network takes longer than computing, now and then."""
_GROWS = 4.0
_REMEMBERED = 50


@dataclass
class Patience:
    """How long a worker may stand still. Seconds."""

    least: float
    """Seconds that are always borne, since a busy machine stalls anyone for a while."""
    startup: float
    """Seconds that are borne until a worker's first step has been seen, and for phases that are not steps."""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """What the last steps took: an early slow one, which compiles, say, must not be the measure for ever."""
    kills: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How often somebody was ended in this phase of this step: what takes long there may take as long again."""

    def learn(self, step_seconds: float) -> None:
        """Take note that a step took so long."""
        self.recent.append(step_seconds)

    def forget(self) -> None:
        """Forget what steps took: what comes next is like a start."""
        self.recent.clear()

    def killed(self, where: Whereabouts) -> None:
        """Take note that somebody was ended there as hung: the next one has more time for it."""
        self.kills[where.step, where.phase] += 1

    def limit(self, phase: int, step: int = -1, fresh: bool = False) -> float:
        """Seconds that a worker may stay in one place of a phase.

        Args:
            fresh: it has not done a step since it joined its gang, and may have to compile or to warm up first.
        """
        if not self.recent or fresh or phase in _SLOW:
            seconds = self.startup
        else:
            seconds = max(self.least * (_READING if phase == _DATA else 1.0), _FACTOR * max(self.recent))
        return seconds * _GROWS ** self.kills[step, phase]

    def hung(self, running: Mapping[int, Whereabouts], now: int, fresh: Container[int] = ()) -> set[int]:
        """Which of the running workers are hung.

        One that waits for others is not hung while anybody else is; if all wait for each other, and have for
        twice the limit, all are.

        Args:
            now: in monotonic ns.
            fresh: workers that have not done a step yet.
        """
        still = {worker: (now - where.since) / 1e9 for worker, where in running.items()}
        limits = {worker: self._limit(worker, where, fresh) for worker, where in running.items()}
        stale = {worker for worker in running if still[worker] > limits[worker]}
        stuck = {worker for worker in stale if running[worker].phase != _IDLE}
        if stuck or len(stale) < len(running):
            return stuck
        return {worker for worker in stale if still[worker] > 2 * limits[worker]}

    def next_check(self, running: Mapping[int, Whereabouts], now: int, fresh: Container[int] = ()) -> float:
        """Seconds until it is worth looking again."""
        left = [self._limit(worker, where, fresh) - (now - where.since) / 1e9 for worker, where in running.items()]
        if left:
            left.append(self.limit(_IDLE))  # who is in a slow phase now may be in another, and hang, a moment later
        return max(0.1, min(left, default=self.startup))

    def _limit(self, worker: int, where: Whereabouts, fresh: Container[int]) -> float:
        return self.limit(where.phase, where.step, worker in fresh)
