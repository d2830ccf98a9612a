"""The thread that makes state durable while training goes on.

A worker leaves its state in a buffer of shared memory, which costs it one copy; the bytes that lie there are the
file's. The thread digests, writes and syncs them, and the buffer stays pinned until it is done. When that is due is
decided by `standing.Durable`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from manyhands.engine import Loop
from manyhands.run import prune, write_checkpoint
from manyhands.run.directory import RunDirectory
from manyhands.shm import Slots
from manyhands.supervise.options import Care

_WRITE_SHARE = 0.01
"""Largest share of the time that writing checkpoints may take."""

OnWritten = Callable[[int | None, int], None]
"""Takes the step of the checkpoint that was written, or None if it could not be, and when the next is due (ns)."""


class Checkpoints:
    """Writes one checkpoint at a time.

    Args:
        on_written: called in the loop when a write has ended.
    """

    def __init__(
        self,
        directory: RunDirectory,
        care: Care,
        slots: Slots,
        loop: Loop,
        note: Callable[[str], None],
        on_written: OnWritten,
    ) -> None:
        self._directory, self._care, self._slots, self._loop = directory, care, slots, loop
        self._note, self._on_written = note, on_written
        self._thread: threading.Thread | None = None

    def due_after(self, began: int, took: float = 0.0) -> int:
        """When the next checkpoint is due by time, in monotonic ns, after one begun then that took so many seconds."""
        return began + int(max(self._care.checkpoint_seconds, took / _WRITE_SHARE) * 1e9)

    def write(self, buffer: int, step: int, afterwards: Callable[[], None] = lambda: None) -> None:
        """Begin to write the state in a buffer, which must not change until `on_written`.

        `afterwards` is called in the writing thread when the checkpoint is durable.
        """
        image = self._slots.read(buffer)
        began = time.monotonic_ns()

        def work() -> None:
            error: Exception | None = None
            try:
                write_checkpoint(self._directory.checkpoints, step, image)
                prune(self._directory.checkpoints, self._care.keep_checkpoints, step)
                afterwards()
            except Exception as caught:
                error = caught
            due = self.due_after(began, (time.monotonic_ns() - began) / 1e9)
            self._loop.post(lambda: self._finish(step, due, error))

        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until what is being written is written."""
        if self._thread is not None:
            self._thread.join()

    def _finish(self, step: int, due: int, error: Exception | None) -> None:
        assert self._thread is not None
        self._thread.join()
        self._thread = None
        if error is not None:
            self._note(
                f"the checkpoint of step {step} could not be written to {self._directory.checkpoints}: "
                f"{getattr(error, 'strerror', None) or error}. "
                "Training goes on; the next one is tried later. Free some space."
            )
        self._on_written(step if error is None else None, due)
