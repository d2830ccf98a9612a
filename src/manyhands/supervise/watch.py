"""Finds hung workers, has everyone's stacks printed, and ends the culprits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from manyhands.engine import Engine
from manyhands.gang import Member, Phase
from manyhands.shm import Board, Whereabouts
from manyhands.supervise.options import Care
from manyhands.supervise.patience import Patience

_STACKS_SECONDS = 0.5
"""How long a hung worker is given to print its stacks before it is killed."""


class Watch:
    """Looks at the board when a deadline has passed; costs nothing otherwise.

    Args:
        engine: prints stacks and kills.
        board: where the workers are.
        care: how long is too long.
        note: tells the user.
    """

    def __init__(self, engine: Engine, board: Board, care: Care, note: Callable[[str], None]) -> None:
        self.patience = Patience(care.patience, care.startup_patience)
        self._engine = engine
        self._board = board
        self._startup = care.startup_patience
        self._checkpoint_seconds = care.checkpoint_seconds
        self._note = note
        self._condemned: dict[int, float] = {}

    def look(self, members: Mapping[int, Member]) -> None:
        """Condemn workers that hang; end those whose time has come."""
        now = time.monotonic_ns()
        running = self._running(members)
        self._learn(members, running)
        for worker in self.patience.hung(running, now) - self._condemned.keys():
            member, where = members[worker], running[worker]
            self._note(
                f"{member.who} ({member.process}) has stood still for {(now - where.since) / 1e9:.0f} s in "
                f"step {where.step + 1}: it hangs and is replaced (--patience). Stacks of all workers follow."
            )
            if not self._condemned:
                for other in running:
                    self._engine.stacks(other)
            self._condemned[worker] = time.monotonic() + _STACKS_SECONDS
        for member in members.values():
            waits = (now - member.since) / 1e9
            if member.phase in (Phase.STARTING, Phase.SAVING) and waits > self._startup:
                self._note(
                    f"a worker ({member.process}) was {member.phase.value} for {waits:.0f} s: replaced "
                    "(--startup-patience)."
                )
                self._condemned.setdefault(member.worker, time.monotonic())
        for worker, when in self._condemned.items():
            if time.monotonic() >= when:
                self._engine.kill(worker)

    def forget(self, worker: int) -> bool:
        """Forget a worker that is gone; returns whether that was our doing."""
        return self._condemned.pop(worker, None) is not None

    def next_check(self, members: Mapping[int, Member]) -> float:
        """Seconds until `look` may find something, or a checkpoint may be due."""
        waits = [self.patience.next_check(self._running(members), time.monotonic_ns()), self._checkpoint_seconds]
        waits += [max(0.01, when - time.monotonic()) for when in self._condemned.values()]
        if not self.patience.recent and any(m.phase is Phase.RUNNING for m in members.values()):
            waits.append(self.patience.least)  # the board tells of a first step before its report comes
        return max(0.01, min(waits))

    def _learn(self, members: Mapping[int, Member], running: Mapping[int, Whereabouts]) -> None:
        """Steps are reported in batches, and one that hangs reports no more: take a first measure from the board."""
        if self.patience.recent:
            return
        for worker, where in running.items():
            if where.step > members[worker].step:
                self.patience.learn((where.since - members[worker].since) / 1e9)

    def _running(self, members: Mapping[int, Member]) -> dict[int, Whereabouts]:
        return {m.worker: self._board.read(m.worker) for m in members.values() if m.phase is Phase.RUNNING}
