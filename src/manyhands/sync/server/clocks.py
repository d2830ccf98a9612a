"""Bounded staleness: the fastest worker is never more than `s` steps ahead of the slowest.

Problem: without any bound a worker may compute with weights that are arbitrarily old; with none allowed all wait for
the slowest.
Idea: every worker has a clock, the number of shares that it has completed since it came (plus what the slowest had
then). It may begin the next one only if that, once completed, leaves it at most s ahead of the slowest. The clocks of
workers that are lost stop counting. So the difference of clocks never exceeds s, and when the slowest moves, those
that wait for it can be told.
Source: Ho et al., "More effective distributed ML via a stale synchronous parallel parameter server", NeurIPS 2013.
"""

from __future__ import annotations


class Clocks:
    """The workers' clocks.

    Args:
        bound: s, at least 1; None: no bound.
    """

    def __init__(self, bound: int | None) -> None:
        self.bound = bound
        self._clocks: dict[int, int] = {}

    def join(self, worker: int) -> None:
        """A worker comes (again). It starts where the slowest is."""
        self._clocks.pop(worker, None)
        self._clocks[worker] = min(self._clocks.values(), default=0)

    def put(self, worker: int, clock: int) -> None:
        """A worker says where it is, after whoever kept the clocks was lost."""
        self._clocks[worker] = clock

    def __getitem__(self, worker: int) -> int:
        return self._clocks[worker]

    def leave(self, worker: int) -> None:
        """A worker is gone."""
        self._clocks.pop(worker, None)

    def tick(self, worker: int) -> None:
        """Count a share that a worker has completed."""
        self._clocks[worker] += 1

    def may_begin(self, worker: int) -> bool:
        """Whether a worker may begin its next share now."""
        return self.bound is None or self._clocks[worker] + 1 - min(self._clocks.values()) <= self.bound

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._clocks)

    @property
    def spread(self) -> int:
        """How far the fastest worker is ahead of the slowest."""
        return max(self._clocks.values()) - min(self._clocks.values()) if self._clocks else 0
