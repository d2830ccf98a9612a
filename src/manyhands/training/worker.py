"""What a worker of a gang does around the training loop: obey orders, report, leave its state for others.

    build -> idle -> join -> training -> idle (paused, or a peer was lost) -> join -> ... -> finished -> exit

A worker that loses a peer keeps its state at the last step boundary and waits for the next order; all it takes to go on
is a new `Join`. It never decides anything that concerns others: that is the supervisor's part. What it may be told is
in gang/orders.py, what it says in gang/reports.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import torch

from manyhands.engine import Channel, Depot
from manyhands.engine.hosts import DepotLostError
from manyhands.errors import UsageError
from manyhands.gang import REPORTS, Kind, Report, Turn
from manyhands.gang.orders import Check, Exit, HandOver, Join, Save
from manyhands.gang.reports import Balanced, Checked, CutOff, Deviated, Finished, Joined, LostPeer, Paused, Served
from manyhands.job import Job
from manyhands.plan import Plan
from manyhands.timeline import Recorder
from manyhands.training.apart import ApartError, can_fork, in_fork
from manyhands.training.check import CannotError, DifferentError, check
from manyhands.training.evaluations import Evaluations
from manyhands.training.inbox import Inbox
from manyhands.training.keeper import Keeper
from manyhands.training.links import Links, join_group
from manyhands.training.losses import NotFiniteError
from manyhands.training.marks import Marks
from manyhands.training.probe import Probe
from manyhands.training.reporter import Reporter, failure
from manyhands.training.steps.alike import DeviationError
from manyhands.training.trainer import Step, Trainer
from manyhands.training.turns import Turns
from manyhands.transport import Group, GroupError, PeerLostError
from manyhands.wire import encode

_PAUSE, _SAVE = 1, 2
"""What a worker can ask of the gang, as bits of its flag: to pause after the step, to put the state together."""
_DETAILED_STEPS = 200
"""Steps of a run whose single spans are kept for the timeline."""
_SPLITTING = "splitting the model"


class Worker:
    """One member of the gang, from idle to exit.

    Args:
        job, plan: what is computed, and how to begin with.
        job_file: where the job is from, to say where it failed; None: from memory.
        depot: where processes of other hosts are met; None if there are none.
        worker: its number.
        channel: to the supervisor.
        trainer: what trains.
        keeper, reporter, recorder: what keeps its state, says what happens, and measures.
        probe: looks closely at a short run; None otherwise.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan,
        job_file: Path | None,
        depot: Depot | None,
        worker: int,
        channel: Channel,
        trainer: Trainer,
        keeper: Keeper,
        reporter: Reporter,
        recorder: Recorder,
        probe: Probe | None,
    ) -> None:
        self.job, self.plan, self.worker, self.trainer = job, plan, worker, trainer
        self.keeper, self.reporter, self.recorder = keeper, reporter, recorder
        self.kind = Kind.of(plan)
        self.links = Links(depot)
        self.inbox = Inbox(channel, self.links, lambda: keeper.pin(None), self._take_turns)
        self.evaluations = Evaluations(job, trainer, reporter, recorder)
        self.keeps = False
        """Whether the worker leaves the gang's state for others."""
        self._job_file, self._depot, self._probe = job_file, depot, probe
        self._turns: Turns | None = None
        self._micro_batches: tuple[int, ...] = ()
        """How many micro-batches each worker has, as they were last shared out."""

    def run(self) -> None:
        """Obey until told to exit."""
        try:
            self._obey_all()
        except DepotLostError as error:
            self.reporter.flush()
            self.reporter.say(CutOff(error=str(error)))
            while not isinstance(self.inbox.wait()[0], Exit):
                pass  # it is replaced, and ended

    def _obey_all(self) -> None:
        while True:
            order, descriptors = self.inbox.wait()
            match order:
                case Join():
                    self._join(order, descriptors)
                case Check():
                    self._check(order, descriptors)
                case HandOver():
                    self.keeper.hand_over(order, descriptors, self._depot)
                case Save(pinned=buffer):
                    self.keeper.pin(buffer)
                    self.keeper.save(ordered=True)
                case Exit():
                    return
                case _:
                    assert_never(order)

    def _join(self, order: Join, descriptors: list[int]) -> None:
        """Take a place in a generation and train until it ends, one way or another."""
        self.plan = self.trainer.plan = order.plan
        self.keeps = order.rank == self.kind.keeper(self.plan)
        self.evaluations.done = order.evaluated
        self.keeper.pin(order.pinned)
        self.inbox.forget()
        self._take_turns(order.turn)
        trainer, group = self.trainer, None
        doing = "loading the state"
        try:
            self.recorder.enter("snapshot")
            if not self.kind.waits:
                self.keeper.load(order.load)
                doing = "training"
                self._serve_or_claim(order)
                return
            # Before the state is there: some may have to fetch it, and others wait for less long than that may take.
            group = join_group(order, descriptors, order.rank, "the gang", self._depot)
            if self.plan.layout.split:
                doing = _SPLITTING
                exchanged = trainer.join(group, self.waiting, order.cuts)
                self.keeper.load(order.load)
            else:
                self.keeper.load(order.load)
                doing = "joining the gang"
                exchanged = trainer.join(group, self.waiting)
            if self.keeps and group is not None:
                self.reporter.say(Joined(exchange=exchanged, cuts=trainer.steps.cuts))
            if self._probe is not None:
                self._probe.joined(group)
            doing = "training"
            self._train()
        except PeerLostError as error:
            self._lost(error.rank, str(error))
        except DeviationError as error:
            self.reporter.flush()
            self.reporter.say(Deviated(step=trainer.step, ranks=error.ranks, since=error.since, error=str(error)))
        except DepotLostError:
            raise
        except Exception as error:
            self._failed(error, doing, group)
        finally:
            trainer.leave()
            if group is not None:
                group.abandon()
            self._take_turns(None)
            self.recorder.enter("idle")

    def _check(self, order: Check, descriptors: list[int]) -> None:
        """Show with others that the gang trains what one worker would; where it can be, in a process of its own."""
        self.recorder.enter("snapshot")
        if not can_fork(self.plan.threads):
            report = self._checked(order, descriptors, apart=False)
            if isinstance(report, LostPeer) and report.peer is not None:  # it may have trained by then
                report = Checked()
            self.reporter.say(replace(report, spent=True) if isinstance(report, Checked) else report)
            return
        try:
            said = in_fork(lambda: json.dumps(encode(self._checked(order, descriptors, apart=True))).encode())
            self.reporter.say(REPORTS.decode(json.loads(said)))
        except ApartError as error:
            self.reporter.failed(error, "the check", 0, False, self._job_file)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            self.recorder.enter("idle")

    def _checked(self, order: Check, descriptors: list[int], apart: bool) -> Report:
        """What a check comes to."""
        group = None
        try:
            group = join_group(order, descriptors, order.rank, "the check", self._depot)
            assert group is not None
            return check(self.job, order.plan, group, self.trainer, apart, self.waiting)
        except DifferentError as error:  # all have it; one says so
            return failure(error, "", 0, False, self._job_file, True) if order.rank == 0 else Checked()
        except PeerLostError as error:
            return LostPeer(step=0, whole=True, peer=error.rank if error.rank >= 0 else None, error=str(error))
        except Exception as error:
            if group is not None and (lost := _lost_peer(error, group)) is not None:
                return LostPeer(step=0, whole=True, peer=lost if lost >= 0 else None)
            place = _SPLITTING if isinstance(error.__cause__, UsageError) else self._place()
            return failure(error, place, 0, False, self._job_file, isinstance(error, CannotError))
        finally:
            if group is not None:
                group.abandon()

    def _serve_or_claim(self, order: Join) -> None:
        """Take part in a gang in which nobody waits for all others."""
        from manyhands.training.server import Server
        from manyhands.training.shares import Process, ShareWorker

        process = Process(
            trainer=self.trainer,
            plan=self.plan,
            rank=order.rank,
            inbox=self.inbox,
            links=self.links,
            keeper=self.keeper,
            reporter=self.reporter,
            recorder=self.recorder,
            evaluations=self.evaluations,
        )
        if order.rank < self.plan.workers:
            ShareWorker(process, self.worker, self.listen, self.waiting, self.is_detailed).run()
        else:
            Server(process, order.fresh).run()

    def _train(self) -> None:
        """Step until the job ends or a pause is agreed on."""
        trainer = self.trainer
        self.recorder.take()  # what went before belongs to no step
        self.evaluations.if_due()
        if trainer.step == trainer.total_steps and not self.kind.whole:
            self._keep_state([])  # nothing is left to train: only so is it known with which weights it ended
        while trainer.step < trainer.total_steps:
            steps = self._round()
            self._say_micro_batches()
            self._keep_state(steps[-1].flags)
            self.evaluations.if_due()
            if any(flag & _PAUSE for flag in steps[-1].flags):
                self.reporter.flush()
                self.reporter.say(Paused(step=trainer.step, whole=self.kind.whole))
                return
        sha256 = trainer.weights_sha256() if self.kind.whole else self.keeper.digest
        self.reporter.flush()
        self._say_served()
        figures = self._probe.figures if self._probe else None
        self.reporter.say(Finished(step=trainer.step, sha256=sha256, whole=self.kind.whole, figures=figures))

    def _round(self) -> Sequence[Step]:
        """Train up to the next step on which the gang agrees, and report that."""
        trainer = self.trainer
        marks = Marks(self.recorder, lambda: self.is_detailed(trainer.step))
        if self._probe is not None:
            steps: Sequence[Step] = [self._probe.step(trainer, self.listen)]
        else:
            steps = trainer.train_round(self.listen, marks.add)
        self.recorder.enter("snapshot")  # what follows keeps state and records
        marks.end(len(steps))
        self.reporter.agreed = trainer.steps.agreed
        for step, mark in zip(steps, marks.steps, strict=True):
            self.keeper.budget.earn((mark.ended - mark.began) / 1e9)
            self.reporter.step(step, mark)
        return steps

    def listen(self) -> int:
        """Take orders that have come during a step; what this worker asks of the gang after it."""
        self.inbox.look()
        checkpoint = self.inbox.checkpoint
        at_once = checkpoint is not None and checkpoint.at_once
        save = not self.kind.whole and self.keeps and (at_once or self.keeper.budget.allows())
        return (_PAUSE if self.inbox.pause else 0) | (_SAVE if save else 0)

    def _keep_state(self, flags: Sequence[int]) -> None:
        """Leave the state for others after a step, if it is time."""
        checkpoint = self.inbox.checkpoint
        if self.kind.whole:
            if self.keeps and ((checkpoint and checkpoint.at_once) or self.keeper.affords()):
                self.inbox.checkpoint = None
                self.keeper.save(ordered=checkpoint is not None)
        elif any(flags) or self.trainer.step == self.trainer.total_steps:
            # All of a gang that divides the state, when any of them asked for it.
            self.inbox.checkpoint = None
            self.keeper.save_together(self.keeps, ordered=checkpoint is not None)

    def is_detailed(self, step: int) -> bool:
        """Whether the single spans of the step after so many are kept."""
        return step < 10 or step % -(-self.trainer.total_steps // _DETAILED_STEPS) == 0

    def waiting(self, waits: bool) -> None:
        self.recorder.enter("idle" if waits else "exchange")

    def _take_turns(self, turn: Turn | None) -> None:
        """Take turns with another job on this slot from now on, or no longer."""
        self.recorder.gate = None
        if self._turns is not None:
            self._turns.close()
        self._turns = Turns(Path(turn.file), turn.way, _settle) if turn else None
        self.recorder.gate = self._turns

    def _say_served(self) -> None:
        """A server says what it has moved."""
        group, server = self.trainer.group, self.trainer.rank - self.plan.workers
        if group is not None and server >= 0:
            received = sum(way.received for way in group.traffic())
            self.reporter.say(Served(server=server, received=received, sent=group.sent))

    def _say_micro_batches(self) -> None:
        """Say how the micro-batches are shared out, when that has changed."""
        counts = tuple(block.size for block in self.trainer.steps.blocks if block.size)
        if self.keeps and self._micro_batches and counts != self._micro_batches:
            self.reporter.say(Balanced(step=self.trainer.step, micro_batches=counts))
        self._micro_batches = counts

    def _lost(self, rank: int, error: str = "") -> None:
        """The process of this rank is gone; below zero: nobody knows which."""
        self.reporter.flush()
        peer = rank if rank >= 0 else None
        self.reporter.say(LostPeer(step=self.trainer.step, whole=self.kind.whole, peer=peer, error=error))

    def _failed(self, error: Exception, doing: str, group: Group | None) -> None:
        if group is not None and (lost := _lost_peer(error, group)) is not None:
            self._lost(lost)
            return
        whole = self.kind.whole and self.recorder.phase != "optimizer"
        place = self._place() if doing == "training" else doing
        self.reporter.flush()
        told = "" if isinstance(error, NotFiniteError) else place
        self.reporter.failed(error, told, self.trainer.step, whole, self._job_file, doing == _SPLITTING)

    def _place(self) -> str:
        """Where in the job this worker is, in words."""
        phase, micro_batch = self.recorder.phase, self.recorder.micro_batch
        inside = f", micro-batch {micro_batch}" if micro_batch >= 0 else ""
        return f"step {self.trainer.step + 1}{inside} ({phase})"


def _settle() -> None:
    """Have the device do what it was told, and give back the memory that is kept for later: others may want it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def _lost_peer(error: Exception, group: Group) -> int | None:
    """The rank whose loss is behind an error, whatever it was raised through: torch wraps what a group raises."""
    try:
        group.check()
    except PeerLostError as lost:
        return lost.rank
    except GroupError:
        pass
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PeerLostError):
            return cause.rank
        cause = cause.__cause__ or cause.__context__
    return None
