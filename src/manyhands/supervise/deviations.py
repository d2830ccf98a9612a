"""What follows when replicas are found not to be alike (training/steps/alike.py, audit.py). Pure, a part of `heard`."""

from __future__ import annotations

from dataclasses import replace

from manyhands.gang import Member, Phase
from manyhands.gang.reports import Deviated
from manyhands.run import Checkpoint
from manyhands.shm import Held
from manyhands.supervise.actions import Membership, Rewind
from manyhands.supervise.draft import Draft
from manyhands.supervise.standing import Standing

_MOST = 3
"""So often may replicas deviate in a session: chance does not flip more bits."""


def deviated(draft: Draft, member: Member, report: Deviated) -> None:
    """Replicas are not alike: who is wrong goes, and where states are, all go back to the last step at which they were
    the same. All members say so; the first one counts."""
    draft.enter(member.worker, Phase.IDLE, step=report.step, whole=report.since is None)
    at, generation = draft.at, draft.at.generation
    if generation is None or at.deviated >= at.number:
        return
    right = report.step if report.since is None else max(report.since, at.agreed, 0)
    again = right <= at.deviated_at if report.since is None else right < at.deviated_at
    count = at.deviations + 1
    draft.set(deviated=at.number, deviated_at=max(at.deviated_at, report.step), deviations=count)
    draft.do(Membership(change="deviated", workers=at.workers, event=report.error))
    if again or count > _MOST:
        often = "the second time at this place" if again else f"the {count}th time"
        draft.fail(
            f"{report.error} That is {often}: either a machine errs, or something in the job is not the same on every "
            "worker. Train with --workers 1, or find it: what does the model, the loss or the data keep outside of "
            "weights and buffers, and what do they ask of the process, the host or the clock?"
        )
    wrong = [generation.gang[rank] for rank in report.ranks if rank < len(generation.gang)]
    if report.since is None:
        draft.note(f"{report.error} The worker is replaced, and the step is computed again.")
        for worker in wrong:
            if worker in draft.at.members:
                draft.kill(worker)
        return
    draft.note(
        f"{report.error} The run goes back to the last state that is known to be right, of step {right} or before."
    )
    for other in list(draft.at.members.values()):
        if other.placed:
            draft.kill(other.worker)
    # What they still say of steps is as wrong.
    draft.set(leaving={}, committed=min(draft.at.committed, right), evaluated=min(draft.at.evaluated, right))
    draft.do(Rewind(step=right))


def rewound(standing: Standing, checkpoint: Checkpoint | None, held: Held | None) -> Standing:
    """Wrong states have been forgotten; these are left."""
    step = checkpoint.step if checkpoint else 0
    durable = replace(standing.durable, step=step, tried=step)
    return replace(standing, checkpoint=checkpoint, held=held, durable=durable)
