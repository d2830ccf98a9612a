"""Does what `orders` says of jobs' gangs, and writes down what they say and how they end."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import manyhands.jobs.controller.processes.command as command
from manyhands.engine import HERE
from manyhands.errors import UserError
from manyhands.jobs.controller.core.bell import Bell
from manyhands.jobs.controller.core.books import Books, Change
from manyhands.jobs.controller.processes.gang import Gang, is_alive, launch
from manyhands.jobs.controller.processes.remains import DamagedError, Result, last_words, micro_batches, read_result
from manyhands.jobs.controller.scheduling.ending import verdict
from manyhands.jobs.controller.storage.record import Job, Status, Wish
from manyhands.jobs.controller.trouble import complain
from manyhands.run import Done
from manyhands.run.lock import signed_by


class Gangs:
    """Launches, changes and ends gangs; each method is about one job.

    A fault in what is done for one job is that job's: it fails with the reason, and the others go on.

    Args:
        bell: rung whenever a gang has said something or is gone.
        umask: for the files that jobs make; -1: ours.
    """

    def __init__(self, books: Books, bell: Bell, umask: int = -1) -> None:
        self._books, self._bell, self._umask = books, bell, umask

    def guard(self, job: Job, act: Callable[[Job], None]) -> None:
        """Do something for a job. A fault fails that job; if only the database refuses, it is written down later."""
        try:
            act(job)
        except sqlite3.Error:  # a full disk, perhaps: the job is not to blame, and is looked at again
            complain(f"what happened to job {job.number} cannot be written down")
            self._books.unwritten.add(job.number)
        except Exception as error:
            complain(f"job {job.number} cannot be handled")
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._doom(job, f"the controller could not handle it: {reason}")

    def find(self, job: Job) -> None:
        """Follow the gang that a former controller left running, or take what it left; called after a start."""
        if not job.file:
            self._stray(job)
        elif is_alive(self._books.home.job(job.number)):
            self._books.unsure.add(job.number)
            self._follow(job, None)
        elif job.held:
            self._ended(job, None)

    def _stray(self, job: Job) -> None:
        """Stop a gang whose job's record is lost: nobody knows which slots it has. What it has trained is kept."""
        files = self._books.home.job(job.number)
        if is_alive(files):
            with contextlib.suppress(OSError, ValueError, OverflowError):
                os.kill(int(signed_by(files.lock)), signal.SIGINT)

    def launch(self, job: Job) -> None:
        """Start a job's supervisor on the slots that the job is to have."""
        files = self._books.home.job(job.number)
        try:
            begun = micro_batches(files.run.run) is not None
        except DamagedError as error:
            self._fail(job, str(error))
            return
        arguments = command.train(job, files.run.path, begun, self._places(job))
        files.run.result.unlink(missing_ok=True)  # what is there afterwards is this launch's
        job.held, job.status, job.error = job.target, Status.STARTING, ""
        self._books.holdings.write(job)  # first: whatever is started is accounted for
        try:
            process = launch(files, arguments, job.cwd, self._umask)
        except OSError as error:
            self._fail(job, f"cannot start it in {job.cwd}: {error.strerror}")
            return
        except UserError:
            process = None  # it lives: follow it
        self._follow(job, process)

    def halt(self, job: Job) -> None:
        """Have a job's gang end at the next step boundary, with a checkpoint."""
        job.halting = True
        self._books.store.save(job)

        def answered(answer: Done | UserError) -> None:
            if isinstance(answer, UserError) and job.number in self._books.gangs:
                self._books.gangs[job.number].told_to_stop = False  # it starts or ends: say it again
            self._bell.ring()

        self._books.gangs[job.number].stop(answered)

    def change(self, job: Job) -> None:
        """Have a job's gang go on with the target; the job holds its old slots, too, until the gang has changed."""
        gang, change = self._books.gangs[job.number], Change(job.held, job.target)
        job.held = tuple(sorted({*change.before, *change.target}))
        try:
            self._books.holdings.write(job)  # first: whatever it may take is accounted for
        except sqlite3.Error:
            job.held = change.before
            raise
        self._books.changing[job.number] = change
        self._books.unsure.discard(job.number)

        def answered(answer: Done | UserError) -> None:
            if isinstance(answer, Done):
                gang.resized = answer.resizes
                self._heard(job)
            elif job.number in self._books.changing:
                self._settle(job, change.before, str(answer))

        request = command.resize(job, self._places(job))
        gang.order(request, lambda answer: self.guard(job, lambda job: answered(answer)))

    def adopt(self, job: Job) -> None:
        """Write down that a job holds its target: it is other slots of the same hosts, so the gang need not know."""
        job.held = job.target
        self._books.holdings.write(job)

    def _places(self, job: Job) -> str | None:
        cluster = self._books.cluster
        return None if cluster.alone else cluster.places(job.target)

    def _follow(self, job: Job, process: subprocess.Popen[bytes] | None) -> None:
        files = self._books.home.job(job.number)
        gang = Gang(
            files,
            process,
            on_news=lambda: self.guard(job, self._heard),
            on_end=lambda code: self.guard(job, lambda job: self._gone(job, code)),
        )
        self._books.gangs[job.number] = gang

    def _heard(self, job: Job) -> None:
        """Take what a job's gang has said of how it stands."""
        gang = self._books.gangs.get(job.number)
        if gang is None or gang.status is None:
            return
        status = gang.status
        if status.step > job.step:
            job.losses = 0
        job.step, job.total_steps = status.step, status.total_steps
        if job.status is Status.STARTING and status.workers:
            job.status = Status.RUNNING
            self._limit(job)
            self._books.store.save(job)
            self._bell.decide = True
        if job.number in self._books.changing and not gang.ordering and gang.resized and gang.settled:
            before, target = self._books.changing[job.number]
            came = Counter(gang.hosts) == Counter(self._books.hosts(target))
            self._settle(job, target if came else before, "" if came else "the gang went back to what it was")
        self._bell.ring()

    def _settle(self, job: Job, slots: tuple[int, ...], error: str) -> None:
        """Write down that a job's gang has changed, or will not (`error` says why): these are its slots."""
        before, target = self._books.changing.pop(job.number)
        if job.number in self._books.gangs:
            self._books.gangs[job.number].resized = 0
        job.held = slots
        if slots != target:
            job.error = error
            if job.target == target:
                job.target = before
            if len(target) > len(before):
                job.most = max(job.least, len(before))  # it cannot use more
        self._books.holdings.write(job)
        self._bell.ring(decide=True)

    def _limit(self, job: Job) -> None:
        """Limit an elastic job to as many workers as it has micro-batches: each replica needs one at least."""
        if job.most > job.least:
            found = micro_batches(self._books.home.job(job.number).run.run)
            job.most = max(job.least, min(job.most, found or job.most))

    def _gone(self, job: Job, code: int | None) -> None:
        self._books.gangs.pop(job.number).close()
        self._ended(job, code)
        self._bell.ring(decide=True)

    def _ended(self, job: Job, code: int | None) -> None:
        """Take what a job's supervisor, which is gone, has left; what becomes of the job follows from that."""
        self._books.changing.pop(job.number, None)
        self._books.unsure.discard(job.number)
        files = self._books.home.job(job.number)
        result, trouble = Result(), self._books.doomed.pop(job.number, "")
        try:
            result = read_result(files.run.result)
        except DamagedError as error:
            trouble = trouble or str(error)
        others = {*self._books.hosts(job.held)} - {HERE}
        found = verdict(job, trouble or result, code, others, last_words(files.output))
        job.step = max(job.step, result.steps)
        job.total_steps = result.total_steps or job.total_steps
        job.status, job.losses, job.held, job.halting = found.status, found.losses, (), False
        if found.error is not None:
            job.error = found.error
        if found.status.over:
            job.target, job.ended = (), time.time()
        if found.status is Status.FINISHED:
            job.weights = result.weights
        if found.pause:
            job.wish, job.target = Wish.PAUSE, ()
        self._books.holdings.write(job)

    def _doom(self, job: Job, reason: str) -> None:
        """Fail a job, whose gang has to end first; if it cannot even be told to, it is killed."""
        job.target = ()
        gang = self._books.gangs.get(job.number)
        if gang is None:
            self.guard(job, lambda job: self._fail(job, reason))
        elif job.number not in self._books.doomed:
            self._books.doomed[job.number] = reason
            self._bell.ring(decide=True)
        else:
            gang.kill()

    def _fail(self, job: Job, error: str) -> None:
        job.status, job.error, job.ended, job.target, job.held = Status.FAILED, error, time.time(), (), ()
        self._books.holdings.write(job)
