"""What wakes the controller's loop."""

from __future__ import annotations

import asyncio


class Bell:
    """A bell that whatever happens rings, and that the one loop hears.

    Attributes:
        decide: whether the policy has to be asked again.
    """

    def __init__(self) -> None:
        self.decide = True
        self._rung = asyncio.Event()

    def ring(self, decide: bool = False) -> None:
        """Say that something has happened; `decide`: whether the policy may care about it."""
        self.decide = self.decide or decide
        self._rung.set()

    async def heard(self, seconds: float | None) -> None:
        """Wait until the bell rings; if it does not for so many seconds, time alone has changed what policies see."""
        try:
            await asyncio.wait_for(self._rung.wait(), seconds)
        except TimeoutError:
            self.decide = True
        self._rung.clear()
