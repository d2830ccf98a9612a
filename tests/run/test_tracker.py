"""Where a run's figures go."""

import pytest

from manyhands.run import Journal, JsonLines, TensorBoard, read_journal


def test_json_lines_carry_kind_and_figures(tmp_path):
    tracker = JsonLines(Journal(tmp_path / "metrics.jsonl"))
    tracker.log("step", {"step": 3, "loss": 0.25})
    tracker.log("membership", {"step": 3, "workers": 2, "event": "lost one"})
    tracker.close()
    assert list(read_journal(tmp_path / "metrics.jsonl")) == [
        {"kind": "step", "step": 3, "loss": 0.25},
        {"kind": "membership", "step": 3, "workers": 2, "event": "lost one"},
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoard(tmp_path)
    tracker.log("step", {"step": 1, "time": 1.0, "loss": 0.5, "workers": 2})
    tracker.log("step", {"step": 2, "time": 2.0, "loss": 0.25, "workers": 2})
    tracker.log("evaluation", {"step": 2, "time": 2.0, "accuracy": 0.75})
    tracker.log("membership", {"step": 2, "workers": 3, "event": "resized"})
    tracker.log("phases", {"step": 2, "rank": 1, "first": 1, "seconds": {"forward": 0.5}})
    tracker.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/workers",
        "evaluate/accuracy",
        "gang/workers",
        "phases/1/forward",
    }
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
