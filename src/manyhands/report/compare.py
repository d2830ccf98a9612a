"""The page that compares layouts: one table, and a step of each, predicted above measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

from manyhands.report.chart import duration
from manyhands.report.comparison import Comparison, Entry, Figures
from manyhands.report.figures import COLUMNS, Column, error, shortened, size
from manyhands.report.page import date, definitions, page, section, table
from manyhands.report.pipeline import draw

_CROWDED = 0.1
"""Share of the time that workers may wait for a core before times are doubted."""


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the page whole or not at all.

    Raises:
        OSError: the disk is full or gone.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(comparison_page(comparison), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def comparison_page(comparison: Comparison) -> str:
    """The page that compares layouts, as one file."""
    body = [_style(), _header(comparison), _summary(comparison), _timelines(comparison), _method(comparison)]
    body.append(f"<footer>Written {date(time.time())}</footer>")
    return page(f"{comparison.job_file}: layouts compared", "".join(body))


def crowded(comparison: Comparison) -> str:
    """Whether times are to be doubted: workers that would have had a core each waited for one. Empty if not."""
    alone = [entry for entry in comparison.entries if entry.measured and len(entry.measured.idle) <= comparison.cores]
    waits = [entry.core_wait for entry in alone]
    if max(waits, default=0.0) < _CROWDED:
        return ""
    return (
        f"This machine was busy with something else: workers waited for a core up to {max(waits):.0%} of the time. "
        "Counts, bytes and memory stand; compare times again on a quiet machine."
    )


def findings(comparison: Comparison) -> Iterator[str]:
    """What the figures say, in sentences."""
    ran = [(entry, entry.measured) for entry in comparison.entries if entry.measured is not None]
    _, alone = ran[0]
    if len(ran) == 1:
        yield "No layout but one worker ran."
        return
    fastest, figures = min(ran, key=lambda pair: pair[1].seconds)
    if fastest is comparison.reference:
        yield "One worker is the fastest: for this model, on this machine, dividing the work costs more than it saves."
    else:
        ratio = alone.seconds / figures.seconds
        took = duration(figures.seconds)
        yield f"{fastest.layout} is the fastest: {took} a step, {ratio:.3g} times one worker's speed."
    smallest, figures = min(ran, key=lambda pair: max(pair[1].memory))
    if smallest is not comparison.reference:
        most = max(figures.memory)
        share = most / max(1, *alone.memory)
        yield f"{smallest.layout} needs the least memory per worker: {size(most)}, {share:.0%} of one worker's."
    others = [entry for entry, _ in ran[1:]]
    same = sum(entry.same_bits for entry in others)
    if same == len(others):
        yield "All layouts end with one worker's weights, bit for bit."
    else:
        worst = max(others, key=lambda entry: entry.difference)
        yield (
            f"{same} of {len(others)} end with one worker's weights, bit for bit; the others differ by "
            f"{worst.difference:.1e} at most ({worst.layout})."
        )
    errors = [abs(e.predicted.seconds / e.measured.seconds - 1) for e in others if e.predicted and e.measured]
    if errors:
        mean = sum(errors) / len(errors)
        yield f"Step times were predicted within {mean:.0%} on average, {max(errors):.0%} at worst."


def _header(comparison: Comparison) -> str:
    facts = {
        "Flags": comparison.arguments or "none",
        "Batch": comparison.batch,
        "Steps": f"{comparison.steps} each",
        "Machine": comparison.machine,
        "Versions": comparison.versions,
    }
    busy = crowded(comparison)
    notice = f'<p class="notice">{escape(busy)}</p>' if busy else ""
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(comparison))
    return (
        '<header><p class="over">manyhands compare</p>'
        f'<div class="title"><h1>{escape(comparison.job_file)}: layouts compared</h1></div>'
        f'<ul class="findings">{sentences}</ul>{notice}'
        f"{definitions('facts', {name: escape(text) for name, text in facts.items()})}</header>"
    )


def _summary(comparison: Comparison) -> str:
    lead = (
        "Measured, and below it what was predicted from one worker's run, with the error. Idle is the mean of all "
        "ranks; the other figures are those of the rank that has most of it."
    )
    heads = "".join(f'<th scope="col">{escape(column.name)}</th>' for column in COLUMNS)
    rows = "".join(_row(comparison, entry) for entry in comparison.entries)
    body = (
        '<div class="scroll" tabindex="0" role="region" aria-label="layouts side by side"><table class="compare">'
        f'<thead><tr><th scope="col">layout</th>{heads}<th scope="col">weights differ by</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return section("layouts", "Side by side", lead, body)


def _row(comparison: Comparison, entry: Entry) -> str:
    name = f'<th scope="row">{escape(_name(comparison, entry))}</th>'
    if entry.measured is None:
        reason = f"<b>did not run.</b> {escape(shortened(entry.refusal))}"
        return f'<tr>{name}<td class="refused" colspan="{len(COLUMNS) + 1}">{reason}</td></tr>'
    cells = [*(_cell(column, entry, comparison.reference) for column in COLUMNS), _difference(comparison, entry)]
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cell(column: Column, entry: Entry, reference: Entry) -> str:
    assert entry.measured is not None and reference.measured is not None
    value = column.value(entry.measured)
    text = f"<b>{escape(column.text(value))}</b>"
    alone = column.value(reference.measured)
    if column.relative and entry is not reference and alone:
        text += f" <small>{value / alone:.2f}x</small>"
    if entry.predicted is None:
        return text
    foreseen = column.value(entry.predicted)
    off = error(column, foreseen, value)
    return f'{text}<small class="foreseen">{escape(column.text(foreseen))} <i>{escape(off)}</i></small>'


def _difference(comparison: Comparison, entry: Entry) -> str:
    if entry is comparison.reference:
        return "<small>the reference</small>"
    return '<b class="same">same bits</b>' if entry.same_bits else f"<b>{entry.difference:.1e}</b>"


def _name(comparison: Comparison, entry: Entry) -> str:
    return "one worker" if entry is comparison.reference else entry.layout


def _timelines(comparison: Comparison) -> str:
    shown = [f for entry in comparison.entries for f in (entry.predicted, entry.measured) if f is not None]
    longest = max(figures.seconds for figures in shown)
    parts = [_timeline(comparison, entry, longest) for entry in comparison.entries if entry.measured is not None]
    lead = (
        "All on one scale. Where a lane is grey, the rank waits. Numbers are micro-batches; paler boxes are the later "
        "stages of a rank. Point at a box for its times."
    )
    return section("steps", "One step, predicted above measured", lead, "".join(parts))


def _timeline(comparison: Comparison, entry: Entry, longest: float) -> str:
    assert entry.measured is not None
    parts = [f"<h3>{escape(_name(comparison, entry))}</h3>"]
    if entry.stages:
        parts.append(f'<p class="cuts">Stages begin at {escape(", ".join(entry.stages))}.</p>')
    if entry.predicted is not None:
        predicted = draw(entry.predicted.events, entry.table, title="predicted", seconds=longest)
        parts.append(f'<div class="above">{predicted}</div>')
    parts.append(draw(entry.measured.events, entry.table, title="measured", seconds=longest))
    if len(entry.measured.idle) > 1:
        parts.append(_ranks(entry, entry.measured))
    return f'<div class="step">{"".join(parts)}</div>'


def _ranks(entry: Entry, measured: Figures) -> str:
    """Every rank's figures, behind a fold."""
    ranks = range(len(measured.idle))
    heads = ["", *(f"rank {rank}" for rank in ranks)]
    rows = []
    for column in COLUMNS:
        if column.each is None:
            continue
        own = column.each(measured)
        foreseen = column.each(entry.predicted) if entry.predicted is not None else None
        cells = [escape(column.name)]
        for rank in ranks:
            small = f'<small class="foreseen">{escape(column.text(foreseen[rank]))}</small>' if foreseen else ""
            cells.append(f"<b>{escape(column.text(own[rank]))}</b>{small}")
        rows.append(cells)
    body = table(f"figures of every rank, {entry.layout}", heads, rows, "compare")
    return f"<details><summary>every rank: measured, and predicted below</summary>{body}</details>"


