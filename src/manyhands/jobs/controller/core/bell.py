"""Wakes the controller's loop."""

from __future__ import annotations

import asyncio


class Bell:
    """Rung by whatever happens; heard by the one loop.

    Attributes:
        decide: the policy has to be asked again.
    """

    def __init__(self) -> None:
        self.decide = True
        self._rung = asyncio.Event()

    def ring(self, decide: bool = False) -> None:
        """Something has happened; `decide`: the policy may care about it."""
        self.decide = self.decide or decide
        self._rung.set()

    async def heard(self, seconds: float | None) -> None:
        """Wait until it rings; if nothing does for so many seconds, time alone has changed what policies see."""
        try:
            await asyncio.wait_for(self._rung.wait(), seconds)
        except TimeoutError:
            self.decide = True
        self._rung.clear()
