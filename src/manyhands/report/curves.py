"""Loss, throughput and membership over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from manyhands.report.chart import (
    Axis,
    Column,
    Mark,
    band,
    bottom_axis,
    columns,
    dot,
    duration,
    left_axis,
    line,
    number,
    plot,
    smooth,
    steps_area,
    stretched,
    value_axis,
)
from manyhands.report.page import absent, section, table
from manyhands.report.story import Line, Story, scores

_METRICS_DRAWN = 6
_EVENTS_LISTED = 200


def losses(run: Story) -> str:
    points = [(entry["step"], entry["loss"]) for entry in run.steps]
    finite = [point for point in points if math.isfinite(point[1])]
    if not finite:
        text = "No step has a finite loss." if points else "No step has been recorded."
        return section("loss", "Loss", "", absent(text))
    evaluations = _series(run, "loss")
    lead = f"From {number(finite[0][1])} at step {finite[0][0]:,} to {number(finite[-1][1])} at step {finite[-1][0]:,}."
    if len(finite) < len(points):
        lead += f" {len(points) - len(finite):,} step(s) had a loss that is not a finite number."
    legend = '<p class="legend"><span class="key"><i class="train"></i>training, with its running mean</span>'
    if evaluations:
        legend += '<span class="key"><i class="evaluated"></i>evaluation</span>'
    body = f"{legend}</p>{_curve(run, 'Training loss', finite, evaluations, 280)}"
    names = dict.fromkeys(name for entry in run.kinds["evaluation"] for name in scores(entry) if name != "loss")
    others = [
        f"<div><h3>Evaluation: {escape(name)}</h3>{_curve(run, name, [], _series(run, name), 130)}</div>"
        for name in list(names)[:_METRICS_DRAWN]
    ]
    return section("loss", "Loss", lead, f'{body}<div class="multiples">{"".join(others)}</div>')


def _series(run: Story, metric: str) -> list[tuple[float, float]]:
    return [(e["step"], scores(e)[metric]) for e in run.kinds["evaluation"] if metric in scores(e)]


def _curve(
    run: Story, name: str, points: Sequence[tuple[float, float]], evaluated: Sequence[tuple[float, float]], height: int
) -> str:
    """A curve by step of training points, of evaluations, or of both on one axis."""
    parts, tests = columns(points), columns(evaluated, 200)
    x = run.step_axis()
    y = value_axis([edge for part in [*parts, *tests] for edge in (part.low, part.high)])
    curves = ""
    if parts:
        curves = band(x, y, parts, "spread") if len(points) > len(parts) else ""
        curves += line(x, y, [(part.x, part.mean) for part in parts], "raw")
        means = smooth([part.mean for part in parts], y.log)
        curves += line(x, y, zip((part.x for part in parts), means, strict=True), "train")
    curves += line(x, y, [(part.x, part.mean) for part in tests], "eval") if len(tests) > 1 else ""
    spots = [
        dot(x.at(part.x), 100 - y.at(part.mean), "evaluated", f"evaluation at step {part.last:,}: {number(part.mean)}")
        for part in tests
    ]
    marks = [
        Mark(x.at(part.x), 100 - y.at(part.mean), _reading(part, tests if parts else [])) for part in parts or tests
    ]
    axes = left_axis(y) + bottom_axis(x, "step, loss on a logarithmic scale" if y.log else "step", whole=True)
    label = f"{name} by step, {number((parts or tests)[0].mean)} to {number((parts or tests)[-1].mean)}"
    return plot(label, axes + stretched(curves) + "".join(spots), height, marks)


def _reading(part: Column, tests: Sequence[Column]) -> str:
    """What the read-out says of a column, and of the evaluation that falls into it."""
    text = f"step {part.first:,}: {number(part.mean)}"
    if part.last > part.first:
        text = f"steps {part.first:,} to {part.last:,}: {number(part.mean)} ({number(part.low)} to {number(part.high)})"
    for test in tests:
        if part.first <= test.last <= part.last:
            text += f", evaluation {number(test.mean)}"
    return text


def throughput(run: Story) -> str:
    points = _rates(run)
    if not points:
        return section("throughput", "Throughput", "", absent("There are too few steps to tell."))
    first, last = run.steps[0], run.steps[-1]
    seconds = run.elapsed(last["time"]) - run.elapsed(first["time"])
    overall = run.batch_size * (last["step"] - first["step"]) / seconds
    median = sorted(entry["seconds"] for entry in run.steps)[len(run.steps) // 2]
    lead = (
        f"{number(overall)} samples/s on average from the first step to the last (dotted), recoveries, evaluations and "
        f"checkpoints included. The median step took {duration(median)} in a worker."
    )
    x, y = run.step_axis(), value_axis([overall, *(rate for _, rate in points)], zero=True)
    marks = [Mark(x.at(step), 100 - y.at(rate), f"step {step:,.0f}: {number(rate)} samples/s") for step, rate in points]
    curves = line(x, y, [(x.low, overall), (x.high, overall)], "mean") + line(x, y, points, "train")
    axes = left_axis(y) + bottom_axis(x, "step", whole=True)
    label = f"Samples per second by step, {number(overall)} on average"
    return section("throughput", "Throughput, samples/s", lead, plot(label, axes + stretched(curves), 200, marks))


def _rates(run: Story) -> list[tuple[float, float]]:
    """Samples per second by step, over windows wide enough that bunched reports of workers do not show."""
    steps, half = run.steps, max(5, len(run.steps) // 120)
    times = [run.elapsed(entry["time"]) for entry in steps]
    rates = []
    for middle in range(0, len(steps), max(1, len(steps) // 300)):
        first, last = max(0, middle - half), min(len(steps) - 1, middle + half)
        if times[last] > times[first]:
            samples = run.batch_size * (steps[last]["step"] - steps[first]["step"])
            rates.append((steps[middle]["step"], samples / (times[last] - times[first])))
    return rates


def membership(run: Story) -> str:
    again: list[Line] = [{"time": end, "workers": 0, "change": "ended", "event": "resumed"} for end, _ in run.pauses]
    events = sorted([*run.kinds["membership"], *again], key=lambda entry: entry["time"])
    if not events:
        return section("membership", "Workers", "", absent("No gang has been formed."))
    ends = run.elapsed(max(entry["time"] for entry in [*events, *run.steps[-1:]]))
    unit, name = next((u, n) for u, n in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if ends >= 3 * u or u == 1)
    x = Axis(0, max(ends / unit, 1e-3))
    y = Axis(0, 1.25 * max(1, *(entry["workers"] for entry in events)))
    times = [run.elapsed(entry["time"]) for entry in events]
    edges = [0.0, *(x.at(when / unit) for when in times), 100.0]
    area = steps_area(edges, [0.0, *(y.at(entry["workers"]) for entry in events)], "gang")
    spots, rows, marks = "", [], []
    for entry, when in list(zip(events, times, strict=True))[-_EVENTS_LISTED:]:
        kind, left, top = entry["change"], x.at(when / unit), 100 - y.at(entry["workers"])
        marks.append(Mark(left, top, f"{duration(when)}: {entry['event']}"))
        spots += dot(left, top, kind, marks[-1].text)
        step = f"{entry['step']:,}" if "step" in entry else ""
        rows.append([f'<i class="{kind}"></i>{duration(when)}', step, str(entry["workers"]), escape(entry["event"])])
    lost = sum(entry["change"] == "lost" for entry in events)
    lead = f"The gang lost {lost} worker(s) and went on." if lost else "The gang lost no worker."
    lead += " Time runs from the creation of the run; pauses between sessions are left out."
    lead += f" The last {_EVENTS_LISTED} of {len(events)} events are listed." if len(events) > _EVENTS_LISTED else ""
    drawing = left_axis(y, whole=True) + bottom_axis(x, name) + stretched(area) + spots
    chart = plot(f"Number of workers over time, {len(events)} events", drawing, 140, marks)
    listing = table("What happened to the gang", ["Time", "Step", "Workers", "Event"], rows, "membership")
    return section("membership", "Workers", lead, chart + listing)
