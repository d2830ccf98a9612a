"""Bytes between workers: groups of ranks over shared memory and TCP."""

from manyhands.transport.errors import GroupError, MismatchError, PeerLostError, WaitedTooLongError
from manyhands.transport.group import Group
from manyhands.transport.leaving import sent_bytes
from manyhands.transport.link import links_over
from manyhands.transport.parts import part

__all__ = [
    "Group",
    "GroupError",
    "MismatchError",
    "PeerLostError",
    "WaitedTooLongError",
    "links_over",
    "part",
    "sent_bytes",
]