def _method(comparison: Comparison) -> str:
    """The section that says where predictions come from, and what they leave out."""
    items = [
        "Costs: one worker's run timed data, forward, backward and update, and every unit of the model by itself. Each "
        "replica's pipeline is simulated with them; then gradients are exchanged and each rank updates its part.",
        "Links: messages and sums timed between the ranks of each gang before it trained.",
        f"{comparison.cores} cores, of which a computing worker kept {comparison.busy_cores:.2f} busy. Where ranks ask "
        "for more cores than there are, all of them are predicted to be slowed down alike.",
        "Bytes: values and gradients over cuts, the random state with them, gradients between replicas. Control "
        "messages are measured and not predicted.",
        "Memory: weights, gradients while they are folded, the optimizer's state, live activations by the schedule's "
        "own count, and what one worker's process was seen to need besides. Temporary values inside operators are not.",
        "Operators: calls that compute, counted in one more step; on a GPU each launches a kernel. Actions: forward "
        "and backward passes of stages, sends and receives, each started by Python.",
    ]
    if comparison.uncut:
        items.insert(0, f"The model cannot be cut, so it counts as one unit: {comparison.uncut}")
    return section(
        "method", "How it was predicted", "", "<ul>" + "".join(f"<li>{escape(i)}</li>" for i in items) + "</ul>"
    )


def _style() -> str:
    return (
        "<style>.compare td,.compare th[scope=row]{white-space:nowrap;padding-right:22px}"
        ".compare td small{margin-left:4px}"
        ".scroll:has(.compare){max-height:none}.compare th[scope=row]{position:static;color:var(--ink);font-weight:600}"
        "td.refused{color:var(--bad);white-space:normal!important;overflow-wrap:anywhere}.compare b{font-weight:600}"
        ".compare tbody tr:last-child th{border-bottom:0}"
        ".above{margin-bottom:-34px}.above .pd-key,.above rect[rx]{display:none}td small.foreseen{margin-left:0}"
        ".foreseen{display:block;color:var(--soft)}.foreseen i{font-style:normal;opacity:.85}.same{color:var(--good)}"
        ".findings{margin:14px 0 0;padding-left:20px}.findings li{margin:2px 0}"
        ".step{margin:0 0 26px}.step h3{font-size:16px;margin:22px 0 2px}.cuts{margin:0 0 6px;color:var(--soft);"
        "font-size:14px}.step svg{margin-top:6px}details{margin-top:6px;font-size:14px}summary{cursor:pointer;"
        "color:var(--soft)}#method ul{margin:8px 0 0;padding-left:20px;color:var(--soft);font-size:14.5px}"
        "main{max-width:1240px}</style>"
    )
