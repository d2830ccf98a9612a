"""What a step of a layout takes, from what one worker's run shows: time, idle shares, bytes, calls, memory.

Problem: which layout suits a model is decided by things that are known before it runs: what each layer costs, what
crosses a cut, what replicas exchange, and what has to be kept meanwhile.
Idea: every replica's pipeline is simulated with the costs of its stages (pipeline/simulate.py); then replicas add up
their gradients, all ranks agree, and each updates what it holds. Where ranks are more than cores, whoever computes
is slowed down by as much as is asked of the cores more than they have.
Cost: gradients of M bytes in n replicas take a + 2 (n - 1) / n * M / b and send 2 (n - 1) / n * M per rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from manyhands.collective import assign_blocks
from manyhands.compare.share import Share, actions, share_of
from manyhands.pipeline import Costs, Simulation, Table, Transfer, UnitCost, high_water, make_table, simulate
from manyhands.plan import Layout
from manyhands.plan.layout import ZERO_BUBBLE
from manyhands.report.comparison import Figures, idle_shares, work
from manyhands.timeline import Event

RANDOM_STATE = 5056
"""Bytes of torch's Mersenne twister, which travels forward with every micro-batch."""
_SUMS_PER_BLOCK = 2
"""Tensor parallelism adds up a block's attention and its MLP, in forward and again in backward."""
_BLOCK = 4
"""Parameters from which on a unit counts as such a block."""


@dataclass(frozen=True, kw_only=True)
class Links:
    """How fast the ranks of a gang reach each other. A sum of M bytes over n ranks takes
    `sum_latency + 2 (n - 1) / n * M / sum_bandwidth`."""

    latency: float
    bandwidth: float
    sum_latency: float
    sum_bandwidth: float

    def sum_seconds(self, ranks: int, size: float) -> float:
        return self.sum_latency + 2 * (ranks - 1) / ranks * size / self.sum_bandwidth

    def gather_seconds(self, ranks: int, size: float) -> float:
        """Half of a sum: gathering `size` bytes of which each rank has a share, or adding up and sharing out."""
        return self.sum_latency + (ranks - 1) / ranks * size / self.sum_bandwidth


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One worker's run. Seconds are those of a micro-batch, or where it says so of a step."""

    micro_batches: int
    data: float
    forward: float
    backward: float
    exchange: float
    """Seconds of a step for putting the sum together."""
    optimizer: float
    """Seconds of a step for the optimizer."""
    units: tuple[UnitCost, ...]
    """What the model can be cut into; a model that cannot be cut is one unit."""
    forward_operators: tuple[float, ...]
    """Operators of each unit in the forward pass of a micro-batch."""
    backward_operators: float
    data_operators: float
    step_operators: float
    """Operators of a step that belong to no micro-batch."""
    parameters_by_unit: tuple[int, ...]
    optimizer_bytes: int
    peak_bytes: int
    cores: int | None
    """Cores that the workers share; None: every rank has a device of its own."""
    busy_cores: float = 1.0
    """Cores that a computing worker keeps busy."""

    @cached_property
    def scaled(self) -> tuple[UnitCost, ...]:
        """The units, such that together they take what the whole model took."""
        forward = self.forward / max(1e-12, sum(unit.forward for unit in self.units))
        backward = self.backward / max(1e-12, sum(unit.input + unit.weight for unit in self.units))
        return tuple(
            replace(u, forward=u.forward * forward, input=u.input * backward, weight=u.weight * backward)
            for u in self.units
        )

    @property
    def parameter_bytes(self) -> int:
        return sum(unit.parameter_bytes for unit in self.units)

    @cached_property
    def other_bytes(self) -> int:
        """What a worker's process has besides: the difference between its peak and what can be told."""
        table = make_table("vanilla", 1, self.micro_batches)
        share = share_of(Layout(), 0, table, (0,), self.units)
        return max(0, self.peak_bytes - _memory(Layout(), share, table, self))


