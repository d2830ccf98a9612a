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
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import manyhands.jobs.controller.core.requests as requests
from manyhands.engine import HERE
from manyhands.jobs.controller.core.bell import Bell
from manyhands.jobs.controller.core.books import Books
from manyhands.jobs.controller.core.gangs import Gangs
from manyhands.jobs.controller.core.show import history, show
from manyhands.jobs.controller.processes.gang import Gang
from manyhands.jobs.controller.scheduling.moment import moment, take
from manyhands.jobs.controller.scheduling.orders import Adopt, Alive, Change, Halt, Launch, Order, orders
from manyhands.jobs.controller.sharing.memory import of_a_slot
from manyhands.jobs.controller.sharing.sharing import Sharing
from manyhands.jobs.controller.storage.record import Job, Status, Wish
from manyhands.jobs.controller.storage.submission import Submission
from manyhands.jobs.controller.trouble import attempt
from manyhands.jobs.policies import policy_of


class Controller:
    """Owns the jobs of a home; everything is called in one event loop.

    Args:
        policy: the policy's name, as `policy_of` reads it.
        shares: users' weights, by name.
        tick: seconds between decisions while nothing happens.
        umask: for the files that jobs make; -1: ours.
    """

    def __init__(
        self,
        books: Books,
        policy: str,
        shares: Mapping[str, float] | None = None,
        tick: float = 5.0,
        umask: int = -1,
    ) -> None:
        self._books, self._bell = books, Bell()
        self._gangs = Gangs(books, self._bell, umask)
        slot_bytes = of_a_slot(len(books.cluster.hosts.get(HERE, ())))
        self._sharing = Sharing(books.store, slot_bytes, lambda: self._bell.ring(decide=True))
        self._policy_name, self._policy = policy, policy_of(policy)
        self._shares, self._tick = dict(shares or {}), tick
        self._began = time.time()
        self._version = 0
        self._changed = asyncio.Condition()
        self._closing = False
        self.begun = asyncio.Event()
        """Set when the controller has found its gangs, and been around its loop once."""

    # The loop

    async def run(self) -> None:
        """Find the gangs that a former controller left; then go around after every event, until `close`."""
        for job in self._books.jobs.values():
            if not job.status.over or not job.file:
                self._gangs.guard(job, self._gangs.find)
        while not self._closing:
            self._round()
            await self._tell()
            self.begun.set()
            await self._bell.heard(self._tick if self._books.active() or self._books.unwritten else None)
        await self._sharing.close(nobody_left=not self._books.gangs)
        for gang in self._books.gangs.values():
            gang.close()

    def _round(self) -> None:
        """Go around once. What fails is tried again, with the next tick at the latest: no fault ends the loop."""
        attempt(self._books.write_again, "what happened cannot be written down")
        if self._bell.decide:
            self._bell.decide = False
            attempt(self._decide, f"the policy {self._policy_name} cannot be asked")
        attempt(self._carry_out, "what the policy wants cannot be carried out")
        attempt(self._share, "jobs cannot share slots")

    def close(self) -> None:
        """Have the loop end; jobs that run go on."""
        self._closing = True
        self._bell.ring()

    async def rest(self) -> None:
        """Have all jobs stop at a step boundary, and wait until they have; another controller goes on with them."""
        self._policy = lambda state: []
        for job in self._books.active():
            job.target = ()
            self._gangs.guard(job, self._books.store.save)
        self._bell.ring()
        async with self._changed:
            await self._changed.wait_for(lambda: not self._books.gangs)

    def _decide(self) -> None:
        """Ask the policy, and write down which targets it gives."""
        books, now = self._books, time.time()
        live = books.cluster.live
        active = books.active()
        self._leave_lost_hosts(active, set(live))
        spread = {number: _spread(gang) for number, gang in books.gangs.items()}
        wanting = [job for job in active if job.wish is not Wish.CANCEL and job.number not in books.doomed]
        pairs = self._sharing.pairs(job.kind for job in wanting)
        service = books.holdings.service(now)
        state = moment(now, wanting, service, live, books.cluster.slots, self._shares, spread, pairs)
        books.store.save(*take(self._policy(state), books.jobs, live, now))

    def _leave_lost_hosts(self, jobs: Sequence[Job], live: set[int]) -> None:
        """Take slots of hosts that are gone from jobs: those have to go on elsewhere, from what is kept."""
        for job in jobs:
            if not live.issuperset(job.target):
                job.target, job.guest, job.since = (), False, time.time()
                self._books.store.save(job)

    def _carry_out(self) -> None:
        """Do what targets ask for now."""
        books = self._books
        alive = {number: self._alive(number, gang) for number, gang in books.gangs.items()}
        for order in orders(books.active(), alive, books.cluster.slots):
            self._gangs.guard(books.jobs[order.job], partial(self._obey, order))

    def _share(self) -> None:
        """Have jobs that are to share slots do so."""
        books = self._books
        steady = {job.number: job for job in books.active() if job.held == job.target and job.status is Status.RUNNING}
        self._sharing.carry_out(steady, books.gangs)

    def _alive(self, number: int, gang: Gang) -> Alive:
        return Alive(
            ready=gang.status is not None,
            busy=gang.ordering or number in self._books.changing,
            told=gang.told_to_stop,
            rigid=self._books.cluster.cuda,
            unsure=number in self._books.unsure,
        )

    def _obey(self, order: Order, job: Job) -> None:
        match order:
            case Launch():
                self._gangs.launch(job)
            case Halt():
                self._gangs.halt(job)
            case Change():
                self._gangs.change(job)
            case Adopt():
                self._gangs.adopt(job)

    # What the world says

    def host_changed(self, host: str, there: bool) -> None:
        """Hear that a host has come, or is gone."""
        cluster = self._books.cluster
        if there == cluster.is_there(host):
            return
        (cluster.come if there else cluster.go)(host)
        self._bell.ring(decide=True)

    def hosts_become(self, hosts: Mapping[str, int]) -> None:
        """Let the cluster have these hosts from now on, with so many slots each."""
        self._books.cluster.become(hosts)
        self._books.store.set([("slots", self._books.cluster.slots)])
        self._bell.ring(decide=True)

    # What clients ask for (`requests.py`)

    def submit(self, submission: Submission) -> Job:
        """Take a new job, or find the one that the same request made before.

        Raises:
            UsageError: the cluster can never run it.
        """
        job = requests.submit(self._books, submission)
        self._bell.ring(decide=True)
        return job

    def wish(self, number: int, wanted: Wish) -> Job:
        """Pause, go on with, or cancel a job.

        Raises:
            UsageError: there is no such job, it is over, or its record is damaged.
        """
        job = requests.wish(self._books, number, wanted)
        self._bell.ring(decide=True)
        return job

    def move(self, number: int, to: Sequence[str]) -> Job:
        """Bring a job to other hosts, those named first filled first.

        Raises:
            UsageError: there is no such job or host, it does not run, or there is no room.
        """
        job = requests.move(self._books, number, to)
        self._bell.ring()
        return job

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
        """How things stand now, as data for JSON; `version` says which moment it is of."""
        about = {"pid": os.getpid(), "policy": self._policy_name, "since": self._began}
        return {"version": self._version, **show(about, self._books)}

    def history(self) -> dict[str, Any]:
        """Who held which slots when, as the chart of the page takes it."""
        return history(self._books)

    async def _tell(self) -> None:
        """Tell those who wait for news that there may be some."""
        self._version += 1
        async with self._changed:
            self._changed.notify_all()


def _spread(gang: Gang) -> float:
    """A gang's speed over that on one host: there it would hardly wait for its exchanges."""
    if len(set(gang.hosts)) < 2:
        return 1.0
    return 1.0 - (gang.status.profile.get("exchange", 0.0) if gang.status is not None else 0.0)
