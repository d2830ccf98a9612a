"""How much of the data each root should add up.

Problem: with several roots, a node's traffic is `fixed + slope * w` times the data, w its share. Shares should make the
time of the busiest node, traffic / bandwidth, as short as possible.
Idea: every node can be filled up to the time t, so it takes w <= (t b - fixed) / slope; the least t for which these sum
to 1 is a quotient of two sums (water-filling), and no less than fixed / b for anybody.
Cost: exact, O(nodes). Source: the linear programme of hivemind's averager and BytePS's split are both cases of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


class Load(NamedTuple):
    """What a node carries, as multiples of the data, when its share as a root is w: `fixed + slope * w`."""

    fixed: int
    slope: int
    bandwidth: int
    """Bytes/s."""


def shares(loads: Sequence[Load]) -> list[Fraction]:
    """The shares, not negative and 1 in sum, that minimise the greatest load / bandwidth."""
    time = max(Fraction(load.fixed, load.bandwidth) for load in loads)
    sloped = [load for load in loads if load.slope]
    if len(sloped) == len(loads):
        filled = sum(Fraction(load.fixed, load.slope) for load in sloped)
        time = max(time, (1 + filled) / sum(Fraction(load.bandwidth, load.slope) for load in sloped))
    room = [Fraction(time * load.bandwidth - load.fixed) / max(1, load.slope) * bool(load.slope) for load in loads]
    total = sum(room, Fraction(0))
    if total >= 1:
        return [part / total for part in room]
    # Only nodes whose traffic does not depend on their share are left to take the rest.
    rest = (1 - total) / (len(loads) - len(sloped))
    return [part if load.slope else rest for part, load in zip(room, loads, strict=True)]
