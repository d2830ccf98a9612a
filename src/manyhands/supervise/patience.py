"""When silence means a hang: a deadline learned from the steps that went before."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from manyhands.shm import Whereabouts
from manyhands.timeline import PHASES

_IDLE = PHASES.index("idle")
_SLOW = {PHASES.index(phase) for phase in ("evaluate", "snapshot", "turn")}
_FACTOR = 10.0
_REMEMBERED = 50


@dataclass
class Patience:
    """How long a worker may stand still. Seconds."""

    least: float
    """Seconds that are always borne, since a busy machine stalls anyone for a while."""
    startup: float
    """Seconds that are borne until the first step has been seen, and for phases that are not steps."""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """What the last steps took: an early slow one, which compiles, say, must not be the measure for ever."""

    def learn(self, step_seconds: float) -> None:
        """A step took so long."""
        self.recent.append(step_seconds)

    def forget(self) -> None:
        """Forget what steps took: what comes next is like a start."""
        self.recent.clear()

    def limit(self, phase: int) -> float:
        """Seconds that a worker may stay in one place of a phase."""
        if not self.recent or phase in _SLOW:
            return self.startup
        return max(self.least, _FACTOR * max(self.recent))

    def hung(self, running: Mapping[int, Whereabouts], now: int) -> set[int]:
        """Which of the running workers are hung.

        One that waits for others is not hung while anybody else is; if all wait for each other, and have for
        twice the limit, all are.
        """
        stale = {w: where for w, where in running.items() if (now - where.since) / 1e9 > self.limit(where.phase)}
        stuck = {worker for worker, where in stale.items() if where.phase != _IDLE}
        if stuck or len(stale) < len(running):
            return stuck
        return {w for w, where in stale.items() if (now - where.since) / 1e9 > 2 * self.limit(where.phase)}

    def next_check(self, running: Mapping[int, Whereabouts], now: int) -> float:
        """Seconds until it is worth looking again."""
        left = [self.limit(where.phase) - (now - where.since) / 1e9 for where in running.values()]
        if left:
            left.append(self.limit(_IDLE))  # who is in a slow phase now may be in another, and hang, a moment later
        return max(0.1, min(left, default=self.startup))
