"""All sides train to the same loss, in turn: who is there first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from common import console, ratios, summary, table

from sync_sides.course import Case, Course, Trial

Train = Callable[[Trial], Course]
FIRST, PEER = "allreduce", "DDP"
PATIENCE = 3.0
"""A side that needs more than so many times the time of all-reduce has not reached the goal."""
SHARE = 0.6
"""The goal is what all-reduce reaches in this share of the pilot's steps."""
PILOT_SEED = 1000
_FIRST_SECONDS = 600.0


def pilot(train: Train, case: Case) -> float:
    """The loss that all are to reach."""
    course = train(Trial(case, PILOT_SEED, most=case.steps))
    goal = course.best(round(SHARE * case.steps))
    step = course.reached(goal)
    console.print(f"{case.example}: the goal is a loss of {goal:.3f}, which the pilot reached at step {step}")
    return goal


def compete(case: Case, goal: float, sides: Mapping[str, Train], rounds: int) -> dict[str, Any]:
    """Every side once a round, with a seed of the round's, each round in the other direction."""
    outcomes: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    curves: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            trial = Trial(case, number, goal, _limit(outcomes.get(FIRST, [])))
            course = sides[side](trial)
            outcomes[side].append(outcome := course.outcome(trial))
            curves.setdefault(side, course.curve())
            when = course.late or "not reached" if outcome["seconds"] is None else f"{outcome['seconds']:.1f} s"
            console.print(f"{case.example} {number + 1}/{rounds}, {side}: {when}, {outcome['steps']} steps")
    judged = {side: _judged(rows, outcomes) | {"curve": curves[side]} for side, rows in outcomes.items()}
    return {"goal": goal, "sides": judged}


def _limit(first: list[dict[str, Any]]) -> float:
    took = [row["seconds"] for row in first if row["seconds"] is not None]
    return PATIENCE * statistics.median(took) if took else _FIRST_SECONDS


def _judged(rows: list[dict[str, Any]], outcomes: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A side's figures; ratios to others are taken within a round, where both have reached the goal."""
    reached = [row for row in rows if row["seconds"] is not None]
    figures: dict[str, Any] = {"rounds": rows, "reached": len(reached), "of": len(rows)}
    if reached:
        figures["seconds"] = summary([row["seconds"] for row in reached])
        figures["steps"] = summary([row["steps"] for row in reached])
    figures["late"] = sum("late" in row for row in rows)
    if speeds := [row["seconds_per_step"] for row in rows if row["seconds_per_step"]]:
        figures["seconds_per_step"] = summary(speeds)
    for name, other in (("over_ddp", PEER), ("over_allreduce", FIRST)):
        pairs = zip(rows, outcomes.get(other, []), strict=False)
        both = [(a["seconds"], b["seconds"]) for a, b in pairs if a["seconds"] and b["seconds"]]
        if both:
            figures[name] = ratios([a for a, _ in both], [b for _, b in both])
    return figures


def show(title: str, result: dict[str, Any], bounds: Mapping[str, float] | None = None) -> None:
    """Print a table; `bounds`: seconds that the bytes of a step need by themselves."""
    printed = []
    for side, figures in result["sides"].items():
        seconds = spread(figures["seconds"], "{:.1f}") if "seconds" in figures else "not reached"
        steps = f"{figures['steps']['median']:.0f}" if "steps" in figures else "-"
        if figures["late"]:
            seconds += f"; {figures['late']} hung and was killed"
        cells = [side, f"{figures['reached']}/{figures['of']}", seconds, steps]
        cells.append(f"{figures['seconds_per_step']['median'] * 1e3:.0f}" if "seconds_per_step" in figures else "-")
        if bounds is not None:
            cells.append(f"{bounds[side] * 1e3:.0f}" if side in bounds else "-")
        cells += [
            f"{figures[name]['median']:.2f}" if name in figures else "-" for name in ("over_ddp", "over_allreduce")
        ]
        printed.append(cells)
    bound = ["bound"] if bounds is not None else []
    columns = ["", "of", "seconds", "steps", "ms/step", *bound, "/ DDP", "/ allr."]
    table(f"{title}: until a loss of {result['goal']:.3f}; median (least, most)", columns, printed)


def spread(values: Mapping[str, float], form: str) -> str:
    """Median, least and most in words."""
    return f"{form} ({form}, {form})".format(values["median"], values["min"], values["max"])
