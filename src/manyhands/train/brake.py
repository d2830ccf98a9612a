"""A worker made slower on purpose (`--slow`), to see what a slow machine does to a gang."""

from __future__ import annotations

import time


class Brake:
    """Stretches micro-batches.

    A micro-batch begins with a sleep of (factor - 1) times what the one before it took. At its beginning, because its
    gradients leave before its end.

    Args:
        factor: how many times as long they are to take.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._took = 0.0
        self._began = 0.0

    def hold(self) -> None:
        """A micro-batch is about to begin."""
        if self._factor > 1:
            time.sleep((self._factor - 1) * self._took)
            self._began = time.perf_counter()

    def let_go(self) -> None:
        """It has ended."""
        self._took = time.perf_counter() - self._began
