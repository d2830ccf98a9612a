"""A job whose two workers are on two hosts is brought together by the controller's policy: its rate before and after.

Two emulated hosts with two slots each, 100 Mbit/s between them; `manyhands up --policy fifo+consolidate`. A filler
holds a slot of each host when a job of two workers comes, so that it gets one slot on either. Then one filler ends.
What happens next is the policy's decision: it sees how long the job waits for its exchanges, and moves it if that pays
for the pause. `docs/consolidation.svg` shows the job's steps per second.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import BENCHMARKS, ROOT, arguments, console, machine, write_results
from migration import PIPES, agents

from manyhands.cluster import preset
from manyhands.lab import Lab, obstacle
from manyhands.run import read_journal

JOB = BENCHMARKS / "jobs" / "mixed.py"
LINK = "100 Mbit/s"
_DEADLINE = 240.0


class Controller:
    """In the lab, on the host that has no slots."""

    def __init__(self, lab: Lab, home: Path, hosts: str) -> None:
        self._lab, self._environment = lab, {**os.environ, "MANYHANDS_HOME": str(home)}
        self.do("up", "--hosts", hosts, "--policy", "fifo+consolidate", "--port", "0")

    def do(self, *command: object) -> str:
        process = self._lab.run(
            "h0",
            [sys.executable, "-m", "manyhands", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )
        out, _ = process.communicate(timeout=_DEADLINE)
        if process.returncode:
            raise RuntimeError(f"{command}: {out}")
        return out

    def submit(self, workers: int, bound: str) -> int:
        return json.loads(self.do("submit", JOB, "--json", "--workers", workers, "--", "--bound", bound))["id"]

    def until(self, number: int, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + _DEADLINE
        while time.monotonic() < end:
            (job,) = [job for job in json.loads(self.do("jobs", "--json"))["jobs"] if job["id"] == number]
            if reached(job):
                return job
            time.sleep(0.2)
        raise RuntimeError(f"job {number} did not come so far: {job}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="before and after")
    options = parser.parse_args()
    if reason := obstacle():
        console.print(reason)
        return
    seconds = 5.0 if options.quick else options.seconds
    facts = machine()
    names = ["h1", "h2"]
    with (
        tempfile.TemporaryDirectory(prefix="consolidation-") as folder,
        Lab(preset(f"star-3:{LINK}")) as lab,
        agents(names, lambda name, command: lab.run(name, command, **PIPES)) as (ports, token),
    ):
        home = Path(folder) / "home"
        home.mkdir()
        (home / "token").write_text(token.read_text())
        first, second = (f"{name}:{port}" for name, port in zip(names, ports, strict=True))
        controller = Controller(lab, home, f"{first}=2,{second}=2")
        fillers = [controller.submit(1, "data") for _ in names]
        for filler in fillers:
            controller.until(filler, lambda job: bool(job["workers"]))
        (host,) = {w["host"] for w in controller.until(fillers[1], lambda job: bool(job["workers"]))["workers"]}
        if {w["host"] for w in controller.until(fillers[0], lambda job: True)["workers"]} == {host}:
            controller.do("move", fillers[1], "--to", second if host == first else first)
            controller.until(fillers[1], lambda job: bool({w["host"] for w in job["workers"]} - {host}))
        number = controller.submit(2, "exchange")
        job = controller.until(number, lambda job: len(hosts_of(job)) == 2 and job["step"] > 10)
        time.sleep(seconds)
        controller.do("cancel", fillers[1])
        freed = time.time()
        job = controller.until(number, lambda job: len(hosts_of(job)) == 1)
        moved = time.time()
        time.sleep(seconds)
        job = controller.until(number, lambda job: True)
        steps = [
            line["time"] for line in read_journal(Path(job["directory"]) / "metrics.jsonl") if line["kind"] == "step"
        ]
        controller.do("cancel", number)
        controller.do("cancel", fillers[0])
        controller.do("down")
    before = rate(steps, freed - seconds, freed)
    after = rate(steps, moved + 1.0, moved + seconds)
    pause = max(b - a for a, b in pairwise(steps) if b > freed)
    console.print(
        f"split over two hosts {before:.1f} steps/s, together {after:.1f} steps/s: {after / before:.1f} times"
    )
    console.print(
        f"the policy moved it {moved - freed:.1f} s after there was room; the job stood still for {pause:.2f} s"
    )
    figures = {"before": before, "after": after, "decided_in": moved - freed, "pause": pause}
    write_results("consolidation", options.quick, facts, {"link": LINK, **figures})
    if not options.quick:
        (ROOT / "docs" / "consolidation.svg").write_text(drawing(steps, freed - seconds, freed, moved + seconds))


def hosts_of(job: dict[str, Any]) -> set[str]:
    return {worker["host"] for worker in job["workers"]}


def rate(steps: list[float], first: float, last: float) -> float:
    """Steps per second: by the median, so that a pause does not count."""
    inside = [when for when in steps if first <= when <= last]
    return 1 / statistics.median(b - a for a, b in pairwise(inside))


def drawing(steps: list[float], first: float, freed: float, last: float) -> str:
    """Steps per second over time, second by second."""
    width, height, left, top = 720, 220, 48, 16
    bins = [sum(first + i <= when < first + i + 1 for when in steps) for i in range(int(last - first))]
    most = max(bins)

    def x(seconds: float) -> float:
        return left + seconds / len(bins) * width

    def y(count: float) -> float:
        return top + height * (1 - count / most)

    points = " ".join(f"{x(i + 0.5):.1f},{y(count):.1f}" for i, count in enumerate(bins))
    mark = x(freed - first)
    ticks = "".join(
        f'<text x="{x(i):.0f}" y="{top + height + 18}" class="m">{i} s</text>' for i in range(0, len(bins), 10)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 16} {top + height + 28}" role="img" '
        'aria-label="steps per second of a job before and after it was brought together"><style>'
        "text{font:13px system-ui,sans-serif;fill:#585d65}.m{text-anchor:middle}.e{text-anchor:end}"
        "polyline{fill:none;stroke:#2a78d6;stroke-width:2}line{stroke:#c9501c;stroke-dasharray:4 3}"
        "@media(prefers-color-scheme:dark){text{fill:#a6abb3}}</style>"
        f'<text x="{left - 8}" y="{y(most) + 5:.0f}" class="e">{most}</text>'
        f'<text x="{left - 8}" y="{y(0) + 5:.0f}" class="e">0</text>'
        f'<line x1="{mark:.1f}" x2="{mark:.1f}" y1="{top}" y2="{top + height}"/>'
        f'<text x="{mark + 6:.0f}" y="{top + height - 8}">a slot becomes free beside one of its workers</text>'
        f'<polyline points="{points}"/>{ticks}</svg>\n'
    )


if __name__ == "__main__":
    main()
