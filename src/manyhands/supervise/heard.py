"""What a supervisor knows after it has heard something. Pure: from how a run stands, and news, to how it stands then.

`hear` takes what a member said; `lost`, `written`, `asked_to_stop` and the others what else can happen. What follows
from it all is `decide`'s part; here only what answers the news itself is done, such as a checkpoint that was asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from manyhands.gang import Member, Phase, Report, Turn
from manyhands.gang import reports as said
from manyhands.gang.orders import TakeTurns, Unpin
from manyhands.plan import Plan
from manyhands.supervise.actions import Membership
from manyhands.supervise.deviations import deviated
from manyhands.supervise.draft import Draft, Outcome
from manyhands.supervise.loose import goes_on_without, links
from manyhands.supervise.losses import Loss
from manyhands.supervise.members import describe_loss
from manyhands.supervise.standing import Ending, Standing


def hear(standing: Standing, worker: int, report: Report) -> Outcome:
    """A worker said something. If it is no member any more, only what it knows of committed steps matters."""
    draft = Draft(standing)
    if worker in standing.members:
        _take(draft, standing.members[worker], report)
    elif worker in standing.leaving and isinstance(report, said.Steps):
        _committed(draft, report)
    return draft.outcome()


def _take(draft: Draft, member: Member, report: Report) -> None:
    match report:
        case said.Built():
            _built(draft, member, report)
        case said.Joined():
            _joined(draft, member, report)
        case said.Checked():
            _checked(draft, member, report)
        case said.Sized(bytes=size):
            draft.set(state_bytes=size)
        case said.Steps():
            _steps(draft, member, report)
        case said.Evaluated(step=step):
            if step > draft.at.evaluated:
                draft.set(evaluated=step)
        case said.Balanced(step=step, micro_batches=counts):
            shares = "/".join(map(str, counts))
            text = f"micro-batches are shared out {shares} from step {step + 1}, as fast as each worker is"
            draft.log(text)
            draft.do(Membership(change="balanced", workers=draft.at.workers, event=text))
        case said.Saved():
            _saved(draft, member, report)
        case said.Handed():
            _handed(draft, member, report)
        case said.Unlinked():
            _unlinked(draft, member, report)
        case said.Recovered():
            draft.set_member(member.worker, whole=True)
        case said.Paused(step=step, whole=whole):
            draft.enter(member.worker, Phase.IDLE, step=step, whole=whole)
        case said.LostPeer():
            _lost_peer(draft, member, report)
        case said.Deviated():
            deviated(draft, member, report)
        case said.Finished():
            _finished(draft, member, report)
        case said.Failed():
            _failed(draft, member, report)
        case said.CutOff(error=error):
            _cut_off(draft, member, error)
        case said.Parts():
            draft.set_member(member.worker, moved=True)
        case said.Staleness() | said.Served():
            pass  # figures for the record
        case _:
            assert_never(report)


def _built(draft: Draft, member: Member, report: said.Built) -> None:
    at = draft.at
    other: tuple[str, str] | None = None
    if at.samples and report.samples != at.samples:
        other = f"{report.samples} samples", f"{at.samples}"
    elif at.data and report.data and report.data != at.data:
        other = "other samples", "some"
    if other and at.before:
        draft.fail(
            f"data() gives {other[0]} now, and gave {other[1]} when the run began: which sample was used when would no "
            "longer be what the ledger says. Bring back the data, or go on with the new one: --new-data."
        )
    elif other:
        draft.fail(
            f"data() gave {other[0]} on one worker and {other[1]} on another. It must give the same on all of them, at "
            "any time."
        )
    done = max(at.committed, at.checkpoint.step if at.checkpoint else 0)
    if report.total_steps < done:
        draft.fail(
            f"the job has {report.total_steps} steps now, and {done} are done. Give it as many or more, or train what "
            "there is no further: manyhands convert, manyhands.load."
        )
    draft.set(total_steps=report.total_steps, samples=report.samples, data=at.data or report.data)
    if member.worker in draft.at.members:
        draft.enter(member.worker, Phase.IDLE, bits=report.bits)


def _checked(draft: Draft, member: Member, report: said.Checked) -> None:
    draft.enter(member.worker, Phase.IDLE)
    if report.spent:
        draft.dismiss(draft.at.members[member.worker])
    if not report.verdict:
        return
    draft.set(checked={**draft.at.checked, member.plan.manner: report.verdict})
    if report.cuts:
        draft.set(cuts={**draft.at.cuts, str(member.plan.layout): report.cuts})
    draft.log(f"{member.plan.layout}: {report.verdict}")
    draft.do(Membership(change="checked", workers=draft.at.workers, event=report.verdict))
    if report.verdict.startswith("not checked"):
        draft.note(report.verdict)


def _joined(draft: Draft, member: Member, report: said.Joined) -> None:
    if draft.at.exchange != report.exchange:
        draft.log(f"gradients travel {report.exchange}")
    draft.set(exchange=report.exchange)
    if report.cuts:
        draft.set(cuts={**draft.at.cuts, str(member.plan.layout): report.cuts})
    for other in draft.at.working:  # steps begin now: splitting a model takes seconds, and is no measure for them
        draft.enter(other.worker, Phase.RUNNING)


def _steps(draft: Draft, member: Member, report: said.Steps) -> None:
    draft.set_member(member.worker, step=max(member.step, report.rows[-1].step), moved=True)
    _committed(draft, report)


def _committed(draft: Draft, report: said.Steps) -> None:
    newest = report.rows[-1].step
    if report.agreed > draft.at.agreed:
        draft.set(agreed=report.agreed)
    if newest > draft.at.committed:
        proven = draft.at.generation.plan if draft.at.generation else None
        draft.set(committed=newest, casualties=draft.at.casualties.progress(), proven=proven)


def _saved(draft: Draft, member: Member, report: said.Saved) -> None:
    if member.phase is Phase.SAVING:
        draft.enter(member.worker, _resting(draft), step=report.step)
        if draft.at.saving_for:
            draft.order(member.worker, Unpin())
            draft.set(saving_for=0)
            return
    if draft.at.durable.writing:
        draft.order(member.worker, Unpin())
        return
    draft.write_checkpoint(report.buffer, report.step)


def _resting(draft: Draft) -> Phase:
    """What a member is that has done what it was told between two generations, or after the last."""
    return Phase.IDLE if draft.at.ending is None else Phase.FINISHED


def _handed(draft: Draft, member: Member, report: said.Handed) -> None:
    draft.enter(member.worker, _resting(draft), step=report.step)
    proven = draft.at.proven
    moves = proven is not None and draft.at.wanted != proven
    if report.error and moves and draft.at.giver in draft.at.members and draft.at.ending is None:
        draft.set(wanted=proven)
        draft.note(f"the state could not be handed over ({report.error}): the run stays as it was.")


def _unlinked(draft: Draft, member: Member, report: said.Unlinked) -> None:
    """A member and a server on another host have missed each other: link them again, if both are still there."""
    generation = draft.at.generation
    place = member.plan.workers + report.server
    if not report.far or generation is None or place >= len(generation.gang):
        return
    other = draft.at.members.get(generation.gang[place])
    if other is not None and other.phase is member.phase is Phase.RUNNING:
        for pair in links(member, [other], fresh=False):
            draft.do(pair)


def _lost_peer(draft: Draft, member: Member, report: said.LostPeer) -> None:
    draft.enter(member.worker, Phase.IDLE, step=report.step, whole=report.whole)
    number = draft.at.number
    if report.peer is not None or draft.at.missed >= number:
        return
    draft.set(missed=number)  # they have not found each other, and nobody died: once for all of them
    draft.note(f"{member.who}: {report.error}")
    casualties, error = draft.at.casualties.unconnected(report.error)
    draft.set(casualties=casualties)
    if error is not None and draft.at.ending is None:
        draft.fail(error)


def _finished(draft: Draft, member: Member, report: said.Finished) -> None:
    if report.figures is not None and member.rank is not None:
        draft.set(figures={**draft.at.figures, member.rank: report.figures})
    draft.enter(member.worker, Phase.FINISHED, step=report.step, sha256=report.sha256, whole=report.whole)
    if not report.sha256:  # it holds a part; the one that put the parts together says what they are
        return
    if draft.at.sha256 and report.sha256 != draft.at.sha256 and draft.at.reproducible:
        draft.fail(
            f"workers ended with different weights ({draft.at.sha256[:12]} and {report.sha256[:12]}): something in "
            "the job is not deterministic. The checkpoint holds one of them."
        )
    draft.set(sha256=report.sha256)


def _failed(draft: Draft, member: Member, report: said.Failed) -> None:
    if _gives_up_growing(draft, member, report.error) or _goes_back(draft, member, report):
        return
    draft.enter(member.worker, Phase.FAILED, step=report.step, whole=report.whole)
    draft.log(report.trace)
    who = member.who if member.rank is not None else "a worker"
    place = f"{who} failed at {report.doing}: " if report.doing else ""
    draft.fail(place + report.error, report.trace)


def _cut_off(draft: Draft, member: Member, error: str) -> None:
    """A member cannot leave its state any more, nor fetch one: another takes its place, which can perhaps."""
    draft.kill(member.worker)
    if member.phase is Phase.SAVING:
        draft.set(saving_for=0)
    if draft.at.ending is not None:
        if member.phase is Phase.SAVING:
            draft.set(ending=replace(draft.at.ending, saved=False))  # another may still hold the state
        return
    at = draft.at
    casualties, failure = at.casualties.cut_off(error)
    draft.set(casualties=casualties)
    text = f"{member.who} ({member.process}) is cut off after step {at.committed}"
    draft.do(Membership(change="lost", workers=len(at.members), event=text))
    if failure is not None:
        draft.fail(failure)
        return
    draft.note(f"{text}: {error} It is replaced.")
    _end_if_parted(draft, member)


def _gives_up_growing(draft: Draft, member: Member, reason: str) -> bool:
    """Whether `member` was to join a gang that works well without it: the resize is given up then, not the run."""
    generation = draft.at.generation
    if member.phase is not Phase.STARTING or generation is None:
        return False
    gang = [draft.at.members.get(worker) for worker in generation.gang]
    if not all(other is not None and other.phase in (Phase.RUNNING, Phase.FINISHED) for other in gang):
        return False
    draft.set(wanted=generation.plan)
    workers = generation.plan.workers
    draft.note(f"a new worker failed ({reason}); the run goes on with {workers} worker(s).")
    for other in list(draft.at.members.values()):
        if other.worker not in generation.gang:
            draft.dismiss(other)
    return True


def _goes_back(draft: Draft, member: Member, report: said.Failed) -> bool:
    """Whether this was a resize to a layout that the model cannot have: the run goes on with the one before."""
    checking = member.phase is Phase.CHECKING
    before, generation = draft.at.proven, draft.at.generation
    wanted = member.plan if checking else generation.plan if generation else None
    impossible = report.splitting and (checking or member.phase is Phase.RUNNING)
    if draft.at.ending is not None or not impossible or before is None or wanted is None or before == wanted:
        return False
    draft.log(report.trace)
    draft.note(f"{report.error}\nThe run goes on as {before.layout}.")
    text = f"{wanted.layout} is impossible: back to {before.layout}"
    draft.do(Membership(change="resize", workers=draft.at.workers, event=text))
    draft.set(wanted=before)
    if checking:  # it has not trained anything
        draft.enter(member.worker, Phase.IDLE)
        draft.dismiss(draft.at.members[member.worker])
    else:
        draft.end_generation()
    return True


def lost(standing: Standing, worker: int, loss: Loss) -> Outcome:
    """A worker is gone."""
    draft = Draft(standing)
    draft.set(leaving={number: member for number, member in standing.leaving.items() if number != worker})
    member = draft.drop(worker)
    if member is None:
        return draft.outcome()
    if standing.ending is not None:
        if member.phase is Phase.SAVING:
            draft.set(ending=replace(standing.ending, saved=False))  # another may still hold the state
        return draft.outcome()
    if member.phase is Phase.SAVING:
        draft.set(saving_for=0)
    if _gives_up_growing(draft, member, describe_loss(member, loss.status, False)):
        return draft.outcome()
    casualties, text, error = standing.casualties.lost(member, loss, standing.committed)
    draft.set(casualties=casualties)
    draft.do(Membership(change="lost", workers=len(draft.at.members), event=text))
    if error is not None:
        draft.fail(error)
        return draft.outcome()
    draft.note(f"{text}; recovering.")
    _end_if_parted(draft, member)
    return draft.outcome()


def _end_if_parted(draft: Draft, lost: Member) -> None:
    """End a generation that has lost a part which it cannot do without."""
    generation = draft.at.generation
    part = lost.placed and not lost.kind.whole
    if part and generation is not None and not goes_on_without(lost, generation, draft.at.members):
        draft.end_generation()


def started(standing: Standing, worker: int, pid: int) -> Standing:
    """A worker that was to be started is there."""
    draft = Draft(standing)
    if worker in standing.members:
        draft.set_member(worker, pid=pid)
    return draft.at


def not_started(standing: Standing, worker: int, error: str) -> Outcome:
    """A worker could not be started, and no other can."""
    draft = Draft(standing)
    draft.drop(worker)
    draft.fail(error)
    return draft.outcome()


def failed(standing: Standing, error: str) -> Outcome:
    """Something that the run cannot do without has failed."""
    draft = Draft(standing)
    draft.fail(error)
    return draft.outcome()


def written(standing: Standing, step: int | None, due_at: int) -> Outcome:
    """A checkpoint was written, of this step; None: it could not be. The next is due at a time in monotonic ns."""
    draft = Draft(standing)
    durable = replace(standing.durable, buffer=None, due_at=due_at)
    wrong = step != durable.tried  # it was forgotten meanwhile
    draft.set(durable=durable if step is None or wrong else replace(durable, step=step))
    if standing.generation is not None:
        draft.set_generation(saving=False)
    for worker in standing.members:
        draft.order(worker, Unpin())
    return draft.outcome()


def asked_to_stop(standing: Standing, reason: str) -> Standing:
    """The run is to end at the next step boundary."""
    if standing.ending is not None:
        return standing
    return replace(standing, ending=Ending(status="stopped", error=reason))


def interrupted(standing: Standing, signal: str, warning: bool = False) -> Outcome:
    """A signal came that ends the run; a second one ends it at once, but for a `warning`, after which others come."""
    draft = Draft(standing)
    if not warning:
        draft.set(interrupts=standing.interrupts + 1)
    if standing.ending is None:
        again = "" if warning else "; once more ends at once"
        draft.note(f"{signal}: stopping at the next step boundary{again}.")
        draft.set(ending=asked_to_stop(draft.at, f"interrupted by {signal}").ending)
    return draft.outcome()


def resized(standing: Standing, plan: Plan) -> Outcome:
    """The gang is to be another from now on; the plan was checked."""
    draft = Draft(standing)
    before = standing.wanted
    draft.set(wanted=plan, resizes=standing.resizes + 1)
    if plan != before:
        how = f" as {plan.layout}" if plan.layout.split or before.layout.split else ""
        how += f", --sync {plan.sync}" if plan.sync != before.sync else ""
        how += f", on {', '.join(dict.fromkeys(plan.places))}" if set(plan.places) != set(before.places) else ""
        size = plan.workers
        draft.note(f"resizing from {before.workers} to {size} worker(s){how} at the next step boundary.")
        event = f"resize to {size}{how} asked for"
        draft.do(Membership(change="resize", workers=standing.workers, event=event))
    return draft.outcome()


def shared(standing: Standing, turns: tuple[Turn, ...]) -> Outcome:
    """The slots are shared in another way from now on; empty: with nobody."""
    draft = Draft(replace(standing, turns=turns))
    for member in draft.at.working:
        if member.rank is not None:
            draft.order(member.worker, TakeTurns(turn=draft.at.turn_of(member.rank)))
    return draft.outcome()
