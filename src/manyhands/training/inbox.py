"""Where a worker's orders come in: one place reads them, whatever the worker is doing.

Orders that hold at any time are obeyed as they are read, or kept until they are wanted: links to others, how the slot
is shared, that buffers are free again, that the step is to be the last. An idle worker waits for the others (`Join`,
`HandOver`, `Save`, `Exit`); of these only `Exit` may come to one that is at work, and ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import assert_never

from manyhands.engine import Channel
from manyhands.errors import UserError
from manyhands.gang import ORDERS, Order, Turn
from manyhands.gang import orders as told
from manyhands.training.links import Link, Links

WhenIdle = told.Join | told.Check | told.HandOver | told.Save | told.Exit
"""What an idle worker waits for."""


class Inbox:
    """Takes orders.

    Args:
        channel: to the supervisor.
        links: keeps connections until somebody wants them.
        unpin: called when both buffers for snapshots may be written again.
        take_turns: called with how the slot is shared from now on.

    Attributes:
        pause: the gang is to stop at the next step boundary.
        checkpoint: state is to be left for a checkpoint.
    """

    def __init__(
        self,
        channel: Channel,
        links: Links,
        unpin: Callable[[], None],
        take_turns: Callable[[Turn | None], None],
    ) -> None:
        self._channel, self._links, self._unpin, self._take_turns = channel, links, unpin, take_turns
        self.pause = False
        self.checkpoint: told.Checkpoint | None = None

    def forget(self) -> None:
        """A new generation begins: what was asked of the one before is void."""
        self.pause, self.checkpoint = False, None

    def wait(self) -> tuple[WhenIdle, list[int]]:
        """The next order for an idle worker, with the descriptors that came along; `Exit` if the supervisor is gone."""
        while True:
            found = self._read()
            if found is not None:
                return found

    def look(self) -> None:
        """Take what has come during a step.

        Raises:
            SystemExit: the worker is to end, or the supervisor is gone.
        """
        while self._channel.pending():
            self._read_at_work()

    def look_within(self, seconds: float) -> bool:
        """Take what comes within so many seconds, as `look` does at once; returns whether anything did.

        Raises:
            SystemExit: the worker is to end, or the supervisor is gone.
        """
        if not self._channel.wait(seconds):
            return False
        self.look()
        return True

    def link(self, role: told.Role, number: int, seconds: float) -> Link:
        """The connection to the process of this role and number; waits for it.

        Raises:
            UserError: it did not come in time.
            SystemExit: the worker is to end, or the supervisor is gone.
        """
        deadline = time.monotonic() + seconds
        while (link := self._links.take(role, number)) is None:
            if not self._channel.wait(max(0.0, deadline - time.monotonic())):
                raise UserError(f"{role} {number} was lost, and for {seconds:.0f} s nobody has taken its place.")
            self._read_at_work()
        return link

    def _read_at_work(self) -> None:
        found = self._read()
        if found is None:
            return
        if isinstance(found[0], told.Exit):
            raise SystemExit(0)
        raise AssertionError(f"{found[0]} came to a worker that was not idle")

    def _read(self) -> tuple[WhenIdle, list[int]] | None:
        """Read an order and obey it, if it is one that holds at any time; else it is the caller's."""
        received = self._channel.receive()
        if received is None:
            raise SystemExit(1)
        order: Order = ORDERS.decode(received[0])
        match order:
            case told.Link():
                self._links.add(order, received[1])
            case told.TakeTurns(turn=turn):
                self._take_turns(turn)
            case told.Unpin():
                self._unpin()
            case told.Pause():
                self.pause = True
            case told.Checkpoint():
                self.checkpoint = order
            case told.Join() | told.Check() | told.HandOver() | told.Save() | told.Exit():
                return order, received[1]
            case told.Build():
                raise AssertionError("a worker is built once")
            case _:
                assert_never(order)
        return None
