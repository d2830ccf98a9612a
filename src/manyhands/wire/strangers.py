"""Tells of connections that were turned away, without a line for each: a port scan makes thousands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_AT_ONCE = 3
"""Connections of a minute that are told of one by one: most often it is a wrong token, and somebody wants to know."""
_MINUTE = 60.0
_MOST = 300
"""Letters of a reason: some of it may be what a stranger said."""


class TurnedAway:
    """Counts strangers, and says of them a few lines a minute at most.

    Args:
        say: takes a line.
        clock: in seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._lock = threading.Lock()
        self._since = clock() - _MINUTE
        self._told = self._untold = 0
        self._last = ""

    def tell(self, host: str, reason: object) -> None:
        """A connection from this host was turned away."""
        self.look()
        last = f"from {host}: {_brief(reason)}"
        with self._lock:
            if self._clock() - self._since >= _MINUTE:
                self._since, self._told = self._clock(), 0
            self._told += 1
            self._last = last
            if self._told > _AT_ONCE:
                self._untold += 1
                return
        self._say(f"turned away a connection {last}")

    def look(self) -> float:
        """Say what is due. Returns seconds until it is worth looking again."""
        left = self._since + _MINUTE - self._clock()
        if not self._untold or left > 0:
            return left if self._untold else _MINUTE
        self.close()
        return _MINUTE

    def close(self) -> None:
        """Say what was not said yet."""
        with self._lock:
            untold, self._untold = self._untold, 0
        if untold:
            self._say(f"turned away {untold} more connection(s) within a minute, the last one {self._last}")


def _brief(reason: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(reason)[:_MOST])
