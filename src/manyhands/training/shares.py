"""Taking part, as a worker, in a gang in which nobody waits for all others: claim a share of a step, compute, push.

The supervisor links every worker with every server, and does so again for whoever takes the place of a lost one. What
is claimed and pushed is in `sync/server/worker.py`; here is what ties it to a process: its orders and its reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from manyhands.gang.reports import Finished, Paused, Unlinked
from manyhands.job import Job
from manyhands.parallel.traits import find_coupling
from manyhands.plan import Plan
from manyhands.sync import OnWait, Task
from manyhands.sync.server import Division, Line, StaleWorker, Why
from manyhands.timeline import Recorder
from manyhands.training.evaluations import Evaluations
from manyhands.training.inbox import Inbox
from manyhands.training.keeper import Keeper
from manyhands.training.links import Links
from manyhands.training.marks import Mark
from manyhands.training.reporter import Reporter
from manyhands.training.steps.whole import Whole
from manyhands.training.trainer import Trainer
from manyhands.transport import PeerLostError

REPLACED_SECONDS = 600.0
"""How long to wait for somebody to take the place of a lost server."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """What a process has, whatever its role."""

    trainer: Trainer
    plan: Plan
    rank: int
    inbox: Inbox
    links: Links
    keeper: Keeper
    reporter: Reporter
    recorder: Recorder
    evaluations: Evaluations

    @property
    def job(self) -> Job:
        """The job that is trained."""
        return self.trainer.job

    @property
    def steps(self) -> Whole:
        """What computes steps: servers hold parts of the state, but every worker has the whole model."""
        steps = self.trainer.steps
        assert isinstance(steps, Whole)
        return steps

    def task(self) -> Task:
        """What the policies have to know of the job."""
        return Task(self.job.micro_batches, self.job.reproducible, self.job.clip_grad_norm)

    def division(self) -> Division:
        """How the weights are dealt to the servers."""
        cut = find_coupling(self.job.optimizer) == "element"
        return Division(self.trainer.model, [1.0] * self.plan.sync.servers, cut)

    def say_over(self, why: Why, sha256: str = "") -> None:
        """The work is over."""
        self.reporter.flush()
        if why == "finished":
            self.reporter.say(Finished(step=self.trainer.total_steps, sha256=sha256, whole=False))
        else:
            self.reporter.say(Paused(step=0, whole=False))


class ShareWorker:
    """Computes shares until the servers say that the work is over.

    Args:
        process: that it is in.
        worker: its number, by which servers know it.
        listen: takes orders during a step; gives the flag that goes with it.
        on_wait: told when it has to wait for servers.
        is_detailed: whether the single spans of the step after so many are kept.
    """

    def __init__(
        self,
        process: Process,
        worker: int,
        listen: Callable[[], int],
        on_wait: OnWait,
        is_detailed: Callable[[int], bool],
    ) -> None:
        self._process, self._listen, self._is_detailed = process, listen, is_detailed
        self._policy = StaleWorker(process.task(), worker, process.division(), self._link, on_wait)

    def run(self) -> None:
        """Work until it is over."""
        process, policy = self._process, self._policy
        trainer, recorder = process.trainer, process.recorder
        try:
            process.steps.follow(policy, process.plan.slowness(process.rank))
            recorder.take()
            while (share := policy.claim()) is not None:
                trainer.step = share.step
                recorder.keep_spans = self._is_detailed(share.step)
                began = time.monotonic_ns()
                trainer.train_step(self._listen)
                process.reporter.part(share.step + 1, Mark(began, time.monotonic_ns(), *recorder.take()))
                recorder.enter("idle")
            assert policy.over is not None
            process.say_over(policy.over)
        finally:
            trainer.leave()

    def _link(self, server: int) -> Line:
        while True:
            link = self._process.inbox.link("server", server, REPLACED_SECONDS)
            try:
                return Line(link.group(), asks=True)
            except PeerLostError:  # it is lost already, and another will come; or the two have missed each other
                self._process.reporter.say(Unlinked(server=server, far=link.far))
