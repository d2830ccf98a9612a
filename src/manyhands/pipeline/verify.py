"""Proves that a table computes every gradient once, in order, without deadlock, and counts what it keeps alive.

Problem: a wrong schedule trains on wrong gradients or hangs, and how much memory it takes is not seen from its name.
Idea: each rank's list is run in order, an action as soon as what it waits for is done anywhere; sends never block.
Whatever cannot be run in this way is a deadlock in every run, since actions only ever wait for others.
Live activations: a forward adds one to its stage (what it holds for its backward), a whole backward or a weight
gradient takes it away. An input gradient frees nothing: the weight gradient still needs the stage's activations.
Cost: O(actions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from manyhands.pipeline.table import Action, Kind, Table

RELEASES = (Kind.BACKWARD, Kind.WEIGHT)
"""What ends a micro-batch on its stage: its gradient is complete and its activations are free."""
_GOES_BACK = (Kind.BACKWARD, Kind.INPUT)


class TableError(ValueError):
    """Names the rank, the position in its list, the action, and what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a table keeps alive, in stage-activations: one is what one stage holds for one micro-batch."""

    live: tuple[tuple[int, ...], ...]
    """`live[rank][position]`: the live activations of the rank after that action."""
    high_water: tuple[int, ...]
    """The most live activations of each rank at any moment."""
    by_stage: tuple[int, ...]
    """The most live activations of each stage at any moment."""


def verify(table: Table) -> Verified:
    """Check a table, and count its live activations.

    Raises:
        TableError: what is wrong, and where.
    """
    _check_placement(table)
    _check_once(table)
    _check_order(table)
    for _ in run_order(table):
        pass
    live = tuple(_live(actions, [1] * table.stages) for actions in table.ranks)
    by_stage = high_water_of_stages(table)
    return Verified(live=live, high_water=tuple(max(counts, default=0) for counts in live), by_stage=by_stage)


def high_water(table: Table, activation_bytes: Sequence[int]) -> tuple[int, ...]:
    """The most bytes of live activations of each rank, where a micro-batch on stage s holds `activation_bytes[s]`."""
    return tuple(max(_live(actions, activation_bytes), default=0) for actions in table.ranks)


def high_water_of_stages(table: Table) -> tuple[int, ...]:
    """The most micro-batches that each stage holds at any moment."""
    now, most = [0] * table.stages, [0] * table.stages
    for actions in table.ranks:
        for action in actions:
            now[action.stage] += _change(action)
            most[action.stage] = max(most[action.stage], now[action.stage])
    return tuple(most)


def run_order(table: Table) -> Iterator[tuple[int, int, Action]]:
    """Every action as (rank, position, action), after all that it waits for; each rank's in its own order.

    Raises:
        TableError: no rank can go on.
    """
    done: set[Action] = set()
    waiting: dict[Action, list[int]] = {}
    positions = [0] * table.world
    ready = list(range(table.world))
    while ready:
        rank = ready.pop()
        actions = table.ranks[rank]
        while positions[rank] < len(actions):
            action = actions[positions[rank]]
            missing = next((need for need in needs(table, action) if need not in done), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(rank)
                break
            yield rank, positions[rank], action
            positions[rank] += 1
            done.add(key := completes(action))
            ready += waiting.pop(key, ())
    _check_finished(table, positions, waiting)


def needs(table: Table, action: Action) -> tuple[Action, ...]:
    """What an action waits for. The input gradient stands for the whole backward too, which contains it."""
    kind, stage, micro_batch = action
    if kind is Kind.FORWARD:
        return (Action(kind, stage - 1, micro_batch),) if stage else ()
    if kind is Kind.WEIGHT:
        return (Action(Kind.INPUT, stage, micro_batch),)
    own = Action(Kind.FORWARD, stage, micro_batch)
    return (own, Action(Kind.INPUT, stage + 1, micro_batch)) if stage + 1 < table.stages else (own,)


def completes(action: Action) -> Action:
    """What is done with an action, as `needs` names it."""
    return action._replace(kind=Kind.INPUT) if action.kind is Kind.BACKWARD else action


def _check_placement(table: Table) -> None:
    if table.micro_batches < 1 or not table.placement:
        raise TableError(f"{table.schedule}: a table has at least one stage and one micro-batch")
    for stage, rank in enumerate(table.placement):
        if not 0 <= rank < table.world:
            raise TableError(f"{table.schedule}: stage {stage} is placed on rank {rank}; there are {table.world} ranks")


def _check_once(table: Table) -> None:
    """Every stage, on its own rank, takes every micro-batch forward once and backward once."""
    seen: dict[Action, str] = {}
    for rank, position, action, where in _walk(table):
        if not (0 <= action.stage < table.stages and 0 <= action.micro_batch < table.micro_batches):
            raise TableError(
                f"{where}: there are {table.stages} stages and {table.micro_batches} micro-batches, counted from 0"
            )
        if table.placement[action.stage] != rank:
            raise TableError(f"{where}: stage {action.stage} is on rank {table.placement[action.stage]}")
        clash = _clash(action, seen)
        if clash is not None:
            raise TableError(f"{where}: {clash} was done already, by {seen[clash]}")
        seen[action] = f"rank {rank}, position {position}"
    for stage, rank in enumerate(table.placement):
        for micro_batch in range(table.micro_batches):
            whole = Action(Kind.BACKWARD, stage, micro_batch) in seen
            for kind in (Kind.FORWARD,) if whole else (Kind.FORWARD, Kind.INPUT, Kind.WEIGHT):
                if (action := Action(kind, stage, micro_batch)) not in seen:
                    raise TableError(f"{table.schedule}: rank {rank} never does {action}")


def _clash(action: Action, seen: dict[Action, str]) -> Action | None:
    """What was done already and is part of the action, or contains it."""
    parts = {Kind.BACKWARD: (Kind.BACKWARD, Kind.INPUT, Kind.WEIGHT), Kind.FORWARD: (Kind.FORWARD,)}
    kinds = parts.get(action.kind, (action.kind, Kind.BACKWARD))
    return next((other for kind in kinds if (other := action._replace(kind=kind)) in seen), None)


def _check_order(table: Table) -> None:
    """Forwards, input gradients and complete gradients of a stage each go through the micro-batches in order.

    Gradients are added in this order, and what a stage sends to another arrives in it.
    """
    forwards, backwards, gradients = ([0] * table.stages for _ in range(3))
    for _, _, action, where in _walk(table):
        counters = [forwards] if action.kind is Kind.FORWARD else []
        counters += [backwards] if action.kind in _GOES_BACK else []
        counters += [gradients] if action.kind in RELEASES else []
        for counter in counters:
            if action.micro_batch != counter[action.stage]:
                raise TableError(
                    f"{where}: it is micro-batch {counter[action.stage]}'s turn; a stage takes micro-batches in order"
                )
            counter[action.stage] += 1


def _check_finished(table: Table, positions: Sequence[int], waiting: Mapping[Action, Sequence[int]]) -> None:
    lines = [
        f"rank {rank}, position {positions[rank]}, {table.ranks[rank][positions[rank]]} waits for "
        f"{_as_written(table, missing)} of rank {table.placement[missing.stage]}"
        for missing, ranks in waiting.items()
        for rank in ranks
    ]
    if lines:
        raise TableError(f"{table.schedule}: deadlock: {'; '.join(sorted(lines))}")


def _as_written(table: Table, action: Action) -> Action:
    """The action of the table that completes what is named."""
    actions = table.ranks[table.placement[action.stage]]
    return next((other for other in actions if completes(other) == action), action)


def _walk(table: Table) -> Iterator[tuple[int, int, Action, str]]:
    for rank, actions in enumerate(table.ranks):
        for position, action in enumerate(actions):
            yield rank, position, action, f"{table.schedule}: rank {rank}, position {position}, {action}"


def _live(actions: Sequence[Action], weights: Sequence[int]) -> tuple[int, ...]:
    """What is live after each action, where a micro-batch counts `weights[stage]`."""
    now, live = 0, []
    for action in actions:
        now += _change(action) * weights[action.stage]
        live.append(now)
    return tuple(live)


def _change(action: Action) -> int:
    return 1 if action.kind is Kind.FORWARD else -1 if action.kind in RELEASES else 0
