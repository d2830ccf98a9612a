"""A pipeline schedule as data: for each rank, the ordered list of what it does.

A model is cut into stages 0, 1, ... and a batch into micro-batches. Stage s sends what it made of a micro-batch to
stage s + 1 (forward), and the gradient of what it received to stage s - 1 (backward). A rank owns one stage or several.
Which schedule is run is nothing but the order of each rank's list: vanilla model parallelism, GPipe, 1F1B, interleaved
and zero-bubble schedules are functions that fill a `Table` (`schedules/`), `verify.py` proves any of them right,
`simulate.py` times it, and one interpreter runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class Kind(StrEnum):
    """What an action computes."""

    FORWARD = "F"
    BACKWARD = "B"
    """The whole backward: the gradient of the stage's inputs and that of its weights."""
    INPUT = "I"
    """The gradient of the stage's inputs alone: what the stage before waits for."""
    WEIGHT = "W"
    """The gradient of the stage's weights: nobody waits for it, so it can fill a gap later."""


class Action(NamedTuple):
    """One thing that a rank does: written `1F3` for stage 1, forward, micro-batch 3, as torch writes it."""

    kind: Kind
    stage: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro_batch}"

    @classmethod
    def parse(cls, text: str) -> Action:
        """The action that is written so.

        Raises:
            ValueError: it is not an action.
        """
        for kind in Kind:
            stage, found, micro_batch = text.partition(kind)
            if found and stage.isdecimal() and micro_batch.isdecimal():
                return cls(kind, int(stage), int(micro_batch))
        raise ValueError(f"{text!r} is not an action: stage, one of {', '.join(Kind)}, micro-batch, as in 1F3")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Who does what in which order in one step."""

    schedule: str
    """The name of the generator that filled it."""
    micro_batches: int
    placement: tuple[int, ...]
    """`placement[stage]` is the rank that owns the stage."""
    ranks: tuple[tuple[Action, ...], ...]
    """`ranks[rank]` is what that rank does, in order."""

    @property
    def stages(self) -> int:
        return len(self.placement)

    @property
    def world(self) -> int:
        return len(self.ranks)

    @property
    def splits_backward(self) -> bool:
        """Whether any backward is taken apart into input and weight gradients."""
        return any(action.kind in (Kind.INPUT, Kind.WEIGHT) for actions in self.ranks for action in actions)

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages that a rank owns, in the model's order."""
        return tuple(stage for stage, owner in enumerate(self.placement) if owner == rank)

    def as_dict(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule,
            "micro_batches": self.micro_batches,
            "placement": list(self.placement),
            "ranks": [" ".join(map(str, actions)) for actions in self.ranks],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Table:
        return cls(
            schedule=data["schedule"],
            micro_batches=data["micro_batches"],
            placement=tuple(data["placement"]),
            ranks=tuple(tuple(map(Action.parse, actions.split())) for actions in data["ranks"]),
        )
