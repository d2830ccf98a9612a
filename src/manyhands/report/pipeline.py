"""A pipeline step as a drawing: a lane for each rank, a box for each action, and what stays grey is idle.

Boxes bear the number of their micro-batch where it fits; the second and later stages of a rank are paler. What is on
the way to another rank is a thin line under its sender. Predicted and measured events are drawn alike, and with the
same `seconds` they can stand above each other. An SVG element that brings its style along: it can stand in a page or
alone.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from manyhands.pipeline.simulate import PHASE
from manyhands.pipeline.table import Action, Table
from manyhands.report.chart import Axis, duration, ticks
from manyhands.timeline import Event

WIDTH = 960
"""Width of the drawing, in its own units."""
_LEFT, _RIGHT, _TOP, _BOX, _PITCH = 62, 70, 26, 24, 32
_CLASSES = {"forward": "f", "backward": "b", "input_gradient": "i", "weight_gradient": "w"}
_NAMES = {"f": "forward", "b": "backward", "i": "input gradient", "w": "weight gradient", "o": "other", "s": "sending"}
_DIGIT = 6.7
"""Units that a digit of a label is wide."""


class _Box(NamedTuple):
    event: Event
    kind: str
    """The class of the box's colour."""
    chunk: int
    """Which of its rank's stages the box belongs to."""
    name: str


class _Scale(NamedTuple):
    origin: int
    span: int
    """Nanoseconds from one end of the axis to the other."""

    def at(self, time: int) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (time - self.origin) / self.span


def draw(events: Iterable[Event], table: Table | None = None, *, title: str = "", seconds: float | None = None) -> str:
    """The events of a step as an SVG element.

    Args:
        events: of any lanes; `send` is drawn thin, `idle` not at all, what is no part of a backward or forward in grey.
        table: what was run; tells a rank's stages apart. It is left aside where the events are not those of the table.
        title: above the drawing, before the total time and the idle share.
        seconds: what the axis is long; None: as the events are.

    Raises:
        ValueError: there is nothing to draw.
    """
    shown = sorted((event for event in events if event.kind != "idle"), key=lambda event: event.start)
    work = [event for event in shown if event.lane != "send"]
    if not work:
        raise ValueError("there are no events to draw")
    origin, end = min(event.start for event in work), max(event.end for event in work)
    scale = _Scale(origin, max(1, round(seconds * 1e9) if seconds is not None else end - origin))
    ranks = sorted({event.rank for event in work})
    idle = {rank: 1 - _covered([e for e in work if e.rank == rank]) / max(1, end - origin) for rank in ranks}
    lanes = []
    for index, rank in enumerate(ranks):
        mine = [event for event in work if event.rank == rank]
        sent = [event for event in shown if event.rank == rank and event.lane == "send"]
        lanes.append(_lane(scale, _TOP + index * _PITCH, _boxes(rank, mine, table), sent, end, idle[rank]))
    total = f"{duration((end - origin) / 1e9)}, {_percent(sum(idle.values()) / len(idle))} idle"
    words = f"{title}: {total}" if title else total
    bottom = _TOP + len(ranks) * _PITCH
    parts = [_text(_LEFT, 16, "pd-title", words), *lanes, _axis(scale, bottom), _legend(shown, bottom + 32)]
    return _frame(parts, bottom + 40, words)


def _boxes(rank: int, events: Sequence[Event], table: Table | None) -> list[_Box]:
    """What stands in a rank's lane, with its stages where the table tells them."""
    actions = iter(_actions(rank, events, table))
    stages = table.stages_of(rank) if table is not None else ()
    boxes = []
    for event in events:
        kind = _CLASSES.get(event.kind, "o")
        action = next(actions, None) if kind != "o" else None
        if action is None:
            boxes.append(_Box(event, kind, 0, _name(event)))
        else:
            boxes.append(_Box(event, kind, stages.index(action.stage), f"{action}, {_name(event)}"))
    return boxes


def _actions(rank: int, events: Sequence[Event], table: Table | None) -> Sequence[Action]:
    """The rank's part of the table, if the events are those of it."""
    if table is None or rank >= table.world:
        return ()
    ran = [(event.kind, event.micro_batch) for event in events if event.kind in _CLASSES]
    planned = [(PHASE[action.kind], action.micro_batch) for action in table.ranks[rank]]
    return table.ranks[rank] if ran == planned else ()


def _name(event: Event) -> str:
    kind = event.kind.replace("_", " ")
    return f"{kind}, micro-batch {event.micro_batch}" if event.micro_batch >= 0 else kind


def _covered(events: Sequence[Event]) -> int:
    """Nanoseconds in which at least one of the events (sorted by start) goes on."""
    total, until = 0, events[0].start
    for event in events:
        total += max(0, event.end - max(event.start, until))
        until = max(until, event.end)
    return total


def _lane(scale: _Scale, top: float, boxes: Sequence[_Box], sent: Sequence[Event], end: int, idle: float) -> str:
    rank = boxes[0].event.rank
    left, right = scale.at(scale.origin), scale.at(end)
    parts = [
        _text(_LEFT - 8, top + 16.5, "pd-side", f"rank {rank}"),
        f'<rect class="pd-idle" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{_BOX}"/>',
        *(_box(scale, top, box) for box in boxes),
        *(_send(scale, top + _BOX + 1.5, event) for event in sent),
        _text(right + 6, top + 16.5, "pd-share", f"{_percent(idle)} idle"),
    ]
    return f"<g>{''.join(parts)}</g>"


