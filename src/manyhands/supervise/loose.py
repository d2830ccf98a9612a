"""Gangs in which nobody waits for all others: who takes a lost member's place, and when a gang goes on without it.

`gang` is, everywhere, the workers' numbers by rank, and `members` those that live, by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from manyhands.engine import Message
from manyhands.plan import Plan
from manyhands.supervise.members import Member, Phase


def vacancy(member: Member, plan: Plan, gang: Sequence[int], members: Mapping[int, Member]) -> int | None:
    """The rank of a lost member that this one, just built, can take the place of; a server's first."""
    if member.phase is not Phase.IDLE or member.placed or member.plan != plan:
        return None
    places = plan.places
    ranks = (rank for rank in reversed(range(plan.gang)) if gang[rank] not in members)
    return next((rank for rank in ranks if places[rank] == member.host), None)


def links(member: Member, others: Sequence[Member], fresh: bool) -> Iterator[tuple[list[int], list[Message]]]:
    """Whom to connect a member with, and what to tell the two: every worker with every server, all servers with each
    other. `fresh`: it takes the place of a lost one."""
    for other in others:
        low, high = sorted((member, other), key=lambda m: m.rank or 0)
        if (high.rank or 0) >= high.plan.workers:
            ends = [_end(high, fresh and high is member, True), _end(low, fresh and low is member, False)]
            yield [low.worker, high.worker], ends


def _end(of: Member, fresh: bool, first: bool) -> Message:
    rank, workers = of.rank or 0, of.plan.workers
    role, number = ("worker", of.worker) if rank < workers else ("server", rank - workers)
    return {"order": "link", "role": role, "number": number, "fresh": fresh, "first": first}


def goes_on_without(member: Member, gang: Sequence[int], members: Mapping[int, Member]) -> bool:
    """Whether the gang goes on while another takes the place of a lost member: servers that wait for nobody do without
    a worker, and without a server whose shards another has a copy of."""
    sync, rank = member.plan.sync, member.rank or 0
    if not sync.loose:
        return False
    if rank < member.plan.workers:
        return True
    servers = [members.get(worker) for worker in gang[member.plan.workers :]]
    there = [s for s in servers if s is not None and s.phase is Phase.RUNNING and s.whole]
    return sync.servers > 1 and len(there) == sync.servers - 1


def lacks_a_server(plan: Plan, gang: Sequence[int], members: Mapping[int, Member]) -> bool:
    """Whether such a gang has lost a server, for which those that are left would wait."""
    if not plan.sync.loose:
        return False
    phases = [members[worker].phase for worker in gang[plan.workers :] if worker in members]
    return len(phases) < plan.sync.servers and Phase.FINISHED not in phases
