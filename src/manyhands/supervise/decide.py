"""What a situation asks for. Pure: from how a run stands to what is to be done now.

    too few members            -> start some (a fork of the template, so milliseconds)
    gang of the wrong size     -> once the newcomers are built, ask for a pause at the next step boundary
    all members idle           -> find the newest state, form the next generation
    all members finished       -> last checkpoint, result, report
    asked to stop, or failed   -> pause, checkpoint, end

Nothing is ever repaired in place: a generation that lost a worker ends, its survivors keep their state at the last step
boundary, and the next generation starts from the newest of them. Where nobody waits for all others (`Kind.LOOSE`), the
generation goes on, and a newcomer takes the place of the one that was lost.

Asked again after every event, `decide` orders nothing twice: what it has ordered is in the standing that it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from manyhands.gang import Kept, Kind, Member, Phase
from manyhands.gang.orders import Build, Check, Checkpoint, HandOver, Join, Pause, Save
from manyhands.supervise.actions import Connect, ForgetPace, Membership, Start
from manyhands.supervise.draft import Draft, Outcome
from manyhands.supervise.generation import Generation
from manyhands.supervise.loose import lacks_a_server, links, vacancy
from manyhands.supervise.members import choose_source, handover, seat, to_start
from manyhands.supervise.standing import Ending, Standing


def decide(standing: Standing) -> Outcome:
    """What is to be done now, and how the run stands when it is."""
    draft = Draft(standing)
    draft.set(casualties=standing.casualties.decided())
    applied = _has_applied_all(standing)
    if applied:
        _let_go(draft)
    # Without a digest those who finished held parts, and who put them together is lost: others load the last state.
    if standing.ending is None and draft.at.phases == {Phase.FINISHED} and (applied or standing.sha256):
        draft.set(ending=Ending(status="finished"))
    if draft.at.ending is not None:
        _wind_down(draft, draft.at.ending)
    if draft.at.ending is not None or applied:
        return draft.outcome()
    if not standing.phases & {Phase.RUNNING, Phase.SAVING, Phase.CHECKING}:
        if _keep_what_goes(draft):
            return draft.outcome()
        _dismiss_unfit(draft)
    for host in to_start(draft.at.members.values(), draft.at.wanted):
        _start(draft, host)
    if draft.at.phases <= {Phase.IDLE, Phase.FINISHED} and not draft.at.unheard:
        _form(draft)
    if Phase.RUNNING in draft.at.phases:
        _admit(draft)
        _keep_running(draft)  # what it begins from may be due for a checkpoint
    return draft.outcome()


def done(standing: Standing) -> bool:
    """Whether there is nothing left to decide: the run is over."""
    if standing.interrupts > 1:
        return True
    busy = standing.phases & {Phase.RUNNING, Phase.SAVING, Phase.STARTING, Phase.CHECKING} or standing.unheard
    return bool(standing.ending and standing.ending.saved and not busy and not standing.durable.writing)


def _has_applied_all(standing: Standing) -> bool:
    """Whether servers that wait for nobody have applied all there is: whoever of their gang is lost now is not
    missed."""
    generation = standing.generation
    if generation is None or generation.kind.waits:
        return False
    chief = standing.members.get(generation.keeper)
    return chief is not None and chief.phase is Phase.FINISHED


def _let_go(draft: Draft) -> None:
    """Let newcomers go, and workers whose servers have ended. Most have heard of it; one that was too slow to ask
    before they closed would wait for others in their place. Who took a lost one's place may have come when nobody
    answered any more. Servers tell each other."""
    for member in list(draft.at.members.values()):
        if not member.placed:
            draft.dismiss(member)
        elif member.phase is Phase.RUNNING and member.late:
            draft.kill(member.worker)
        elif member.phase is Phase.RUNNING and (member.rank or 0) < member.plan.workers:
            draft.dismiss(member)


def _keep_what_goes(draft: Draft) -> bool:
    """Whether a replica has to leave its state in memory first: members of a gang that is no longer one of replicas
    are made anew, and load what is kept; so are those of a gang that has to be checked first. Parts have left theirs
    when they paused."""
    at = draft.at
    if Kind.of(at.wanted).whole and not _to_check(at):
        return False
    holders = [m for m in at.members.values() if m.phase is Phase.IDLE and m.holds_state and m.kind.whole]
    newest = max(holders, key=lambda member: member.step, default=None)
    kept = max(at.held.step if at.held else 0, at.checkpoint.step if at.checkpoint else 0)
    if newest is None or newest.step <= kept:
        return False
    draft.set(saving_for=at.number + 1)
    _save(draft, newest.worker)
    return True


def _dismiss_unfit(draft: Draft) -> None:
    """Let go of members that can have no place in the next generation, nor a state to give it."""
    wanted, checks = draft.at.wanted, _to_check(draft.at)
    for member in list(draft.at.members.values()):
        gives = member.holds_state and member.kind.whole and Kind.of(wanted).whole and not checks
        fits = member.fits(wanted) and not (checks and member.placed)
        if member.phase is not Phase.FAILED and not fits and not gives:
            draft.dismiss(member)


def _start(draft: Draft, host: str) -> None:
    at = draft.at
    worker, there = at.next_worker, [member for member in at.members.values() if member.host == host]
    device = min(set(range(len(there) + 1)) - {member.device for member in there})
    moves = all(not member.placed for member in there) and Kind.of(at.wanted).whole
    build = Build(device=device, plan=at.wanted, expect=at.state_bytes if moves else 0)
    member = Member(worker=worker, device=device, plan=at.wanted, since=at.now, host=host)
    draft.set(next_worker=worker + 1, members={**at.members, worker: member})
    draft.do(Start(worker=worker, host=host, build=build))


def _admit(draft: Draft) -> None:
    """Let those who have been built take the places of lost members, where a gang goes on without them."""
    generation = draft.at.generation
    if generation is None or generation.kind.waits or generation.pausing:
        return
    for member in list(draft.at.members.values()):
        rank = vacancy(member, generation, draft.at.members)
        if rank is None:
            continue
        gang = list(generation.gang)
        gang[rank] = member.worker
        generation = replace(generation, gang=tuple(gang))
        whole = rank < generation.plan.workers  # a server has to fetch its shards
        draft.enter(member.worker, Phase.RUNNING, rank=rank, placed=True, whole=whole, late=True, moved=False)
        draft.set(generation=generation)
        draft.order(member.worker, _join(draft.at, rank, None, fresh=True))
        newcomer = draft.at.members[member.worker]
        for pair in links(newcomer, [m for m in draft.at.working if m is not newcomer], fresh=True):
            draft.do(pair)
        text = f"{newcomer.who} ({newcomer.process}) takes the place of the one that was lost"
        draft.log(text)
        draft.do(Membership(change="began", workers=generation.workers, event=text))


def _keep_running(draft: Draft) -> None:
    """A generation is at work: pause it for a resize, or have its keeper save a checkpoint."""
    at, generation = draft.at, draft.at.generation
    assert generation is not None
    if generation.plan != at.wanted and Phase.STARTING not in at.phases and not generation.pausing:
        draft.set_generation(pausing=True)
        draft.order_all(Phase.RUNNING, Pause())
        generation = replace(generation, pausing=True)
    if generation.pausing and lacks_a_server(generation, at.members):
        draft.end_generation()  # nobody takes its place any more, and those that are left would wait for it
        return
    keeper = at.members.get(generation.keeper)
    if keeper is None or keeper.phase is not Phase.RUNNING or generation.saving:
        return
    if at.durable.due(keeper.step, at.now):
        draft.set_generation(saving=True)
        # Obeyed within a step only: a keeper that has become idle meanwhile must not write to a buffer.
        # One that goes by time waits until the budget for snapshots covers it; one that goes by steps does not.
        draft.order(keeper.worker, Checkpoint(at_once=at.durable.every is not None))


def _form(draft: Draft) -> None:
    """Make a generation of the idle members and start it from the newest state."""
    at = draft.at
    number = at.number + 1
    chosen = seat(list(at.members.values()), at.wanted)
    if _to_check(at):
        _check(draft, chosen)
        return
    if at.handed_for < number and _hand_over(draft, chosen, number):
        return
    for member in list(at.members.values()):
        if member not in chosen:
            draft.dismiss(member)
    source = choose_source(chosen, at.held, at.checkpoint)
    if source.save_first is not None:
        draft.set(saving_for=number)
        _save(draft, source.save_first)
        return
    if source.load and source.load.force:
        draft.note(
            "the workers built different weights from the same seed; one gives its own to all. The result depends "
            "on more than the job: draw initial weights from torch's, numpy's or random's global generators."
        )
    _begin_generation(draft, number, chosen, source.load)


def _hand_over(draft: Draft, chosen: Sequence[Member], number: int) -> bool:
    """Have the newest state go straight to those who need it, if that is the way; once for a generation."""
    parties = handover(draft.at.members.values(), chosen, draft.at.held, draft.at.checkpoint)
    if not parties:
        return False
    draft.set(handed_for=number, giver=parties[0].worker)
    for member in parties:
        draft.enter(member.worker, Phase.SAVING)
    workers = tuple(member.worker for member in parties)
    draft.do(Connect(workers=workers, orders=tuple(HandOver(rank=rank) for rank in range(len(parties)))))
    return True


def _begin_generation(draft: Draft, number: int, chosen: Sequence[Member], load: Kept | None) -> None:
    gang = tuple(member.worker for member in chosen)
    draft.set(generation=Generation(number=number, plan=draft.at.wanted, gang=gang))
    first = max([member.step for member in chosen] + ([load.step] if load else []))
    for rank, worker in enumerate(gang):
        how = {"rank": rank, "placed": True, "plan": draft.at.wanted, "first": first, "moved": False}
        draft.enter(worker, Phase.RUNNING, **how)
    members = [draft.at.members[worker] for worker in gang]
    if draft.at.compiles and any(member.step == 0 for member in members):
        draft.do(ForgetPace())  # a new worker compiles first
    joins = tuple(_join(draft.at, rank, load) for rank in range(len(gang)))
    if Kind.of(draft.at.wanted).waits:
        draft.do(Connect(workers=gang, orders=joins))
    else:
        for worker, join in zip(gang, joins, strict=True):
            draft.order(worker, join)
        for rank, member in enumerate(members):
            for pair in links(member, members[:rank], fresh=False):
                draft.do(pair)
    plan = draft.at.wanted
    servers = f" and {plan.sync.helpers} server(s)" if plan.sync.helpers else ""
    text = f"{plan.workers} worker(s){servers} from step {first}"
    processes = ", ".join(member.process.removeprefix("process ") for member in members)
    draft.log(f"generation {number}: {text}, processes {processes}")
    draft.do(Membership(change="began", workers=plan.workers, event=text))


def _join(at: Standing, rank: int, load: Kept | None, fresh: bool = False) -> Join:
    assert at.generation is not None
    return Join(
        rank=rank,
        plan=at.generation.plan,
        load=load,
        evaluated=at.evaluated,
        pinned=at.durable.buffer,
        cuts=at.cuts.get(str(at.generation.plan.layout)),
        turn=at.turn_of(rank),
        fresh=fresh,
    )


def _to_check(at: Standing) -> bool:
    """Whether the gang that is wanted has to show first that it trains what one worker would: not if it is one, and not
    where workers wait for nobody, since what they train depends on who is faster."""
    plan = at.wanted
    return at.checks and plan.gang > 1 and Kind.of(plan).waits and plan.manner not in at.checked


def _check(draft: Draft, chosen: Sequence[Member]) -> None:
    """Have members that have not trained anything check how they would train together."""
    for rank, member in enumerate(chosen):
        draft.enter(member.worker, Phase.CHECKING, rank=rank, plan=draft.at.wanted)
    orders = tuple(Check(rank=rank, plan=draft.at.wanted) for rank in range(len(chosen)))
    draft.do(Connect(workers=tuple(member.worker for member in chosen), orders=orders))


def _save(draft: Draft, worker: int) -> None:
    """Have an idle member leave its state in memory."""
    draft.enter(worker, Phase.SAVING)
    draft.order(worker, Save(pinned=draft.at.durable.buffer))


def _wind_down(draft: Draft, ending: Ending) -> None:
    """Bring the run to its end: everyone at a boundary, the newest state on disk, then all go."""
    for member in list(draft.at.members.values()):
        if member.phase is Phase.STARTING:
            draft.dismiss(member)
        elif member.phase is Phase.CHECKING:
            draft.kill(member.worker)
    if draft.at.generation is not None and lacks_a_server(draft.at.generation, draft.at.members):
        draft.end_generation()
    if Phase.RUNNING in draft.at.phases:
        if not ending.paused:
            draft.set(ending=replace(ending, paused=True))
            draft.order_all(Phase.RUNNING, Pause())
        return
    if Phase.SAVING in draft.at.phases or draft.at.durable.writing or draft.at.unheard:
        return
    if not ending.saved:
        draft.set(ending=replace(ending, saved=True))
        _save_last(draft)


def _save_last(draft: Draft) -> None:
    """Make the newest state durable, from a member or from memory."""
    at = draft.at
    holders = [member for member in at.members.values() if member.holds_state]
    newest = max(holders, key=lambda member: member.step, default=None)
    step = max(newest.step if newest else 0, at.held.step if at.held else 0)
    if step <= at.durable.step:
        return
    if at.held and at.held.step == step:
        draft.write_checkpoint(at.held.slot, step)
    elif newest:
        draft.set(saving_for=0)
        _save(draft, newest.worker)
