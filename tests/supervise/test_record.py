"""What is written down: one ledger line per step in order, whoever reports it, and replays that are checked."""

import json
import os
import time

import pytest

from manyhands.errors import UserError
from manyhands.gang import StepRow
from manyhands.run import RunDirectory, read_journal
from manyhands.supervise.record import Record
from manyhands.timeline import PHASES, read_chrome_trace


class Tracker:
    def __init__(self):
        self.records, self.closed = [], False

    def log(self, kind, figures):
        self.records.append((kind, dict(figures)))

    def close(self):
        self.closed = True


class Sitting:
    """One session of a run with its record."""

    def __init__(self, path, reproducible: bool = True):
        self.directory = RunDirectory(path)
        self.notes, self.tracker = [], Tracker()
        self.record = Record(self.directory, [self.tracker], time.time() - 100, reproducible, self.notes.append)

    def ledger(self) -> list[dict]:
        return list(read_journal(self.directory.ledger))

    def metrics(self, kind: str) -> list[dict]:
        return [line for line in read_journal(self.directory.metrics) if line["kind"] == kind]


@pytest.fixture
def sit(tmp_path):
    """Opens sessions of one run; those that a test leaves open are closed."""
    opened = []

    def make(**options) -> Sitting:
        opened.append(Sitting(tmp_path, **options))
        return opened[-1]

    yield make
    for sitting in opened:
        if not sitting.tracker.closed:
            sitting.record.close()


def loss_of(step: int) -> float:
    return 1 / (step + 1 / 3)


def row(step: int, loss: float | None = None, grad_norm: float | None = None, spans=()) -> StepRow:
    """A step as a worker reports it: 4 samples of 10, half a second."""
    epoch, first = divmod((step - 1) * 4, 10)
    began = 1_000_000_000 + step * 500_000_000
    sums = [0] * len(PHASES)
    sums[PHASES.index("forward")] = 300_000_000
    loss = loss_of(step) if loss is None else loss
    return StepRow(
        step, epoch, first, first + 3, loss, grad_norm, 0.01, began, began + 500_000_000, tuple(sums), tuple(spans)
    )


def test_every_step_has_one_line_in_order_whoever_reports_it(sit):
    sitting = sit()
    assert sitting.record.steps(0, 2, [row(1), row(2)]) == [0.5, 0.5]
    assert sitting.record.steps(1, 2, [row(1), row(2), row(3)]) == [0.5]
    assert sitting.record.steps(0, 2, [row(3)]) == []
    assert [line["step"] for line in sitting.ledger()] == [1, 2, 3]
    assert sitting.ledger()[2] == {"epoch": 0, "step": 3, "first": 8, "last": 11, "workers": 2, "loss": loss_of(3)}
    assert (sitting.record.committed, sitting.record.loss, sitting.record.deviations) == (3, loss_of(3), 0)
    assert sitting.notes == []


def test_the_loss_keeps_its_bits(sit):
    sitting = sit()
    losses = [0.1 + 0.2, 1e-310, 123456789.12345678, 2 / 3]
    sitting.record.steps(0, 1, [row(step, loss) for step, loss in enumerate(losses, 1)])
    assert [line["loss"].hex() for line in sitting.ledger()] == [loss.hex() for loss in losses]


def test_a_replay_that_deviates_is_noted_once_and_counted(sit):
    sitting = sit()
    sitting.record.steps(0, 2, [row(1), row(2), row(3)])
    sitting.record.steps(0, 1, [row(2, loss_of(2) + 1e-16), row(3, 5.0)])
    assert sitting.record.deviations == 2 - (loss_of(2) + 1e-16 == loss_of(2))
    sitting.record.steps(0, 1, [row(1, 7.0)])
    assert len(sitting.notes) == 1 and "was computed again" in sitting.notes[0]
    assert [line["loss"] for line in sitting.ledger()] == [loss_of(1), loss_of(2), loss_of(3)]


def test_the_last_bit_counts(sit):
    sitting = sit()
    sitting.record.steps(0, 1, [row(1, 1.0)])
    sitting.record.steps(0, 1, [row(1, 1.0000000000000002)])
    assert sitting.record.deviations == 1
    for word in ("step 1", "1.0000000000000002, not 1.0", "not deterministic"):
        assert word in sitting.notes[0]


