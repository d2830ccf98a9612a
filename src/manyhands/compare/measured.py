"""What runs that were looked at closely tell: one step of each, how fast links are, what the model costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from manyhands.compare.predict import Links, Profile
from manyhands.pipeline import Table, UnitCost
from manyhands.plan import Layout
from manyhands.report.comparison import Entry, Figures, idle_shares, work
from manyhands.run import RunDirectory
from manyhands.timeline import Event, read_chrome_trace

WARM_UP = 2
"""Steps that are not counted: the first builds the optimizer's state and plans the exchange, and its snapshot is taken
during the second."""
_NO_LINKS = Links(latency=0.0, bandwidth=1e12, sum_latency=0.0, sum_bandwidth=1e12)


@dataclass(frozen=True)
class Trial:
    """One layout's run."""

    layout: Layout
    directory: RunDirectory
    result: dict[str, Any]
    refusal: str = ""
    interrupted: bool = False

    @property
    def figures(self) -> list[dict[str, Any]]:
        """What each rank found out (training/probe.py)."""
        return self.result["figures"]


def entry_of(
    trial: Trial,
    *,
    predicted: Figures | None = None,
    difference: float = 0.0,
    same_bits: bool = True,
    stages: tuple[str, ...] = (),
    table: Table | None = None,
) -> Entry:
    """What a layout did, beside what was foreseen."""
    return Entry(
        layout=str(trial.layout),
        directory=trial.directory.path.name,
        measured=measured(trial),
        predicted=predicted,
        difference=difference,
        same_bits=same_bits,
        core_wait=max(figures.get("core_wait", 0.0) for figures in trial.figures),
        stages=stages,
        table=table,
    )


def measured(trial: Trial) -> Figures:
    """The quickest of the steps that are timed: a machine that is busy elsewhere only adds to it."""
    events = min(counted_steps(trial), key=_length)
    ranks = trial.layout.workers
    return Figures(
        seconds=_length(events) / 1e9,
        idle=idle_shares(events, ranks),
        sent=tuple(figures["sent_bytes"] for figures in trial.figures),
        operators=tuple(figures["operators"] for figures in trial.figures),
        actions=tuple(
            sum(figures["actions"].values()) or _passes(events, rank) for rank, figures in enumerate(trial.figures)
        ),
        memory=tuple(figures["peak_bytes"] for figures in trial.figures),
        events=tuple(events),
    )


def counted_steps(trial: Trial) -> list[list[Event]]:
    """The work of every step that is timed: neither the first, which warm up, nor the last, which is looked at."""
    by_step: dict[int, list[Event]] = {}
    for record in read_chrome_trace(trial.directory.timeline):
        if record["ph"] == "X":
            event = _event(record)
            by_step.setdefault(event.step, []).append(event)
    last = max(by_step)
    chosen = [step for step in sorted(by_step) if WARM_UP < step < last] or [sorted(by_step)[0]]
    return [work(by_step[step]) for step in chosen]


def links_of(trials: Sequence[Trial]) -> Links:
    """How fast ranks reach each other: the middle of what the gangs measured."""
    found = [trial.figures[0]["links"] for trial in trials if "links" in trial.figures[0]]
    if not found:
        return _NO_LINKS
    return Links(**{name: median(links[name] for links in found) for name in found[0]})


def profile_of(trial: Trial, settings: dict[str, Any], stages: int) -> Profile:
    """What one worker's run says of the job, its model being cut for so many stages."""
    figures, micro_batches = trial.figures[0], settings["job"]["micro_batches"]
    seconds = _by_phase(min(counted_steps(trial), key=_length))
    calls = figures["operators_by_phase"]
    each = ("data", "forward", "backward")
    cut = figures["by_stages"][str(stages)]
    units = tuple(UnitCost(**unit) for unit in cut.get("units", ())) or (_whole(figures, seconds, micro_batches),)
    forward = cut["operators"] if any(cut["operators"]) else [calls["forward"] / len(units)] * len(units)
    return Profile(
        micro_batches=micro_batches,
        **{name: seconds.get(name, 0.0) / micro_batches for name in each},
        exchange=seconds.get("exchange", 0.0),
        optimizer=seconds.get("optimizer", 0.0),
        units=units,
        forward_operators=tuple(count / micro_batches for count in forward),
        backward_operators=calls.get("backward", 0) / micro_batches,
        data_operators=calls.get("data", 0) / micro_batches,
        step_operators=sum(count for name, count in calls.items() if name not in each),
        parameters_by_unit=tuple(cut.get("parameters", (1,))),
        optimizer_bytes=figures["optimizer_bytes"],
        peak_bytes=figures["peak_bytes"],
        cores=None if settings["job"]["device"] == "cuda" else settings["hardware"]["cores"],
        busy_cores=figures.get("cpu_share", 1.0),
    )


def _whole(figures: dict[str, Any], seconds: dict[str, float], micro_batches: int) -> UnitCost:
    """The cost of a model that cannot be cut."""
    backward = seconds["backward"] / micro_batches
    return UnitCost(
        name="the model",
        forward=seconds["forward"] / micro_batches,
        input=backward / 2,
        weight=backward / 2,
        parameter_bytes=figures["parameter_bytes"],
    )


def _by_phase(events: Sequence[Event]) -> dict[str, float]:
    """Seconds of a step in each phase."""
    sums: dict[str, float] = {}
    for event in events:
        sums[event.kind] = sums.get(event.kind, 0.0) + (event.end - event.start) / 1e9
    return sums


def _passes(events: Sequence[Event], rank: int) -> int:
    """Forward and backward passes of a rank."""
    return sum(event.rank == rank and event.kind in ("forward", "backward") for event in events)


def _length(events: Sequence[Event]) -> int:
    return max(event.end for event in events) - min(event.start for event in events)


def _event(record: dict[str, Any]) -> Event:
    """An event as it was before it was written: times in ns."""
    start = round(record["ts"] * 1e3)
    args = record["args"]
    micro_batch = args.get("micro_batch", -1)
    return Event(
        record["pid"],
        record["cat"],
        record["name"],
        start,
        start + round(record["dur"] * 1e3),
        0,
        args["step"],
        micro_batch,
    )
