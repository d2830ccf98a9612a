"""The page of a simulation: figures by policy, and who held which slot when."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence

import numpy as np

from manyhands.jobs.chart import CHART, Bar, chart_data, chart_sections
from manyhands.jobs.simulator import Figures, Outcome
from manyhands.report.page import page, section, table


def history_page(
    title: str, lead: str, hosts: Sequence[int], outcomes: Mapping[str, Outcome], rows: Mapping[str, Figures]
) -> str:
    """The page of a simulation, as HTML.

    Args:
        lead: what the page says above its figures, as plain text.
        hosts: how many slots each host has.
        outcomes, rows: what became of the jobs, and the figures of that, by policy.
    """
    data = {
        "hosts": list(hosts),
        "names": list(next(iter(outcomes.values())).trace.names),
        "policies": {name: _data(outcome) for name, outcome in outcomes.items()},
    }
    body = (
        f'<p class="over">Jobs on a cluster</p><div class="title"><h1>{html.escape(title)}</h1></div>'
        + section("figures", "How each policy does", html.escape(lead), _figures(rows))
        + chart_sections()
    )
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return page(title, f'{body}<script type="application/json" id="data">{text}</script>', _SCRIPT)


def _data(outcome: Outcome) -> dict[str, object]:
    done = ~np.isnan(outcome.ended)
    bars = [Bar(stay.job, stay.slots, stay.began, stay.ended) for stay in outcome.stays]
    return chart_data(bars, outcome.trace.submitted[done].tolist(), outcome.ended[done].tolist())


def _figures(rows: Mapping[str, Figures]) -> str:
    heads = [
        "policy",
        "done in (mean)",
        "p50",
        "p95",
        "p99",
        "waited (mean)",
        "p99",
        "slots used",
        "useful",
        "makespan",
        "fairness",
    ]
    cells = []
    for name, f in rows.items():
        times = [f.completion[key] for key in ("mean", "p50", "p95", "p99")] + [f.wait["mean"], f.wait["p99"]]
        decided = ", ".join(f"{count} {kind}" for kind, count in f.decisions.items())
        cells.append(
            [
                *(f"{html.escape(name)}<br><small>{decided}</small>", *map(duration, times), f"{f.utilisation:.0%}"),
                *(f"{f.useful:.0%}", duration(f.makespan), f"{f.fairness:.2f}"),
            ]
        )
    return table("figures by policy", heads, cells)


def duration(seconds: float) -> str:
    """A time in s as a short text, such as 2.5h."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.1f}s"


_SCRIPT = CHART + "drawSlots(JSON.parse(document.getElementById('data').textContent));"
