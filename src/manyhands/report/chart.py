"""Small charts as SVG strings: axes, downsampling, and a frame whose text never scales.

A page must read well on a phone and on a wide screen without redrawing. So every position is a percentage of
the drawing, text keeps its size, and only curves, which cannot be given in percent, lie in a nested `<svg>`
that stretches (`preserveAspectRatio="none"`). The margins for the labels are padding of the surrounding box.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

COLUMNS = 600
"""Points that a curve is reduced to: about one per pixel column of a narrow screen, and few enough bytes."""

LANE = 34
"""Pixels from one lane to the next."""

_UNITS = 10_000
"""Units of the nested drawing, each way: whole numbers are shorter than decimals, and finer than any screen."""


class Axis(NamedTuple):
    """Maps values to percent of the drawing."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where the value lies on the axis, 0 to 100."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))


class Column(NamedTuple):
    """What is left of several neighbouring points."""

    first: float
    last: float
    low: float
    high: float
    mean: float

    @property
    def x(self) -> float:
        return (self.first + self.last) / 2


class Mark(NamedTuple):
    """A point of the read-out: where it is (percent, y from the top) and what is said about it."""

    x: float
    y: float
    text: str


def value_axis(values: Iterable[float], zero: bool = False) -> Axis:
    """An axis that holds the finite values (at least one); logarithmic over more than two decades."""
    values = list(values)
    low, high = min(values), max(values)
    if not zero and low > 0 and high / low >= 100:
        return Axis(low / 1.3, high * 1.3, log=True)
    low = min(0.0, low) if zero else low
    spread = (high - low) or abs(high) or 1.0
    return Axis(low if zero and low == 0 else low - 0.06 * spread, high + 0.06 * spread)


def ticks(axis: Axis, count: int = 5, whole: bool = False) -> list[float]:
    """About `count` round values on the axis."""
    if axis.log:
        decades = list(range(math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high)) + 1))
        return [10.0**power for power in decades[:: math.ceil(len(decades) / (2 * count))]]
    rough = (axis.high - axis.low) / count
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= rough * 0.999)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def columns(points: Sequence[tuple[float, float]], count: int = COLUMNS) -> list[Column]:
    """At most `count` columns of neighbouring points, each with least, greatest and mean value."""
    result = []
    size = max(1, math.ceil(len(points) / count))
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [value for _, value in part]
        mean = math.fsum(values) / len(values)
        result.append(Column(part[0][0], part[-1][0], min(values), max(values), mean))
    return result


