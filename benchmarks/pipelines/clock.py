"""Predicted step times beside measured ones, where layers sleep.

Every configuration runs as a job of the project does: training/steps/parts.py, Pipeline, torch's runtime. What is
predicted is `pipeline.simulate` on what the layers sleep and two constants. What they sleep is what they are told to
and a little more, which is measured first: waking up takes its time. The constants come from a run without any overlap
(vanilla, of a size that is not among the configurations): the latency of a transfer, from the end of an action to the
beginning of the next on the other rank, as the timeline has it; and the overhead of an action, which is what is left of
the step's time.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any, NamedTuple

from common import console, table

from manyhands.pipeline import SCHEDULES, Costs, Simulation, Transfer, bubble_theory, make_table, simulate
from manyhands.plan import Layout
from pipelines import sleeping
from pipelines.gang import Gang, Sockets
from pipelines.ours import Ours, Table
from pipelines.sleeping import Times

RANKS, MICRO_BATCHES = (2, 4), (4, 8, 16)
SECONDS = 0.009
"""What an even stage sleeps for each of forward, input gradient and weight gradient."""
STEPS = 3
MEAN_TARGET, WORST_TARGET = 0.05, 0.15


class Constants(NamedTuple):
    """Seconds."""

    overhead: float
    latency: float
    oversleep: float
    """What a layer sleeps longer than it is told to, each time."""


def skews(ranks: int) -> dict[str, list[float]]:
    """How many times longer than the even ones the layers of each rank's share of the model take."""
    slow_last, slow_middle = [1.0] * ranks, [1.0] * ranks
    slow_last[-1] = slow_middle[(ranks - 1) // 2] = 1.5
    return {"even": [1.0] * ranks, "last slow": slow_last, "middle slow" if ranks > 2 else "first slow": slow_middle}


def measure(quick: bool) -> dict[str, Any]:
    """All schedules, sizes and skews."""
    constants = calibrate(4 if quick else 10)
    console.print(
        f"overhead of an action {constants.overhead * 1e3:.2f} ms, latency {constants.latency * 1e6:.0f} us, "
        f"oversleep {constants.oversleep * 1e6:.0f} us"
    )
    rows = []
    for ranks in RANKS[: 1 if quick else None]:
        for count in MICRO_BATCHES[: 1 if quick else None]:
            for skew, factors in skews(ranks).items():
                rows += [one(name, ranks, count, skew, factors, constants, quick) for name in SCHEDULES]
    compare_with_vanilla(rows)
    figures = {"constants": constants._asdict(), "sleep": SECONDS, "rows": rows, **errors(rows)}
    show(rows, figures)
    return figures


def one(
    name: str, ranks: int, count: int, skew: str, factors: list[float], constants: Constants, quick: bool
) -> dict[str, Any]:
    """One configuration."""
    # Every rank's share is two layers: schedules with one stage a rank put both into it, the others one into each.
    layers = [Times(*[SECONDS / 2 * factor] * 3) for factor in factors for _ in range(2)]
    layout = Layout(pp=ranks, schedule=name)
    measured = run(layers, layout, count, 1 if quick or name == "vanilla" else STEPS)
    predicted = predict(layers, layout, count, constants)
    seconds = statistics.median(seconds for seconds, _ in measured)
    return {
        "schedule": name,
        "ranks": ranks,
        "micro_batches": count,
        "skew": skew,
        "predicted": predicted.seconds,
        "measured": seconds,
        "error": predicted.seconds / seconds - 1,
        "steps": [seconds for seconds, _ in measured],
        "bubble_theory": bubble_theory(name, ranks, count),
        "bubble_predicted": predicted.bubble,
        "bubble": statistics.median(bubble for _, bubble in measured),
    }


def run(layers: list[Times], layout: Layout, count: int, steps: int) -> list[tuple[float, float]]:
    """Seconds and idle share of each step, after one that is not counted."""
    with Gang(layout.workers, partial(_make, layers=layers, layout=layout, count=count)) as gang:
        return summed(gang.ask("tables", steps + 1))[1:]


def summed(by_rank: list[list[Table]]) -> list[tuple[float, float]]:
    steps = []
    for ranks in zip(*by_rank, strict=True):
        span = max(one.end for one in ranks) - min(one.begin for one in ranks)
        steps.append((span / 1e9, 1 - sum(one.busy for one in ranks) / (span * len(ranks))))
    return steps


def predict(layers: list[Times], layout: Layout, count: int, constants: Constants) -> Simulation:
    """On paper. Nobody waits for the gradient of the model's input: the first stage does nothing where the table says
    input, and its whole backward where it says weight."""
    each = len(layers) // layout.stages
    stages = [layers[first : first + each] for first in range(0, len(layers), each)]
    forward, input, weight = (
        [sum(getattr(layer, part) + constants.oversleep for layer in stage) for stage in stages]
        for part in Times._fields
    )
    weight[0], input[0] = weight[0] + input[0], -constants.overhead
    backward = tuple(a + b for a, b in zip(input, weight, strict=True))
    sends = (Transfer(latency=constants.latency),) * (len(stages) - 1)
    costs = Costs(
        forward=tuple(forward),
        input=tuple(input),
        weight=tuple(weight),
        backward=(weight[0], *backward[1:]),
        send_forward=sends,
        overhead=constants.overhead,
    )
    return simulate(make_table(layout.schedule, layout.pp, count, layout.virtual), costs)


def calibrate(count: int) -> Constants:
    """From vanilla on two ranks, where one action follows the other."""
    layers, layout = [Times(*[SECONDS / 2] * 3)] * 4, Layout(pp=2, schedule="vanilla")
    with Gang(2, partial(_make, layers=layers, layout=layout, count=count)) as gang:
        seconds = statistics.median(seconds for seconds, _ in summed(gang.ask("tables", 4))[1:])
        latency = statistics.median(gap for _ in range(3) for gap in gaps(*gang.ask("spans")))
        oversleep = statistics.median(gang.ask("oversleep", SECONDS / 2))
    plain = predict(layers, layout, count, Constants(0.0, latency, oversleep)).seconds
    actions = 2 * 2 * count
    return Constants((seconds - plain) / actions, latency, oversleep)


def gaps(first: list[tuple[str, int, int, int]], second: list[tuple[str, int, int, int]]) -> list[float]:
    """Seconds between the end of an action on one rank and the beginning of what waited for it on the other."""
    begins, ends = (
        {(rank, *span[:2]): span[at] for rank, spans in enumerate((first, second)) for span in spans} for at in (2, 3)
    )
    found = []
    for rank, phase, micro_batch in begins:
        if (rank, phase) == (0, "forward"):
            found.append(begins[1, "data", micro_batch] - ends[0, "forward", micro_batch])
        if (rank, phase) == (0, "backward"):
            found.append(begins[0, "backward", micro_batch] - ends[1, "backward", micro_batch])
    return [gap / 1e9 for gap in found]


def compare_with_vanilla(rows: list[dict[str, Any]]) -> None:
    vanilla = {_case(row): row["measured"] for row in rows if row["schedule"] == "vanilla"}
    for row in rows:
        row["over_vanilla"] = vanilla[_case(row)] / row["measured"]


def errors(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the predictions; and what it costs to take the schedule that is predicted to be the quickest."""
    sizes = [abs(row["error"]) for row in rows]
    by_schedule = {
        name: statistics.mean(abs(row["error"]) for row in rows if row["schedule"] == name) for name in SCHEDULES
    }
    regrets = []
    for case in {_case(row) for row in rows}:
        some = [row for row in rows if _case(row) == case]
        chosen = min(some, key=lambda row: row["predicted"])
        regrets.append(chosen["measured"] / min(row["measured"] for row in some) - 1)
    return {
        "mean_error": statistics.mean(sizes),
        "worst_error": max(sizes),
        "mean_error_by_schedule": by_schedule,
        "worst_regret": max(regrets),
        "targets_met": statistics.mean(sizes) <= MEAN_TARGET and max(sizes) <= WORST_TARGET,
    }


def show(rows: list[dict[str, Any]], figures: dict[str, Any]) -> None:
    columns = ["p, m, stages", "", "predicted", "measured", "error", "bubble", "theory", "/ vanilla"]
    printed = []
    for row in rows:
        theory = f"{row['bubble_theory']:.3f}" if row["skew"] == "even" and row["bubble_theory"] is not None else ""
        printed.append(
            [
                f"{row['ranks']}, {row['micro_batches']}, {row['skew']}",
                row["schedule"],
                f"{row['predicted'] * 1e3:.0f} ms",
                f"{row['measured'] * 1e3:.0f} ms",
                f"{row['error']:+.1%}",
                f"{row['bubble']:.3f}",
                theory,
                f"{row['over_vanilla']:.2f}",
            ]
        )
    table("Predicted and measured, layers that sleep", columns, printed)
    console.print(f"mean error {figures['mean_error']:.1%}, worst {figures['worst_error']:.1%}")
    console.print(", ".join(f"{name} {error:.1%}" for name, error in figures["mean_error_by_schedule"].items()))


def _case(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["ranks"], row["micro_batches"], row["skew"]


def _make(rank: int, sockets: Sockets, layers: list[Times], layout: Layout, count: int) -> Ours:
    each = len(layers) // layout.stages
    return Ours(rank, sockets, lambda: sleeping.job(layers, count), layout, range(0, len(layers), each))
