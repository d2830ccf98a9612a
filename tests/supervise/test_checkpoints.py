"""When checkpoints are due, and that writing one neither stops the loop nor loses the buffer."""

import errno
import os
import time

import pytest
from deadlines import Deadline

from manyhands.engine import Loop
from manyhands.errors import UsageError
from manyhands.run import RunDirectory, newest_checkpoint
from manyhands.shm import Slots
from manyhands.supervise import Care, checkpoints
from manyhands.supervise.checkpoints import Checkpoints
from manyhands.supervise.standing import Durable


class Desk:
    """A `Checkpoints` with all that it needs, and what is durable by it."""

    def __init__(self, path, **care) -> None:
        self.loop, self.slots = Loop(), Slots()
        self.notes, self.written = [], []
        self.directory = RunDirectory(path)
        self.care = Care(**care)
        self.checkpoints = Checkpoints(
            self.directory, self.care, self.slots, self.loop, self.notes.append, lambda *said: self.written.append(said)
        )

    def save(self, step: int) -> int:
        """A worker's state in a buffer."""
        buffer, target = self.slots.begin(100)
        target[:] = bytes([step % 256]) * 100
        self.slots.commit(buffer, step, 100)
        return buffer

    def write(self, step: int) -> tuple[int | None, int]:
        """Save and write; what was said of it."""
        count = len(self.written)
        self.checkpoints.write(self.save(step), step)
        end = Deadline()
        while len(self.written) == count:
            assert not end.passed, "the write did not end"
            self.loop.run_once(1.0)
        return self.written[-1]

    def close(self) -> None:
        for descriptor in self.slots.descriptors:
            os.close(descriptor)
        self.loop.close()


@pytest.fixture
def make_desk(tmp_path):
    made = []

    def make(**care) -> Desk:
        made.append(Desk(tmp_path, **care))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


SECOND = 10**9


def due(durable: Durable, steps: range, now: int = 0) -> list[int]:
    return [step for step in steps if durable.due(step, now)]


def test_every_so_many_steps():
    assert due(Durable(every=10), range(35)) == list(range(10, 35))
    # Reported a little late: the next is due at 20 all the same.
    assert due(Durable(every=10, step=12), range(35)) == list(range(20, 35))


def test_after_a_failure_the_next_one_is_tried_later():
    """Not at once and at every step, each time with another note."""
    assert due(Durable(every=10, tried=10), range(10, 25)) == [20, 21, 22, 23, 24]


def test_every_so_many_seconds():
    durable = Durable(due_at=30 * SECOND)
    assert not durable.due(5, 29 * SECOND)
    assert durable.due(5, 30 * SECOND)
    assert not durable.due(0, 31 * SECOND)  # there is nothing to keep
    assert not Durable(step=5, due_at=30 * SECOND).due(5, 61 * SECOND)


def test_one_is_written_at_a_time():
    assert not Durable(every=1, buffer=0).due(7, 0)


def test_a_slow_disk_stretches_the_interval(make_desk):
    desk = make_desk(checkpoint_seconds=30.0)
    assert desk.checkpoints.due_after(7 * SECOND) == 37 * SECOND
    assert desk.checkpoints.due_after(7 * SECOND, took=0.1) == 37 * SECOND
    assert desk.checkpoints.due_after(7 * SECOND, took=5.0) == 507 * SECOND, "5 s are 1 % of 500 s"


def test_a_write_ends_in_the_loop(make_desk):
    desk = make_desk(keep_checkpoints=2)
    for step in (1, 2, 3):
        before = time.monotonic_ns()
        written, due_at = desk.write(step)
        assert written == step and due_at >= before + 30 * SECOND
        newest = newest_checkpoint(desk.directory.checkpoints, desk.notes.append)
        assert newest.step == step and newest.state.read_bytes() == bytes([step]) * 100
    assert len(list(desk.directory.checkpoints.iterdir())) == 2
    assert desk.notes == []


def full_disk(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_training_goes_on(make_desk, monkeypatch):
    desk = make_desk()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_checkpoint", full_disk)
        assert desk.write(10)[0] is None
    for word in ("step 10", str(desk.directory.checkpoints), "No space left on device", "Training goes on"):
        assert word in desk.notes[0]
    assert desk.write(20)[0] == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"checkpoint_every": 0},
        {"checkpoint_every": -5},
        {"keep_checkpoints": 0},
        {"attempts": 0},
        {"snapshot_share": 0.0},
        {"snapshot_share": 1.5},
    ],
)
def test_settings_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}"):
        Care(**wrong)
