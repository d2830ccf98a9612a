"""Who held which slot when, as a page: a chart of slots over time, how many jobs waited, and figures by policy.

The charts are drawn by the page itself, on canvases, from the data that it carries: there may be tens of thousands of
stays. Wheel or + and - zoom, dragging or the arrow keys move, a double click shows all again.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence

import numpy as np

from manyhands.jobs.simulator import Figures, Outcome
from manyhands.report.page import page, section, table

_POINTS = 600
"""Of the lines over time."""


def history_page(
    title: str, lead: str, hosts: Sequence[int], outcomes: Mapping[str, Outcome], rows: Mapping[str, Figures]
) -> str:
    """The page of a simulation.

    Args:
        hosts: slots of each.
        outcomes, rows: by policy.
    """
    data = {
        "hosts": list(hosts),
        "names": list(next(iter(outcomes.values())).trace.names),
        "policies": {name: _data(outcome) for name, outcome in outcomes.items()},
    }
    body = (
        f'<p class="over">Jobs on a cluster</p><div class="title"><h1>{html.escape(title)}</h1></div>'
        + section("figures", "How each policy does", html.escape(lead), _figures(rows))
        + section(
            "slots",
            "Who held which slot",
            "A row is a slot, a colour a job. Wheel or + and - zoom, dragging or the "
            "arrow keys move, a double click shows all.",
            _SLOTS,
        )
        + section("queue", "Jobs that waited, and slots in use", "", _QUEUE)
    )
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return page(title, f'{body}<script type="application/json" id="data">{text}</script>', _SCRIPT)


def _data(outcome: Outcome) -> dict[str, object]:
    stays = sorted(outcome.stays, key=lambda stay: stay.began)
    end = max((stay.ended for stay in stays), default=1.0)
    times = np.linspace(0.0, end, _POINTS)
    submitted = np.sort(outcome.trace.submitted[~np.isnan(outcome.ended)])
    ended = np.sort(outcome.ended[~np.isnan(outcome.ended)])
    present = np.searchsorted(submitted, times, side="right") - np.searchsorted(ended, times, side="right")
    begins, ends = np.array([s.began for s in stays]), np.array([s.ended for s in stays])
    sizes = np.array([len(s.slots) for s in stays])
    order = np.argsort(ends)
    before = np.concatenate([[0], np.cumsum(sizes)])
    over = np.concatenate([[0], np.cumsum(sizes[order])])
    at_begin, at_end = np.searchsorted(begins, times, side="right"), np.searchsorted(ends[order], times, side="right")
    used = before[at_begin] - over[at_end]
    waiting = present - (at_begin - at_end)
    return {
        "end": round(end, 3),
        "stays": [[s.job, round(s.began, 3), round(s.ended, 3), *_runs(s.slots)] for s in stays],
        "waiting": waiting.tolist(),
        "used": used.tolist(),
    }


def _runs(slots: Sequence[int]) -> list[int]:
    """Consecutive slots as first and count, one after another."""
    runs: list[int] = []
    for slot in sorted(slots):
        if runs and runs[-2] + runs[-1] == slot:
            runs[-1] += 1
        else:
            runs += [slot, 1]
    return runs


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
    """In words that are short."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.1f}s"


_SLOTS = """<div class="chooser" hidden><label>policy <select id="policy"></select></label></div>
<output class="readout" id="who" style="padding-left:0">&nbsp;</output>
<canvas id="chart" tabindex="0" role="img" aria-label="slots over time"
style="width:100%;height:420px;cursor:grab"></canvas>"""
_QUEUE = """<div class="legend">
<span class="key"><i class="train" style="background:var(--eval)"></i>jobs that waited</span>
<span class="key"><i class="train"></i>slots in use</span></div>
<canvas id="lines" role="img" aria-label="jobs that waited and slots in use over time"
style="width:100%;height:180px"></canvas>"""

