"""What a schedule is, apart from its name: a function that fills a table, and what is known about it beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from manyhands.pipeline.table import Action, Kind, Table

Fill = Callable[[int, int, int], Table]
"""(ranks, micro-batches, stages per rank) -> table"""
Bubble = Callable[[int, int, int], float | None]
"""(ranks, micro-batches, stages per rank) -> idle share of a step, or None where there is no closed form"""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A way to fill a table."""

    name: str
    summary: str
    """What the schedule does, in a sentence."""
    fill: Fill
    bubble: Bubble
    """Gives the idle share, with even stages, free transfers, and F, I and W that take equally long."""
    virtual: int = 1
    """Stages that the schedule gives a rank, unless the user says otherwise."""
    chooses_virtual: bool = False
    """Whether the user may say how many stages a rank has."""
    splits_backward: bool = False
    needs: str = ""
    """What else the schedule asks for, in words."""


def forwards(stage: int, micro_batches: Iterable[int]) -> list[Action]:
    return [Action(Kind.FORWARD, stage, micro_batch) for micro_batch in micro_batches]


def backwards(stage: int, micro_batches: Iterable[int]) -> list[Action]:
    return [Action(Kind.BACKWARD, stage, micro_batch) for micro_batch in micro_batches]


def flush_bubble(ranks: int, micro_batches: int, virtual: int = 1) -> float:
    """The idle share where all ranks fill and drain once: with v stages per rank a step takes v m + p - 1 slots.

    Fewer micro-batches than ranks cannot fill the pipeline: the first passes all v p stages, then the others end.
    """
    work = virtual * micro_batches
    slots = max(work + ranks - 1, virtual * ranks + micro_batches - 1)
    return 1 - work / slots
