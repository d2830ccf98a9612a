"""When durable checkpoints are made, and the thread that writes them while training goes on.

A worker leaves its state in a slot of shared memory, which costs it one copy; the bytes that lie there are the
file's. The thread digests, writes and syncs them, and the slot stays pinned until it is done.
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


class Checkpoints:
    """Decides when a checkpoint is due and writes it.

    Args:
        on_written: called in the loop when a write has ended, with the slot.
    """

    def __init__(
        self,
        directory: RunDirectory,
        care: Care,
        slots: Slots,
        loop: Loop,
        note: Callable[[str], None],
        on_written: Callable[[int], None],
    ) -> None:
        self._directory = directory
        self._care = care
        self._slots = slots
        self._note = note
        self._on_written = on_written
        self._began = time.monotonic()
        self._took = 0.0
        self._tried = 0
        self._thread: threading.Thread | None = None
        self._outcome: tuple[int, int, Exception | None, float] | None = None
        self._loop = loop
        self.durable = 0
        """Step of the newest checkpoint on disk."""
        self.failed = False
        """Whether the last write failed."""

    @property
    def writing(self) -> bool:
        return self._thread is not None

    def due(self, step: int) -> bool:
        """Whether state should be made durable now, `step` being committed."""
        if self.writing or step <= self.durable:
            return False
        if self._care.checkpoint_every is not None:
            return step // self._care.checkpoint_every > max(self.durable, self._tried) // self._care.checkpoint_every
        return time.monotonic() - self._began >= max(self._care.checkpoint_seconds, self._took / _WRITE_SHARE)

    def write(self, slot: int, step: int, afterwards: Callable[[], None] = lambda: None) -> None:
        """Begin to write the state in a slot, which must not change until `on_written`.

        `afterwards` is called in the writing thread when the checkpoint is durable.
        """
        image = self._slots.read(slot)
        self._began = time.monotonic()
        self._tried = step

        def work() -> None:
            error: Exception | None = None
            began = time.monotonic()
            try:
                write_checkpoint(self._directory.checkpoints, step, image)
                prune(self._directory.checkpoints, self._care.keep_checkpoints, step)
                afterwards()
            except Exception as caught:
                error = caught
            self._outcome = (slot, step, error, time.monotonic() - began)
            self._loop.post(self._finish)

        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def _finish(self) -> None:
        assert self._thread is not None and self._outcome is not None
        self._thread.join()
        self._thread = None
        slot, step, error, self._took = self._outcome
        self.failed = error is not None
        if error is not None:
            self._note(
                f"the checkpoint of step {step} could not be written to {self._directory.checkpoints}: "
                f"{getattr(error, 'strerror', None) or error}. "
                "Training goes on; the next one is tried later. Free some space."
            )
        else:
            self.durable = step
        self._on_written(slot)
