"""The workers of a run as the supervisor sees them, and where a new generation's state comes from."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from manyhands.engine import describe_status
from manyhands.gang import Kept, Member
from manyhands.gang.orders import InMemory, OnDisk
from manyhands.plan import Plan
from manyhands.run import Checkpoint, Process
from manyhands.shm import Held


class Source(NamedTuple):
    """Where the members of a new generation find the newest state."""

    load: Kept | None
    """Where the newest state is kept; None if every member has it."""
    save_first: int | None
    """The worker that must leave its state in memory before anyone can load it."""


def choose_source(members: Sequence[Member], slot: Held | None, checkpoint: Checkpoint | None) -> Source:
    """The newest whole state there is: a member's, a slot's in shared memory, or a checkpoint's.

    Members that start afresh hold step 0, which is the same everywhere because it follows from the seed; if their
    checksums say that it is not, one member's weights are given to all.
    """
    newest = max(member.step for member in members)
    in_slot = slot.step if slot else -1
    on_disk = checkpoint.step if checkpoint else -1
    if checkpoint and on_disk > max(newest, in_slot):
        return Source(OnDisk(path=str(checkpoint.state), step=on_disk), None)
    unequal = newest == 0 and in_slot <= 0 and len({member.bits for member in members}) > 1
    behind = unequal or any(member.step < newest for member in members)
    if slot and (in_slot > newest or (in_slot == newest and behind)):
        return Source(InMemory(buffer=slot.slot, step=in_slot, force=unequal), None)
    if not behind:
        return Source(None, None)
    holder = min((m for m in members if m.step == newest), key=lambda m: m.worker)
    return Source(None, holder.worker)


def handover(
    members: Iterable[Member], chosen: Sequence[Member], slot: Held | None, checkpoint: Checkpoint | None
) -> list[Member]:
    """The members that give (the first) and take state before a generation of `chosen`; empty if nobody has to.

    On one machine state goes through a slot. To other hosts, and from one who leaves, it goes straight. It has to be
    newer than what is kept, and the members whole replicas.
    """
    kept = max(slot.step if slot else 0, checkpoint.step if checkpoint else 0)
    holders = [member for member in members if member.holds_state and member.kind.whole]
    if not holders or not all(member.kind.whole for member in chosen):
        return []
    step = max(member.step for member in holders)
    behind = [member for member in chosen if member.step < step]
    newest = [member for member in holders if member.step == step]
    giver = min(newest, key=lambda member: (member not in chosen, member.worker))
    straight = giver not in chosen or any(member.host != giver.host for member in behind)
    return [giver, *behind] if behind and straight and step >= kept else []


def to_start(members: Iterable[Member], plan: Plan) -> list[str]:
    """The hosts that lack members, one entry for each that is missing."""
    wanted = Counter(plan.places)
    wanted.subtract(member.host for member in members)
    return list(wanted.elements())


def processes(gang: Iterable[Member], first: int, past: int) -> tuple[Process, ...]:
    """The processes of a gang's members with these ranks; counted from the first."""
    ranked = {member.rank: member for member in gang}
    there = [rank for rank in range(first, past) if rank in ranked]
    return tuple(Process(rank=rank - first, pid=ranked[rank].pid, host=ranked[rank].host) for rank in there)


def seat(members: Sequence[Member], plan: Plan) -> list[Member]:
    """A member for every rank, from its host: those that had a rank keep their order. There have to be enough."""
    by_host: dict[str, deque[Member]] = defaultdict(deque)
    for member in sorted(members, key=lambda m: (m.rank is None, m.rank or 0, m.worker)):
        by_host[member.host].append(member)
    return [by_host[host].popleft() for host in plan.places]


def describe_loss(member: Member, status: int | None, out_of_memory: bool) -> str:
    """Which worker was lost and how, in words."""
    reason = " for want of memory" if out_of_memory else ""
    return f"{member.who} ({member.process}) {describe_status(status)}{reason}"
