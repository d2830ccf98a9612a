"""The frame of a report: one HTML file that needs nothing else, neither network nor fonts.

A content security policy forbids every request, so that this is a property of the page and not a hope. The
script only moves the read-outs and changes the step shown; without it all charts are there.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from datetime import UTC, datetime

from manyhands.timeline import PHASES


def page(title: str, body: str, script: str = "", live: bool = False) -> str:
    """A page's whole file. `script` takes the place of what reports have; a live page may ask the server it is from."""
    colours = "".join(f".p{index}{{fill:var(--p{index});background:var(--p{index})}}" for index in range(len(PHASES)))
    server = "; connect-src 'self'" if live else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
        f'{server}">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}{colours}</style></head><body><main>{body}</main>"
        f"<script>{script or _SCRIPT}</script></body></html>\n"
    )


def section(name: str, title: str, lead: str, body: str) -> str:
    """A card with a heading and a sentence (HTML) that says what is to be seen."""
    lead = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{name}"><h2>{html.escape(title)}</h2>{lead}{body}</section>'


def table(caption: str, heads: list[str], rows: list[list[str]], kind: str = "") -> str:
    """A table that scrolls in its own box where it is too large. Cells are HTML."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    label = html.escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def definitions(kind: str, entries: Mapping[str, str]) -> str:
    """Names and what they are; both are HTML."""
    rows = "".join(f"<div><dt>{name}</dt><dd>{what}</dd></div>" for name, what in entries.items())
    return f'<dl class="{kind}">{rows}</dl>'


def absent(text: str) -> str:
    """Says why there is nothing to see."""
    return f'<p class="absent">{html.escape(text)}</p>'


def date(when: float) -> str:
    """A Unix time as people write it."""
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")


def swatch(phase: str) -> str:
    """A phase's name beside its colour."""
    return f'<span class="key"><i class="p{PHASES.index(phase)}"></i>{phase}</span>'


# Colours are told apart by people with the common colour blindnesses; waiting is grey, because nothing is done.
_STYLE = """
:root{--page:#f6f6f3;--card:#fff;--ink:#1b1d20;--soft:#585d65;--line:#e3e4e6;--train:#2a78d6;--eval:#c9501c;
--good:#146c2e;--bad:#b3261e;--warn:#8a5300;--p0:#eda100;--p1:#2a78d6;--p2:#1baf7a;--p3:#eb6834;--p4:#4a3aa7;
--p5:#e87ba4;--p6:#008300;--p7:#cfd2d6;--p8:#5bd6a3;--p9:#8fc9b2;--p10:#a9adb4}
@media (prefers-color-scheme:dark){:root{--page:#121315;--card:#1a1c1f;--ink:#ecedee;--soft:#a6abb3;--line:#2f3237;
--train:#5598e7;--eval:#f08a5b;--good:#6fcf8b;--bad:#ff8a80;--warn:#f0b95a;--p0:#c98500;--p1:#3987e5;--p2:#199e70;
--p3:#d95926;--p4:#9085e9;--p5:#d55181;--p6:#3f9142;--p7:#474c54;--p8:#12694b;--p9:#5f8f7c;--p10:#6d737c}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0;font-weight:650;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 2px;font-weight:640}
h3{font-size:14px;margin:24px 0 4px;font-weight:600}
.over{margin:0 0 6px;color:var(--soft);font-size:14px}
.title{display:flex;flex-wrap:wrap;gap:10px 14px;align-items:center}
.status{border:1px solid;border-radius:99px;padding:1px 12px;font-size:14px;font-weight:600;color:var(--warn)}
.status.finished{color:var(--good)}.status.failed{color:var(--bad)}.status.running{color:var(--train)}
.notice{margin:16px 0 0;padding:10px 14px;border-left:3px solid var(--warn);background:var(--card);
white-space:pre-wrap;overflow-wrap:anywhere;font-size:14.5px}
.notice.failed{border-color:var(--bad)}
.tiles{display:flex;flex-wrap:wrap;gap:1px;margin:24px 0 0;padding:0;
background:var(--line);border:1px solid var(--line);border-radius:10px;overflow:hidden}
.tiles div{background:var(--card);padding:12px 18px;flex:1 1 auto;min-width:112px}
dt{color:var(--soft);font-size:13px}
.tiles dd{margin:0;font-size:19px;font-weight:600;overflow-wrap:anywhere}
.tiles small,td small{color:var(--soft);font-weight:400;font-size:13px}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:10px 24px;margin:16px 0 0}
.facts dd{margin:0;font-size:14.5px;overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.94em}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:22px 24px;margin:20px 0 0}
.lead{margin:0 0 14px;color:var(--soft);font-size:14.5px;max-width:78ch}
.absent{margin:8px 0 0;color:var(--soft)}
.readout{display:block;min-height:22px;font-size:14px;line-height:22px;font-weight:550;padding-left:64px}
.plot{padding:10px 26px 46px 64px}
.plot.bare{padding-bottom:6px;padding-top:2px}
.multiples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:0 16px}
.drawing{display:block;width:100%;overflow:visible;touch-action:pan-y;border-radius:2px}
.drawing:focus-visible,.scroll:focus-visible,select:focus-visible,button:focus-visible,summary:focus-visible{
outline:2px solid var(--train);outline-offset:4px}
.drawing text{fill:var(--soft);font-size:12.5px;text-anchor:middle}
.drawing text.side,.drawing text.unit{text-anchor:end}
.grid{stroke:var(--line)}
.curves path{vector-effect:non-scaling-stroke}
.train,.eval,.raw{fill:none;stroke:var(--train);stroke-width:2;stroke-linejoin:round}
.raw{stroke-width:1;opacity:.5}
.eval{stroke:var(--eval);stroke-width:1.25;stroke-dasharray:4 3}
.spread{fill:var(--train);opacity:.2}
.mean{stroke:var(--soft);stroke-width:1.25;stroke-dasharray:2 4}
.gang{fill:var(--train);fill-opacity:.18;stroke:var(--train);stroke-width:1.5}
circle{stroke:var(--card);stroke-width:1.5;fill:var(--train)}
circle.evaluated{fill:var(--eval)}circle.lost{fill:var(--bad)}circle.resize{fill:var(--warn)}
circle.ended{fill:var(--ink)}circle.began{fill:var(--train)}
.cross,.cursor{visibility:hidden;pointer-events:none}.cross{stroke:var(--soft)}.cursor{fill:var(--ink)}
.following .cross,.following .cursor{visibility:visible}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 10px;font-size:14px}
.key{white-space:nowrap}.key i,td>i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px}
.key i.train,i.began{background:var(--train)}.key i.evaluated{background:var(--eval);border-radius:50%}
td>i{border-radius:50%}i.lost{background:var(--bad)}i.resize{background:var(--warn)}i.ended{background:var(--ink)}
.lane rect{height:100%}.lane rect:hover{filter:brightness(1.18)}.rail{fill:var(--line);opacity:.5}
.scroll{overflow:auto;max-height:600px;margin-top:12px}
table{border-collapse:collapse;width:100%;font-size:14px}
th{position:sticky;top:0;background:var(--card);text-align:left;font-weight:550;color:var(--soft);white-space:nowrap}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:last-child td{border-bottom:0}
td{overflow-wrap:anywhere}.phases td,.membership td:first-child{white-space:nowrap}
.phases th,.phases td{text-align:right;padding-left:8px;padding-right:8px}
.phases th:first-child,.phases td:first-child{text-align:left;padding-left:0}.phases small{display:block}
.chooser{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 12px;align-items:center;font-size:14px}
.chooser[hidden]{display:none}
select,button{font:inherit;color:inherit;background:var(--page);border:1px solid var(--line);border-radius:8px;
padding:5px 11px;max-width:100%}button{cursor:pointer}button:disabled{opacity:.45;cursor:default}
footer{margin:24px 0 0;color:var(--soft);font-size:13.5px}
@media (max-width:640px){main{padding:24px 12px 40px}section{padding:18px 16px}h1{font-size:25px}
.plot{padding-left:62px;padding-right:18px}.readout{padding-left:0;min-height:44px}.tiles div{padding:10px 12px}
.chooser label{order:-1;flex:1 1 100%}.chooser select{width:100%}
.membership td:nth-child(2),.membership th:nth-child(2){display:none}}
@media print{section{break-inside:avoid}.chooser{display:none}}
"""

