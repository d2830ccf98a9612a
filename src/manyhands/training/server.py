"""Taking part, as a server, in a gang in which nobody waits for all others.

The supervisor links every server with every worker and with all other servers, and does so again for whoever takes the
place of a lost one. What a server does is in `sync/server/stale.py`; here is what ties it to a process: its orders, its
reports, its state. Server 0 is the chief: it knows which shares are done, and keeps the gang's state for others.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections import deque
from typing import Any

from manyhands.errors import UserError
from manyhands.gang import StepRow
from manyhands.gang.reports import Joined, Recovered, Served, Staleness, Unlinked
from manyhands.sync.server import (
    Assembling,
    Chief,
    Committed,
    Keeper,
    Line,
    StaleServer,
    Why,
    float_buffers,
)
from manyhands.timeline import PHASES
from manyhands.training.links import Link
from manyhands.training.shares import REPLACED_SECONDS, Process
from manyhands.transport import GroupError

_ON_ITS_WAY, _MOST_ON_THEIR_WAY = 3.0, 64
"""Seconds, and steps: what another host had reported for less long than that may be lost with it."""


class Server:
    """Serves until the work is over.

    Args:
        process: that it is in.
        fresh: it has taken the place of a lost one.
    """

    def __init__(self, process: Process, fresh: bool) -> None:
        self.process, self.fresh = process, fresh
        self.trainer, self.plan, self.job = process.trainer, process.plan, process.job
        self.division, self.task = process.division(), process.task()
        self.index = process.rank - self.plan.workers
        self.chief = self.index == 0
        self._groups = self.trainer.optimizer.state_dict()["param_groups"]
        self._woken = threading.Event()
        self._over = False
        kept = process.steps.kept
        self._kept = kept.get("chief") if kept.get("policy") == "stale" else None
        self.server = self._make()
        self._ready = threading.Event()
        self._began = time.monotonic_ns()
        self._opened = self._began
        self._reported: deque[tuple[float, int]] = deque()
        self._recorded = 0
        """How many steps were recorded. A chief that takes over records those again that may not have been said."""
        self._retry = False

    def _make(self) -> StaleServer:
        """The server, with the weights and states that the trainer has."""
        trainer, servers = self.trainer, self.plan.sync.servers
        buffers = float_buffers(trainer.model)

        def keeper(server: int, optimizer: Any, scheduler: Any) -> Keeper:
            own = buffers if server == 0 else []
            return Keeper(self.division, server, optimizer, scheduler, own, self.job.micro_batches)

        duplicate = None
        if servers > 1:
            optimizer = self.job.optimizer(trainer.model.parameters())
            scheduler = self.job.scheduler(optimizer) if self.job.scheduler else None
            optimizer.load_state_dict(trainer.optimizer.state_dict())
            if scheduler is not None and trainer.scheduler is not None:
                scheduler.load_state_dict(copy.deepcopy(trainer.scheduler.state_dict()))
            duplicate = keeper((self.index - 1) % servers, optimizer, scheduler)
        own = keeper(self.index, trainer.optimizer, trainer.scheduler)
        chief = self._chief(self._kept) if self.chief else None
        server = StaleServer(self.division, own, duplicate, chief, buffers, self._woken.set)
        if self.index == 1:  # the chief may be lost before it has said anything
            server.chiefs_copy = self._chief(self._kept).capture()
        return server

    def _chief(self, kept: Any) -> Chief:
        sync = self.plan.sync
        chief = Chief(self.plan.workers, self.trainer.total_steps, sync.staleness, kept)
        if kept is None:
            chief.work.skip(self.trainer.step)
        return chief

    def run(self) -> None:
        process = self.process
        if self.chief:
            process.steps.follow(Assembling(self.task, self.server, self.trainer.learner, self._groups))
            process.reporter.say(Joined(exchange="to servers, which apply them as they come"))
        if not self.fresh:
            self._ready.set()
        process.recorder.enter("idle")
        threading.Thread(target=self._obey, daemon=True).start()
        while not self._look():
            self._woken.wait(0.2 if self._retry else 1.0)
            self._woken.clear()
            if process.inbox.pause:
                self.server.pause()
        self._over = True
        self.server.close()

    def _obey(self) -> None:
        """Take orders, on a thread of its own: who waits for a lost server waits for a link that comes this way."""
        process = self.process
        while not self._over:
            for link in process.links.take_all():
                threading.Thread(target=self._talk, args=(link,), daemon=True).start()
            try:
                if process.inbox.look_within(0.5):
                    self._woken.set()
            except SystemExit as end:
                os._exit(int(end.code or 0))

    def _look(self) -> bool:
        """See what has happened; whether the work is over."""
        if not self.chief:
            if self.server.over:
                self._say_served()
                self.process.say_over(self.server.over)
            return bool(self.server.over)
        try:
            self._retry = False
            over = self.server.over
            rows = self.server.committed_since(self._recorded)
            for row in rows:
                self._record(row)
            self._keep(over, rows)
            if not rows or over:
                self.process.reporter.flush()
            if not self.process.reporter.unreported:
                self._say_recorded()
            if not over:
                return False
        except GroupError:  # a server is lost; when another has taken its place all is to be had again
            self._retry = True
            return False
        sha256 = self.process.keeper.digest
        self._say_served()
        self.server.tell_over(over)
        self.process.say_over(over, sha256)
        return True

    def _say_served(self) -> None:
        server = self.server
        self.process.reporter.say(Served(server=self.index, received=server.received, sent=server.sent))

    def _say_recorded(self) -> None:
        """Forget what has been reported; from another host, what was for a while: it may still be on its way."""
        now = time.monotonic()
        arrived = now - _ON_ITS_WAY if self.process.keeper.far else now
        self._reported.append((now, self._recorded))
        while self._reported and (
            self._reported[0][0] <= arrived or self._recorded - self._reported[0][1] > _MOST_ON_THEIR_WAY
        ):
            self.server.said(self._reported.popleft()[1])

    def _record(self, row: Committed) -> None:
        job, trainer = self.job, self.trainer
        epoch, first = divmod(row.step * job.batch_size, trainer.samples)
        self._recorded = row.step + 1
        now = time.monotonic_ns()
        last, self._began = self._began, now
        self.process.keeper.budget.earn((now - last) / 1e9)
        place = row.step + 1, epoch, first, first + job.batch_size - 1
        began = row.began if row.began >= self._opened else last  # by the clock of a chief that was lost
        reporter = self.process.reporter
        reporter.commit(StepRow(*place, row.loss, row.norm, row.lr, began, now, (0,) * len(PHASES), ()))
        reporter.say(Staleness(step=row.step + 1, pushes=row.staleness, ahead=row.ahead))

    def _keep(self, over: Why | None, rows: list[Committed]) -> None:
        """Evaluate, and leave the state for others, if it is time.

        Raises:
            GroupError: a server is lost.
        """
        process, trainer = self.process, self.trainer
        committed = self.server.progress()
        trainer.step = committed
        if rows or over or self._retry:
            process.evaluations.if_due()
        asked = process.inbox.checkpoint is not None
        if over or (rows and (asked or process.keeper.budget.allows())):
            process.inbox.checkpoint = None
            process.keeper.save_together(writes=True, ordered=asked)

    def _talk(self, link: Link) -> None:
        """Talk to another process until it is gone."""
        try:
            group = link.group()
        except (GroupError, UserError):
            if link.role == "server" and self.index < link.number:
                self.process.reporter.say(Unlinked(server=link.number, far=link.far))
            return
        try:
            if link.role == "worker":
                self._ready.wait(REPLACED_SECONDS)
                self.server.serve(link.number, Line(group, asks=False))
                return
            asking = Line(group, asks=True)
            if self.fresh and not self._ready.is_set():
                self._recover_from(link.number, asking)
            else:
                threading.Thread(target=self.server.link, args=(link.number, asking, link.fresh), daemon=True).start()
            self.server.follow(Line(group, asks=False))
        finally:
            group.close(patience=0)

    def _recover_from(self, number: int, asking: Line) -> None:
        """This process has taken the place of a lost server: the next one has a copy of what that held."""

        def recover() -> None:
            self.server.link(number, asking, False)
            if number == (self.index + 1) % self.plan.sync.servers:
                kept = self.server.recover()
                if self.chief:
                    self.server.chief = self._chief(kept or self._kept)
                self._ready.set()
                self.process.reporter.say(Recovered())

        threading.Thread(target=recover, daemon=True).start()
