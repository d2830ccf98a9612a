"""What every benchmark here shares: the machine it ran on, its result file, and a few statistics.

Every script writes `benchmarks/results/NAME.json`: `machine` (what it ran on), `command`, `settings`, and its
own figures. With `--quick` it writes `NAME.quick.json` instead, which proves only that the script works.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results"
EXAMPLE_JOB = BENCHMARKS / "jobs" / "example.py"

console = Console(highlight=False, width=110)


def arguments(docstring: str | None) -> argparse.ArgumentParser:
    """A parser with the flags that all benchmarks have."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: to try it out, not to quote")
    return parser


def device_missing(device: str) -> bool:
    """Whether torch sees no such device; then it is said, and the benchmark is skipped."""
    import torch

    missing = device.startswith("cuda") and not torch.cuda.is_available()
    if missing:
        script = Path(sys.argv[0]).stem
        console.print(f"{script} skipped: torch sees no CUDA device. To try the script: --tiny --device cpu")
    return missing


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    import torch

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def write_results(name: str, quick: bool, facts: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write the result file. `facts` is what `machine()` said before the measurement began."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'.quick' if quick else ''}.json"
    command = shlex.join(["python", *_relative(sys.argv)])
    path.write_text(json.dumps({"machine": facts, "command": command, **figures}, indent=2) + "\n")
    console.print(f"written: {path.relative_to(ROOT)}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first are right-aligned."""
    drawn = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, extremes and count."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "count": len(values)}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Summary of the ratios of pairs measured one right after the other, so that drift cancels out."""
    return summary([a / b for a, b in zip(numerators, denominators, strict=True)])


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a text file, for an error message."""
    if not path.exists():
        return "(no output)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _relative(command: Sequence[str]) -> list[str]:
    return [str(Path(part).resolve().relative_to(ROOT)) if part.endswith(".py") else part for part in command]
