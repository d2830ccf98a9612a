"""Finds hung workers, has everyone's stacks printed, and ends the culprits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from manyhands.engine import Engine
from manyhands.gang import Member, Phase
from manyhands.shm import Board, Whereabouts
from manyhands.supervise.options import Care
from manyhands.supervise.patience import Patience
from manyhands.timeline import PHASES

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
        self.reasons: dict[int, str] = {}
        """Why those who are condemned are, in words."""
        self._awake = 0
        """Since when we have been awake without a break, in monotonic ns."""
        self._expected = time.monotonic_ns()
        """When we wanted to look again."""

    def look(self, members: Mapping[int, Member]) -> None:
        """Condemn workers that hang; end those whose time has come."""
        now = time.monotonic_ns()
        if now > self._expected + int(max(1.0, self.patience.least / 2) * 1e9):
            self._awake = now  # we were stopped, or starved, and so may they have been
        running = self._running(members)
        self._learn(members, running)
        for worker in self.patience.hung(running, now, self._fresh(members, running)) - self._condemned.keys():
            member, where = members[worker], running[worker]
            self.patience.killed(where)
            place = f"for {(now - where.since) / 1e9:.0f} s in step {where.step + 1} ({PHASES[where.phase]})"
            self.reasons[worker] = f"stood still {place} and was replaced (--patience)"
            self._note(
                f"{member.who} ({member.process}) has stood still {place}: it hangs and is replaced (--patience). "
                "Stacks of all workers follow."
            )
            if not self._condemned:
                for other in running:
                    self._engine.stacks(other)
            self._condemned[worker] = time.monotonic() + _STACKS_SECONDS
        for member in members.values():
            waits = (now - member.since) / 1e9
            if member.phase in (Phase.STARTING, Phase.CHECKING, Phase.SAVING) and waits > self._startup:
                self._note(
                    f"a worker ({member.process}) was {member.phase.value} for {waits:.0f} s: replaced "
                    "(--startup-patience)."
                )
                self._condemned.setdefault(member.worker, time.monotonic())
        for worker, when in self._condemned.items():
            if time.monotonic() >= when:
                self._engine.kill(worker)

    def forget(self, worker: int) -> str:
        """Forget a worker that is gone. Returns why we have ended it, in words; empty if that was not our doing."""
        condemned = self._condemned.pop(worker, None) is not None
        reason = self.reasons.pop(worker, "hung and was replaced (--startup-patience)")
        return reason if condemned else ""

    def next_check(self, members: Mapping[int, Member]) -> float:
        """Seconds until `look` may find something, or a checkpoint may be due."""
        running, now = self._running(members), time.monotonic_ns()
        waits = [self.patience.next_check(running, now, self._fresh(members, running)), self._checkpoint_seconds]
        waits += [max(0.01, when - time.monotonic()) for when in self._condemned.values()]
        if not self.patience.recent and any(m.phase is Phase.RUNNING for m in members.values()):
            waits.append(self.patience.least)  # the board tells of a first step before its report comes
        seconds = max(0.01, min(waits))
        self._expected = now + int(seconds * 1e9)
        return seconds

    def _learn(self, members: Mapping[int, Member], running: Mapping[int, Whereabouts]) -> None:
        """Steps are reported in batches, and one that hangs reports no more: take a first measure from the board."""
        if self.patience.recent:
            return
        for worker, where in running.items():
            if where.step > members[worker].first and not members[worker].late:
                self.patience.learn((where.since - members[worker].since) / 1e9)

    def _running(self, members: Mapping[int, Member]) -> dict[int, Whereabouts]:
        """Where those who train are, and since when: at the earliest since we were awake, and since they were last held
        up by us, who did not read fast enough what they print."""
        found = {}
        for worker in (member.worker for member in members.values() if member.phase is Phase.RUNNING):
            where = self._board.read(worker)
            found[worker] = where._replace(since=max(where.since, self._awake, self._engine.clogged(worker)))
        return found

    def _fresh(self, members: Mapping[int, Member], running: Mapping[int, Whereabouts]) -> set[int]:
        """Those who have not done a step since they joined."""
        joined = {worker: members[worker] for worker in running}
        return {w for w, m in joined.items() if not m.moved and (_pulls(m) or running[w].step <= m.first)}


def _pulls(member: Member) -> bool:
    """Whether it is a worker that came later, and has the step of its servers before it has done one."""
    return member.late and member.rank is not None and member.rank < member.plan.workers
