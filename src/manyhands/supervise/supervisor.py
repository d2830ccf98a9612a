"""Keeps a gang at work until the job is done, whatever happens to its workers.

The supervisor is the shell around three pure parts: `Standing` is how the run stands, as data; `heard.py` says how it
stands after something has happened; `decide.py` what is to be done then. Here the events come in (a worker said
something, printed, died; a command, a signal, a checkpoint that was written), and the actions are carried out:
processes, the disk, the terminal and the clock are touched nowhere else.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, assert_never

from manyhands.engine import Engine, EngineEvent, Exited, Loop, Printed, Said
from manyhands.errors import UserError
from manyhands.gang import REPORTS, Facts, Member, Phase, Report
from manyhands.gang import reports as said
from manyhands.gang.orders import Build
from manyhands.plan import Plan
from manyhands.run import Checkpoint, RunDirectory, Status, forget_after, newest_checkpoint
from manyhands.shm import Board, Slots
from manyhands.supervise import heard
from manyhands.supervise.actions import (
    Connect,
    ForgetPace,
    Kill,
    Membership,
    Rewind,
    Send,
    Start,
    Tell,
    WriteCheckpoint,
)
from manyhands.supervise.checkpoints import Checkpoints
from manyhands.supervise.decide import decide, done
from manyhands.supervise.deviations import rewound
from manyhands.supervise.draft import Outcome
from manyhands.supervise.ending import conclude
from manyhands.supervise.losses import Casualties, Loss
from manyhands.supervise.members import processes
from manyhands.supervise.oom import OutOfMemory
from manyhands.supervise.options import Care
from manyhands.supervise.outside import Onlookers, catch_signals, serve_commands
from manyhands.supervise.record import Record
from manyhands.supervise.requests import Requests
from manyhands.supervise.standing import Durable, Ending, Standing
from manyhands.supervise.view import View
from manyhands.supervise.watch import Watch
from manyhands.wire import MessageError

_ENDING = (signal.SIGINT, signal.SIGTERM)
_WARNING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""The terminal is gone, or the end of what was given to us is near, as batch systems say: time for a checkpoint."""


