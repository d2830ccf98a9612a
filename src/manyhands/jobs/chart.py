"""Who held which slot when, and how many waited: a chart that a page draws itself, on canvases, from data.

There may be tens of thousands of stays. Wheel or + and - zoom, dragging or the arrow keys move, a double click shows
all again. A finished simulation and a live cluster have the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from manyhands.report.page import section

_POINTS = 600
"""How many points each line over time has."""


class Bar(NamedTuple):
    """A job on its slots for a while, in s; `ended` is infinite if it is still there."""

    job: int
    slots: Sequence[int]
    began: float
    ended: float


def chart_sections() -> str:
    """The HTML that a page has to have for `CHART` to draw on."""
    return section(
        "slots",
        "Who held which slot",
        "A row is a slot, a colour a job. Wheel or + and - zoom, dragging or the arrow keys move, a double click shows "
        "all.",
        _SLOTS,
    ) + section("queue", "Jobs that waited, and slots in use", "", _QUEUE)


def chart_data(bars: Sequence[Bar], submitted: Sequence[float], ended: Sequence[float]) -> dict[str, Any]:
    """What `CHART` draws of one policy, as data for JSON: the stays, and two lines over time.

    Args:
        bars: who held which slots when, in any order.
        submitted, ended: when jobs came, and when those that have ended did, in s.
    """
    bars = sorted(bars, key=lambda bar: bar.began)
    end = max((bar.ended for bar in bars if math.isfinite(bar.ended)), default=1.0)
    times = np.linspace(0.0, end, _POINTS)
    present = np.searchsorted(np.sort(submitted), times, side="right")
    present -= np.searchsorted(np.sort(ended), times, side="right")
    begins, ends = np.array([bar.began for bar in bars]), np.array([bar.ended for bar in bars])
    sizes = np.array([len(bar.slots) for bar in bars], dtype=np.int64)
    order = np.argsort(ends)
    before = np.concatenate([[0], np.cumsum(sizes)])
    over = np.concatenate([[0], np.cumsum(sizes[order])])
    at_begin, at_end = np.searchsorted(begins, times, side="right"), np.searchsorted(ends[order], times, side="right")
    return {
        "end": round(end, 3),
        "stays": [[bar.job, round(bar.began, 3), round(min(bar.ended, end), 3), *_runs(bar.slots)] for bar in bars],
        "waiting": np.maximum(0, present - (at_begin - at_end)).tolist(),
        "used": (before[at_begin] - over[at_end]).tolist(),
    }


def _runs(slots: Sequence[int]) -> list[int]:
    """Slots as runs of consecutive ones: the first of each and how many, one run after another."""
    runs: list[int] = []
    for slot in sorted(slots):
        if runs and runs[-2] + runs[-1] == slot:
            runs[-1] += 1
        else:
            runs += [slot, 1]
    return runs


_SLOTS = """<div class="chooser" hidden><label>policy <select id="policy"></select></label></div>
<output class="readout" id="who" style="padding-left:0">&nbsp;</output>
<canvas id="chart" tabindex="0" role="img" aria-label="slots over time"
style="width:100%;height:420px;cursor:grab"></canvas>"""
_QUEUE = """<div class="legend">
<span class="key"><i class="train" style="background:var(--eval)"></i>jobs that waited</span>
<span class="key"><i class="train"></i>slots in use</span></div>
<canvas id="lines" role="img" aria-label="jobs that waited and slots in use over time"
style="width:100%;height:180px"></canvas>"""

CHART = """
'use strict';
function drawSlots(data) {
  const chart = document.getElementById('chart'), lines = document.getElementById('lines');
  const who = document.getElementById('who'), select = document.getElementById('policy');
  const LEFT = 52, BELOW = 26;
  let slots = data.hosts.reduce((a, b) => a + b, 0), now, from = 0, to = 1, hit = null;
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
        pen.fillText((data.hostNames || [])[host] || 'host ' + host, LEFT - 8, y + Math.min(14, row * count / 2 + 4));
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
  function update(fresh) {
    const all = from === 0 && to === now.end, latest = to === now.end, span = to - from;
    data = fresh; slots = data.hosts.reduce((a, b) => a + b, 0); now = data.policies[select.value];
    if (all) { from = 0; to = now.end; } else if (latest) { to = now.end; from = to - span; }
    draw();
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
  select.closest('.chooser').hidden = select.length < 2;
  select.addEventListener('change', () => choose(select.value));
  window.addEventListener('resize', draw);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  choose(select.value);
  return update;
}
"""
"""The script of the chart: `drawSlots(data)` draws it, and returns a function that draws newer data. `data` has `hosts`
(slots of each), `hostNames` if they have some, `names` by job, and `policies` by name, each of `chart_data`."""
