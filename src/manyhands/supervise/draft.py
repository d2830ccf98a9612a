"""The next standing in the making: what `decide` and `heard` write on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from manyhands.gang import Member, Order, Phase
from manyhands.gang.orders import Exit
from manyhands.supervise.actions import Action, Kill, Send, Tell, WriteCheckpoint
from manyhands.supervise.standing import Ending, Standing

Outcome = tuple[Standing, tuple[Action, ...]]
"""How a run stands now, and what is to be done for it to stand so."""


class Draft:
    """The next standing in the making, and what is to be done on the way there.

    Attributes:
        at: the standing as it is by now.
    """

    def __init__(self, standing: Standing) -> None:
        self.at = standing
        self._actions: list[Action] = []

    def outcome(self) -> Outcome:
        return self.at, tuple(self._actions)

    def do(self, *actions: Action) -> None:
        self._actions += actions

    def set(self, **changes: Any) -> None:
        self.at = replace(self.at, **changes)

    def set_member(self, worker: int, **changes: Any) -> None:
        """Change what is known of a member; its phase may be a new one only by `enter`."""
        self.set(members={**self.at.members, worker: replace(self.at.members[worker], **changes)})

    def enter(self, worker: int, phase: Phase, **changes: Any) -> None:
        """A member begins something else."""
        self.set_member(worker, phase=phase, since=self.at.now, **changes)

    def drop(self, worker: int) -> Member | None:
        """Take a member out of the gang; returns it."""
        members = dict(self.at.members)
        member = members.pop(worker, None)
        self.set(members=members)
        return member

    def let_go(self, worker: int) -> None:
        """A member was told to end, and will be gone in a moment."""
        member = self.drop(worker)
        if member is not None:
            self.set(leaving={**self.at.leaving, worker: member})

    def set_generation(self, **changes: Any) -> None:
        assert self.at.generation is not None
        self.set(generation=replace(self.at.generation, **changes))

    def order(self, worker: int, order: Order) -> None:
        self.do(Send(worker=worker, order=order))

    def order_all(self, phase: Phase, order: Order) -> None:
        """Tell all members that are at something."""
        for member in self.at.members.values():
            if member.phase is phase:
                self.order(member.worker, order)

    def note(self, text: str) -> None:
        self.do(Tell(text=text))

    def log(self, text: str) -> None:
        self.do(Tell(text=text, how="log"))

    def kill(self, worker: int) -> None:
        self.do(Kill(worker=worker))
        self.let_go(worker)

    def dismiss(self, member: Member) -> None:
        """Let a member go that is not needed any more."""
        if member.phase is Phase.STARTING:
            self.kill(member.worker)
        else:
            self.order(member.worker, Exit())
            self.let_go(member.worker)

    def write_checkpoint(self, buffer: int, step: int) -> None:
        """Have the state that lies in a buffer made durable; until then nobody writes there."""
        self.set(durable=replace(self.at.durable, buffer=buffer, tried=step))
        self.do(WriteCheckpoint(buffer=buffer, step=step))

    def end_generation(self) -> None:
        """End those who train at once: they hold parts, and the newest whole state is in memory or on disk."""
        for member in list(self.at.members.values()):
            if member.placed and member.phase is Phase.RUNNING:
                self.kill(member.worker)

    def fail(self, error: str, trace: str = "") -> None:
        """The run ends of this, unless it does of something else already."""
        if self.at.ending is None or self.at.ending.status == "stopped":
            self.set(ending=Ending(status="failed", error=error, trace=trace))
        if self.at.generation is not None and not self.at.generation.kind.whole:
            self.end_generation()
