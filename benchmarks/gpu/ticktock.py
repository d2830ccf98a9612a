"""Two jobs on one GPU: speed and memory together, and with one's forward under the other's backward (ticktock).

Each job (benchmarks/jobs/deep.py) has activations of 60 % of the device's memory at its peak and little else, so the
two do not fit side by side at their peaks. For every way to share there is the sum of both speeds over that of one
alone, and the memory in use over time; `docs/ticktock.svg` shows the curves. A way in which a job dies is reported as
that.

Needs CUDA (skips with a reason elsewhere). `--tiny --device cpu` shows that the script works: there memory is what both
jobs' processes have, which a C library gives back as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from common import BENCHMARKS, ROOT, arguments, device_missing, machine, table, write_results
from migration import end, wait_for
from multiplex import Training

from manyhands.jobs.controller.sharing.memory import used_by
from manyhands.run import RunDirectory

WAYS = ("together", "interleave", "ticktock")
SHARE = 0.6
SECONDS = 8.0
COLOURS = ("#2a78d6", "#eda100", "#1baf7a")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small activations, for any device")
    options = parser.parse_args()
    if device_missing(options.device):
        return
    quick = options.quick or options.tiny
    facts, seconds = machine(), 2.0 if quick else SECONDS
    total = torch.cuda.mem_get_info()[1] if options.device == "cuda" else 0
    megabytes = 40.0 if quick else SHARE * total / 1e6
    alone = measure(None, options.device, megabytes, seconds)
    rows = [{"way": way, **measure(way, options.device, megabytes, seconds)} for way in WAYS]
    cells = [["alone", "1.00", f"{alone['peak'] / 1e9:.2f}", "0.50"]]
    for row in rows:
        speed = sum(row["rates"]) / alone["rates"][0] if row["rates"] else None
        peak = row["peak"] / 1e9, row["peak"] / (2 * alone["peak"])
        cells.append([row["way"], f"{speed:.2f}" if speed else row["error"], f"{peak[0]:.2f}", f"{peak[1]:.2f}"])
    table("two jobs", ["way", "sum of speeds", "peak GB", "over both peaks alone"], cells)
    write_results("ticktock", quick, facts, {"device": options.device, "alone": alone, "rows": rows})
    if not quick:
        (ROOT / "docs" / "ticktock.svg").write_text(drawing(rows, total))


def measure(way: str | None, device: str, megabytes: float, seconds: float) -> dict[str, Any]:
    """One job alone, or two in a way: their rates (steps/s), and the memory in use over time."""
    with (
        tempfile.TemporaryDirectory(prefix="ticktock-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        runs, flags = list[Training](), ["--workers", "1", "--device", device, "--quiet"]
        try:
            for index in range(1 if way is None else 2):
                run = RunDirectory(Path(folder) / f"run-{index}")
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "manyhands", "train", BENCHMARKS / "jobs" / "deep.py"),
                        *("--run-dir", run.path, *flags, "--", "--megabytes", str(megabytes)),
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                stack.callback(end, process)
                wait_for(run, lambda status: status.step >= 3)
                runs.append(Training(run, (f"{folder}/slot",)))
                if way is not None:
                    asyncio.run(runs[-1].share(way))
            curve = Curve(device, [run.directory for run in runs])
            before = [run.mark() for run in runs]
            time.sleep(seconds)
            after = [run.mark() for run in runs]
            points = curve.end()
        except (RuntimeError, OSError) as error:
            return {"rates": [], "error": str(error).splitlines()[0][:60], "peak": 0, "curve": []}
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    rates = [(b.step - a.step) / (b.at - a.at) for a, b in pairs if b.at > a.at]
    return {"rates": rates, "error": "", "peak": max(used for _, used in points), "curve": points}


class Curve(threading.Thread):
    """Looks at the memory in use until it is ended."""

    def __init__(self, device: str, runs: list[RunDirectory]) -> None:
        super().__init__(daemon=True)
        self._device, self._points, self._over = device, list[tuple[float, int]](), threading.Event()
        self._workers = [worker.pid for run in runs for worker in run.show().workers]
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        while not self._over.wait(0.005):
            self._points.append((time.monotonic() - began, self._used()))

    def end(self) -> list[tuple[float, int]]:
        self._over.set()
        self.join()
        return self._points

    def _used(self) -> int:
        if self._device == "cuda":
            free, total = torch.cuda.mem_get_info()
            return total - free
        return used_by(self._workers)


def drawing(rows: list[dict[str, Any]], total: int) -> str:
    """Memory over a second of time, a line for each way; the dashed line is what the device has."""
    width, height, left, top = 640, 260, 60, 20
    most = max([total, *(row["peak"] for row in rows)])
    parts = []
    for index, row in enumerate(rows):
        inside = [(at, used) for at, used in row["curve"] if at <= 1.0]
        points = " ".join(f"{left + at * width:.1f},{top + height * (1 - used / most):.1f}" for at, used in inside)
        parts.append(f'<polyline points="{points}" stroke="{COLOURS[index]}"/>')
        parts.append(
            f'<text x="{left + index * 160}" y="{top + height + 44}" fill="{COLOURS[index]}">{row["way"]}</text>'
        )
    limit = top + height * (1 - total / most)
    parts.append(f'<line x1="{left}" x2="{left + width}" y1="{limit:.1f}" y2="{limit:.1f}" stroke-dasharray="4"/>')
    parts.append(f'<text x="{left - 6}" y="{limit + 4:.1f}" text-anchor="end">{total / 1e9:.0f} GB</text>')
    parts.append(f'<text x="{left + width}" y="{top + height + 18}" text-anchor="end">1 s</text>')
    style = "text{font:13px system-ui,sans-serif;fill:#585d65}polyline{fill:none;stroke-width:1.5}line{stroke:#888}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 60}" role="img" '
        f'aria-label="memory of two jobs on one device over time"><style>{style}</style>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()