_SCRIPT = """
'use strict';
function follow(plot) {
  const data = plot.querySelector('script[type="application/json"]');
  if (!data) return;
  const marks = JSON.parse(data.textContent), svg = plot.querySelector('svg.drawing');
  const readout = plot.previousElementSibling, last = readout.textContent;
  const cross = svg.querySelector('.cross'), cursor = svg.querySelector('.cursor');
  let at = marks.length - 1;
  function show(index) {
    at = Math.max(0, Math.min(marks.length - 1, index));
    const [x, y, text] = marks[at];
    cross.setAttribute('x1', x + '%'); cross.setAttribute('x2', x + '%');
    cursor.setAttribute('cx', x + '%'); cursor.setAttribute('cy', y + '%');
    readout.textContent = text;
    plot.classList.add('following');
  }
  function leave() { plot.classList.remove('following'); readout.textContent = last; }
  function nearest(percent) {
    let low = 0, high = marks.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (marks[middle][0] + marks[middle + 1][0] < 2 * percent) low = middle + 1; else high = middle;
    }
    return low;
  }
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    show(nearest(100 * (event.clientX - box.left) / box.width));
  });
  svg.addEventListener('pointerleave', leave);
  svg.addEventListener('blur', leave);
  svg.addEventListener('keydown', event => {
    const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: marks.length - 1}[event.key];
    if (to !== undefined) { event.preventDefault(); show(to); }
  });
}
document.querySelectorAll('.plot').forEach(follow);
const chooser = document.querySelector('.chooser');
if (chooser) {
  const select = chooser.querySelector('select'), [before, after] = chooser.querySelectorAll('button');
  const stage = document.getElementById('stage'), readout = document.getElementById('span');
  function choose(index) {
    select.selectedIndex = index;
    stage.replaceChildren(document.getElementById('step-' + select.value).content.cloneNode(true));
    before.disabled = index === 0;
    after.disabled = index === select.length - 1;
    readout.textContent = readout.dataset.hint;
  }
  select.addEventListener('change', () => choose(select.selectedIndex));
  before.addEventListener('click', () => choose(select.selectedIndex - 1));
  after.addEventListener('click', () => choose(select.selectedIndex + 1));
  stage.addEventListener('pointerover', event => {
    const title = event.target.querySelector(':scope > title');
    if (title) readout.textContent = title.textContent;
  });
  chooser.hidden = false;
  choose(select.selectedIndex);
}
"""
