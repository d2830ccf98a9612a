"""Who computes what when nobody waits for all: shares of steps, each computed once.

A step's micro-batches are cut into as many shares as there are workers to begin with. Whoever is free gets the next
one, so faster workers compute more. What a lost worker had not completed is given to another. A step counts as
committed when all shares of it, and of all steps before it, are completed: then every sample up to there was used
exactly once, and the ledger can say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Share(NamedTuple):
    """A part of a step's micro-batches."""

    step: int
    """The step's number, counted from 0."""
    index: int


class Work:
    """What is to be done, what somebody has begun, and what is completed.

    Args:
        parts: shares of a step.
        total: steps of the job.
        kept: of `capture`, to go on from.
    """

    def __init__(self, parts: int, total: int, kept: Mapping[str, Any] | None = None) -> None:
        kept = kept or {"parts": parts, "next": [0, 0], "open": [], "committed": 0}
        self.parts, self.total = kept["parts"], total
        self.committed: int = kept["committed"]
        """Steps that are complete, as are all before them."""
        self._next = Share(*kept["next"])
        self._again = [Share(*share) for share in kept["open"]]
        self._held: dict[int, Share] = {}
        self._missing = dict.fromkeys(range(self.committed, self._next.step), 0)
        """Shares that are not completed, for each step that was begun."""
        if self._next.index:
            self._missing[self._next.step] = self.parts - self._next.index
        for share in self._again:
            self._missing[share.step] += 1

    def claim(self, worker: int, until: int | None = None) -> Share | None:
        """The next share for a worker, none of a step from `until` on; None if there is none now."""
        assert worker not in self._held, "one at a time"
        limit = self.total if until is None else min(until, self.total)
        again = [share for share in self._again if share.step < limit]
        if again:
            share = min(again)
            self._again.remove(share)
        elif self._next.step < limit:
            share = self._advance()
        else:
            return None
        self._held[worker] = share
        return share

    def hold(self, worker: int, share: Share) -> bool:
        """A worker says that it is at this share, after whoever gave it was lost. Whether it is still to be done."""
        while self._next <= share:  # it was given after what is known was written down
            self._again.append(self._advance())
        if share not in self._again:
            return False
        self._again.remove(share)
        self._held[worker] = share
        return True

    def holds(self, worker: int, share: Share) -> bool:
        """Whether the worker is at this share."""
        return self._held.get(worker) == share

    def done(self, worker: int) -> list[int]:
        """A worker has completed its share. Returns the steps that this commits, counted from 0."""
        share = self._held.pop(worker)
        self._missing[share.step] -= 1
        first = self.committed
        while self._missing.get(self.committed) == 0:
            del self._missing[self.committed]
            self.committed += 1
        return list(range(first, self.committed))

    def skip(self, steps: int) -> None:
        """The first steps were done before."""
        self._next, self.committed = Share(steps, 0), steps

    def lost(self, worker: int) -> None:
        """A worker is gone; its share is open again."""
        if worker in self._held:
            self._again.append(self._held.pop(worker))

    @property
    def finished(self) -> bool:
        return self.committed == self.total

    @property
    def begun(self) -> int:
        """How many steps anybody has begun."""
        return self._next.step + (self._next.index > 0)

    def _advance(self) -> Share:
        """The next share that nobody has had."""
        share = self._next
        last = share.index + 1 == self.parts
        self._next = Share(share.step + 1, 0) if last else Share(share.step, share.index + 1)
        if share.index == 0:
            self._missing[share.step] = self.parts
        return share

    def capture(self) -> dict[str, Any]:
        """The work as plain data; what somebody has begun is open."""
        shares: Sequence[Share] = sorted([*self._again, *self._held.values()])
        return {
            "parts": self.parts,
            "next": list(self._next),
            "open": [list(share) for share in shares],
            "committed": self.committed,
        }
