"""Draws the schedules and fills the table of `docs/pipelines.md`: `python docs/pipelines/draw.py`.

4 ranks, 8 micro-batches; a rank's forward, input gradient and weight gradient take 10 ms each, in one stage or in two.
"""

from __future__ import annotations

from pathlib import Path

from manyhands.pipeline import SCHEDULES, Table, bubble_theory, even_costs, make_table, simulate, verify
from manyhands.pipeline.simulate import Simulation
from manyhands.report.pipeline import draw

RANKS, MICRO_BATCHES, SECONDS = 4, 8, 0.01
HERE = Path(__file__).parent
PAGE = HERE.parent / "pipelines.md"
BEGIN, END = "<!-- filled by pipelines/draw.py -->\n", "<!-- end -->\n"
HEAD = (
    "| schedule | stages per rank | step | idle | in theory | live activations of ranks 0 to 3 | actions per rank | "
    "messages |\n|---|---|---|---|---|---|---|---|\n"
)


def run(name: str) -> tuple[Table, Simulation]:
    table = make_table(name, RANKS, MICRO_BATCHES)
    part = SECONDS / SCHEDULES[name].virtual
    return table, simulate(table, even_costs(table.stages, part, part, part))


def drawing(name: str) -> str:
    """On one scale, but for vanilla, which is three times as long."""
    table, simulation = run(name)
    longest = None if name == "vanilla" else run("1f1b")[1].seconds
    return draw(simulation.events, table, title=name, seconds=longest) + "\n"


def row(name: str) -> str:
    table, simulation = run(name)
    virtual = SCHEDULES[name].virtual
    theory = bubble_theory(name, RANKS, MICRO_BATCHES)
    live = ", ".join(f"{count / virtual:g}" for count in verify(table).high_water)
    crossings = sum(a != b for a, b in zip(table.placement, table.placement[1:], strict=False))
    cells = (
        name,
        str(virtual),
        f"{1e3 * simulation.seconds:.0f} ms",
        f"{simulation.bubble:.3f}",
        "" if theory is None else f"{theory:.3f}",
        live,
        str(len(table.ranks[0])),
        str(2 * MICRO_BATCHES * crossings),
    )
    return f"| {' | '.join(cells)} |\n"


def filled(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + HEAD + "".join(map(row, SCHEDULES)) + END + after


def main() -> None:
    for name in SCHEDULES:
        (HERE / f"{name}.svg").write_text(drawing(name), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
