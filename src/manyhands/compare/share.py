"""What part of a model a rank of a layout has, and how many things its pipeline has it do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from manyhands.pipeline import Kind, Table, UnitCost
from manyhands.plan import Layout


@dataclass(frozen=True, kw_only=True)
class Share:
    """A rank's part."""

    stage_rank: int
    stages: tuple[tuple[int, int], ...]
    """The first unit of each of its stages, and the one behind the last."""
    parameter_bytes: float
    """Bytes of the parameters of the rank's stages, or of its tensor shard of them."""
    part: float
    """The part that the rank has of all parameters' bytes."""


def share_of(layout: Layout, rank: int, table: Table, cuts: Sequence[int], units: Sequence[UnitCost]) -> Share:
    """A rank's part of the model whose stages, placed as in the table, begin at the units `cuts`."""
    place = layout.coordinates(rank).stage_rank
    bounds = list(pairwise((*cuts, len(units))))
    stages = tuple(bounds[stage] for stage in table.stages_of(place))
    held = sum(unit.parameter_bytes for a, b in stages for unit in units[a:b]) / layout.tp
    whole = sum(unit.parameter_bytes for unit in units) or 1
    return Share(stage_rank=place, stages=stages, parameter_bytes=held, part=held / whole)


def actions(table: Table, rank: int) -> int:
    """What a rank does in a step: forward and backward passes, and a send or a receive for each that needs one."""
    count = 0
    for kind, stage, _ in table.ranks[rank]:
        before = stage > 0 and table.placement[stage - 1] != rank
        after = stage + 1 < table.stages and table.placement[stage + 1] != rank
        count += 1 + (0 if kind is Kind.WEIGHT else before + after)
    return count
