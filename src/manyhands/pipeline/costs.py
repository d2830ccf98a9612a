"""What a pipeline costs: seconds of each stage's actions, and of what travels between stages.

Overhead is what every action costs besides its mathematics: starting it, receiving and sending. It occupies the rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from manyhands.pipeline.cuts import UnitCost
from manyhands.pipeline.table import Action, Kind


class Transfer(NamedTuple):
    """What one micro-batch sends over the cut between two stages, in one direction."""

    seconds: float = 0.0
    """How long the link is occupied: bytes / bandwidth."""
    latency: float = 0.0
    """Seconds from leaving the link to being there; other transfers do not wait for it."""
    bytes: int = 0


class Link(NamedTuple):
    """How fast one stage reaches its neighbour."""

    bandwidth: float
    """Bytes/s."""
    latency: float = 0.0
    """Seconds."""

    def transfer(self, size: int) -> Transfer:
        return Transfer(size / self.bandwidth, self.latency, size)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of every stage for one micro-batch. Sequences have an entry for each stage, or for each cut."""

    forward: tuple[float, ...]
    input: tuple[float, ...]
    weight: tuple[float, ...]
    backward: tuple[float, ...] | None = None
    """Seconds of a whole backward, where it is not the sum of its two parts."""
    send_forward: tuple[Transfer, ...] | None = None
    """`send_forward[s]`: from stage s to stage s + 1. None: at once."""
    send_back: tuple[Transfer, ...] | None = None
    """`send_back[s]`: from stage s + 1 to stage s. None: as forward, since a gradient has its value's shape."""
    overhead: float = 0.0
    """Seconds that every action takes besides."""

    def __post_init__(self) -> None:
        stages = len(self.forward)
        for name in ("input", "weight", "backward", "send_forward", "send_back"):
            value, wanted = getattr(self, name), stages - 1 if name.startswith("send") else stages
            if value is not None and len(value) != wanted:
                raise ValueError(f"costs of {stages} stages need {wanted} values of {name}, not {len(value)}")

    @property
    def stages(self) -> int:
        return len(self.forward)

    def seconds(self, action: Action) -> float:
        """How long an action occupies its rank."""
        kind, stage, _ = action
        if kind is Kind.FORWARD:
            return self.overhead + self.forward[stage]
        if kind is Kind.INPUT:
            return self.overhead + self.input[stage]
        if kind is Kind.WEIGHT:
            return self.overhead + self.weight[stage]
        whole = self.input[stage] + self.weight[stage] if self.backward is None else self.backward[stage]
        return self.overhead + whole


def even_costs(stages: int, forward: float = 1.0, input: float = 1.0, weight: float = 1.0) -> Costs:
    """Stages that all cost the same, and transfers that cost nothing: what closed formulas speak of."""
    return Costs(forward=(forward,) * stages, input=(input,) * stages, weight=(weight,) * stages)


def stage_costs(
    units: Sequence[UnitCost], cuts: Sequence[int], links: Iterable[Link] | None = None, overhead: float = 0.0
) -> Costs:
    """What the stages cost that begin at the units `cuts`.

    Args:
        links: between every two neighbouring stages, in order; None: transfers cost nothing.
    """
    bounds = list(pairwise((*cuts, len(units))))
    sizes = [units[cut].crossing_bytes for cut in cuts[1:]]
    sends = None
    if links is not None:
        sends = tuple(link.transfer(size) for link, size in zip(links, sizes, strict=True))
    return Costs(
        forward=tuple(sum(unit.forward for unit in units[a:b]) for a, b in bounds),
        input=tuple(sum(unit.input for unit in units[a:b]) for a, b in bounds),
        weight=tuple(sum(unit.weight for unit in units[a:b]) for a, b in bounds),
        send_forward=sends,
        overhead=overhead,
    )
