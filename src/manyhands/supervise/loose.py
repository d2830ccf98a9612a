"""Gangs in which nobody waits for all others: who takes a lost member's place, and when a gang goes on without it.
Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from manyhands.gang import Member, Phase
from manyhands.gang.orders import Link, Role
from manyhands.supervise.actions import Connect
from manyhands.supervise.generation import Generation


def vacancy(member: Member, generation: Generation, members: Mapping[int, Member]) -> int | None:
    """The rank of a lost member that this one, just built, can take the place of; a server's first."""
    plan = generation.plan
    if member.phase is not Phase.IDLE or member.placed or member.plan != plan:
        return None
    places = plan.places
    ranks = (rank for rank in reversed(range(plan.gang)) if generation.gang[rank] not in members)
    return next((rank for rank in ranks if places[rank] == member.host), None)


def links(member: Member, others: Sequence[Member], fresh: bool) -> Iterator[Connect]:
    """How to connect a member with others: every worker with every server, all servers with each other.

    Args:
        fresh: the member takes the place of a lost one.
    """
    for other in others:
        low, high = sorted((member, other), key=lambda m: m.rank or 0)
        if (high.rank or 0) >= high.plan.workers:
            ends = _end(high, fresh and high is member, True), _end(low, fresh and low is member, False)
            yield Connect(workers=(low.worker, high.worker), orders=ends)


def _end(of: Member, fresh: bool, first: bool) -> Link:
    rank, workers = of.rank or 0, of.plan.workers
    role: Role = "worker" if rank < workers else "server"
    number = of.worker if rank < workers else rank - workers
    return Link(role=role, number=number, fresh=fresh, first=first)


def goes_on_without(member: Member, generation: Generation, members: Mapping[int, Member]) -> bool:
    """Whether the gang goes on while another takes the place of a lost member: servers that wait for nobody do without
    a worker, and without a server whose shards another has a copy of."""
    if member.kind.waits:
        return False
    rank, sync = member.rank or 0, member.plan.sync
    if rank < member.plan.workers:
        return True
    servers = [members.get(worker) for worker in generation.gang[member.plan.workers :]]
    there = [s for s in servers if s is not None and s.phase is Phase.RUNNING and s.whole]
    return sync.servers > 1 and len(there) == sync.servers - 1


def lacks_a_server(generation: Generation, members: Mapping[int, Member]) -> bool:
    """Whether a gang in which nobody waits for all has lost a server, for which those that are left would wait."""
    if generation.kind.waits:
        return False
    phases = [members[worker].phase for worker in generation.gang[generation.plan.workers :] if worker in members]
    return len(phases) < generation.plan.sync.servers and Phase.FINISHED not in phases
