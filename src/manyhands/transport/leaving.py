"""How a process leaves its groups when it ends, or is forked, and what they have sent meanwhile."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class Leavable(Protocol):
    """A group, as far as its process's end is concerned."""

    @property
    def sent(self) -> int: ...

    def close(self, patience: float | None = None) -> None: ...


open_groups: weakref.WeakSet[Leavable] = weakref.WeakSet()
"""All groups of this process that are not closed."""


def sent_bytes() -> int:
    """Bytes that this process has sent so far over the groups that are open."""
    return sum(group.sent for group in list(open_groups))


def _leave() -> None:
    """A process that ends without closing its groups did not crash: say so. And have no thread of theirs run while the
    interpreter goes: one that is stopped within torch ends the process with an abort."""
    for group in list(open_groups):
        group.close(patience=1.0)


atexit.register(_leave)
os.register_at_fork(after_in_child=open_groups.clear)