def test_without_the_guarantee_nothing_is_checked(sit):
    sitting = sit(reproducible=False)
    sitting.record.steps(0, 1, [row(1, 1.0)])
    sitting.record.steps(0, 1, [row(1, 2.0)])
    assert (sitting.record.deviations, sitting.notes) == (0, [])


def test_a_resumed_run_goes_on_with_its_ledger(sit):
    first = sit()
    first.record.steps(0, 2, [row(1), row(2), row(3)])
    first.record.evaluation_done(2, {"loss": 0.5, "accuracy": 0.75})
    first.record.close()
    with first.directory.ledger.open("ab") as file:
        file.write(b'{"epoch":0,"step":4,"fir')  # the supervisor was killed while it wrote this
    second = sit()
    assert (second.record.committed, second.record.loss) == (3, loss_of(3))
    assert (second.record.evaluated, second.record.evaluation) == (2, {"loss": 0.5, "accuracy": 0.75})
    second.record.steps(0, 3, [row(2), row(3, 9.0), row(4)])
    assert [line["step"] for line in second.ledger()] == [1, 2, 3, 4]
    assert [line["workers"] for line in second.ledger()] == [2, 2, 2, 3]
    assert second.record.deviations == 1


def test_evaluations_count_once_and_never_backwards(sit):
    sitting = sit()
    sitting.record.evaluation_done(4, {"loss": 0.5})
    sitting.record.evaluation_done(4, {"loss": 0.6})
    sitting.record.evaluation_done(2, {"loss": 0.7})
    assert [(line["step"], line["loss"]) for line in sitting.metrics("evaluation")] == [(4, 0.5)]
    assert sitting.record.evaluation == {"loss": 0.5}
    sitting.record.evaluation_done(8, {"loss": 0.1})
    assert (sitting.record.evaluated, sitting.record.evaluation) == (8, {"loss": 0.1})


def test_metrics_go_to_the_file_and_to_every_tracker(sit):
    sitting = sit()
    sitting.record.steps(0, 2, [row(1, grad_norm=2.5), row(2)])
    sitting.record.membership("lost", 1, "worker 1 was lost")
    sitting.record.close()
    steps = sitting.metrics("step")
    assert [(s["step"], s["workers"], s["lr"], s["seconds"], s.get("grad_norm")) for s in steps] == [
        (1, 2, 0.01, 0.5, 2.5),
        (2, 2, 0.01, 0.5, None),
    ]
    (lost,) = sitting.metrics("membership")
    assert (lost["step"], lost["change"], lost["workers"], lost["event"]) == (2, "lost", 1, "worker 1 was lost")
    assert sitting.tracker.closed
    written = [json.loads(line) for line in sitting.directory.metrics.read_text().splitlines()]
    assert [(line.pop("kind"), line) for line in written] == sitting.tracker.records


def test_losses_are_counted_over_all_sessions(sit):
    first = sit()
    first.record.membership("began", 2, "2 workers")
    first.record.membership("lost", 1, "worker 1 was killed")
    first.record.close()
    second = sit()
    second.record.membership("lost", 1, "worker 0 was killed")
    assert (first.record.recoveries, second.record.recoveries) == (1, 2)


def test_phases_add_up_whatever_happens(sit):
    """Every reported nanosecond of every worker is in one line, replays too."""
    sitting = sit()
    for step in range(1, 6):
        sitting.record.steps(0, 2, [row(step)])
        sitting.record.steps(1, 2, [row(step)])
        if step == 3:
            sitting.record.membership("resize", 2, "something")
            sitting.record.steps(1, 2, [row(step)])
    sitting.record.close()
    sums = {0: 0.0, 1: 0.0}
    for line in sitting.metrics("phases"):
        assert line["first"] <= line["step"]
        sums[line["rank"]] += line["seconds"]["forward"]
        assert set(line["seconds"]) == {"forward"}
    assert sums == {0: pytest.approx(5 * 0.3), 1: pytest.approx(6 * 0.3)}


