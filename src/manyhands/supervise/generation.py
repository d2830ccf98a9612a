"""A generation: one gang between two changes of its membership."""

from __future__ import annotations

from dataclasses import dataclass

from manyhands.gang import Kind
from manyhands.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was begun, and what has been ordered of it."""

    number: int
    """The generation's number, counted from 1."""
    plan: Plan
    gang: tuple[int, ...]
    """The workers' numbers, by rank; servers come last."""
    pausing: bool = False
    """Whether the generation was told to pause, for a resize."""
    saving: bool = False
    """Whether the generation's keeper was told to leave its state for a checkpoint, which is not written yet."""

    @property
    def kind(self) -> Kind:
        return Kind.of(self.plan)

    @property
    def workers(self) -> int:
        """How many workers the generation has, servers not counted."""
        return self.plan.workers

    @property
    def keeper(self) -> int:
        """The number of the worker that leaves the state for others."""
        return self.gang[self.kind.keeper(self.plan)]