def smooth(values: Sequence[float], log: bool = False) -> list[float]:
    """Means (geometric for a logarithmic axis) over a symmetric neighbourhood, narrower towards the ends."""
    scaled = [math.log(value) for value in values] if log else values
    sums, count, means = [0.0, *accumulate(scaled)], len(values), []
    for at in range(count):
        half = min(max(1, count // 50), at, count - 1 - at)
        mean = (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)
        means.append(math.exp(mean) if log else mean)
    return means


def line(x: Axis, y: Axis, points: Iterable[tuple[float, float]], kind: str) -> str:
    """A curve through the points; `kind` is its CSS class."""
    return f'<path class="{kind}" d="M{"L".join(_spot(x, y, *point) for point in points)}"/>'


def band(x: Axis, y: Axis, parts: Sequence[Column], kind: str) -> str:
    """The area between the least and the greatest value of each column."""
    upper = [_spot(x, y, part.x, part.high) for part in parts]
    lower = [_spot(x, y, part.x, part.low) for part in reversed(parts)]
    return f'<path class="{kind}" d="M{"L".join(upper + lower)}Z"/>'


def steps_area(edges: Sequence[float], heights: Sequence[float], kind: str) -> str:
    """An area under a staircase: `heights[i]` percent between `edges[i]` and `edges[i + 1]` percent."""
    path = [f"M{_units(edges[0])} {_UNITS}"]
    for height, right in zip(heights, edges[1:], strict=True):
        path.append(f"V{_UNITS - _units(height)}H{_units(right)}")
    return f'<path class="{kind}" d="{"".join(path)}V{_UNITS}Z"/>'


class Span(NamedTuple):
    """A stretch of a lane: its CSS class, its left end and width as parts of the whole, what is said of it."""

    kind: str
    left: float
    width: float
    text: str


def lanes(rows: Sequence[tuple[str, Sequence[Span]]]) -> str:
    """Labelled rows of spans, `LANE` pixels each."""
    parts = []
    for index, (name, spans) in enumerate(rows):
        rects = "".join(
            f'<rect class="{span.kind}" x="{100 * span.left:.3f}%" width="{100 * span.width:.3f}%">'
            f"<title>{html.escape(span.text)}</title></rect>"
            for span in spans
        )
        parts.append(f'<svg class="lane" y="{LANE * index + 4}" height="{LANE - 8}">{rects}</svg>')
        parts.append(side_label(str(LANE * index + LANE // 2), name))
    return "".join(parts)


def stack(bins: Sequence[Mapping[str, float]], kinds: Mapping[str, str]) -> str:
    """Areas that share 100 % in every bin of equal width; an empty bin stays empty.

    Args:
        bins: amounts by name.
        kinds: the names from bottom to top, and the CSS class of each.
    """
    edges = [100 * index / len(bins) for index in range(len(bins) + 1)]
    heights, areas = [0.0] * len(bins), []
    for name, kind in kinds.items():
        parts = [100 * amounts[name] / (math.fsum(amounts.values()) or 1.0) for amounts in bins]
        heights = [height + part for height, part in zip(heights, parts, strict=True)]
        areas.append(steps_area(edges, heights, kind))
    # Each area reaches down to the axis, so the highest is drawn first and the others over it.
    return stretched("".join(reversed(areas)))


def dot(left: float, top: float, kind: str, title: str) -> str:
    """A round mark that keeps its shape; positions in percent."""
    return f'<circle class="{kind}" cx="{left:.2f}%" cy="{top:.2f}%" r="4"><title>{html.escape(title)}</title></circle>'


def stretched(curves: str) -> str:
    """The nested drawing in which curves lie."""
    return f'<svg class="curves" viewBox="0 0 {_UNITS} {_UNITS}" preserveAspectRatio="none">{curves}</svg>'


def bottom_axis(axis: Axis, label: str, whole: bool = False) -> str:
    """Vertical grid lines and the labels under them."""
    parts = []
    for tick, text in _labels(ticks(axis, 5, whole), axis.log):
        at = f"{axis.at(tick):.2f}%"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y2="100%"/><text x="{at}" y="100%" dy="18">{text}</text>')
    return f'{"".join(parts)}<text class="unit" x="100%" y="100%" dy="36">{html.escape(label)}</text>'


def left_axis(axis: Axis, whole: bool = False) -> str:
    """Horizontal grid lines and the labels left of them."""
    parts = []
    for tick, text in _labels(ticks(axis, 5, whole), axis.log):
        at = f"{100 - axis.at(tick):.2f}%"
        parts.append(f'<line class="grid" x2="100%" y1="{at}" y2="{at}"/>{side_label(at, text)}')
    return "".join(parts)


def side_label(top: str, text: str) -> str:
    """A label in the left margin."""
    return f'<text class="side" x="0" y="{top}" dx="-10" dy="4">{html.escape(text)}</text>'


def plot(label: str, content: str, height: int, marks: Sequence[Mark] = (), kind: str = "") -> str:
    """The frame of a chart; with `marks` it has a read-out that follows the pointer and the arrow keys.

    Args:
        label: says to those who cannot see it what the chart shows.
        content: what lies in it.
        height: CSS pixels of the drawing without its labels.
        marks: from left to right.
        kind: further CSS classes of the frame.
    """
    focus, readout, data = "", "", ""
    if marks:
        focus = ' tabindex="0"'
        content += '<line class="cross" y2="100%"/><circle class="cursor" r="4.5"/>'
        rows = [[round(mark.x, 2), round(mark.y, 2), mark.text] for mark in marks]
        # "<" could end the script element.
        packed = json.dumps(rows, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
        data = f'<script type="application/json">{packed}</script>'
        readout = f'<output class="readout">{html.escape(marks[-1].text)}</output>'
    svg = f'<svg class="drawing" role="img" aria-label="{html.escape(label)}" height="{height}"{focus}>{content}</svg>'
    return f'{readout}<div class="plot {kind}">{svg}{data}</div>'


def number(value: float) -> str:
    """A number as people write it, to four digits."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _labels(values: Sequence[float], log: bool) -> list[tuple[float, str]]:
    """The ticks with as many decimals as tell neighbours apart."""
    step = values[1] - values[0] if len(values) > 1 else 0.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    if log or not step or decimals > 7:
        return [(value, number(value)) for value in values]
    return [(value, f"{value:,.{decimals}f}") for value in values]


def _spot(x: Axis, y: Axis, left: float, value: float) -> str:
    return f"{_units(x.at(left))} {_UNITS - _units(y.at(value))}"


def _units(percent: float) -> int:
    return round(percent * _UNITS / 100)
