"""Processes that a worker's code has started: they end with the worker, at the latest with the run.

A dataset may start others, and forget them: a server, a decoder, a fork of the worker. Every worker leads a session of
its own, and what it starts belongs to that, unless it leaves it on purpose. So when a worker is gone, its session is
ended; when the run is, all that descends from the template, which the kernel makes the parent of whoever has lost his
(`adopt_orphans`). Each time they have a moment first: some end by themselves when they notice, and tidy up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36


class Relation(NamedTuple):
    """A process that lives."""

    pid: int
    parent: int
    session: int


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of its descendants whose own are gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def in_session(session: int) -> set[int]:
    """Who lives in a session, but for this process."""
    return {each.pid for each in _living() if each.session == session} - {os.getpid()}


def descendants(ancestor: int) -> set[int]:
    """Who lives and descends from a process."""
    children: dict[int, list[int]] = {}
    for each in _living():
        children.setdefault(each.parent, []).append(each.pid)
    found: set[int] = set()
    new = {ancestor}
    while new:
        new = {child for parent in new for child in children.get(parent, ())} - found
        found |= new
    return found


def end(who: Callable[[], set[int]], rounds: int = 3) -> int:
    """End processes at once, and those that they start meanwhile. Returns how many there were."""
    ended: set[int] = set()
    for _ in range(rounds):
        found = who()
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= found
    return len(ended)


def _living() -> Iterator[Relation]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, session = (path / "stat").read_bytes().rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it is gone meanwhile
        if state not in (b"Z", b"X"):
            yield Relation(int(path.name), int(parent), int(session))
