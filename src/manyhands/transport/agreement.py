"""What the ranks of a group agree on: which operation it is, and whether the group still holds.

Operations are numbered. A rank that waits long tells the others which operation it is in, so calls that do not match
are found even if nobody sends anything. The first rank that sees a peer gone, or at something else, tells all
others: then the group is broken for everyone, for that reason.

Two threads meet here: the group's, which runs operations, and the control connections', which hears the others.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from manyhands.transport.errors import GroupError, MismatchError, PeerLostError, WaitedTooLongError

_REMEMBERED = 256
"""Operations that are remembered, for telling who called what."""
_KINDS: dict[str, type[GroupError]] = {"MismatchError": MismatchError, "WaitedTooLongError": WaitedTooLongError}

Say = Callable[[int | None, dict[str, Any]], None]
"""Tells a peer, or all (None)."""


class Agreement:
    """One rank's view of what the ranks of a group agree on.

    Args:
        say: how to tell others.
        on_broken: called once, with the reason, when the group breaks.
    """

    def __init__(self, rank: int, say: Say, on_broken: Callable[[GroupError], None]) -> None:
        self.rank = rank
        self.sequence = 0
        """The number of the operation that runs, or ran last."""
        self.doing = ""
        """The operation that runs, in words."""
        self.changed = threading.Condition()
        """Notified when the group breaks, or others have said something that may be waited for."""
        self.broken: GroupError | None = None
        self._say, self._on_broken = say, on_broken
        self._left: dict[int, int] = {}
        self._history: OrderedDict[int, str] = OrderedDict()
        self._heard: dict[tuple[int, int], str] = {}
        self._told: set[int] = set()
        self._here: set[int] = set()

    # The group's thread

    def begin(self, text: str) -> None:
        """The next operation starts.

        Raises:
            GroupError: the group is broken, or a peer called something else.
        """
        self.check()
        with self.changed:  # so that the control thread compares what it hears either before or after
            self.sequence += 1
            self.doing = text
            self._history[self.sequence] = text
            if len(self._history) > _REMEMBERED:
                self._history.popitem(last=False)
            self._told.clear()
            self._here.clear()
            heard = [key for key in self._heard if key[1] <= self.sequence]
            calls = [(*key, self._heard.pop(key)) for key in heard]
        for peer, sequence, theirs in calls:
            self._compare(peer, sequence, theirs)
            self.check()

    def end(self) -> None:
        self.doing = ""

    def check(self) -> None:
        """Raise if the group is broken.

        Raises:
            GroupError: why.
        """
        if self.broken is not None:
            raise self.broken.with_traceback(None)  # or it would grow with every call

    def need(self, peer: int) -> None:
        """This operation needs a peer, which must not have left before it.

        Raises:
            PeerLostError: it has.
        """
        if self._left.get(peer, self.sequence) < self.sequence:
            raise self.fail(PeerLostError(peer, self.context(), "had left the group"))

    def context(self) -> str:
        """What this rank is at, in words."""
        if not self.doing:
            return f"rank {self.rank} was idle after operation {self.sequence}"
        return f"rank {self.rank} was in operation {self.sequence}, {self.doing}"

    def fail(self, error: GroupError, tell: bool = True) -> GroupError:
        """The group is broken; returns the first reason that was given for it."""
        with self.changed:
            if self.broken is not None:
                return self.broken
            self.broken = error
            self.changed.notify_all()
        try:
            if tell:  # first: who is told by a failing operation may end this process
                self._tell(error)
        finally:
            self._on_broken(error)
        return error

    def _tell(self, error: GroupError) -> None:
        lost = {"rank": error.rank, "reason": error.reason} if isinstance(error, PeerLostError) else {}
        self._say(None, {"say": "failed", "kind": type(error).__name__, "text": str(error), **lost})

    def channel_broke(self, peer: int) -> GroupError:
        """A connection ended. Others may know better why: a rank that fails tells all before it goes."""
        self._learn_why(0.5)
        return self.fail(PeerLostError(peer, self.context()))

    def waited(self, peer: int, seconds: float) -> GroupError:
        """A peer did not come. If it is in the same operation itself, it knows who did not."""
        if peer in self._here:
            self._learn_why(1.0)
        doing = f"in operation {self.sequence}, {self.doing}"
        return self.fail(WaitedTooLongError(f"rank {self.rank} waited {seconds:.0f} s for rank {peer} {doing}"))

    def differ(self, peer: int, sequence: int) -> GroupError:
        """What came from a peer belongs to its operation `sequence`, not to this one: ask, to name both."""
        first = min(sequence, self.sequence)  # the peer was there
        self._say(peer, {"say": "what", "sequence": first, "text": self._history.get(first, self.doing)})
        self._learn_why(1.0)
        return self.fail(MismatchError(f"{self.context()}; rank {peer} was in its operation {sequence}, another one"))

    def why_lost(self, peer: int) -> GroupError | None:
        """A peer's connection for messages ended: because the group broke, or for a reason of its own?"""
        with self.changed:
            self.changed.wait_for(lambda: self.broken is not None or peer in self._left, 0.5)
        return self.broken

    def leave(self) -> None:
        """Tell the others after which operation this rank left; and why, if the group broke: the thread that found out
        may not have come to say so, and they would take this rank for the one that was lost."""
        if self.broken is not None:
            self._tell(self.broken)
        self._say(None, {"say": "bye", "sequence": self.sequence - bool(self.doing)})

    def _learn_why(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.broken is not None, seconds)

    # The control thread

    def hear(self, peer: int, frame: dict[str, Any]) -> None:
        """Take in what a peer says."""
        match frame.get("say"):
            case "failed" if frame.get("rank") is not None:
                self.fail(PeerLostError(frame["rank"], self.context(), frame["reason"]), tell=False)
            case "failed":
                self.fail(_KINDS.get(frame["kind"], GroupError)(frame["text"]), tell=False)
            case "waiting" | "what":
                self._compare(peer, frame["sequence"], frame["text"], surely=frame["say"] == "what")
            case "here":
                if frame["sequence"] == self.sequence:
                    self._here.add(peer)
            case "bye":
                with self.changed:
                    self._left[peer] = frame["sequence"]
                    self.changed.notify_all()
                if self.doing and self.sequence > frame["sequence"]:
                    self.fail(PeerLostError(peer, self.context(), "has left the group"))

    def lost(self, peer: int, why: str) -> None:
        """A peer's connection ended, or it cannot be reached."""
        if peer not in self._left:
            self.fail(PeerLostError(peer, self.context(), why))

    def take_long(self, peers: list[int]) -> None:
        """An operation takes long: tell everyone, once, what it is. Not only whom this rank waits for: two that
        disagree may both wait for a third."""
        with self.changed:  # it may end, and the next one begin, at any moment
            sequence, doing = self.sequence, self.doing
            untold = [peer for peer in peers if peer not in self._told] if doing else []
            self._told.update(untold)
        for peer in untold:
            self._say(peer, {"say": "waiting", "sequence": sequence, "text": doing})

    def _compare(self, peer: int, sequence: int, text: str, surely: bool = False) -> None:
        """A peer is in this operation: is it what this rank did, or does, as its operation of that number?"""
        with self.changed:
            early = sequence > self.sequence
            if early:  # only others that wait for this rank too are there to compare with
                calls = [(p, theirs) for (p, number), theirs in self._heard.items() if number == sequence]
                other, own = next((call for call in calls if call[1] != text), (peer, text))
                self._heard[peer, sequence] = text
            else:
                other, own = self.rank, self._history.get(sequence, text)
            here = self.doing and sequence == self.sequence
        if own != text:
            called = f"rank {peer} called {text}, and rank {other} called {own}"
            remedy = "All ranks of a group must call the same operations in the same order."
            self.fail(MismatchError(f"ranks called different operations: as number {sequence}, {called}. {remedy}"))
        elif surely:
            called = f"as number {sequence}, rank {peer} and rank {self.rank} both called {text}"
            remedy = "Give matching sizes on both ranks, and the same cluster."
            self.fail(MismatchError(f"{called}, but what one sends is not what the other is to receive. {remedy}"))
        elif here:
            self._say(peer, {"say": "here", "sequence": sequence})
