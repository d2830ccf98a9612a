"""A worker made slower on purpose (`--slow`), to see what a slow machine does to a gang."""

from __future__ import annotations

import time


class Brake:
    """Stretches what a worker computes: micro-batches, or a pipeline's actions, each kind by itself.

    Each begins with a sleep of (factor - 1) times what the one before it of its kind took. At its beginning, because
    its gradients leave before its end.

    Args:
        factor: how many times as long they are to take.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._took: dict[str, float] = {}
        self._kind: str | None = None
        self._began = 0.0

    def hold(self, kind: str = "") -> None:
        """Something of this kind is about to begin."""
        if self._factor > 1:
            time.sleep((self._factor - 1) * self._took.get(kind, 0.0))
            self._kind, self._began = kind, time.perf_counter()

    def let_go(self) -> None:
        """Note how long what was held has taken, if anything was."""
        if self._kind is not None:
            self._took[self._kind] = time.perf_counter() - self._began
            self._kind = None
