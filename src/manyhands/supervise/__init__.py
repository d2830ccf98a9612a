"""Keeps a gang at work: membership, recovery, resizing, checkpoints, and what is written down. No torch here.

`run_session` is loaded when it is first used: help and checks of the command line need `Care` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.supervise.options import Care

if TYPE_CHECKING:
    from manyhands.supervise.session import Session, run_session

__all__ = ["Care", "Session", "run_session"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from manyhands.supervise import session

        return getattr(session, name)
    raise AttributeError(f"module 'manyhands.supervise' has no attribute {name!r}")