def _box(scale: _Scale, top: float, box: _Box) -> str:
    event = box.event
    left, right = scale.at(event.start), scale.at(event.end)
    kind = f"pd-{box.kind}" + (f" pd-c{min(box.chunk, 3)}" if box.chunk else "")
    span = f"{duration((event.end - event.start) / 1e9)} from {duration((event.start - scale.origin) / 1e9)}"
    shape = (
        f'<rect class="{kind}" x="{left:.1f}" y="{top}" width="{max(right - left, 0.3):.1f}" height="{_BOX}">'
        f"<title>{html.escape(box.name)}: {span}</title></rect>"
    )
    number = str(event.micro_batch)
    if event.micro_batch < 0 or right - left < _DIGIT * len(number) + 3:
        return shape
    ink = " pd-pale" if box.chunk else " pd-on" if box.kind == "f" else ""
    return shape + _text((left + right) / 2, top + 16.2, f"pd-number{ink}", number)


def _send(scale: _Scale, top: float, event: Event) -> str:
    left, right = scale.at(event.start), scale.at(event.end)
    what = "values" if event.kind == "forward" else "gradients"
    words = f"sends {what} of micro-batch {event.micro_batch}, {event.bytes} bytes"
    return (
        f'<rect class="pd-s" x="{left:.1f}" y="{top}" width="{max(right - left, 0.3):.1f}" height="3">'
        f"<title>{words}</title></rect>"
    )


def _axis(scale: _Scale, top: float) -> str:
    marks = []
    for value in ticks(Axis(0, scale.span / 1e9), 6):
        left = scale.at(scale.origin + round(value * 1e9))
        marks.append(f'<line class="pd-tick" x1="{left:.1f}" x2="{left:.1f}" y1="{top - 4}" y2="{top}"/>')
        marks.append(_text(left, top + 12, "pd-time", duration(value) if value else "0"))
    return "".join(marks)


def _legend(events: Sequence[Event], top: float) -> str:
    kinds = {"s" if event.lane == "send" else _CLASSES.get(event.kind, "o") for event in events}
    parts, left = [], float(_LEFT)
    for kind, name in [*((kind, name) for kind, name in _NAMES.items() if kind in kinds), ("idle", "idle")]:
        parts.append(f'<rect class="pd-{kind}" x="{left:.0f}" y="{top - 9}" width="11" height="11" rx="2"/>')
        parts.append(_text(left + 16, top + 0.5, "pd-key", name))
        left += 34 + 6.4 * len(name)
    return "".join(parts)


def _frame(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pipeline-drawing" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'role="img" aria-label="{html.escape(label)}"><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )


def _text(left: float, top: float, kind: str, words: str) -> str:
    return f'<text class="{kind}" x="{left:.1f}" y="{top:.1f}">{html.escape(words)}</text>'


def _percent(share: float) -> str:
    return f"{100 * max(0.0, share):.0f} %"


# Forward and backward have the colours that they have in reports.
_STYLE = (
    ".pipeline-drawing{--pd-f:#2a78d6;--pd-b:#1baf7a;--pd-i:#19a7bd;--pd-w:#eda100;--pd-o:#8a8f98;--pd-s:#b3589a;"
    "--pd-idle:#e3e4e6;--pd-ink:#1b1d20;--pd-soft:#585d65;--pd-card:#fff;--pd-on:#fff;"
    'display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}'
    "@media (prefers-color-scheme:dark){.pipeline-drawing{--pd-f:#5598e7;--pd-b:#2fc48d;--pd-i:#3fbfd4;--pd-w:#e0a01c;"
    "--pd-o:#7d838c;--pd-s:#d886c1;--pd-idle:#33373d;--pd-ink:#ecedee;--pd-soft:#a6abb3;--pd-card:#1a1c1f;"
    "--pd-on:#10131a}}"
    + "".join(f".pd-{kind}{{fill:var(--pd-{kind})}}" for kind in (*_NAMES, "idle"))
    + ".pipeline-drawing rect[height='24']:not(.pd-idle){stroke:var(--pd-card);stroke-width:.8}"
    ".pd-c1{fill-opacity:.5}.pd-c2{fill-opacity:.32}.pd-c3{fill-opacity:.2}"
    ".pipeline-drawing text{fill:var(--pd-soft)}"
    ".pipeline-drawing .pd-title{fill:var(--pd-ink);font-size:13.5px;font-weight:640}"
    ".pipeline-drawing .pd-number{text-anchor:middle;font-size:11.5px;font-weight:600;pointer-events:none;fill:#10131a}"
    ".pipeline-drawing .pd-on{fill:var(--pd-on)}.pipeline-drawing .pd-pale{fill:var(--pd-ink)}"
    ".pd-side{text-anchor:end}.pd-time{text-anchor:middle;font-size:11px}.pd-tick{stroke:var(--pd-soft)}"
)
