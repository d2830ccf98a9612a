"""How long a table takes, and who waits: an event simulation on the timeline that running workers write too.

Problem: closed formulas know only even stages and free transfers; the embedding, the head and slow links decide
otherwise.
Idea: an action begins when its rank has done the one before and its input is there. A result leaves at once and
occupies its link, one for each direction between two ranks, for bytes / bandwidth after what was sent before it; it is
there a latency later. A rank sends in the order in which it computes, so one pass in an order of dependencies is
exact.
Cost: O(actions).
"""

from __future__ import annotations

from dataclasses import dataclass

from manyhands.pipeline.costs import Costs, Transfer
from manyhands.pipeline.table import Action, Kind, Table
from manyhands.pipeline.verify import completes, needs, run_order
from manyhands.timeline import Event

COMPUTE, SEND = "compute", "send"
"""The lanes of a rank. What is sent is `forward` (values) or `backward` (their gradients)."""
PHASE = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.INPUT: "input_gradient",
    Kind.WEIGHT: "weight_gradient",
}
"""The phase of the timeline that an action is."""
_FREE = Transfer()


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What a step would look like."""

    events: tuple[Event, ...]
    """What the ranks do, sorted by start; times in ns."""
    seconds: float
    """Seconds from the start of the first action to the end of the last."""
    busy: tuple[float, ...]
    """Seconds that each rank computes."""
    idle: tuple[float, ...]
    """The share of the time in which each rank waits."""
    sent: tuple[int, ...]
    """Bytes that each rank sends."""

    @property
    def bubble(self) -> float:
        """The share of all ranks' time that is spent waiting."""
        return sum(self.idle) / len(self.idle)


def simulate(table: Table, costs: Costs, start: int = 0, step: int = -1) -> Simulation:
    """Run a table on paper.

    Args:
        start: when it begins, in ns.
        step: what the events are marked with.

    Raises:
        TableError: the table deadlocks.
        ValueError: costs of another number of stages.
    """
    if costs.stages != table.stages:
        raise ValueError(f"{table.schedule} has {table.stages} stages, the costs are those of {costs.stages}")
    clock = _Clock(table, costs, start, step)
    for rank, _, action in run_order(table):
        clock.run(rank, action)
    return clock.result()


class _Clock:
    """When everyone is free again and what has arrived, in ns."""

    def __init__(self, table: Table, costs: Costs, start: int, step: int) -> None:
        self.table, self.start, self.step = table, start, step
        self.durations = {kind: _durations(table, costs, kind) for kind in Kind}
        self.forward = costs.send_forward or (_FREE,) * (table.stages - 1)
        self.back = costs.send_back or self.forward
        self.free = [start] * table.world
        self.busy = [0] * table.world
        self.sent = [0] * table.world
        self.links: dict[tuple[int, int], int] = {}
        self.there: dict[Action, int] = {}
        """When what an action waits for is done and, from another rank, has arrived."""
        self.events: list[Event] = []

    def run(self, rank: int, action: Action) -> None:
        begin = self.free[rank]
        for need in needs(self.table, action):
            if need.stage != action.stage:  # what is on the same stage is done: it came before, on the same rank
                begin = max(begin, self.there[need])
        end = begin + self.durations[action.kind][action.stage]
        self.free[rank] = end
        self.busy[rank] += end - begin
        self.events.append(Event(rank, COMPUTE, PHASE[action.kind], begin, end, 0, self.step, action.micro_batch))
        if action.kind is Kind.FORWARD:
            self._send(rank, action, action.stage + 1, end)
        elif action.kind is not Kind.WEIGHT:
            self._send(rank, action, action.stage - 1, end)

    def _send(self, rank: int, action: Action, target: int, now: int) -> None:
        """Hand on a result to the stage `target`, if there is one."""
        if not 0 <= target < self.table.stages:
            return
        other = self.table.placement[target]
        if other == rank:
            self.there[completes(action)] = now
            return
        transfer = self.forward[action.stage] if target > action.stage else self.back[target]
        begin = max(now, self.links.get((rank, other), now))
        end = begin + _nanoseconds(transfer.seconds)
        self.links[rank, other] = end
        self.there[completes(action)] = end + _nanoseconds(transfer.latency)
        self.sent[rank] += transfer.bytes
        if end > begin or transfer.bytes:
            phase = PHASE[Kind.FORWARD if target > action.stage else Kind.BACKWARD]
            self.events.append(Event(rank, SEND, phase, begin, end, transfer.bytes, self.step, action.micro_batch))

    def result(self) -> Simulation:
        span = max(self.free) - self.start
        return Simulation(
            events=tuple(sorted(self.events, key=lambda event: (event.start, event.rank))),
            seconds=span / 1e9,
            busy=tuple(busy / 1e9 for busy in self.busy),
            idle=tuple(1 - busy / span if span else 0.0 for busy in self.busy),
            sent=tuple(self.sent),
        )


def _durations(table: Table, costs: Costs, kind: Kind) -> tuple[int, ...]:
    return tuple(_nanoseconds(costs.seconds(Action(kind, stage, 0))) for stage in range(table.stages))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
