"""Does what `orders` says of jobs' gangs, and writes down what they say and how they end."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from manyhands.engine import HERE
from manyhands.errors import UserError
from manyhands.jobs.controller import command
from manyhands.jobs.controller.bell import Bell
from manyhands.jobs.controller.books import Books, Change
from manyhands.jobs.controller.ending import verdict
from manyhands.jobs.controller.gang import Gang, is_alive, launch
from manyhands.jobs.controller.record import Job, Status, Wish
from manyhands.run import read_json

_TAIL = 600
"""Characters of what a supervisor printed last that are kept as the reason why it ended."""


class Gangs:
    """Launches, changes and ends gangs; each method is about one job.

    Args:
        bell: rung whenever a gang has said something or is gone.
    """

    def __init__(self, books: Books, bell: Bell) -> None:
        self._books, self._bell = books, bell

    def find(self, job: Job) -> None:
        """After a start: follow the gang that a former controller left running, or take what it left."""
        if is_alive(self._books.home.job(job.number)):
            self._books.unsure.add(job.number)
            self._follow(job, None)
        elif job.held:
            self._ended(job, None)

    def launch(self, job: Job) -> None:
        """Start its supervisor, with its target."""
        files = self._books.home.job(job.number)
        begun = files.run.run.is_file()
        arguments = command.train(job, files.run.path, begun, self._places(job))
        files.run.result.unlink(missing_ok=True)  # what is there afterwards is this launch's
        job.held, job.status, job.error = job.target, Status.STARTING, ""
        self._books.holdings.write(job)  # first: whatever is started is accounted for
        try:
            process = launch(files, arguments, job.cwd)
        except OSError as error:
            self._fail(job, f"cannot start it in {job.cwd}: {error.strerror}")
            return
        except UserError:
            process = None  # it lives: follow it
        self._follow(job, process)

    def halt(self, job: Job) -> None:
        """Have it end at the next step boundary, with a checkpoint."""
        job.halting = True
        self._books.store.save(job)

        def answered(answer: dict[str, Any] | UserError) -> None:
            if isinstance(answer, UserError) and job.number in self._books.gangs:
                self._books.gangs[job.number].told_to_stop = False  # it starts or ends: say it again
            self._bell.ring()

        self._books.gangs[job.number].stop(answered)

    def change(self, job: Job) -> None:
        """Have it go on with its target; it holds both until it has."""
        gang, change = self._books.gangs[job.number], Change(job.held, job.target)
        job.held = tuple(sorted({*change.before, *change.target}))
        self._books.changing[job.number] = change
        self._books.unsure.discard(job.number)
        self._books.holdings.write(job)

        def answered(answer: dict[str, Any] | UserError) -> None:
            if isinstance(answer, dict):
                gang.resized = answer["resizes"]
                self._heard(job)
            elif job.number in self._books.changing:
                self._settle(job, change.before, str(answer))

        gang.order(command.resize(job, self._places(job)), answered)

    def adopt(self, job: Job) -> None:
        """Its target is other slots of the same hosts: only written down."""
        job.held = job.target
        self._books.holdings.write(job)

    def _places(self, job: Job) -> str | None:
        cluster = self._books.cluster
        return None if cluster.alone else cluster.places(job.target)

    def _follow(self, job: Job, process: subprocess.Popen[bytes] | None) -> None:
        files = self._books.home.job(job.number)
        gang = Gang(files, process, lambda: self._heard(job), lambda code: self._gone(job, code))
        self._books.gangs[job.number] = gang

    def _heard(self, job: Job) -> None:
        """Its gang has said how it stands."""
        gang = self._books.gangs.get(job.number)
        if gang is None or not gang.status:
            return
        status = gang.status
        if status["step"] > job.step:
            job.losses = 0
        job.step, job.total_steps = status["step"], status["total_steps"]
        if job.status is Status.STARTING and status["workers"]:
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
        """Its gang has changed, or will not."""
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
        """A replica needs a micro-batch at least: an elastic job cannot use more workers than it has of those."""
        if job.most > job.least:
            facts = read_json(self._books.home.job(job.number).run.run).get("job", {})
            job.most = max(job.least, min(job.most, facts.get("micro_batches", job.most)))

    def _gone(self, job: Job, code: int | None) -> None:
        self._books.gangs.pop(job.number).close()
        self._ended(job, code)
        self._bell.ring(decide=True)

    def _ended(self, job: Job, code: int | None) -> None:
        """Its supervisor is gone: take what it left."""
        self._books.changing.pop(job.number, None)
        self._books.unsure.discard(job.number)
        files = self._books.home.job(job.number)
        result = read_json(files.run.result)
        others = {*self._books.hosts(job.held)} - {HERE}
        found = verdict(job, result, code, others, _last_words(files.output))
        job.step = max(job.step, result.get("steps", 0))
        job.total_steps = result.get("total_steps", 0) or job.total_steps
        job.status, job.losses, job.held, job.halting = found.status, found.losses, (), False
        if found.error is not None:
            job.error = found.error
        if found.status.over:
            job.target, job.ended = (), time.time()
        if found.status is Status.FINISHED:
            job.weights = result["weights_sha256"]
        if found.pause:
            job.wish, job.target = Wish.PAUSE, ()
        self._books.holdings.write(job)

    def _fail(self, job: Job, error: str) -> None:
        job.status, job.error, job.ended, job.target, job.held = Status.FAILED, error, time.time(), (), ()
        self._books.holdings.write(job)


def _last_words(path: Path) -> str:
    """What a supervisor said last, from `manyhands:` on."""
    try:
        text = path.read_text(errors="replace")[-10 * _TAIL :].strip()
    except OSError:
        return ""
    cut = text.rfind("manyhands: ")
    return text[cut + len("manyhands: ") :][:_TAIL] if cut >= 0 else text[-_TAIL:]
