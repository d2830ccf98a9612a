"""Runs a policy over the jobs of a trace on an imagined cluster, event by event.

Between two events every job goes at its speed: 1 on as many workers as it asked for, alone on its slots, on as few
hosts as can be. More workers make it (workers / least) ** scaling times as fast, more hosts than needed `spread`
times, and a partner on its slots as `pairs` says, which the policy may have to find out by trial. Whoever goes on after
a pause, or with other slots, stands still for `restart` seconds first. The policy is asked when a job comes or ends,
when a trial has ended, and while somebody waits every `tick` seconds, less often while nothing comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manyhands.jobs.pairs import Pairs
from manyhands.jobs.policies import Policy
from manyhands.jobs.simulator.jobs import Trace
from manyhands.jobs.state import FREE, Decision, Floats, Ints, Jobs, Move, Pack, Pause, Resize, State

_LONGEST = 4
"""The most ticks between decisions while nothing happens and nothing is decided."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What the simulator imagines.

    Attributes:
        hosts: slots of each host.
        restart: seconds lost with every pause, move or resize.
        scaling: exponent of the speed in the number of workers.
        tick: seconds between decisions while somebody waits.
        shares: users' weights.
        pairs: by kinds of two jobs that share slots, their speeds; (0, 0) for two that do not fit side by side.
        trial: seconds after which the speeds of two that share slots are known. None: all are known from the start.
    """

    hosts: Sequence[int]
    restart: float = 5.0
    scaling: float = 0.9
    tick: float = 300.0
    shares: Mapping[int, float] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    trial: float | None = None

    @property
    def slots(self) -> Ints:
        """The host of each slot."""
        return np.repeat(np.arange(len(self.hosts)), self.hosts)


@dataclass(frozen=True)
class Stay:
    """A job on its slots for a while, in s."""

    job: int
    slots: tuple[int, ...]
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the jobs.

    Attributes:
        slots: how many slots the cluster had.
        began: when each job first ran, in s; NaN for those that never did.
        ended: when each job was done, in s; NaN for those that never were.
        ran: seconds that each job held slots.
        stays: who had which slots when.
        refused: rows of jobs that ask for more slots than there are.
        decisions: how many of each kind were made.
    """

    trace: Trace
    slots: int
    began: Floats
    ended: Floats
    ran: Floats
    used: float
    """Slot-seconds that were held; shared slots count once."""
    stays: Sequence[Stay]
    refused: Ints
    decisions: Mapping[str, int]


def simulate(trace: Trace, world: World, policy: Policy) -> Outcome:
    """Run every job of a trace to its end.

    Raises:
        RuntimeError: the policy leaves slots free and jobs waiting for ever, or decides what cannot be.
    """
    return _Simulation(trace, world, policy).run()


