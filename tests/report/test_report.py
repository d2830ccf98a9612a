"""The report of runs of every kind and length, made by hand."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from deadlines import DEADLINE

from manyhands import report
from manyhands.report import chart
from manyhands.report.chart import Axis, columns, duration, number, smooth, ticks, value_axis
from manyhands.run import RunDirectory
from manyhands.timeline import PHASES, Event, write_chrome_trace

CREATED = 1_700_000_000.0


def make_run(
    path: Path, steps: int = 60, workers: int = 3, spans: int = 1, loss=lambda step: 2.0 / step, **result
) -> RunDirectory:
    """A run directory as `train` leaves it: one worker is lost and the gang is resized on the way."""
    directory = RunDirectory(path)
    directory.create()
    job = {"batch_size": 128, "micro_batches": 4, "seed": 0, "precision": "fp32", "reproducible": True}
    job |= {"device": "cpu", "versions": {"python": "3.11", "torch": "2.13"}, "warning": ""}
    hardware = {"host": "here", "cores": 2, "system": "Linux"}
    sessions = [{"began": CREATED + 1, "workers": workers}]
    settings = {"created": CREATED, "job_file": "/jobs/<b>&gpt.py", "arguments": ["--steps", str(steps)]}
    settings |= {"plan": {"threads": 1}, "job": job, "hardware": hardware, "sessions": sessions}
    directory.run.write_text(json.dumps(settings))
    with directory.metrics.open("w") as file:
        for line in metrics(steps, workers, loss):
            file.write(json.dumps(line) + "\n")
    write_chrome_trace(directory.timeline, detailed_steps(steps, workers, spans))
    outcome = {"status": "finished", "steps": steps, "total_steps": steps, "loss": loss(steps), "recoveries": 1}
    directory.result.write_text(json.dumps(outcome | {"weights_sha256": "0123456789abcdef" * 4} | result))
    return directory


def metrics(steps, workers, loss):
    """The lines of metrics.jsonl."""

    def gang(step, count, change, event):
        when = CREATED + 2 + step / 50
        return {"kind": "membership", "step": step, "time": when, "change": change, "workers": count, "event": event}

    yield gang(0, workers, "began", f"{workers} worker(s) from step 0")
    for step in range(1, steps + 1):
        now = CREATED + 2 + (step - step % 40 / 8) / 50
        yield {"kind": "step", "step": step, "time": now, "loss": loss(step), "lr": 0.1, "seconds": 0.02}
        if step % max(1, steps // 6) == 0:
            yield {"kind": "evaluation", "step": step, "time": now, "loss": 2.1 / step, "accuracy": 1 - 1 / step}
            for rank in range(workers):
                seconds = {"forward": 0.3 + rank / 10, "backward": 0.5, "idle": 0.1}
                yield {
                    "kind": "phases",
                    "step": step,
                    "first": step - max(1, steps // 6) + 1,
                    "rank": rank,
                    "seconds": seconds,
                }
        if step == steps // 2:
            yield gang(
                step, workers - 1, "lost", f"worker 1 (process 7) was killed by signal 9 (SIGKILL) after step {step}"
            )
            yield gang(step, workers, "began", f"{workers} worker(s) from step {step}")
            yield gang(step, workers, "resize", "resize to 2 asked for")
    yield gang(steps, 0, "ended", "finished")


def detailed_steps(steps, workers, spans):
    """Up to 200 steps in which every phase occurs."""
    for step in range(1, steps + 1, max(1, steps // 200)):
        for rank in range(workers):
            at = step * 20_000_000 + rank * 100_000
            for _ in range(spans):
                for index, phase in enumerate(PHASES):
                    took = (index + 1) * 400_000 // spans + step % 7 * 1000
                    yield Event(rank, "worker", phase, at, at + took, 0, step, 1)
                    at += took


def write(directory: RunDirectory) -> str:
    report.write_report(directory)
    return directory.report.read_text()


def text_of(page: str) -> str:
    """What a reader sees, roughly."""
    body = re.sub(r"<(style|script|title|template).*?</\1>", "", page[page.index("<body") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


class Balanced(HTMLParser):
    """Fails on elements that are not closed in order."""

    void = {"meta", "link"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_tells_the_run(tmp_path):
    page = write(make_run(tmp_path / "run"))
    text = text_of(page)
    for said in (
        "finished",
        "60 of 60",
        "Training loss 0.03333",
        "Evaluation: accuracy",
        "torch 2.13",
        "here, 2 cores",
    ):
        assert said in text
    assert f'title="{"0123456789abcdef" * 4}">0123456789ab<' in page
    assert "Recoveries 1" in text and "The gang lost 1 worker(s) and went on" in text
    assert "was killed by signal 9 (SIGKILL) after step 30" in text and "resize to 2 asked for" in text
    assert "ui.perfetto.dev" in text


def test_is_well_formed_and_refers_to_nothing_outside(tmp_path):
    page = write(make_run(tmp_path / "run"))
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert not parser.open
    assert not re.search(r"https?://|@import|url\(", page)
    assert "default-src 'none'" in page


def test_every_drawing_says_what_it_shows(tmp_path):
    drawings = re.findall(r'<svg class="drawing"[^>]*>', write(make_run(tmp_path / "run")))
    assert len(drawings) >= 8
    assert all(re.search(r'role="img" aria-label="[^"]+"', drawing) for drawing in drawings)


def test_text_is_escaped(tmp_path):
    page = write(make_run(tmp_path / "run", status="failed", error="<script>alert(1)</script> & co"))
    assert "<b>&gpt" not in page and "&lt;b&gt;&amp;gpt.py" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page


def test_text_in_the_readouts_cannot_end_their_script(tmp_path):
    directory = make_run(tmp_path / "run")
    line = {
        "kind": "membership",
        "step": 60,
        "time": CREATED + 9,
        "workers": 0,
        "change": "ended",
        "event": "</script><b>",
    }
    with directory.metrics.open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert "</script><b>" not in write(directory)


def test_long_runs_stay_small(tmp_path):
    directory = make_run(tmp_path / "run", steps=100_000, workers=8, spans=4)
    assert len(write(directory).encode()) < 2_000_000
    assert "100,000 of 100,000" in text_of(directory.report.read_text())


def test_wide_gangs_stay_small(tmp_path):
    page = write(make_run(tmp_path / "run", steps=20, workers=128, spans=4))
    assert len(page.encode()) < 2_000_000
    assert "of 128 workers are drawn over time" in text_of(page)
    assert page.count("<option") == 1


def test_an_empty_directory_says_so(tmp_path):
    text = text_of(write(RunDirectory(tmp_path)))
    for said in ("this directory holds no run", "No step has been recorded", "too few steps", "No gang", "no timeline"):
        assert said in text
    assert "No worker has reported its phases" in text


def test_a_run_that_has_just_begun(tmp_path):
    directory = make_run(tmp_path / "run")
    for path in (directory.metrics, directory.result, directory.timeline):
        path.unlink()
    directory.acquire()
    text = text_of(write(directory))
    assert "running" in text and "No step has been recorded" in text


def test_a_run_that_was_killed_is_interrupted(tmp_path):
    directory = make_run(tmp_path / "run")
    directory.result.unlink()
    with directory.metrics.open("a") as file:
        file.write('{"kind":"step","st')
    text = text_of(write(directory))
    assert "interrupted" in text and "Steps 60" in text


def test_a_failed_run_shows_its_error(tmp_path):
    text = text_of(write(make_run(tmp_path / "run", status="failed", error="worker 1 ran out of memory", deviations=2)))
    assert "worker 1 ran out of memory" in text
    assert "2 step(s) that were computed again came out differently" in text


def test_losses_that_are_no_numbers_are_counted_not_drawn(tmp_path):
    page = write(make_run(tmp_path / "one", loss=lambda step: float("nan") if step > 55 else 1 / step))
    assert "5 step(s) had a loss that is not a finite number" in text_of(page)
    assert not re.search(r'd="[^"]*nan', page)
    assert "No step has a finite loss" in text_of(write(make_run(tmp_path / "all", loss=lambda step: float("inf"))))


def test_one_step_of_one_worker(tmp_path):
    text = text_of(write(make_run(tmp_path / "run", steps=1, workers=1)))
    assert "1 of 1" in text and "too few steps" in text and "step 1, 1 worker(s)" in text


def test_pauses_between_sessions_do_not_count(tmp_path):
    directory = make_run(tmp_path / "run")
    settings = json.loads(directory.run.read_text())
    settings["sessions"].append({"began": CREATED + 86_400, "workers": 2})
    directory.run.write_text(json.dumps(settings))
    line = {
        "kind": "membership",
        "step": 60,
        "time": CREATED + 86_401,
        "workers": 2,
        "change": "began",
        "event": "2 worker(s) from step 60",
    }
    with directory.metrics.open("a") as file:
        file.write(json.dumps(line) + "\n")
    text = text_of(write(directory))
    assert "Wall time 4.2 s" in text and "resumed" in text


def test_the_last_attempt_at_a_step_is_shown(tmp_path):
    directory = make_run(tmp_path / "run", steps=1, workers=2)
    attempts = [
        Event(0, "worker", "forward", 0, 9_000_000, 0, 1, 0),
        Event(0, "worker", "forward", 500_000_000, 503_000_000, 0, 1, 0),
        Event(1, "worker", "forward", 500_000_000, 504_000_000, 0, 1, 1),
        Event(0, "worker", "evaluate", 600_000_000, 700_000_000, 0, 2),
    ]
    write_chrome_trace(directory.timeline, attempts)
    page = write(directory)
    assert "step 1, 2 worker(s), 4 ms (median)" in page
    assert "worker 0, forward of micro-batch 0: 3 ms at 0 µs" in page and "step 2," not in page


def test_an_old_report_survives_a_failed_write(tmp_path, monkeypatch):
    directory = make_run(tmp_path / "run")
    before = write(directory)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        report.write_report(directory)
    assert directory.report.read_text() == before
    assert not list(directory.path.glob("*.partial"))


def test_needs_no_torch():
    code = "import sys, manyhands.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=DEADLINE).returncode == 0


def test_columns_keep_the_extremes_and_the_mean():
    values = [float((7 * index) % 101) for index in range(1000)]
    parts = columns(list(enumerate(values)), 90)
    assert len(parts) <= 90
    assert (min(part.low for part in parts), max(part.high for part in parts)) == (min(values), max(values))
    assert parts[0].mean == pytest.approx(sum(values[:12]) / 12) and (parts[0].first, parts[-1].last) == (0, 999)


def test_axes_and_their_ticks():
    assert ticks(Axis(0, 100)) == [0, 20, 40, 60, 80, 100]
    assert ticks(Axis(0, 2), whole=True) == [0, 1, 2]
    wide = value_axis([1e-4, 3.0])
    assert wide.log and ticks(wide) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert not value_axis([-1.0, 300.0]).log
    flat = value_axis([2.0, 2.0])
    assert flat.low < 2 < flat.high


def test_neighbouring_ticks_have_different_labels():
    texts = re.findall(r">([\d.,]+)</text>", chart.left_axis(Axis(0.99994, 1.00001)))
    assert len(texts) > 2 and len(set(texts)) == len(texts)
    assert re.findall(r">([\d.,]+)</text>", chart.left_axis(Axis(0, 8000))) == ["0", "2,000", "4,000", "6,000", "8,000"]


def test_smoothing_keeps_what_is_smooth():
    assert smooth([3.0] * 50) == pytest.approx([3.0] * 50)
    straight = [float(index) for index in range(200)]
    assert smooth(straight) == pytest.approx(straight)
    powers = [2.0**index for index in range(200)]
    assert smooth(powers, log=True) == pytest.approx(powers)


def test_numbers_and_durations_read_well():
    assert [number(value) for value in (0.0403215, 12345.6, float("nan"), 3)] == ["0.04032", "12,346", "nan", "3"]
    told = [duration(seconds) for seconds in (0.0000021, 0.0412, 14.53, 252, 3840)]
    assert told == ["2 µs", "41.2 ms", "14.5 s", "4 min 12 s", "1 h 4 min"]


def test_text_of_a_span_is_escaped():
    assert "<title>a &lt; b</title>" in chart.lanes([("worker 0", [chart.Span("p1", 0.0, 1.0, "a < b")])])
