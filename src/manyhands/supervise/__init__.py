"""Keeps a gang at work: membership, recovery, resizing, checkpoints, and what is written down. No torch here."""

from manyhands.supervise.options import Care
from manyhands.supervise.session import Session, run_session

__all__ = ["Care", "Session", "run_session"]