_SCRIPT = """
'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const chart = document.getElementById('chart'), lines = document.getElementById('lines');
  const who = document.getElementById('who'), select = document.getElementById('policy');
  const slots = data.hosts.reduce((a, b) => a + b, 0), LEFT = 52, BELOW = 26;
  let now, from = 0, to = 1, hit = null;
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name);
  const hue = job => `hsl(${(job * 137.508) % 360} 62% ${50 + 12 * ((job * 7) % 3 - 1)}%)`;
  const time = s => { for (const [unit, size] of [['d', 86400], ['h', 3600], ['m', 60]])
    if (Math.abs(s) >= 2 * size) return (s / size).toFixed(1) + unit; return s.toFixed(1) + 's'; };
  function sized(canvas) {
    const box = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(box.width * scale); canvas.height = Math.round(box.height * scale);
    const pen = canvas.getContext('2d');
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    pen.font = '12px system-ui, sans-serif';
    return [pen, box.width, box.height];
  }
  function axis(pen, width, height) {
    pen.fillStyle = colour('--soft'); pen.strokeStyle = colour('--line'); pen.textAlign = 'center';
    const rough = (to - from) / 7, power = 10 ** Math.floor(Math.log10(rough));
    const round = [60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 43200, 86400].find(s => s >= rough);
    const step = rough > 30 && round || [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
      const x = LEFT + (t - from) / (to - from) * (width - LEFT);
      pen.beginPath(); pen.moveTo(x, 0); pen.lineTo(x, height - BELOW); pen.stroke();
      pen.fillText(time(t), Math.min(Math.max(x, 14), width - 18), height - 8);
    }
  }
  function draw() {
    const [pen, width, height] = sized(chart), plot = height - BELOW, row = plot / slots;
    axis(pen, width, height);
    const across = (width - LEFT) / (to - from), gap = row > 5 ? 1 : 0;
    for (const [job, began, ended, ...runs] of now.stays) {
      if (ended < from || began > to) continue;
      const x = LEFT + (Math.max(began, from) - from) * across;
      const long = Math.max(0.7, (Math.min(ended, to) - Math.max(began, from)) * across - (row > 5 ? 0.5 : 0));
      pen.fillStyle = hue(job);
      pen.globalAlpha = hit === null || hit === job ? 1 : 0.25;
      for (let i = 0; i < runs.length; i += 2) pen.fillRect(x, runs[i] * row, long, runs[i + 1] * row - gap);
    }
    pen.globalAlpha = 1;
    pen.fillStyle = colour('--soft'); pen.strokeStyle = colour('--ink'); pen.textAlign = 'right';
    let first = 0, labelled = -20;
    data.hosts.forEach((count, host) => {
      const y = first * row;
      if (y - labelled >= 14) {
        pen.fillText('host ' + host, LEFT - 8, y + Math.min(14, row * count / 2 + 4));
        labelled = y;
      }
      if (host && row * count > 6) {
        pen.globalAlpha = 0.35;
        pen.beginPath(); pen.moveTo(LEFT - 4, y); pen.lineTo(width, y); pen.stroke();
        pen.globalAlpha = 1;
      }
      first += count;
    });
    drawLines();
  }
  function drawLines() {
    const [pen, width, height] = sized(lines), plot = height - BELOW;
    axis(pen, width, height);
    const points = now.waiting.length, step = now.end / (points - 1);
    const longest = Math.max(1, ...now.waiting);
    for (const [values, most, name] of [[now.used, slots, '--train'], [now.waiting, longest, '--eval']]) {
      pen.strokeStyle = colour(name); pen.lineWidth = 1.6; pen.beginPath();
      values.forEach((value, i) => {
        const x = LEFT + (i * step - from) / (to - from) * (width - LEFT);
        if (x < LEFT - 50 || x > width + 50) return;
        pen.lineTo(Math.max(LEFT, x), 4 + (plot - 4) * (1 - value / most));
      });
      pen.stroke();
      pen.fillStyle = colour(name); pen.textAlign = 'right';
      pen.fillText(most, LEFT - 8, name === '--train' ? 14 : 30);
    }
  }
  function choose(name) { now = data.policies[name]; from = 0; to = now.end; hit = null; draw(); }
  function zoom(factor, at) {
    const span = Math.min(now.end, Math.max((to - from) * factor, now.end * 1e-5));
    from = Math.max(0, Math.min(at - (at - from) * span / (to - from), now.end - span)); to = from + span; draw();
  }
  function move(by) {
    const span = to - from;
    from = Math.max(0, Math.min(from + by, now.end - span)); to = from + span; draw();
  }
  const at = event => {
    const box = chart.getBoundingClientRect();
    return [from + (event.clientX - box.left - LEFT) / (box.width - LEFT) * (to - from),
            Math.floor((event.clientY - box.top) / ((box.height - BELOW) / slots))];
  };
  let held = null;
  const wheel = e => { e.preventDefault(); zoom(e.deltaY > 0 ? 1.25 : 0.8, at(e)[0]); };
  chart.addEventListener('wheel', wheel, {passive: false});
  chart.addEventListener('dblclick', () => { from = 0; to = now.end; draw(); });
  chart.addEventListener('pointerdown', e => { held = e.clientX; chart.setPointerCapture(e.pointerId); });
  chart.addEventListener('pointerup', () => { held = null; });
  chart.addEventListener('pointermove', e => {
    if (held !== null) {
      move((held - e.clientX) / (chart.getBoundingClientRect().width - LEFT) * (to - from)); held = e.clientX; return;
    }
    const [t, slot] = at(e);
    const found = now.stays.filter(([, began, ended, ...runs]) => began <= t && t <= ended &&
      runs.some((first, i) => i % 2 === 0 && first <= slot && slot < first + runs[i + 1]));
    const before = hit;
    hit = found.length ? found[found.length - 1][0] : null;
    who.textContent = found.map(([job, began, ended, ...runs]) => {
      const count = runs.filter((_, i) => i % 2).reduce((a, b) => a + b, 0);
      return `${data.names[job]}: ${count} slot${count > 1 ? 's' : ''}, from ${time(began)} to ${time(ended)}`;
    }).join('; ') || '\\u00a0';
    if (before !== hit) draw();
  });
  chart.addEventListener('pointerleave', () => { hit = null; who.textContent = '\\u00a0'; draw(); });
  chart.addEventListener('keydown', e => {
    const middle = (from + to) / 2, span = to - from;
    const action = {'+': () => zoom(0.7, middle), '-': () => zoom(1.4, middle), ArrowLeft: () => move(-span / 5),
                    ArrowRight: () => move(span / 5), Home: () => { from = 0; to = now.end; draw(); }}[e.key];
    if (action) { e.preventDefault(); action(); }
  });
  for (const name of Object.keys(data.policies)) select.add(new Option(name, name));
  select.closest('.chooser').hidden = false;
  select.addEventListener('change', () => choose(select.value));
  window.addEventListener('resize', draw);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  choose(select.value);
})();
"""
