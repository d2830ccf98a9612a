"""Picks the schedule for a cluster, an operation and an amount of data.

Problem: the best algorithm depends on the links and on the size: trees that use every link for large data, few steps
for small.
Idea: build every candidate, predict each (`cost`), take the fastest, and say what the others would have cost.
Cost: that of the candidates; the packing dominates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from manyhands.cluster import Cluster
from manyhands.collective.algorithms import ALGORITHMS, ALIASES
from manyhands.collective.algorithms.routes import members_of
from manyhands.collective.blocks import Block
from manyhands.collective.cost import Cost, predict
from manyhands.collective.forest import Forest, Operation
from manyhands.collective.partials import one_leaf_each
from manyhands.errors import UserError

PACKED = "packed"
_UNORDERED = "packed without order"
CLOSE = 1.02
"""A prediction is no better than this factor; among candidates that close, the one with fewer trees is taken."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and why."""

    forest: Forest
    cost: Cost
    reason: str
    """Why it was chosen, in words: what it takes, what the others take, and which links those leave idle."""
    considered: dict[str, Cost]
    """What each algorithm costs, by its name, the fastest first."""


def known_algorithms() -> list[str]:
    """The names that `build` and the command line take."""
    return [*ALGORITHMS, PACKED, *ALIASES]


def build(
    name: str,
    cluster: Cluster,
    operation: Operation = "all_reduce",
    *,
    root: str | None = None,
    max_trees: int | None = None,
    canonical: bool = False,
) -> Forest:
    """The forest of an algorithm by name.

    Raises:
        UserError: no such algorithm, or it has no schedule for the operation on this cluster.
    """
    name = ALIASES.get(name, name)
    if operation in ("broadcast", "reduce"):
        root = root or members_of(cluster)[0]
    if name == PACKED:
        from manyhands.collective.packing import packed

        return packed(cluster, operation, root=root, max_trees=max_trees, canonical=canonical).forest
    if name not in ALGORITHMS:
        raise UserError(f"there is no algorithm {name}. Algorithms: {', '.join(known_algorithms())}.")
    # Helper hosts have no root to take, and say themselves what they do not serve.
    takes_root = root is not None and operation in ("broadcast", "reduce") and name != "helper_hosts"
    return ALGORITHMS[name](cluster, operation, **({"root": root} if takes_root else {}))


def choose(
    cluster: Cluster,
    size: int,
    operation: Operation = "all_reduce",
    *,
    root: str | None = None,
    canonical: bool = False,
    contributions: list[Block] | None = None,
    candidates: Iterable[str] | None = None,
) -> Choice:
    """The fastest forest for `size` bytes of data per rank.

    Args:
        root: of a broadcast or reduce. Default: the first rank.
        canonical: sums are made in the order of the aligned tree; forests that do not fit it carry partial sums.
        contributions: then, the leaves that each rank brings. Default: one each.
        candidates: names of algorithms. Default: all that have a schedule and make a difference.

    Raises:
        UserError: none has.
    """
    blocks = (contributions or one_leaf_each(len(cluster.ranks))) if canonical else None
    forests: dict[str, Forest] = {}
    costs: dict[str, Cost] = {}
    refusals: list[str] = []
    names = list(candidates or _sensible(cluster))
    if canonical and PACKED in names:  # carrying partial sums may still be faster than trees that fit the order
        names.append(_UNORDERED)
    for name in names:
        try:
            ordered = canonical and name != _UNORDERED
            forest = build(PACKED if name == _UNORDERED else name, cluster, operation, root=root, canonical=ordered)
        except UserError as error:
            refusals.append(str(error))
            continue
        forests[name], costs[name] = forest, predict(forest, cluster, size, contributions=blocks)
    if not forests:
        raise UserError("\n".join(dict.fromkeys(refusals)) or "give at least one candidate.")
    ranked = sorted(costs, key=lambda name: costs[name].seconds)
    close = [name for name in ranked if costs[name].seconds <= CLOSE * costs[ranked[0]].seconds]
    best = min(close, key=lambda name: (len(forests[name].trees), costs[name].seconds))
    considered = {name: costs[name] for name in ranked}
    return Choice(forest=forests[best], cost=costs[best], reason=_reason(best, considered, size), considered=considered)


def _sensible(cluster: Cluster) -> list[str]:
    """All algorithms but the one for helpers where there are none."""
    return [name for name in (*ALGORITHMS, PACKED) if name != "helper_hosts" or cluster.helpers]


def _reason(best: str, considered: dict[str, Cost], size: int) -> str:
    cost = considered[best]
    words = f"{best}: {_seconds(cost.seconds)} for {_bytes(size)}"
    others = [name for name in considered if name != best]
    if not others:
        return words
    other = "ring" if "ring" in others else others[0]
    words += f", against {_seconds(considered[other].seconds)} for {other}"
    if others[0] != other:
        words += f" and {_seconds(considered[others[0]].seconds)} for {others[0]}"
    if considered[other].idle > cost.idle:
        words += f"; {other} leaves {considered[other].idle} of {cost.links} links idle"
    if cost.latency_seconds > cost.bandwidth_seconds:
        words += "; at this size latency decides"
    return words


def _seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _bytes(value: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} bytes"