def predict(layout: Layout, cuts: Sequence[int], profile: Profile, links: Links) -> Figures:
    """One step of a layout.

    Args:
        cuts: the first unit of every stage; (0,) where the model is not cut.
    """
    first = _step(layout, cuts, profile, links, 1.0)
    slower = 1.0
    if profile.cores is not None:
        asked = sum(event.end - event.start for event in work(first.events)) / 1e9 * profile.busy_cores
        slower = max(1.0, asked / (first.seconds * profile.cores))
    return first if slower == 1.0 else _step(layout, cuts, profile, links, slower)


def _step(layout: Layout, cuts: Sequence[int], profile: Profile, links: Links, slower: float) -> Figures:
    tables = [_table(layout, block.size) for block in assign_blocks(profile.micro_batches, layout.dp)]
    shares = [share_of(layout, rank, tables[0], cuts, profile.units) for rank in range(layout.workers)]
    costs = _costs(layout, cuts, profile, links, slower)
    runs = {table.micro_batches: simulate(table, costs) for table in tables}
    events = _pipelines(layout, profile.micro_batches, tables, runs)
    events += _after(layout, shares, profile, links, events, slower)
    mine = [tables[layout.coordinates(rank).replica] for rank in range(layout.workers)]
    return Figures(
        seconds=(max(e.end for e in events) - min(e.start for e in events)) / 1e9,
        idle=idle_shares(events, layout.workers),
        sent=tuple(
            runs[table.micro_batches].sent[share.stage_rank] + round(_exchanged(layout, share, table, profile))
            for share, table in zip(shares, mine, strict=True)
        ),
        operators=tuple(_operators(share, table, profile) for share, table in zip(shares, mine, strict=True)),
        actions=tuple(actions(table, share.stage_rank) for share, table in zip(shares, mine, strict=True)),
        memory=tuple(
            _memory(layout, share, table, profile) + profile.other_bytes
            for share, table in zip(shares, mine, strict=True)
        ),
        events=tuple(events),
    )


def _table(layout: Layout, micro_batches: int) -> Table:
    if layout.pp == 1:
        return make_table("vanilla", 1, micro_batches)
    return make_table(layout.schedule, layout.pp, micro_batches, layout.virtual)


def _costs(layout: Layout, cuts: Sequence[int], profile: Profile, links: Links, slower: float) -> Costs:
    """Costs of the stages. Every stage fetches the data; what a layer's shards exchange counts as its computation."""
    units = profile.scaled
    bounds = list(pairwise((*cuts, len(units))))
    forward, inputs, weight = (
        [slower * sum(getattr(unit, part) for unit in units[a:b]) / layout.tp for a, b in bounds]
        for part in ("forward", "input", "weight")
    )
    for stage, (a, b) in enumerate(bounds):
        held = sum(unit.parameter_bytes for unit in units[a:b]) / layout.tp
        gather = links.gather_seconds(layout.dp, held) if layout.shard >= 2 else 0.0
        sums = _SUMS_PER_BLOCK * sum(links.sum_seconds(layout.tp, size) for size in _summed(layout, profile, a, b))
        forward[stage] += slower * profile.data + sums + (gather if layout.shard == 3 else 0.0)
        weight[stage] += gather * (2 if layout.shard == 3 else 1)
        inputs[stage] += sums
    if layout.schedule in ZERO_BUBBLE:  # the first stage's inputs have no gradient: all is done with the weights
        weight[0], inputs[0] = weight[0] + inputs[0], 0.0
    sizes = [units[cut].crossing_bytes for cut in cuts[1:]]
    return Costs(
        forward=tuple(forward),
        input=tuple(inputs),
        weight=tuple(weight),
        send_forward=tuple(_transfer(links, size + RANDOM_STATE) for size in sizes),
        send_back=tuple(_transfer(links, size) for size in sizes),
    )


def _transfer(links: Links, size: int) -> Transfer:
    return Transfer(size / links.bandwidth, links.latency, size)


def _summed(layout: Layout, profile: Profile, first: int, last: int) -> list[int]:
    """Bytes of what the shards of each block among some units add up."""
    if layout.tp == 1:
        return []
    units = zip(profile.units[first:last], profile.parameters_by_unit[first:last], strict=True)
    return [unit.crossing_bytes for unit, parameters in units if parameters >= _BLOCK and unit.crossing_bytes]


