"""How many workers a run may lose before it is given up: those since the last committed step count."""

from __future__ import annotations

import signal
from pathlib import Path

from manyhands.engine import HERE
from manyhands.supervise.members import Member, describe_loss
from manyhands.supervise.oom import OUT_OF_MEMORY_REMEDY, OutOfMemory

_OUTSIDE = 10
"""Times as many losses are allowed to who is killed from outside or with its host: that is not the job's doing."""


class Losses:
    """
    Args:
        attempts: losses without a committed step, after which the run fails.
        log: where the workers' last words are.
    """

    def __init__(self, attempts: int, log: Path) -> None:
        self._attempts, self._log = attempts, log
        self._count = 0
        self._hosts: set[str] = set()
        """Lost since the last decision: all of a host's workers are one loss."""
        self._out_of_memory = OutOfMemory()

    def progress(self) -> None:
        """A step has been committed."""
        self._count = 0

    def decided(self) -> None:
        """What comes next is not of the same losses."""
        self._hosts.clear()

    def lost(self, member: Member, status: int | None, hung: bool, committed: int) -> tuple[str, str | None]:
        """Count one. `status` is as the engine's; `hung`: we ended it.

        Returns:
            What happened, in words; and why the run fails of it, or None if it goes on.
        """
        whole_host = status is None and member.host != HERE
        if not whole_host or member.host not in self._hosts:
            self._count += 1
        if whole_host:
            self._hosts.add(member.host)
        out_of_memory = self._out_of_memory.happened()
        text = f"{describe_loss(member, status, out_of_memory)} after step {committed}"
        outside = (status is None or status in (-signal.SIGKILL, -signal.SIGTERM)) and not hung and not out_of_memory
        if self._count < self._attempts * (_OUTSIDE if outside else 1):
            return text, None
        remedy = OUT_OF_MEMORY_REMEDY if out_of_memory else f"What it printed last is in {self._log}."
        return text, f"{text}, loss number {self._count} without a committed step. {remedy}"

    def unconnected(self, error: str) -> str | None:
        """Count a gang whose members did not find each other, though all live. Returns why the run fails of it."""
        self._count += 1
        if self._count < self._attempts:
            return None
        return (
            f"the workers could not connect to each other {self._count} times in a row: {error}. Check that no "
            "firewall is between the hosts."
        )
