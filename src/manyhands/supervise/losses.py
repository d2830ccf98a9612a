"""How many workers a run may lose before it is given up: those since the last committed step count. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

from manyhands.engine import HERE
from manyhands.gang import Member
from manyhands.supervise.members import describe_loss
from manyhands.supervise.oom import OUT_OF_MEMORY_REMEDY

_OUTSIDE = 10
"""Times as many losses are allowed to who is killed from outside or with its host: that is not the job's doing."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A worker is gone."""

    status: int | None
    """How the worker ended, as in `engine.Exited`."""
    hung: str = ""
    """Why the supervisor ended the worker, if it stood still, in words; empty if it did not."""
    out_of_memory: bool = False
    """Whether the kernel ended something meanwhile for want of memory."""


@dataclass(frozen=True, kw_only=True)
class Casualties:
    """Losses since the last committed step."""

    attempts: int
    """Losses at which the run fails."""
    log: str
    """The file that has the workers' last words."""
    count: int = 0
    hosts: frozenset[str] = frozenset()
    """Hosts lost since the last decision: all of a host's workers are one loss."""

    def progress(self) -> Casualties:
        """A step has been committed."""
        return replace(self, count=0)

    def decided(self) -> Casualties:
        """The losses after a decision: what comes next is not of the same ones."""
        return replace(self, hosts=frozenset())

    def lost(self, member: Member, loss: Loss, committed: int) -> tuple[Casualties, str, str | None]:
        """Count a lost worker, after so many committed steps.

        Returns:
            The new count; what happened, in words; and why the run fails of it, or None if it goes on.
        """
        whole_host = loss.status is None and member.host != HERE
        count = self.count + (not whole_host or member.host not in self.hosts)
        after = replace(self, count=count, hosts=self.hosts | ({member.host} if whole_host else set()))
        what = f"{member.who} ({member.process}) {loss.hung}" if loss.hung else ""
        text = f"{what or describe_loss(member, loss.status, loss.out_of_memory)} after step {committed}"
        killed = loss.status is None or loss.status in (-signal.SIGKILL, -signal.SIGTERM)
        outside = killed and not loss.hung and not loss.out_of_memory
        if count < self.attempts * (_OUTSIDE if outside else 1):
            return after, text, None
        remedy = f"What it printed last is in {self.log}."
        if loss.out_of_memory:
            remedy = OUT_OF_MEMORY_REMEDY
        elif loss.hung:
            remedy += " If that is no hang but slow, raise --patience."
        return after, text, f"{text}, loss number {count} without a committed step. {remedy}"

    def cut_off(self, error: str) -> tuple[Casualties, str | None]:
        """Count a worker that cannot reach this machine, though it lives; and why the run fails of it, if so."""
        after = replace(self, count=self.count + 1)
        if after.count < self.attempts * _OUTSIDE:
            return after, None
        return after, f"workers were cut off {after.count} times without a committed step: {error}"

    def unconnected(self, error: str) -> tuple[Casualties, str | None]:
        """Count a gang whose members did not find each other, though all live; and why the run fails of it, if so."""
        after = replace(self, count=self.count + 1)
        if after.count < self.attempts:
            return after, None
        return after, (
            f"the workers could not connect to each other {after.count} times in a row: {error}. Check that no "
            "firewall is between the hosts."
        )
