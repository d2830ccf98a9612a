"""`manyhands compare`: layouts of one job side by side, predicted and measured."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.table import Table

from manyhands.errors import UsageError
from manyhands.plan import Collective, Device

if TYPE_CHECKING:
    from manyhands.report.comparison import Comparison, Entry

_FEWEST = 4
"""Two steps to warm up, one to time, one to look at closely."""
_WIDTH = 120
"""Of the table where it is not printed to a terminal."""


@dataclass(frozen=True)
class Compare:
    """Run a job under several layouts for a few steps and compare them: manyhands compare examples/gpt.py --layouts
    "dp=2; pp=2; pp=2,schedule=zb-h1" -- --layers 6

    What follows -- are the flags of the job file's `job` function. One worker is always run too, first: all is
    predicted from it and compared with it.
    """

    job_file: tyro.conf.Positional[Path]
    """Python file with a function `job(...) -> manyhands.Job`."""
    layouts: str
    """Layouts (docs/layouts.md), divided by semicolons."""
    steps: int = 8
    """Steps of each run. The first two warm up; the last is not timed, for it counts operators."""
    directory: Path | None = None
    """Where the runs and compare.html are written. Default: runs/NAME-compare-TIME."""
    device: Device | None = None
    """Default: CUDA where there is some, else the CPU."""
    threads: int | None = None
    """Threads per worker on the CPU. Default: 1."""
    workers_per_device: int | None = None
    """Workers that may share one CUDA device. Default: 1."""
    collective: Collective | None = None
    """How gradients travel between replicas. Default: auto."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.compare import Trials, compare, parse_layouts
        from manyhands.report.compare import write_comparison

        if self.steps < _FEWEST:
            raise UsageError(
                f"--steps must be at least {_FEWEST}; it is {self.steps}. Two warm up, and the last counts."
            )
        layouts = parse_layouts(self.layouts)
        directory = self.directory or _default_directory(self.job_file)
        if directory.exists() and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty. Give another --directory.")
        given = {name: getattr(self, name) for name in ("device", "threads", "workers_per_device", "collective")}
        trials = Trials(
            directory=directory,
            job_file=self.job_file,
            arguments=job_arguments,
            layouts=layouts,
            steps=self.steps,
            plan={name: value for name, value in given.items() if value is not None},
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


def _default_directory(job_file: Path) -> Path:
    base = Path("runs") / f"{job_file.stem}-compare-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = base, 1
    while path.exists():
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    return path
