"""Shares of the bound as a bar chart: an SVG string, for light and dark pages."""

from __future__ import annotations

import html
from typing import Any

from collectives.sides import GLOO, MPI, OURS, PROBED

SIDES = {OURS: "#1a7f64", PROBED: "#6cc3a8", GLOO: "#c2570c", MPI: "#8b7bc7"}
SIZE = 16 << 20
_LEFT, _WIDTH, _BAR, _GAP, _TOP = 190, 760, 11, 16, 56


def chart(rows: list[dict[str, Any]]) -> str:
    """All-reduce of 16 MiB: a group of bars for each topology."""
    rows = [row for row in rows if row["operation"] == "all_reduce" and row["bytes"] == SIZE]
    group = _BAR * len(SIDES) + _GAP
    height = _TOP + group * len(rows) + 24
    scale = _WIDTH - _LEFT - 60
    label = "Share of the bound that an all-reduce of 16 MiB reaches, by network and backend"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif" '
        f'font-size="13" role="img" aria-label="{label}">',
        "<style>text{fill:#24292f} .g{stroke:#8a919955} .v{font-size:10px} "
        "@media (prefers-color-scheme:dark){text{fill:#d5dbe1}}</style>",
    ]
    x = _LEFT
    for side, colour in SIDES.items():
        parts.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="21">{html.escape(side)}</text>')
        x += 44 + 8 * len(side)
    for tenths in range(0, 11, 2):
        x = _LEFT + scale * tenths / 10
        parts.append(f'<path class="g" d="M{x:.1f} {_TOP - 8}V{height - 24}"/>')
        parts.append(f'<text class="v" x="{x:.1f}" y="{_TOP - 14}" text-anchor="middle">{tenths / 10:g}</text>')
    for index, row in enumerate(rows):
        top = _TOP + index * group
        middle = top + _BAR * len(SIDES) / 2 + 4
        parts.append(f'<text x="{_LEFT - 8}" y="{middle:.1f}" text-anchor="end">{html.escape(row["topology"])}</text>')
        for place, (side, colour) in enumerate(SIDES.items()):
            if side in row["share"]:
                share, y = row["share"][side], top + place * _BAR
                parts.append(
                    f'<rect x="{_LEFT}" y="{y}" width="{scale * share:.1f}" height="{_BAR - 1}" fill="{colour}"/>'
                )
                parts.append(f'<text class="v" x="{_LEFT + scale * share + 4:.1f}" y="{y + 9}">{share:.2f}</text>')
    return "\n".join([*parts, "</svg>", ""])
