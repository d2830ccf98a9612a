"""Keeps a worker's state for others: in memory after some steps, straight to another worker, and back.

Where state is kept is the same to a worker on any machine: the two buffers of shared memory (shm/slots.py), written
here or, from another host, by the depot (`DistantSlots`).
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import torch

from manyhands.engine import Depot
from manyhands.engine.hosts import DistantSlots
from manyhands.gang import Kept, read_rows, write_rows
from manyhands.gang.orders import HandOver, InMemory
from manyhands.gang.reports import Handed, Saved, Sized
from manyhands.shm import Slots
from manyhands.state import Budget, Image, read_image, state_bytes, tree_sha256
from manyhands.timeline import Recorder
from manyhands.training.handover import give, machines, receive, room
from manyhands.training.links import join_group
from manyhands.training.reporter import Reporter
from manyhands.training.trainer import Trainer
from manyhands.transport import Group, GroupError

_COPY_RATE = 1e9
"""Bytes/s: the first guess of what a snapshot costs."""
_GOODBYE_SECONDS = 5.0


class Keeper:
    """What a worker does with its state besides training.

    Args:
        trainer: whose state it is.
        slots: where it is left.
        share: of the time, that snapshots may take.
        reporter, recorder: the worker's.

    Attributes:
        budget: how much time snapshots may take by now.
        digest: of the weights in the state that was last captured, if that was the job's last.
    """

    def __init__(
        self, trainer: Trainer, slots: Slots | DistantSlots, share: float, reporter: Reporter, recorder: Recorder
    ) -> None:
        self._trainer, self._slots, self._reporter, self._recorder = trainer, slots, reporter, recorder
        self.budget = Budget(share, expected=0.0)
        self.digest = ""
        self._touched: set[int] = set()
        self._sized = False
        self._room: torch.Tensor | None = None
        """Memory for a state that is on its way."""

    @property
    def far(self) -> bool:
        """Whether the supervisor is on another host."""
        return isinstance(self._slots, DistantSlots)

    def expect(self, size: int) -> None:
        """A state of so many bytes will be handed over: provide for it now, while another still trains."""
        if size:
            self._room = room(size)
            if self.far:
                self._slots.reserve(size)

    def pin(self, buffer: int | None) -> None:
        """Say which buffer must not be written; None: both may be."""
        self._slots.pinned = buffer

    def affords(self) -> bool:
        """Whether the budget covers a snapshot. Optimizers make their state in the first step, so it is sized late."""
        if self.budget.allows() and not self._sized:
            self._sized = True
            size = state_bytes(self._trainer.capture())
            self._slots.reserve(size)
            self._reporter.say(Sized(bytes=size))
            self.budget.expected = size / _COPY_RATE
        return self.budget.allows()

    def save(self, ordered: bool) -> None:
        """Leave the state in memory. One that was ordered stays pinned until the supervisor has read it."""
        self._recorder.enter("snapshot")
        began = time.monotonic()
        self._leave(self._trainer.capture(), began, ordered)
        self._recorder.enter("idle")

    def save_together(self, writes: bool, ordered: bool) -> None:
        """Leave the state in memory where every member holds a part, and all put it together: collective.

        Args:
            writes: this is the member that gets the whole and leaves it in memory.
        """
        self._recorder.enter("snapshot")
        began = time.monotonic()
        state = self._trainer.capture()
        if writes:
            if self._trainer.step == self._trainer.total_steps:
                self.digest = tree_sha256(state["model"])
            self._leave(state, began, ordered)
        self._recorder.enter("idle")

    def _leave(self, state: dict[str, object], began: float, ordered: bool) -> None:
        image = Image(state, self._metadata())
        buffer, target = self._slots.begin(image.length)
        image.write(target)
        buffer = self._slots.commit(buffer, self._trainer.step, image.length)
        self.budget.spend(time.monotonic() - began, typical=buffer in self._touched)
        self._touched.add(buffer)
        if ordered:
            self._slots.pinned = buffer
            self._reporter.flush()
            self._reporter.say(Saved(buffer=buffer, step=self._trainer.step))

    def load(self, kept: Kept | None) -> None:
        """Take over a state from where it is kept, unless it is there already."""
        if kept is None or (kept.step == self._trainer.step and not kept.force):
            return
        if isinstance(kept, InMemory):
            image = self._slots.read(kept.buffer)
        elif isinstance(self._slots, DistantSlots):
            image = self._slots.read_file(kept.path)
        else:
            with Path(kept.path).open("rb") as file:  # the mapping goes with the last tensor that looks into it
                image = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        tree, metadata = read_image(image)
        self._trainer.restore(tree)
        self._reporter.unreported = read_rows(metadata["unreported"])

    def hand_over(self, order: HandOver, descriptors: list[int], depot: Depot | None) -> None:
        """Give the state to others, or take it from the one that has it (rank 0), without a detour."""
        self._recorder.enter("snapshot")
        group: Group | None = None
        error = ""
        try:
            group = join_group(order, descriptors, order.rank, "the handover", depot, machines)
            assert group is not None
            if order.rank == 0:
                give(group, Image(self._trainer.capture(), self._metadata()))
            else:
                tree, metadata = read_image(receive(group, 0, self._room))
                self._trainer.restore(tree, keep=True)
                self._reporter.unreported = read_rows(metadata["unreported"])
            group.close(_GOODBYE_SECONDS)
        except GroupError as lost:
            error = str(lost)
            if group is not None:
                group.abandon()
        self._room = None
        self._reporter.say(Handed(step=self._trainer.step, error=error))
        self._recorder.enter("idle")

    def _metadata(self) -> dict[str, str]:
        """Steps that nobody has heard of yet go with the state: whoever takes it over reports them."""
        return {"step": str(self._trainer.step), "unreported": write_rows(self._reporter.unreported)}
