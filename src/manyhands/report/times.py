"""Where the time went: phases per worker over the run, and single steps in detail."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from manyhands.report.chart import (
    LANE,
    Axis,
    Span,
    bottom_axis,
    duration,
    lanes,
    plot,
    side_label,
    stack,
)
from manyhands.report.page import absent, section, swatch, table
from manyhands.report.story import Line, Story
from manyhands.run import RunDirectory
from manyhands.timeline import PHASES, SELDOM, read_chrome_trace

_CHARTED_RANKS = 16
_PHASE_COLUMNS = 100
_STEPS_SHOWN = 20
_SPANS_SHOWN = 6000
"""Spans that are shown at most, of about 110 bytes each."""


def phases(run: Story) -> str:
    by_rank: dict[int, list[Line]] = defaultdict(list)
    for entry in run.kinds["phases"]:
        by_rank[entry["rank"]].append(entry)
    title = "Where the time goes"
    if not by_rank:
        return section("phases", title, "", absent("No worker has reported its phases."))
    ranks = sorted(by_rank)
    totals = {run.who(rank): _per_step(by_rank[rank]) for rank in ranks}
    whole = sum(sum(phases.values()) for phases in totals.values()) or 1.0
    shares = {name: sum(phases[name] for phases in totals.values()) / whole for name in PHASES}
    order = sorted(PHASES, key=lambda name: -shares[name])[:3]
    lead = "Of an average step, " + ", ".join(f"{100 * shares[name]:.0f} % is {name}" for name in order) + "."
    if len(ranks) > _CHARTED_RANKS:
        lead += f" The first {_CHARTED_RANKS} of {len(ranks)} workers are drawn over time; the table has all."
    legend = _legend(name for name in PHASES if name not in SELDOM or shares[name])
    x = run.step_axis()
    count = min(_PHASE_COLUMNS, max(map(len, by_rank.values())))
    drawn = "".join(
        f"<div>{_shares_chart(x, run.who(rank), by_rank[rank], count)}</div>" for rank in ranks[:_CHARTED_RANKS]
    )
    body = (
        f"{legend}<h3>An average step of each worker</h3>{_totals_chart(totals)}{_phase_table(totals)}"
        f'<h3>Share of the time as the run went on</h3><div class="multiples">{drawn}</div>'
    )
    return section("phases", title, lead, body)


def _legend(names: Iterable[str]) -> str:
    return f'<p class="legend">{"".join(swatch(name) for name in names)}</p>'


def _per_step(lines: Sequence[Line]) -> dict[str, float]:
    """Seconds per step of each phase."""
    steps = sum(entry["step"] - entry["first"] + 1 for entry in lines)
    return {name: math.fsum(entry["seconds"].get(name, 0.0) for entry in lines) / steps for name in PHASES}


def _totals_chart(totals: dict[str, dict[str, float]]) -> str:
    longest = max(*(sum(phases.values()) for phases in totals.values()), 1e-9)
    rows = []
    for who, phases in totals.items():
        left, spans = 0.0, []
        for index, name in enumerate(PHASES):
            text = f"{who}, {name}: {duration(phases[name])} per step"
            spans += [Span(f"p{index}", left / longest, phases[name] / longest, text)] if phases[name] else []
            left += phases[name]
        rows.append((who, spans))
    label = "Milliseconds of each phase per step, one bar per worker"
    return plot(label, bottom_axis(Axis(0, longest * 1e3), "ms per step") + lanes(rows), LANE * len(rows))


def _phase_table(totals: dict[str, dict[str, float]]) -> str:
    longest = max(sum(phases.values()) for phases in totals.values())
    digits = 2 if longest >= 1e-3 else 4
    names = [name for name in PHASES if name not in SELDOM or any(phases[name] for phases in totals.values())]
    rows = []
    for who, phases in totals.items():
        whole = sum(phases.values()) or 1.0
        cells = [f"{phases[name] * 1e3:.{digits}f}<small>{100 * phases[name] / whole:.1f} %</small>" for name in names]
        rows.append([who, *cells, f"{whole * 1e3:.{digits}f}"])
    heads = ["ms per step", *(swatch(name) for name in names), "all"]
    return table("Milliseconds per step and percent of each phase", heads, rows, "phases")


def _shares_chart(x: Axis, who: str, lines: Sequence[Line], count: int) -> str:
    """Stacked shares in `count` bins of the steps; where the worker took no part there is a gap."""
    width = x.high / count
    bins = [dict.fromkeys(PHASES, 0.0) for _ in range(count)]
    for entry in lines:
        first, last = entry["first"] - 1, entry["step"]
        for index in range(int(first / width), min(count, math.ceil(last / width))):
            part = (min(last, (index + 1) * width) - max(first, index * width)) / (last - first)
            for name, seconds in entry["seconds"].items():
                bins[index][name] += max(0.0, part) * seconds
    areas = stack(bins, {name: f"p{index}" for index, name in enumerate(PHASES)})
    drawing = bottom_axis(x, "step", whole=True) + areas + side_label("50%", who)
    label = f"Share of each phase in the time of {who}, by step"
    return plot(label, drawing, 72)


@dataclass(frozen=True)
class _Step:
    """A step of which every span was kept."""

    number: int
    lanes: dict[str, list[Line]]
    """Trace records by worker or server, in the order of ranks."""

    @property
    def start(self) -> float:
        """When the step begins, in microseconds."""
        return min(record["ts"] for lane in self.lanes.values() for record in lane)

    @property
    def seconds(self) -> float:
        return (max(r["ts"] + r["dur"] for lane in self.lanes.values() for r in lane) - self.start) / 1e6

    @property
    def spans(self) -> int:
        return sum(map(len, self.lanes.values()))


def one_step(directory: RunDirectory, run: Story) -> str:
    title = "One step, worker by worker"
    steps = _whole_steps(read_chrome_trace(directory.timeline), run)
    if not steps:
        text = "There is no timeline yet: it is written with every checkpoint and at the end of the run."
        return section("timeline", title, "", absent(text))
    shown, typical = _choose(steps)
    options, templates = [], []
    for step in shown:
        text = f"step {step.number:,}, {len(step.lanes)} worker(s), {duration(step.seconds)}"
        text += " (median)" if step is typical else ""
        chosen = " selected" if step is typical else ""
        options.append(f'<option value="{step.number}"{chosen}>{text}</option>')
        templates.append(f'<template id="step-{step.number}">{_step_chart(step)}</template>')
    lead = (
        f"{len(shown)} of the {len(steps)} steps of which every span was kept; the first shown took the median time "
        "of those with the most workers. "
        "timeline.json.gz holds them all and opens in Perfetto (ui.perfetto.dev)."
    )
    chooser = (
        '<div class="chooser" hidden><button type="button">Previous</button><label>Show '
        f'<select>{"".join(options)}</select></label><button type="button">Next</button></div>'
    )
    names = {record["name"] for step in steps for lane in step.lanes.values() for record in lane}
    legend = _legend(name for name in PHASES if name not in SELDOM or name in names)
    hint = "Point at a span to read it."
    readout = f'<output class="readout" id="span" data-hint="{hint}">{hint}</output>'
    body = f'{chooser}{legend}{readout}<div id="stage">{_step_chart(typical)}</div>{"".join(templates)}'
    return section("timeline", title, lead, body)


def _whole_steps(trace: Sequence[Line], run: Story) -> list[_Step]:
    """The detailed steps in order; of one that was computed again, the last time."""
    by_step: dict[int, list[Line]] = defaultdict(list)
    for record in trace:
        if record["ph"] == "X" and record["name"] in PHASES and "step" in record["args"]:
            by_step[record["args"]["step"]].append(record)
    steps = []
    for step in sorted(by_step):
        attempt: dict[int, list[Line]] = defaultdict(list)
        end = -math.inf
        for record in sorted(by_step[step], key=lambda record: record["ts"]):
            # A worker is always in some phase, so only a step that was begun anew has a hole (1 ms is none).
            if record["ts"] > end + 1e3:
                attempt.clear()
            attempt[record["pid"]].append(record)
            end = max(end, record["ts"] + record["dur"])
        # The end of a step that was not kept can carry over into the next one; that is no whole step.
        lanes = {run.who(rank): lane for rank, lane in sorted(attempt.items())}
        workers = [lane for who, lane in lanes.items() if who.startswith("worker")]
        if workers and all(any(record["name"] == "forward" for record in lane) for lane in workers):
            steps.append(_Step(step, lanes))
    return steps


def _choose(steps: Sequence[_Step]) -> tuple[list[_Step], _Step]:
    """Steps spread over the run, as many as the page has room for, and the typical one among them."""
    largest = max(len(step.lanes) for step in steps)
    full = sorted((step for step in steps if len(step.lanes) == largest), key=lambda step: step.seconds)
    typical = full[len(full) // 2]
    count = max(1, min(_STEPS_SHOWN, _SPANS_SHOWN // max(step.spans for step in steps)))
    stride = max(1, math.ceil(len(steps) / max(1, count - 1)))
    spread = [] if count == 1 else [step for step in steps[::stride] if step is not typical]
    return sorted([typical, *spread], key=lambda step: step.number), typical


def _step_chart(step: _Step) -> str:
    start, whole = step.start, step.seconds
    x = Axis(0, whole * 1e3)
    # One step of a very large gang may exceed the page's room alone; its longest spans are what one can see.
    room = sorted((r["dur"] for lane in step.lanes.values() for r in lane), reverse=True)[: _SPANS_SHOWN // 2][-1]
    rows = []
    for who, records in step.lanes.items():
        spans = []
        for record in records:
            at, took = (record["ts"] - start) / 1e6, record["dur"] / 1e6
            if record["dur"] >= room:
                text = f"{who}, {_activity(record)}: {duration(took)} at {duration(at)}"
                kind = f"p{PHASES.index(record['name'])}"
                spans.append(Span(kind, at / whole, took / whole, text))
        rows.append((who, spans))
    label = f"Timeline of step {step.number}, {len(rows)} worker(s), {duration(whole)}"
    return plot(label, bottom_axis(x, "ms") + lanes(rows), LANE * len(rows))


def _activity(record: Line) -> str:
    # A trace leaves zeros out, and these phases always belong to a micro-batch.
    belongs = 0 if record["name"] in ("forward", "backward", *SELDOM) else None
    micro_batch = record["args"].get("micro_batch", belongs)
    return record["name"] + (f" of micro-batch {micro_batch}" if micro_batch is not None else "")
