"""`manyhands compare`: layouts of one job side by side, predicted and measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from manyhands.cli.groups import ForJob
from manyhands.errors import UsageError
from manyhands.plan import DeviceOptions, Option
from manyhands.run import new_directory

if TYPE_CHECKING:
    from manyhands.report.comparison import Comparison, Entry

_FEWEST = 4
"""The fewest steps of a run: two to warm up, one to time, one to look at closely."""
_WIDTH = 120
"""Width of the table, in characters, where it is not printed to a terminal."""


@dataclass(frozen=True, kw_only=True)
class Compare(ForJob):
    """Run a job under several layouts for a few steps and compare them.

        manyhands compare examples/gpt.py --layouts "dp=2; pp=2; pp=2,schedule=zb-h1" -- --layers 6

    One worker is always run too, first: all is predicted from it and compared with it. What follows -- are the flags
    of the job file's `job` function.
    """

    layouts: Annotated[str, Option("LAYOUT;...")]
    """Layouts (docs/layouts.md), divided by semicolons; in quotes, for the shell."""
    steps: int = 8
    """Steps of each run. The first two warm up; the last is not timed, for it counts operators."""
    run_dir: Annotated[Path | None, Option("DIR", "runs/NAME-compare-TIME")] = None
    """Where what is made is written: a directory that is not there yet, or empty."""
    plan: DeviceOptions = field(default_factory=DeviceOptions)
    """What all runs have in common."""

    def run(self, job_arguments: list[str]) -> int:
        from rich.console import Console

        from manyhands.compare import Trials, compare, parse_layouts
        from manyhands.report.compare import write_comparison

        if self.steps < _FEWEST:
            raise UsageError(
                f"--steps must be at least {_FEWEST}; it is {self.steps}. Two warm up, and the last counts."
            )
        layouts = parse_layouts(self.layouts)
        directory = self.run_dir or new_directory(f"{self.job_file.stem}-compare")
        if directory.exists() and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty. Give another --run-dir.")
        trials = Trials(
            directory=directory,
            job_file=self.job_file,
            arguments=job_arguments,
            layouts=layouts,
            steps=self.steps,
            plan=self.plan.given(),
        )
        told = Console(stderr=True, highlight=False)
        with told.status("") as status:
            comparison = compare(trials, lambda layout: status.update(f"running {layout}"))
        if comparison is None:
            return 130
        print_comparison(comparison)
        page = directory / "compare.html"
        write_comparison(comparison, page)
        told.print(f"page: {page}", soft_wrap=True)
        return exit_code(comparison)


def exit_code(comparison: Comparison) -> int:
    """1 if none of the layouts ran that were to be compared with one worker."""
    others = [entry.measured is not None for entry in comparison.entries[1:]]
    return 0 if any(others) or not others else 1


def print_comparison(comparison: Comparison) -> None:
    """The table: what was measured, and below it what was predicted, with the error."""
    from rich.console import Console
    from rich.table import Table

    from manyhands.report.compare import crowded, findings
    from manyhands.report.figures import COLUMNS, shortened

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    table = Table(caption="measured, predicted, error; of ranks, idle is the mean and all else the most")
    table.add_column("layout", overflow="fold")
    for column in COLUMNS:
        table.add_column(column.name, justify="right")
    table.add_column("difference", justify="right")
    refused = []
    for entry in comparison.entries:
        if entry.measured is None:
            refused.append(entry)
            table.add_row(entry.layout, "did not run", *["-"] * len(COLUMNS), end_section=True)
        else:
            table.add_row(*_cells(comparison, entry), end_section=True)
    console.print(table)
    for entry in refused:
        console.print(f"{entry.layout} did not run: {shortened(entry.refusal)}", markup=False, soft_wrap=True)
    for sentence in filter(None, (*findings(comparison), crowded(comparison))):
        console.print(sentence, markup=False, soft_wrap=True)


def _cells(comparison: Comparison, entry: Entry) -> list[str]:
    from manyhands.report.figures import COLUMNS, error

    assert entry.measured is not None
    alone = entry is comparison.reference
    cells = ["one worker" if alone else entry.layout]
    for column in COLUMNS:
        value = column.value(entry.measured)
        text = column.text(value)
        if entry.predicted is not None:
            foreseen = column.value(entry.predicted)
            text += f"\n[dim]{column.text(foreseen)}\n{error(column, foreseen, value)}[/dim]"
        cells.append(text)
    cells.append("-" if alone else "same bits" if entry.same_bits else f"{entry.difference:.1e}")
    return cells
