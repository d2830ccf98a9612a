"""How a run looks in a notebook: self-contained HTML, without scripts and without a style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _POINTS = 360, 90, 300


def card(title: str, status: str, metrics: Mapping[str, float], losses: Sequence[tuple[int, float]]) -> str:
    """A run: its name, how it stands, its newest figures, and its loss by step."""
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:right">{value:.6g}</td></tr>'
        for name, value in metrics.items()
    )
    return f"<div><b>{escape(title)}</b>: {escape(status)}<table>{rows}</table>{curve(losses)}</div>"


def curve(points: Sequence[tuple[int, float]]) -> str:
    """A line through (step, value); points that are not finite are left out. Empty for fewer than two."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    every = -(-len(finite) // _POINTS) or 1
    shown = finite[::every]
    if len(shown) < 2:
        return ""
    (first, last), values = (shown[0][0], shown[-1][0]), [value for _, value in shown]
    low, high = min(values), max(values)
    x = [(step - first) / max(1, last - first) * _WIDTH for step, _ in shown]
    y = [_HEIGHT - (value - low) / ((high - low) or 1.0) * _HEIGHT for value in values]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    label = f"loss from {values[0]:.4g} at step {first} to {values[-1]:.4g} at step {last}"
    return (
        f'<svg viewBox="-4 -4 {_WIDTH + 8} {_HEIGHT + 8}" width="{_WIDTH}" role="img" aria-label="{escape(label)}">'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
        f"<div><small>{escape(label)}</small></div>"
    )
