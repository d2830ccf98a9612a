"""Records where a worker's time goes, for under 1 % of it.

A worker is always in exactly one phase, so recording is one clock reading per change of phase: `enter` closes
the span that is open and opens the next (about 1 us). Sums per phase are kept for every step; single spans
only when asked for, because a long run has more of them than anyone will look at.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from manyhands.timeline.event import PHASES

Span = tuple[int, int, int, int]
"""(index into PHASES, micro-batch or -1, start ns, end ns)."""


class Recorder:
    """The phase clock of one worker.

    Args:
        on_enter: called with `(phase index, micro-batch)` at every change of phase; the worker publishes its
            whereabouts with it, so that a hung one can be told from one that waits.

    Attributes:
        gate: if there is one, called with a phase before it begins, which it may hold up; and with what to call when
            it is about to.
    """

    def __init__(self, on_enter: Callable[[int, int], None] | None = None) -> None:
        self.keep_spans = True
        self.gate: Callable[[str, Callable[[], None]], None] | None = None
        self._on_enter = on_enter
        self._sums = [0] * len(PHASES)
        self._spans: list[Span] = []
        self._phase = _IDLE
        self._micro_batch = -1
        self._since = monotonic_ns()

    def enter(self, phase: str, micro_batch: int = -1) -> None:
        """Close the open span and open one of `phase`."""
        if self.gate is not None:
            self.gate(phase, lambda: self._open("turn", micro_batch))
        self._open(phase, micro_batch)

    def _open(self, phase: str, micro_batch: int) -> None:
        now = monotonic_ns()
        self._close(now)
        self._phase = _INDEX[phase]
        self._micro_batch = micro_batch
        if self._on_enter is not None:
            self._on_enter(self._phase, micro_batch)

    @property
    def phase(self) -> str:
        """The phase that is open."""
        return PHASES[self._phase]

    @property
    def micro_batch(self) -> int:
        """The micro-batch of the open phase, or -1."""
        return self._micro_batch

    def take(self) -> tuple[list[int], list[Span]]:
        """Nanoseconds per phase (ordered as `PHASES`) and the spans since the last call; the open one is cut."""
        self._close(monotonic_ns())
        sums, spans = self._sums, self._spans
        self._sums, self._spans = [0] * len(PHASES), []
        return sums, spans

    def _close(self, now: int) -> None:
        self._sums[self._phase] += now - self._since
        if self.keep_spans and now > self._since:
            self._spans.append((self._phase, self._micro_batch, self._since, now))
        self._since = now


_INDEX = {name: index for index, name in enumerate(PHASES)}
_IDLE = _INDEX["idle"]
