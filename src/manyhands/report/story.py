"""What a run directory tells, read once for all sections of the report."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from manyhands.report.chart import Axis
from manyhands.run import RunDirectory, read_journal, read_json

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the run directory holds, sorted."""

    settings: Line
    result: Line
    status: str
    kinds: dict[str, list[Line]]
    """The lines of metrics.jsonl by kind; steps once each, in order."""
    pauses: list[tuple[float, float]]
    """Where nobody worked on the run: end (Unix time) and length (s) of each."""
    origin: float

    @property
    def steps(self) -> list[Line]:
        return self.kinds["step"]

    @property
    def batch_size(self) -> int:
        return self.settings.get("job", {}).get("batch_size", 0)

    def who(self, rank: int) -> str:
        """What a rank is, in words."""
        workers = self.settings.get("plan", {}).get("workers", rank + 1)
        servers = self.settings.get("plan", {}).get("sync", "").startswith("server")
        return f"server {rank - workers}" if servers and rank >= workers else f"worker {rank}"

    def elapsed(self, when: float) -> float:
        """Seconds that the run had worked by then; pauses between sessions do not count."""
        return when - self.origin - sum(length for end, length in self.pauses if end <= when)

    def step_axis(self) -> Axis:
        """An axis from the first step to the last."""
        return Axis(0, max(1, self.steps[-1]["step"] if self.steps else 1))


def load_story(directory: RunDirectory) -> Story:
    """Read the run directory; whatever is missing is empty."""
    settings, result = read_json(directory.run), read_json(directory.result)
    kinds: dict[str, list[Line]] = defaultdict(list)
    for entry in read_journal(directory.metrics):
        kinds[entry["kind"]].append(entry)
    # A supervisor that was killed may have written a step that its successor writes again.
    kinds["step"] = list({entry["step"]: entry for entry in kinds["step"]}.values())
    kinds["step"].sort(key=lambda entry: entry["step"])
    times = sorted(entry["time"] for entries in kinds.values() for entry in entries if "time" in entry)
    pauses = []
    for session in settings.get("sessions", [])[1:]:
        before = bisect_left(times, session["began"])
        if before:
            pauses.append((session["began"], session["began"] - times[before - 1]))
    return Story(
        settings=settings,
        result=result,
        status=result.get("status") or ("running" if directory.is_live() else "interrupted"),
        kinds=kinds,
        pauses=pauses,
        origin=settings.get("created", times[0] if times else 0.0),
    )


def scores(evaluation: Line) -> dict[str, float]:
    """The figures of an evaluation that can be drawn."""
    return {k: v for k, v in evaluation.items() if k not in ("kind", "step", "time") and math.isfinite(v)}
