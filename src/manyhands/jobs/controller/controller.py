"""Runs many jobs on the slots of a cluster, whatever happens to them or to itself.

A level-triggered state machine, in one thread. Requests and the policy say what each job is to have (its target); after
every event `orders` says what has to be done for that now; what was done is learned from the gangs themselves. All that
counts is in the database before it is acted upon or acknowledged, and gangs are processes of their own, so a controller
that was killed goes on from wherever things stand.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyhands.engine import HERE
from manyhands.errors import UsageError, UserError
from manyhands.jobs.controller.cluster import Cluster
from manyhands.jobs.controller.gang import Gang, is_alive, launch
from manyhands.jobs.controller.holdings import Holdings
from manyhands.jobs.controller.home import Home
from manyhands.jobs.controller.memory import of_a_slot
from manyhands.jobs.controller.moment import moment, take
from manyhands.jobs.controller.orders import Adopt, Alive, Change, Halt, Launch, orders
from manyhands.jobs.controller.record import Job, Status, Wish
from manyhands.jobs.controller.sharing import Sharing
from manyhands.jobs.controller.show import history, show
from manyhands.jobs.controller.store import Store
from manyhands.jobs.controller.submission import Submission
from manyhands.jobs.policies import policy_of
from manyhands.run import read_json

_LOSSES = 5
"""Supervisors lost one after another without a step between them; then a job has failed."""
_TAIL = 600
"""Characters of what a supervisor printed last that are kept as the reason why it ended."""


class Controller:
    """Owns the jobs of a home; everything is called in one event loop.

    Args:
        store: of the same home.
        policy: as `policy_of` reads it.
        shares: users' weights.
        tick: seconds between decisions while nothing happens.
    """

    def __init__(
        self,
        home: Home,
        store: Store,
        cluster: Cluster,
        policy: str,
        shares: Mapping[str, float] | None = None,
        tick: float = 5.0,
    ) -> None:
        self._home, self._store, self._cluster = home, store, cluster
        self._policy_name, self._policy = policy, policy_of(policy)
        self._shares, self._tick = dict(shares or {}), tick
        self._jobs = {job.number: job for job in store.jobs()}
        self._gangs: dict[int, Gang] = {}
        self._holdings = Holdings(store)
        self._changing: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        """By number, what it had and what it is to have."""
        self._unsure: set[int] = set()
        """Whose gangs may have something else than what is written down: another controller may have told them."""
        self._news = asyncio.Event()
        self._decide_again = True
        self._version = 0
        self._changed = asyncio.Condition()
        self._began = time.time()
        self._sharing = Sharing(store, of_a_slot(len(cluster.hosts.get(HERE, ()))), self._changes)
        self._closing = False

    # The loop

    async def run(self) -> None:
        """Until `close`."""
        self._find_gangs()
        while not self._closing:
            if self._decide_again:
                self._decide_again = False
                self._decide()
            self._carry_out()
            await self._tell()
            try:
                await asyncio.wait_for(self._news.wait(), self._tick if self._active() else None)
            except TimeoutError:
                self._decide_again = True
            self._news.clear()
        await self._sharing.close(nobody_left=not self._gangs)
        for gang in self._gangs.values():
            gang.close()

    def close(self) -> None:
        """Let go; jobs that run go on."""
        self._closing = True
        self._news.set()

    async def rest(self) -> None:
        """Have all jobs stop at a step boundary; they wait for another controller."""
        self._policy = lambda state: []
        for job in self._active():
            job.target = ()
            self._store.save(job)
        self._news.set()
        async with self._changed:
            await self._changed.wait_for(lambda: not self._gangs)

    def _changes(self) -> None:
        """Something has changed that the policy may care about."""
        self._decide_again = True
        self._news.set()

    def _active(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.status.over]

    def _find_gangs(self) -> None:
        """After a start: those that a former controller left running, and what became of others."""
        for job in self._active():
            alive = is_alive(self._home.job(job.number))
            if alive:
                self._unsure.add(job.number)
                self._follow(job, None)
            elif job.held:
                self._ended(job, None)

    def _decide(self) -> None:
        """Ask the policy."""
        now, live = time.time(), self._cluster.live
        active = self._active()
        self._leave_lost_hosts(active, set(live))
        spread = {number: _spread(gang) for number, gang in self._gangs.items()}
        wanting = [job for job in active if job.wish is not Wish.CANCEL]
        pairs = self._sharing.pairs(job.kind for job in wanting)
        service = self._holdings.service(now)
        state = moment(now, wanting, service, live, self._cluster.slots, self._shares, spread, pairs)
        self._store.save(*take(self._policy(state), self._jobs, live, now))

    def _leave_lost_hosts(self, jobs: Sequence[Job], live: set[int]) -> None:
        """Who has slots of a host that is gone has to go on elsewhere, from what is kept."""
        for job in jobs:
            if not live.issuperset(job.target):
                job.target, job.guest, job.since = (), False, time.time()
                self._store.save(job)

    def host_changed(self, host: str, there: bool) -> None:
        """A host has come, or is gone."""
        if there == self._cluster.is_there(host):
            return
        (self._cluster.come if there else self._cluster.go)(host)
        self._changes()

    def hosts_become(self, hosts: Mapping[str, int]) -> None:
        """These are the cluster's hosts now, with so many slots each."""
        self._cluster.become(hosts)
        self._store.set([("slots", self._cluster.slots)])
        self._changes()

    def _carry_out(self) -> None:
        alive = {
            number: Alive(
                ready=bool(gang.status),
                busy=gang.ordering or number in self._changing,
                told=gang.told_to_stop,
                rigid=self._cluster.cuda,
                unsure=number in self._unsure,
            )
            for number, gang in self._gangs.items()
        }
        for order in orders(self._active(), alive, self._cluster.slots):
            job = self._jobs[order.job]
            match order:
                case Launch():
                    self._launch(job)
                case Halt():
                    self._halt(job)
                case Change():
                    self._change(job)
                case Adopt():
                    job.held = job.target
                    self._holdings.write(job)
        steady = {job.number: job for job in self._active() if job.held == job.target and job.status is Status.RUNNING}
        self._sharing.carry_out(steady, self._gangs)

    async def _tell(self) -> None:
        self._version += 1
        async with self._changed:
            self._changed.notify_all()

    # Gangs

    def _launch(self, job: Job) -> None:
        files = self._home.job(job.number)
        begun = files.run.run.is_file()
        command = [
            "train",
            *(("--resume", str(files.run.path)) if begun else (job.file, "--run-dir", str(files.run.path))),
        ]
        command += ["--workers", str(len(job.target))]
        if not self._cluster.alone:
            command += ["--hosts", self._cluster.places(job.target)]
        for name, value in job.flags.items():
            command += [f"--{name.replace('_', '-')}", value]
        if not begun and job.arguments:
            command += ["--", *job.arguments]
        files.run.result.unlink(missing_ok=True)  # what is there afterwards is this launch's
        job.held, job.status, job.error = job.target, Status.STARTING, ""
        self._holdings.write(job)  # first: whatever is started is accounted for
        try:
            process = launch(files, command, job.cwd)
        except OSError as error:
            self._fail(job, f"cannot start it in {job.cwd}: {error.strerror}")
            return
        except UserError:
            process = None  # it lives: follow it
        self._follow(job, process)

    def _follow(self, job: Job, process: Any) -> None:
        files = self._home.job(job.number)
        self._gangs[job.number] = Gang(files, process, lambda: self._heard(job), lambda code: self._gone(job, code))

    def _halt(self, job: Job) -> None:
        job.halting = True
        self._store.save(job)

        def answered(answer: dict[str, Any] | UserError) -> None:
            if isinstance(answer, UserError) and job.number in self._gangs:
                self._gangs[job.number].told_to_stop = False  # it starts or ends: say it again
            self._news.set()

        self._gangs[job.number].stop(answered)

    def _change(self, job: Job) -> None:
        before, target, gang = job.held, job.target, self._gangs[job.number]
        job.held = tuple(sorted({*before, *target}))
        self._changing[job.number] = (before, target)
        self._unsure.discard(job.number)
        self._holdings.write(job)
        request: dict[str, Any] = {"command": "resize", "workers": len(target)}
        if not self._cluster.alone:
            request["hosts"] = self._cluster.places(target)

        def answered(answer: dict[str, Any] | UserError) -> None:
            if isinstance(answer, dict):
                gang.resized = answer["resizes"]
                self._heard(job)
            elif job.number in self._changing:
                self._settle(job, before, str(answer))

        gang.order(request, answered)

    def _heard(self, job: Job) -> None:
        """A gang has said how it stands."""
        gang = self._gangs.get(job.number)
        if gang is None or not gang.status:
            return
        status = gang.status
        if status["step"] > job.step:
            job.losses = 0
        job.step, job.total_steps = status["step"], status["total_steps"]
        if job.status is Status.STARTING and status["workers"]:
            job.status = Status.RUNNING
            self._limit(job)
            self._store.save(job)
            self._decide_again = True
        if job.number in self._changing and not gang.ordering and gang.resized and gang.settled:
            before, target = self._changing[job.number]
            came = Counter(gang.hosts) == Counter(self._cluster.slots[slot] for slot in target)
            self._settle(job, target if came else before, "" if came else "the gang went back to what it was")
        self._news.set()

    def _settle(self, job: Job, slots: tuple[int, ...], error: str) -> None:
        """A gang has changed, or will not."""
        before, target = self._changing.pop(job.number)
        if job.number in self._gangs:
            self._gangs[job.number].resized = 0
        job.held = slots
        if slots != target:
            job.error = error
            if job.target == target:
                job.target = before
            if len(target) > len(before):
                job.most = max(job.least, len(before))  # it cannot use more
        self._holdings.write(job)
        self._changes()

    def _limit(self, job: Job) -> None:
        """A replica needs a micro-batch at least: an elastic job cannot use more workers than it has of those."""
        if job.most > job.least:
            facts = read_json(self._home.job(job.number).run.run).get("job", {})
            job.most = max(job.least, min(job.most, facts.get("micro_batches", job.most)))

    def _gone(self, job: Job, code: int | None) -> None:
        self._gangs.pop(job.number).close()
        self._ended(job, code)
        self._changes()

    def _ended(self, job: Job, code: int | None) -> None:
        """Its supervisor is gone: take what it left."""
        self._changing.pop(job.number, None)
        self._unsure.discard(job.number)
        files = self._home.job(job.number)
        result = read_json(files.run.result)
        progressed = result.get("steps", 0) > job.step
        job.step = max(job.step, result.get("steps", 0))
        job.total_steps = result.get("total_steps", 0) or job.total_steps
        hosts = {self._cluster.slots[slot] for slot in job.held}
        job.held = ()
        status = result.get("status")
        if status == "finished" and result["durable_step"] >= result["steps"]:
            job.weights, job.status, job.ended = result["weights_sha256"], Status.FINISHED, time.time()
            job.target, job.error = (), ""
        elif job.wish is Wish.CANCEL:
            job.status, job.ended = Status.CANCELLED, time.time()
        elif status == "failed" and not any(host in result["error"] for host in hosts - {HERE}):
            self._fail(job, result["error"])
        elif status == "stopped" or job.halting:
            if not job.halting:  # by its user, in its directory
                job.wish, job.target = Wish.PAUSE, ()
            job.status = Status.PAUSED if job.wish is Wish.PAUSE else Status.WAITING
        elif code in (1, 2) and status != "failed":
            self._fail(job, _last_words(files.output) or f"its supervisor ended with code {code}")
        else:
            job.losses = 1 if progressed else job.losses + 1
            job.status = Status.WAITING
            if job.losses >= _LOSSES:
                self._fail(
                    job, f"its supervisor was lost {job.losses} times without a step. {_last_words(files.output)}"
                )
        job.halting = False
        self._holdings.write(job)

    def _fail(self, job: Job, error: str) -> None:
        job.status, job.error, job.ended, job.target, job.held = Status.FAILED, error, time.time(), (), ()
        self._holdings.write(job)

    # What clients ask for

    def submit(self, submission: Submission) -> Job:
        """
        Raises:
            UsageError: the cluster can never run it, or there is no such file.
        """
        total = self._cluster.size
        there = ", ".join(f"{name} {len(slots)}" for name, slots in self._cluster.hosts.items())
        if submission.least > total:
            raise UsageError(
                f"{submission.name} needs {submission.least} workers at once, and the cluster has {total} slot(s) in "
                f"all: {there}."
            )
        job = self._store.add(submission, time.time())
        self._jobs.setdefault(job.number, job)
        self._changes()
        return self._jobs[job.number]

    def wish(self, number: int, wish: Wish) -> Job:
        """Pause, go on with, or cancel a job. One that has failed may be tried again.

        Raises:
            UsageError: there is none, or it is over.
        """
        job = self._job(number)
        if job.status is Status.FAILED and wish is Wish.RUN:
            job.ended, job.losses, job.error = None, 0, ""
        elif job.status.over:
            raise UsageError(f"job {number} ({job.name}) is over: {job.status.value}.")
        job.wish = wish
        if wish is not Wish.RUN:
            job.target = ()
        if job.number not in self._gangs:
            match wish:
                case Wish.PAUSE:
                    job.status = Status.PAUSED
                case Wish.RUN:
                    job.status = Status.WAITING
                case Wish.CANCEL:
                    job.status, job.ended = Status.CANCELLED, time.time()
        self._store.save(job)
        self._changes()
        return job

    def move(self, number: int, to: Sequence[str]) -> Job:
        """Bring a job to other hosts, those named first filled first.

        Raises:
            UsageError: there is no such job or host, it does not run, or there is no room.
        """
        job = self._job(number)
        if unknown := [host for host in to if host not in self._cluster.hosts]:
            raise UsageError(
                f"there is no host {', '.join(unknown)} in this cluster. There are: {', '.join(self._cluster.hosts)}."
            )
        if not job.target or job.number not in self._gangs:
            raise UsageError(
                f"job {number} ({job.name}) has no slots now ({job.status.value}): nothing is to be moved."
            )
        taken = {slot for other in self._active() if other is not job for slot in (*other.target, *other.held)}
        live = set(self._cluster.live) - taken
        free = [slot for host in to for slot in self._cluster.hosts[host] if slot in live]
        if len(free) < len(job.target):
            raise UsageError(
                f"job {number} ({job.name}) has {len(job.target)} worker(s), and {', '.join(to)} has {len(free)} free "
                "slot(s). Pause or move another job first."
            )
        job.target, job.since, job.guest = tuple(sorted(free[: len(job.target)])), time.time(), False
        self._store.save(job)
        self._news.set()
        return job

    def _job(self, number: int) -> Job:
        if number not in self._jobs:
            raise UsageError(f"there is no job {number}. `manyhands jobs` lists those there are.")
        return self._jobs[number]

    # What clients see

    async def after(self, version: int, seconds: float) -> dict[str, Any]:
        """How things stand, as soon as they are newer than a version, or after so many seconds."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._version != version), seconds)
            except TimeoutError:
                pass
        return self.show()

    def show(self) -> dict[str, Any]:
        """How things stand."""
        about = {"pid": os.getpid(), "policy": self._policy_name, "since": self._began}
        jobs = list(self._jobs.values())
        return {"version": self._version, **show(about, self._cluster, jobs, self._gangs, self._home)}

    def history(self) -> dict[str, Any]:
        """Who held which slots when, as `chart.drawSlots` takes it."""
        return history(self._cluster, list(self._jobs.values()), self._holdings.stays)


def _spread(gang: Gang) -> float:
    """The speed of a gang over that on one host: there it would hardly wait for its exchanges."""
    if len(set(gang.hosts)) < 2:
        return 1.0
    return 1.0 - gang.status.get("profile", {}).get("exchange", 0.0)


def _last_words(path: Path) -> str:
    """What a supervisor said last, from `manyhands:` on."""
    try:
        text = path.read_text(errors="replace")[-10 * _TAIL :].strip()
    except OSError:
        return ""
    cut = text.rfind("manyhands: ")
    return text[cut + len("manyhands: ") :][:_TAIL] if cut >= 0 else text[-_TAIL:]