class _Simulation:
    """A simulation: how it stands, and what happens in it. Columns have a row for each job of the trace."""

    def __init__(self, trace: Trace, world: World, policy: Policy) -> None:
        self.trace, self.world, self.policy = trace, world, policy
        count = len(trace)
        self.slots = world.slots
        self.most_on = np.cumsum(sorted(world.hosts, reverse=True))
        """How many slots the largest host has, the two largest together, and so on."""
        self.first = np.full(len(self.slots), FREE)
        self.second = np.full(len(self.slots), FREE)
        self.now = 0.0
        self.active = np.zeros(0, dtype=np.int64)
        self.facts: tuple[Ints | None, dict[str, Any]] = (None, {})
        self.runs = np.zeros(0, dtype=np.int64)
        self.workers = np.zeros(count, dtype=np.int64)
        self.done = np.zeros(count)
        self.service = np.zeros(count)
        self.rate = np.zeros(count)
        self.ready = np.zeros(count)
        self.ran = np.zeros(count)
        self.began = np.full(count, np.nan)
        self.ended = np.full(count, np.nan)
        self.used = 0.0
        self.next = 0
        self.on: dict[int, tuple[tuple[int, ...], float]] = {}
        self.since = trace.submitted.copy()
        self.together = np.ones(count)
        self.stays: list[Stay] = []
        self.counts: dict[str, int] = {}
        self.asked, self.wait = -np.inf, world.tick
        self.seen: tuple[int, int, int] = (0, 0, 0)
        self.known = Pairs(world.pairs if world.trial is None else None)
        self.measurable = frozenset(kind for pair in world.pairs for kind in pair)
        self.hoped: tuple[object, Mapping[tuple[int, int], tuple[float, float]]] = (None, {})
        self.trials: dict[tuple[int, int], float] = {}
        """When jobs that share slots and have not been measured will have been, by their rows."""

    def run(self) -> Outcome:
        trace = self.trace
        refused = np.flatnonzero(trace.least > len(self.slots))
        never = np.zeros(len(trace), dtype=bool)
        never[refused] = True
        while self.next < len(trace) or len(self.active):
            self._advance(self._next_event())
            while self.next < len(trace) and trace.submitted[self.next] <= self.now:
                if not never[self.next]:
                    self.active = np.append(self.active, self.next)
                self.next += 1
            self._end_the_finished()
            self._end_trials()
            if len(self.active):
                self._decide()
        return Outcome(
            trace=trace,
            slots=len(self.slots),
            began=self.began,
            ended=self.ended,
            ran=self.ran,
            used=self.used,
            stays=self.stays,
            refused=refused,
            decisions=self.counts,
        )

    def _next_event(self) -> float:
        times = [self.trace.submitted[self.next]] if self.next < len(self.trace) else []
        if len(self.runs):
            left = self.trace.seconds[self.runs] - self.done[self.runs]
            rate = np.maximum(self.rate[self.runs], 1e-12)
            times.append(float(np.min(np.maximum(self.now, self.ready[self.runs]) + left / rate)))
            if len(self.runs) < len(self.active):
                times.append(self.asked + self.wait)
            times += self.trials.values()
        if not times:
            waits = len(self.active)
            raise RuntimeError(f"the policy leaves {waits} job(s) waiting for ever, with all slots free")
        return max(self.now, min(times))

    def _advance(self, now: float) -> None:
        runs, passed = self.runs, now - self.now
        moving = np.clip(now - np.maximum(self.now, self.ready[runs]), 0.0, None)
        self.done[runs] += self.rate[runs] * moving
        self.service[runs] += self.workers[runs] * passed
        self.ran[runs] += passed
        self.used += float((self.first != FREE).sum()) * passed
        self.now = now

    def _end_the_finished(self) -> None:
        # What is added up in many small steps misses the sum by rounding, and times are rounded, too.
        missing = self.trace.seconds[self.runs] * (1 - 1e-9) - self.done[self.runs]
        over = self.runs[missing <= 1e-9 + 2 * np.spacing(self.now) * self.rate[self.runs]]
        for job in over.tolist():
            self.ended[job] = self.now
            self._leave(job)
        if len(over):
            self.active = self.active[~np.isin(self.active, over)]
            self._settle()

    def _pairs(self) -> Mapping[tuple[int, int], tuple[float, float]]:
        if self.world.trial is None:
            return self.world.pairs
        kinds = self.measurable.intersection(self.trace.kind[self.active].tolist())
        about = kinds, len(self.known.measured)
        if about != self.hoped[0]:
            self.hoped = about, self.known.among(kinds)
        return self.hoped[1]

    def _end_trials(self) -> None:
        """Make the speeds of jobs known that have shared slots for long enough."""
        for (host, guest), when in list(self.trials.items()):
            if when <= self.now:
                del self.trials[host, guest]
                kinds = int(self.trace.kind[host]), int(self.trace.kind[guest])
                self.known.measure(*kinds, self._speeds(*kinds))

    def _speeds(self, host: int, guest: int) -> tuple[float, float]:
        """The speeds of two kinds that share slots, as they really are."""
        if (host, guest) in self.world.pairs:
            return self.world.pairs[host, guest]
        guests, hosts = self.world.pairs[guest, host]
        return hosts, guests

    def _decide(self) -> None:
        decisions = self.policy(self.state())
        seen = self.next, len(self.active), len(self.known.measured)
        quiet = not decisions and seen == self.seen
        self.wait = min(2 * self.wait, _LONGEST * self.world.tick) if quiet else self.world.tick
        self.asked, self.seen = self.now, seen
        for decision in decisions:
            if isinstance(decision, Pause | Resize | Move) or (
                isinstance(decision, Pack) and self.workers[decision.job]
            ):
                self._leave(decision.job)
        for decision in decisions:
            if not isinstance(decision, Pack):
                self._carry_out(decision)
        for decision in decisions:
            if isinstance(decision, Pack):
                self._carry_out(decision)
        if decisions:
            self._settle()

    def state(self) -> State:
        active = self.active
        if self.facts[0] is not active:
            self.facts = active, self._facts(active)
        jobs = Jobs(
            service=self.service[active],
            workers=self.workers[active],
            since=self.now - self.since[active],
            **self.facts[1],
        )
        return State(
            now=self.now,
            jobs=jobs,
            slots=self.slots,
            first=self._rows(self.first),
            second=self._rows(self.second),
            shares=self.world.shares,
            pairs=self._pairs(),
        )

    def _facts(self, active: Ints) -> dict[str, Any]:
        """The columns of jobs that stay as they are while the same jobs are there."""
        columns = ("user", "submitted", "least", "most", "priority", "kind", "spread")
        facts = {name: getattr(self.trace, name)[active] for name in columns}
        return {"number": active, "held": np.zeros(len(active), dtype=bool), **facts}

    def _rows(self, who: Ints) -> Ints:
        return np.where(who == FREE, FREE, np.searchsorted(self.active, who))

    def _carry_out(self, decision: Decision) -> None:
        name = type(decision).__name__.lower()
        self.counts[name] = self.counts.get(name, 0) + 1
        job = decision.job
        if isinstance(decision, Pause):
            return
        slots = np.array(decision.slots)
        target = self.second if isinstance(decision, Pack) else self.first
        if (target[slots] != FREE).any() or (isinstance(decision, Pack) and (self.first[slots] == FREE).any()):
            raise RuntimeError(f"the policy gives job {self.trace.names[job]} slots that are not to be had: {decision}")
        if not self.trace.least[job] <= len(slots) <= self.trace.most[job] or self.workers[job]:
            raise RuntimeError(f"the policy runs job {self.trace.names[job]} as it cannot be: {decision}")
        target[slots] = job
        self.workers[job] = len(slots)
        again = not np.isnan(self.began[job])
        self.ready[job] = self.now + (self.world.restart if again else 0.0)
        if not again:
            self.began[job] = self.now
        self.on[job], self.since[job] = (decision.slots, self.now), self.now
        spread = len(np.unique(self.slots[slots])) > self.most_on.searchsorted(len(slots)) + 1
        self.together[job] = self.trace.spread[job] if spread else 1.0

    def _leave(self, job: int) -> None:
        slots, began = self.on.pop(job)
        self.since[job] = self.now
        if self.now > began:
            self.stays.append(Stay(job, slots, began, self.now))
        own = np.array(slots)
        if (self.first[own] == job).all():  # a second one has the slots for itself from now on
            self.first[own], self.second[own] = self.second[own], FREE
        else:
            self.second[own] = FREE
        self.workers[job] = 0

    def _settle(self) -> None:
        """Find the speeds of jobs from now on."""
        self.runs = np.array(sorted(self.on), dtype=np.int64)
        trace, runs = self.trace, self.runs
        self.rate[runs] = self.together[runs] * (self.workers[runs] / trace.least[runs]) ** self.world.scaling
        shared = {(int(self.first[s]), int(self.second[s])) for s in np.flatnonzero(self.second != FREE)}
        self.trials = {pair: when for pair, when in self.trials.items() if pair in shared}
        for host, guest in shared:
            kinds = int(trace.kind[host]), int(trace.kind[guest])
            speeds = self._speeds(*kinds)
            if kinds not in self.known.measured:
                self.trials.setdefault((host, guest), self.now + (self.world.trial or 0.0))
            self.rate[host] *= speeds[0]
            self.rate[guest] *= speeds[1]
