"""The legality matrix as a table: every combination of schedule, dp, tp and shard, and every rule, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from manyhands.plan.layout import STAGES_PER_RANK, Layout
from manyhands.plan.legality import SAME_BITS, Verdict, judge
from manyhands.plan.rules import RULES, Effect, Traits

PLAIN = Traits(micro_batches=8, units=8)
"""A job with nothing special about it."""


class Row(NamedTuple):
    layout: Layout
    verdict: Verdict


def matrix(traits: Traits = PLAIN, degree: int = 2) -> tuple[Row, ...]:
    """The verdict on every combination: schedule (or no pipeline) x dp x tp x shard, each on or off.

    Args:
        traits: of the job.
        degree: of every dimension that is on.
    """
    return tuple(Row(layout, judge(layout, traits)) for layout in _combinations(degree))


def matrix_markdown(traits: Traits = PLAIN) -> str:
    """The combinations as a table: a line per schedule, a column per mixture."""
    rows = matrix(traits)
    settings = list(dict.fromkeys(finding.name for row in rows for finding in row.verdict.settings))
    columns = list(dict.fromkeys(_mixture(row.layout) for row in rows))
    cells = {(_pipeline(row.layout), _mixture(row.layout)): _cell(row.verdict, settings) for row in rows}
    lines = _table(
        ["", *columns],
        [[line, *(cells[line, column] for column in columns)] for line in dict.fromkeys(line for line, _ in cells)],
    )
    return "\n".join([*lines, "", *(f"{i + 1}. we set: {name}" for i, name in enumerate(settings))])


def rules_markdown() -> str:
    """Every rule: the combination, what becomes of it, and why."""
    text = {Effect.REFUSE: "refused", Effect.SET: "we set: **{}**", Effect.ORDER: "within 1e-5", Effect.NOTE: "works"}
    lines = [
        [rule.on, text[rule.effect].format(rule.name), rule.because.replace("{layout.", "{").replace("{traits.", "{")]
        for rule in RULES
    ]
    return "\n".join(_table(["combination", "verdict", "because"], lines))


def _combinations(degree: int) -> Iterator[Layout]:
    for schedule in (None, *STAGES_PER_RANK):
        for dp in (1, degree):
            for shard in range(4) if dp > 1 else (0,):
                for tp in (1, degree):
                    values = {"dp": dp, "tp": tp, "shard": shard}
                    yield Layout(**values) if schedule is None else Layout(**values, pp=degree, schedule=schedule)


def _pipeline(layout: Layout) -> str:
    return f"pp, {layout.schedule}" if layout.pp > 1 else "no pp"


def _mixture(layout: Layout) -> str:
    parts = ["dp"] * (layout.dp > 1) + [f"shard={layout.shard}"] * (layout.shard > 0) + ["tp"] * (layout.tp > 1)
    return " ".join(parts) or "alone"


def _cell(verdict: Verdict, settings: list[str]) -> str:
    if not verdict.legal:
        return "refused"
    marks = " ".join(f"[{settings.index(finding.name) + 1}]" for finding in verdict.settings)
    return " ".join(filter(None, ["bits" if verdict.equality == SAME_BITS else "1e-5", marks]))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