class Supervisor:
    """Runs one job in one run directory, from `run` to an exit code.

    Args:
        directory: acquired by this process.
        engine: is open; reports here from now on.
        loop: the engine's loop.
        plan: the size of the gang to begin with.
        care: recovery settings.
        facts: what the engine's entry reported of the job.
        record, view, slots, board: where things are written and shown.
        checkpoint: where to start from; None from the beginning.
    """

    def __init__(
        self,
        directory: RunDirectory,
        engine: Engine,
        loop: Loop,
        plan: Plan,
        care: Care,
        facts: Facts,
        record: Record,
        view: View,
        slots: Slots,
        board: Board,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._directory, self._engine, self._loop = directory, engine, loop
        self._facts, self._record, self._view, self._slots, self._board = facts, record, view, slots, board
        self._watch = Watch(engine, board, care, view.note)
        self._out_of_memory = OutOfMemory()
        self._checkpoints = Checkpoints(directory, care, slots, loop, view.note, self._on_written)
        self._onlookers = Onlookers()
        self._began = time.monotonic_ns()
        self._standing = Standing(
            wanted=plan,
            reproducible=facts.reproducible,
            compiles=facts.compile,
            checks=care.check == "on",
            casualties=Casualties(attempts=care.attempts, log=str(directory.log)),
            committed=record.committed,
            samples=0 if care.new_data else record.samples,
            data="" if care.new_data else record.data,
            before=record.samples > 0 and not care.new_data,
            evaluated=record.evaluated,
            exchange=record.exchange,
            agreed=checkpoint.step if checkpoint else -1,
            checkpoint=checkpoint,
            durable=Durable(
                step=checkpoint.step if checkpoint else 0,
                every=care.checkpoint_every,
                due_at=self._checkpoints.due_after(self._began),
            ),
        )
        self._requests = Requests(facts.micro_batches, engine, loop, lambda: self._standing, self._apply, self.status)
        engine.report_to(self._on_event)

    def run(self, begun: Callable[[], None] = lambda: None) -> int:
        """Train to the end. Returns the exit code: 0 finished, 1 failed, 130 interrupted.

        Args:
            begun: called when commands are taken.
        """
        with (
            catch_signals(self._loop, self._on_signal, *_ENDING, *_WARNING),
            serve_commands(self._loop, self._directory, self._requests.answer, self._onlookers),
        ):
            try:
                begun()
                while not done(self._standing):
                    self._look()
                    self._apply(decide(self._standing))
                    if not done(self._standing):
                        self._engine.poll(self._watch.next_check(self._standing.members))
                        self._watch.look(self._standing.members)
                    self._onlookers.tell(self.status)
            finally:
                self._engine.close()
        return self._conclude()

    # What comes in

    def _look(self) -> None:
        """What nobody says, but can be seen: the time, and what lies in memory."""
        self._standing = replace(self._standing, now=time.monotonic_ns(), held=self._slots.newest())

    def _on_event(self, event: EngineEvent) -> None:
        """Take what the engine reports."""
        match event:
            case Said(worker, message):
                self._look()
                self._hear(worker, message)
            case Printed(worker, line):
                member = self._standing.members.get(worker)
                self._view.printed(member.who if member and member.rank is not None else "worker ?", line)
            case Exited(worker, status):
                self._look()
                hung = self._watch.forget(worker)
                loss = Loss(status=status, hung=hung, out_of_memory=self._out_of_memory.happened())
                self._apply(heard.lost(self._standing, worker, loss))
            case _:
                assert_never(event)

    def _hear(self, worker: int, message: object) -> None:
        """Take what a worker said: write down what is for the record, then see what it means."""
        member = self._standing.members.get(worker) or self._standing.leaving.get(worker)
        if member is None:
            return
        try:
            report: Report = REPORTS.decode(message)
        except MessageError as error:
            text = f"{member.who} said what its supervisor does not understand: {error}"
            self._apply(heard.failed(self._standing, text))
            return
        before = self._standing.committed
        self._write_down(member, report)
        self._apply(heard.hear(self._standing, worker, report))
        if self._standing.committed > before and self._record.loss is not None:
            at = self._standing
            last = at.committed == at.total_steps
            args = at.committed, at.total_steps, self._record.loss, self._facts.batch_size
            self._view.step(*args, at.workers, last)

    def _write_down(self, member: Member, report: Report) -> None:
        """What is for the journals, and for the measure of how long steps take."""
        rank, clock = member.rank or 0, self._engine.clock(member.worker)
        match report:
            case said.Steps(rows=rows):
                for seconds in self._record.steps(rank, max(1, self._standing.workers), rows, clock):
                    self._watch.patience.learn(seconds)
            case said.Parts(rows=rows):
                self._record.parts(rank, rows, clock)
                for row in rows:
                    self._watch.patience.learn((row.ended - row.began) / 1e9)
            case said.Built(samples=samples, data=data):
                self._record.know_data(samples, data)
            case said.Staleness(step=step, pushes=pushes, ahead=ahead):
                self._record.figures("staleness", {"step": step, "pushes": pushes, "ahead": ahead})
            case said.Served(server=server, received=received, sent=sent):
                figures = {"server": server, "received": received, "sent": sent}
                self._record.figures("server", {"step": self._record.committed, **figures})
            case said.Joined(exchange=exchange):
                self._record.exchange = exchange
            case said.Evaluated(step=step, metrics=metrics):
                if self._record.evaluation_done(step, metrics):
                    figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
                    self._view.note(f"evaluation after step {step}: {figures}", urgent=False)
            case _:
                pass

    def _on_signal(self, number: signal.Signals) -> None:
        self._apply(heard.interrupted(self._standing, number.name, warning=number in _WARNING))

    def _on_written(self, step: int | None, due: int) -> None:
        self._slots.pinned = None
        self._apply(heard.written(self._standing, step, due))

    # What goes out

    def _apply(self, outcome: Outcome) -> None:
        """Take a standing over and do what it needs."""
        self._standing, actions = outcome
        for action in actions:
            match action:
                case Start(worker=worker, host=host, build=build):
                    self._start(worker, host, build)
                case Send(worker=worker, order=order):
                    self._engine.send(worker, order)
                case Connect(workers=workers, orders=orders):
                    self._engine.connect(workers, orders)
                case Kill(worker=worker):
                    self._engine.kill(worker)
                    self._watch.forget(worker)
                case WriteCheckpoint(buffer=buffer, step=step):
                    self._write_checkpoint(buffer, step)
                case Rewind(step=step):
                    self._rewind(step)
                case Tell(text=text, how=how):
                    self._view.logged(text) if how == "log" else self._view.note(text, urgent=how == "note")
                case Membership(change=change, workers=count, event=event):
                    self._record.membership(change, count, event)
                    if change == "began":
                        self._view.start(self._standing.total_steps)
                case ForgetPace():
                    self._watch.patience.forget()
                case _:
                    assert_never(action)

    def _start(self, worker: int, host: str, build: Build) -> None:
        self._board.write(worker, -1, -1, 0)
        try:
            pid = self._engine.start(worker, host)
        except UserError as error:  # a template that cannot be started again, a host that cannot be reached
            text = str(error)
            # As news, which comes after the rest of what was decided, and before anything is waited for.
            self._loop.post(lambda: self._apply(heard.not_started(self._standing, worker, text)))
            return
        self._standing = heard.started(self._standing, worker, pid)
        self._engine.send(worker, build)

    def _write_checkpoint(self, buffer: int, step: int) -> None:
        self._slots.pinned = buffer
        if self._record.sync():
            self._checkpoints.write(buffer, step, self._record.write_timeline)
        else:  # a checkpoint ahead of its ledger could not account for its samples
            self._on_written(None, self._checkpoints.due_after(time.monotonic_ns()))

    def _rewind(self, step: int) -> None:
        """Forget all states of later steps, and what is written down of them."""
        self._checkpoints.wait()
        self._slots.forget_after(step)
        forget_after(self._directory.checkpoints, step)
        self._record.rewind(step)
        checkpoint = newest_checkpoint(self._directory.checkpoints, self._view.note)
        self._standing = rewound(self._standing, checkpoint, self._slots.newest())

    # What it tells

    def status(self) -> Status:
        """What `manyhands show` tells of a live run."""
        at, plan = self._standing, self._standing.wanted
        checking = [member for member in at.members.values() if member.phase is Phase.CHECKING]
        newest = at.generation.gang if at.generation else ()
        gang = checking or [at.members[worker] for worker in newest if worker in at.members]
        return Status(
            status="running" if at.ending is None else "ending",
            step=at.committed,
            total_steps=at.total_steps,
            loss=self._record.loss,
            at=self._record.committed_at,
            profile=self._record.profile,
            workers=processes(gang, 0, plan.workers),
            servers=processes(gang, plan.workers, plan.gang),
            target_workers=plan.workers,
            resizes=at.resizes,
            settled=at.settled,
            generation=at.number,
            recoveries=self._record.recoveries,
            check=at.checked.get(plan.manner, ""),
            supervisor=os.getpid(),
        )

    def _conclude(self) -> int:
        """Write down how the run ended; returns the exit code."""
        self._standing = heard.asked_to_stop(self._standing, "interrupted")
        at = self._standing
        assert at.ending is not None
        figures: dict[str, Any] = {
            "total_steps": at.total_steps,
            "weights_sha256": at.sha256 if at.ending.status == "finished" else None,
            "workers": at.workers,
            "samples": at.samples,
            "durable_step": at.durable.step,
            "seconds": (time.monotonic_ns() - self._began) / 1e9,
        }
        if at.figures:
            figures["figures"] = [at.figures[rank] for rank in sorted(at.figures)]
        return conclude(self._directory, at.ending, self._record, figures, self._view.note)

    @property
    def ending(self) -> Ending | None:
        """Why the run ended; None while it runs."""
        return self._standing.ending