def test_the_timeline_of_a_resumed_run_holds_both_sessions(sit):
    forward = PHASES.index("forward")
    for session, step in enumerate((1, 2)):
        sitting = sit()
        now = time.monotonic_ns()
        sitting.record.steps(1, 2, [row(step, spans=[(forward, 3, now, now + 2_000_000)])])
        sitting.record.close()
        spans = [r for r in read_chrome_trace(sitting.directory.timeline) if r["ph"] == "X"]
        assert len(spans) == session + 1
        assert (spans[-1]["name"], spans[-1]["pid"], spans[-1]["dur"]) == ("forward", 1, 2000.0)
        assert spans[-1]["args"] == {"step": step, "micro_batch": 3}
        assert 99e6 < spans[-1]["ts"] < 200e6  # microseconds since the run was created


def test_a_timeline_that_cannot_be_written_is_said(sit):
    sitting = sit()
    sitting.directory.timeline.with_name("timeline.json.gz.partial").mkdir()
    sitting.record.write_timeline()
    assert len(sitting.notes) == 1 and str(sitting.directory.timeline) in sitting.notes[0]


DAMAGES = {
    "a step is missing": lambda lines: lines.pop(1),
    "a step is there twice": lambda lines: lines.insert(1, lines[1]),
    "a loss is text": lambda lines: lines.__setitem__(1, lines[1] | {"loss": "0.5"}),
    "a position is a fraction": lambda lines: lines.__setitem__(1, lines[1] | {"first": 0.5}),
    "a position is below zero": lambda lines: lines.__setitem__(1, lines[1] | {"last": -1}),
    "something is missing": lambda lines: lines[1].pop("workers"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_ledger_that_does_not_add_up_is_refused(sit, damage):
    sitting = sit()
    sitting.record.steps(0, 2, [row(1), row(2), row(3)])
    sitting.record.close()
    sitting.tracker.closed = True
    lines = sitting.ledger()
    DAMAGES[damage](lines)
    sitting.directory.ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"line [23] of .*ledger.jsonl is damaged"):
        Sitting(sitting.directory.path)


def test_steps_that_were_wrong_are_taken_back_and_written_again(sit):
    sitting = sit()
    record = sitting.record
    record.steps(0, 2, [row(step) for step in range(1, 7)])
    for step in (2, 5):
        record.evaluation_done(step, {"accuracy": step / 10})
    record.rewind(3)
    assert (record.committed, record.loss) == (3, loss_of(3))
    assert (record.evaluated, record.evaluation) == (2, {"accuracy": 0.2})
    assert [line["step"] for line in sitting.ledger()] == [1, 2, 3]
    record.steps(0, 2, [row(3), row(4, loss=7.0), row(5)])
    assert record.deviations == 0, "what was wrong is not what the next are compared with"
    assert record.evaluation_done(5, {"accuracy": 0.6})
    assert [line["loss"] for line in sitting.ledger()] == [loss_of(1), loss_of(2), loss_of(3), 7.0, loss_of(5)]
    assert [line["step"] for line in sitting.metrics("step")] == [1, 2, 3, 4, 5]
    assert [line["accuracy"] for line in sitting.metrics("evaluation")] == [0.2, 0.6]
    assert sit().record.committed == 5


def test_a_full_disk_takes_wrong_steps_back_as_well(sit, monkeypatch):
    sitting = sit()
    sitting.record.steps(0, 2, [row(1), row(2)])
    with monkeypatch.context() as full:
        full.setattr(os, "write", refuses)
        full.setattr(os, "fsync", refuses)
        sitting.record.steps(0, 2, [row(3), row(4)])
        sitting.record.rewind(3)
        assert [line["step"] for line in sitting.ledger()] == [1, 2], "the third waits"
        sitting.record.rewind(1)
        sitting.record.steps(0, 2, [row(2)])
    sitting.record.steps(0, 2, [row(3)])
    assert [line["step"] for line in sitting.ledger()] == [1, 2, 3]
    assert any("free some space" in note for note in sitting.notes)


def refuses(*_):
    raise OSError(28, "No space left on device")
