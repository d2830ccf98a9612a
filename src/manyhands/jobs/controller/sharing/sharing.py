"""Which jobs share slots now, what is known of such pairs, and trials of those of which nothing is.

Memory comes first: of two kinds whose peaks together are more than a slot has, nothing is hoped; and two that turn out
to need more are parted, before the machine runs out of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from manyhands.engine import HERE
from manyhands.errors import UserError
from manyhands.jobs.controller.processes.gang import Gang
from manyhands.jobs.controller.sharing.memory import used_by
from manyhands.jobs.controller.sharing.slot_files import SlotFiles
from manyhands.jobs.controller.sharing.trial import Mark, trial
from manyhands.jobs.controller.storage.record import Job
from manyhands.jobs.controller.storage.store import Store
from manyhands.jobs.controller.trouble import complain
from manyhands.jobs.pairs import Pairs, Speeds
from manyhands.plan import WAYS
from manyhands.run import ShareSlots

_AGAIN_SECONDS = 2.0
_LOOK_SECONDS = 2.0
_NEWS = 1.02
"""A new peak of memory is worth telling if it is so many times the one that is known."""


class Sharing:
    """Has jobs share slots, and keeps what is known of pairs of them.

    Args:
        store: keeps what was measured, for the next controller.
        slot_bytes: memory of a slot.
        changed: called when something new is known, which the policy may care about.
    """

    def __init__(self, store: Store, slot_bytes: int, changed: Callable[[], None]) -> None:
        self._store, self._changed = store, changed
        kept = _rows(store.setting("pairs"), str, str, float, float, str)
        self._pairs: Pairs[str] = Pairs({(a, b): (first, second) for a, b, first, second, _ in kept})
        self._ways: dict[tuple[str, str], str] = {(a, b): way for a, b, _, _, way in kept if way in WAYS}
        self._rates: dict[tuple[str, int], float] = {
            (kind, workers): rate for kind, workers, rate in _rows(store.setting("rates"), str, int, float)
        }
        """Steps per second that a kind makes alone, by the kind and its number of workers."""
        self._peaks: dict[str, int] = dict(_rows(store.setting("peaks"), str, int))
        """The most bytes that a worker of a kind was seen to use, on the average over a job's workers here."""
        self._slot_bytes, self._looked = slot_bytes, 0.0
        self._trials: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._files = SlotFiles(store)

    def pairs(self, kinds: Iterable[str]) -> dict[tuple[str, str], Speeds]:
        """Speeds of two jobs on one slot over those alone, by their kinds; (0, 0) where memory is too small."""
        peaks = self._peaks
        return {
            (a, b): speeds if peaks.get(a, 0) + peaks.get(b, 0) <= self._slot_bytes else (0.0, 0.0)
            for (a, b), speeds in self._pairs.among(kinds).items()
        }

    def carry_out(self, jobs: Mapping[int, Job], gangs: Mapping[int, Gang]) -> None:
        """Have jobs that share slots do so in the best way, or find out which that is; and others not share any more.

        Args:
            jobs: jobs that run on their targets, by number.
            gangs: all gangs that live, by the number of their job.
        """
        shared: dict[tuple[int, int], tuple[Job, Job]] = {}
        for guest in jobs.values():
            for host in jobs.values():
                if guest.guest and not host.guest and host.held == guest.held:
                    shared[host.number, guest.number] = host, guest
        self._look_at_memory(jobs, gangs)
        for pair in self._trials.keys() - shared.keys():
            self._trials.pop(pair).cancel()
        paired = {number for pair in shared for number in pair}
        for number, gang in gangs.items():
            if number not in paired and gang.way is not None and gang.status is not None:
                gang.way = None
                self._tell(_Runner(gang, (), self._files), None)
        for pair, (host, guest) in shared.items():
            runners = [_Runner(gangs[job.number], job.held, self._files) for job in (host, guest)]
            way = self._ways.get((host.kind, guest.kind))
            if way is not None:
                for runner in runners:
                    if runner.gang.way != way:
                        self._tell(runner, way)
            elif pair not in self._trials:
                self._trials[pair] = asyncio.create_task(self._try(host, guest, *runners))

    def _look_at_memory(self, jobs: Mapping[int, Job], gangs: Mapping[int, Gang]) -> None:
        """Remember how much memory kinds need; the policy parts pairs that turn out to need too much."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked, news = now, False
        for number, job in jobs.items():
            here = [worker.pid for worker in gangs[number].workers if worker.host == HERE]
            peak = used_by(here) // max(1, len(here))
            if peak > self._peaks.get(job.kind, 0) * _NEWS:
                self._peaks[job.kind], news = peak, True
        if news:
            self._store.set([("peaks", list(self._peaks.items()))])
            self._changed()

    async def close(self, nobody_left: bool) -> None:
        """Stop all trials; remove the slots' files if no gang is left that may use them."""
        tasks = [*self._trials.values(), *self._telling]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        if nobody_left:
            self._files.remove()

    def _tell(self, runner: _Runner, way: str | None) -> None:
        async def tell() -> None:
            try:
                await runner.share(way)
            except UserError:  # it starts or ends: say it again when there is news
                runner.gang.way = "unknown"

        runner.gang.way = way
        task = asyncio.create_task(tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _try(self, host: Job, guest: Job, first: _Runner, second: _Runner) -> None:
        keys = (host.kind, len(host.held)), (guest.kind, len(guest.held))
        try:
            found = await trial(first, second, (self._rates.get(keys[0]), self._rates.get(keys[1])))
        except Exception as error:  # one of them ends, or evaluates: later again, if they are still there
            if not isinstance(error, UserError):
                complain(f"jobs {host.number} and {guest.number} cannot be tried on one slot")
            await asyncio.sleep(_AGAIN_SECONDS)
            self._trials.pop((host.number, guest.number), None)
            self._changed()
            return
        self._rates.update(zip(keys, found.alone, strict=True))
        self._store.set([("rates", [[kind, workers, rate] for (kind, workers), rate in self._rates.items()])])
        self._pairs.measure(host.kind, guest.kind, found.speeds)
        self._ways[host.kind, guest.kind] = self._ways[guest.kind, host.kind] = found.way
        kept = [[a, b, *speeds, self._ways[a, b]] for (a, b), speeds in self._pairs.measured.items()]
        self._store.set([("pairs", kept)])
        self._changed()


def _rows(value: Any, *kinds: type) -> list[Any]:
    """The rows of a setting that have columns of these kinds; what others held is measured anew."""
    found = []
    for row in value if isinstance(value, list) else []:
        if isinstance(row, list) and len(row) == len(kinds):
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                cells = tuple(kind(cell) for kind, cell in zip(kinds, row, strict=True))
                if all(not isinstance(cell, float) or 0.0 <= cell < math.inf for cell in cells):
                    found.append(cells)
    return found


class _Runner:
    """A gang as a trial needs it (`trial.Runner`)."""

    def __init__(self, gang: Gang, slots: tuple[int, ...], files: SlotFiles) -> None:
        self.gang = gang
        self._paths = tuple(str(files.of(slot)) for slot in slots)

    def mark(self) -> Mark | None:
        status = self.gang.status
        return Mark(status.step, status.at) if status is not None and status.at is not None else None

    async def share(self, way: str | None) -> None:
        self.gang.way = way
        await asyncio.to_thread(self.gang.ask, ShareSlots(way, self._paths))
