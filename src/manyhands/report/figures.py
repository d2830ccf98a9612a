"""The figures by which layouts are compared, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from manyhands.report.chart import duration
from manyhands.report.comparison import Figures


class Column(NamedTuple):
    """One figure of a step."""

    name: str
    value: Callable[[Figures], float]
    """Gives the figure of the whole gang."""
    each: Callable[[Figures], Sequence[float]] | None
    """Gives the figure of every rank."""
    text: Callable[[float], str]
    relative: bool = False
    """Whether the figure is shown beside its ratio to one worker's."""
    share: bool = False
    """Whether the figure is a share of something: errors are differences and no ratios."""


def size(count: float) -> str:
    """Bytes as people write them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def percent(share: float) -> str:
    return f"{100 * max(0.0, share):.0f} %"


def error(column: Column, predicted: float, measured: float) -> str:
    """How far a prediction was off, in percent of what was measured, or in percentage points."""
    if column.share:
        return f"{100 * (predicted - measured):+.0f} pts"
    if predicted == measured:
        return "exact"
    return f"{100 * (predicted / measured - 1):+.0f} %" if measured else "none measured"


def shortened(text: str, most: int = 420) -> str:
    """A long text without its middle: what is wrong stands first, and what to do last."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


COLUMNS = (
    Column("step", lambda f: f.seconds, None, duration, relative=True),
    Column("idle", lambda f: fmean(f.idle), lambda f: f.idle, percent, share=True),
    Column("sent", lambda f: max(f.sent), lambda f: f.sent, size),
    Column("operators", lambda f: max(f.operators), lambda f: f.operators, _count),
    Column("actions", lambda f: max(f.actions), lambda f: f.actions, _count),
    Column("memory", lambda f: max(f.memory), lambda f: f.memory, size, relative=True),
)
