"""Pipeline schedules by name: each a pure function that fills a table."""

from __future__ import annotations

import difflib

from manyhands.errors import UsageError
from manyhands.pipeline.schedules.gpipe import GPIPE
from manyhands.pipeline.schedules.interleaved import INTERLEAVED
from manyhands.pipeline.schedules.one_f_one_b import ONE_F_ONE_B
from manyhands.pipeline.schedules.schedule import Schedule
from manyhands.pipeline.schedules.vanilla import VANILLA
from manyhands.pipeline.schedules.zero_bubble_h1 import ZERO_BUBBLE_H1
from manyhands.pipeline.schedules.zero_bubble_v import ZERO_BUBBLE_V
from manyhands.pipeline.table import Table

SCHEDULES: dict[str, Schedule] = {
    schedule.name: schedule for schedule in (VANILLA, GPIPE, ONE_F_ONE_B, INTERLEAVED, ZERO_BUBBLE_H1, ZERO_BUBBLE_V)
}


def make_table(name: str, ranks: int, micro_batches: int, virtual: int | None = None) -> Table:
    """The table of a schedule.

    Args:
        virtual: stages per rank; None: the schedule's own number.

    Raises:
        UsageError: what does not go together, and the nearest thing that works.
    """
    schedule = find_schedule(name)
    if ranks < 1:
        raise UsageError(f"A pipeline needs at least one rank, not {ranks}. Use pp=1 or more.")
    if micro_batches < 1:
        raise UsageError(f"A pipeline needs at least one micro-batch, not {micro_batches}.")
    return schedule.fill(ranks, micro_batches, check_virtual(schedule, virtual))


def find_schedule(name: str) -> Schedule:
    """The schedule of that name.

    Raises:
        UsageError: there is none.
    """
    if name in SCHEDULES:
        return SCHEDULES[name]
    close = difflib.get_close_matches(name.lower().replace("_", "-"), SCHEDULES, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UsageError(f"There is no pipeline schedule {name!r}; there are {', '.join(SCHEDULES)}.{hint}")


def check_virtual(schedule: Schedule, virtual: int | None) -> int:
    """How many stages each rank has.

    Raises:
        UsageError: a number that the schedule cannot have.
    """
    if virtual is None or virtual == schedule.virtual:
        return schedule.virtual
    if virtual < 1:
        raise UsageError(f"virtual={virtual}: a rank needs at least one stage. Use virtual=1 or more.")
    if not schedule.chooses_virtual:
        stages = "one stage" if schedule.virtual == 1 else f"{schedule.virtual} stages"
        raise UsageError(
            f"virtual={virtual}: schedule {schedule.name} has {stages} on each rank. Leave virtual out, or use "
            f"schedule=interleaved,virtual={virtual}."
        )
    return virtual


def bubble_theory(name: str, ranks: int, micro_batches: int, virtual: int | None = None) -> float | None:
    """The idle share of a step with even stages, free transfers and F = I = W; None where no closed form is known.

    Raises:
        UsageError: no such schedule, or not with so many stages per rank.
    """
    schedule = find_schedule(name)
    return schedule.bubble(ranks, micro_batches, check_virtual(schedule, virtual))


__all__ = ["SCHEDULES", "Schedule", "bubble_theory", "check_virtual", "find_schedule", "make_table"]