def _pipelines(layout: Layout, micro_batches: int, tables: Sequence[Table], runs: dict[int, Simulation]) -> list[Event]:
    """The events of all replicas' pipelines, under the ranks and micro-batches of the gang."""
    found = []
    for replica, block in enumerate(assign_blocks(micro_batches, layout.dp)):
        for event in runs[tables[replica].micro_batches].events:
            for shard in range(layout.tp):
                rank = layout.rank_of(event.rank, replica, shard)
                found.append(event._replace(rank=rank, micro_batch=event.micro_batch + block.start))
    return found


def _after(
    layout: Layout, shares: Sequence[Share], profile: Profile, links: Links, events: Sequence[Event], slower: float
) -> list[Event]:
    """What follows the last micro-batch: replicas add up, everyone hears that all are done, each updates its part."""
    done = [max(event.end for event in events if event.rank == rank) for rank in range(layout.workers)]
    found, summed = [], []
    for rank, share in enumerate(shares):
        begin = max(done[peer] for peer in layout.peers(rank, "dp"))
        seconds = slower * profile.exchange
        if layout.dp > 1 and layout.shard < 2:
            seconds += links.sum_seconds(layout.dp, share.parameter_bytes)
        if layout.shard:
            seconds += links.gather_seconds(layout.dp, share.parameter_bytes)
        found.append(Event(rank, "compute", "exchange", begin, begin + round(1e9 * seconds)))
        summed.append(found[-1].end)
    start = max(summed) + (round(1e9 * links.sum_latency) if layout.workers > 1 else 0)
    for rank, share in enumerate(shares):
        part = share.part / (layout.dp if layout.shard else 1)
        end = start + max(1, round(1e9 * slower * profile.optimizer * part))
        found.append(Event(rank, "compute", "optimizer", start, end))
    return found


def _exchanged(layout: Layout, share: Share, table: Table, profile: Profile) -> float:
    """Bytes that a rank sends besides what its pipeline sends."""
    n, size = layout.dp, share.parameter_bytes
    once = (n - 1) / n * size
    total = 0.0
    if n > 1:
        total += once * (2 if layout.shard == 0 else 3) if layout.shard < 2 else once
        if layout.shard >= 2:
            total += once * table.micro_batches * (1 if layout.shard == 2 else 3)
    if layout.tp > 1:
        per_sum = 2 * (layout.tp - 1) / layout.tp
        crossing = sum(sum(_summed(layout, profile, *stage)) for stage in share.stages)
        total += 2 * _SUMS_PER_BLOCK * per_sum * crossing * table.micro_batches
    return total


def _operators(share: Share, table: Table, profile: Profile) -> int:
    """Operators of a rank: its units' forward and backward for each micro-batch, and its parameters' update."""
    forward = sum(sum(profile.forward_operators[slice(*stage)]) for stage in share.stages)
    whole = sum(profile.forward_operators) or 1.0
    each = len(share.stages) * profile.data_operators + forward + profile.backward_operators * forward / whole
    held = sum(sum(profile.parameters_by_unit[slice(*stage)]) for stage in share.stages)
    updates = profile.step_operators * held / (sum(profile.parameters_by_unit) or 1)
    return round(table.micro_batches * each + updates)


def _memory(layout: Layout, share: Share, table: Table, profile: Profile) -> int:
    """Bytes of a rank: weights, sums of gradients while they are folded, the optimizer's state, live activations."""
    size, replicas = share.parameter_bytes, layout.dp
    weights = size / (replicas if layout.shard == 3 else 1)
    if layout.shard in (1, 2):
        weights += size / replicas  # the whole that was gathered, and the share that is updated
    if layout.shard >= 2:
        gradients = size / replicas + size / max(1, len(profile.units))
    else:  # sums that wait for others, the newest gradient, and the sum of all replicas
        gradients = size * ((table.micro_batches - 1).bit_length() + 1 + (replicas > 1))
    state = profile.optimizer_bytes * share.part / (replicas if layout.shard else 1)
    per_stage = [0] * table.stages
    for stage, (a, b) in zip(table.stages_of(share.stage_rank), share.stages, strict=True):
        per_stage[stage] = round(sum(unit.activation_bytes for unit in profile.units[a:b]) / layout.tp)
    return round(weights + gradients + state + high_water(table, per_stage)[share.stage_rank])
