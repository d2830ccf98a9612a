"""A run without processes: `decide` and `heard` over workers that are a few lines of state each.

The fake gang does what real members do as far as a supervisor can see it: they build, join, step, pause, save, hand
over, lose peers, die, and say so; what each says arrives in order, but members overtake each other. A test draws what
happens next, and looks at the standing after every event.
"""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from manyhands.gang import Kind, Phase, Report, StepRow
from manyhands.gang import orders as told
from manyhands.gang import reports as said
from manyhands.plan import Plan
from manyhands.run import Checkpoint
from manyhands.shm import Held
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
from manyhands.supervise.decide import decide, done
from manyhands.supervise.deviations import rewound
from manyhands.supervise.losses import Casualties, Loss
from manyhands.supervise.standing import Durable, Standing

TOTAL = 18
"""Steps of the job."""


@dataclass
class Puppet:
    """A process of the gang, as it is, whatever the supervisor thinks of it."""

    worker: int
    host: str
    plan: Plan | None = None
    doing: str = "new"
    """`new`, `idle`, `checking`, `running`, `giving` or `over`, having failed to build."""
    step: int = 0
    whole: bool = True
    rank: int = -1
    generation: int = 0
    """Of the model: whom it trains with."""
    pause: bool = False
    checkpoint: bool = False
    trained: bool = False
    says: deque[Report] = field(default_factory=deque)
    """What is on its way to the supervisor."""
    linked: set[int] = field(default_factory=set)


class Model:
    """A run.

    Args:
        plan: of the gang to begin with.
        checkpoint: the step of a checkpoint that it begins from; 0: from the beginning.
        every: a checkpoint is due after so many steps.
    """

    def __init__(self, plan: Plan, checkpoint: int = 0, every: int = 4) -> None:
        begun = Checkpoint(checkpoint, Path("/checkpoints")) if checkpoint else None
        self.at = Standing(
            wanted=plan,
            checks=True,
            casualties=Casualties(attempts=3, log="log.txt"),
            committed=checkpoint,
            checkpoint=begun,
            durable=Durable(step=checkpoint, every=every),
        )
        self.puppets: dict[int, Puppet] = {}
        self.ended: list[tuple[int, Loss]] = []
        """Who has died, and the supervisor does not know yet."""
        self.held: Held | None = None
        self.pinned: int | None = None
        self.writing: tuple[int, int] | None = None
        self.gangs = 0
        self.newest = checkpoint
        """The highest step of a whole state that was ever in memory, on disk, or held by who lives."""
        self.impossible: set[str] = set()
        """Layouts that the model cannot be divided by."""
        self.different: set[str] = set()
        """Manners of training in which a gang would train something else than one worker."""
        self.spends = False
        """Whether who checks cannot train afterwards."""
        self.shown: set[str] = set()
        """Manners in which it has shown that it would not."""
        self.written = [checkpoint] if checkpoint else []
        """The steps of the checkpoints on disk."""
        self.rewound = False
        """Whether steps have been forgotten since somebody looked."""
        self.broken_host = ""
        self.refused: list[int] = []
        """Who could not be started, and the supervisor does not know yet."""
        self.fails_to_build = 0
        self.told: list[str] = []

    # The supervisor

    def decide(self) -> None:
        """One turn of its loop."""
        self.look()
        self.take(decide(self.at))

    def look(self) -> None:
        self.at = replace(self.at, now=self.at.now + 10**6, held=self.held)

    def take(self, outcome: heard.Outcome) -> None:
        self.at, actions = outcome
        for action in actions:
            self.carry_out(action)

    def carry_out(self, action) -> None:
        match action:
            case Start(worker=worker, host=host, build=build):
                assert worker not in self.puppets, "a number is used once"
                if host == self.broken_host:
                    self.refused.append(worker)
                    return
                self.puppets[worker] = Puppet(worker, host, build.plan)
                self.at = heard.started(self.at, worker, 1000 + worker)
            case Send(worker=worker, order=order):
                if worker in self.puppets:
                    self.obey(self.puppets[worker], order)
            case Connect(workers=workers, orders=orders):
                assert len(set(workers)) == len(workers) == len(orders)
                self.connect(workers, orders)
            case Kill(worker=worker):
                self.die(worker, -signal.SIGKILL)
            case WriteCheckpoint(buffer=buffer, step=step):
                assert self.writing is None, "one checkpoint is written at a time"
                assert self.held is not None and self.held.step >= step
                self.writing, self.pinned = (buffer, step), buffer
            case Rewind(step=step):
                self.rewind(step)
            case Tell(text=text):
                self.told.append(text)
            case Membership() | ForgetPace():
                pass

    def rewind(self, step: int) -> None:
        if self.writing is not None:  # it is waited for
            self.written.append(self.writing[1])
        self.written = [found for found in self.written if found <= step]
        if self.held is not None and self.held.step > step:
            self.held = None
        self.newest, self.rewound = max([*self.written, self.held.step if self.held else 0]), True
        newest = Checkpoint(max(self.written), Path("/checkpoints")) if self.written else None
        self.at = rewound(self.at, newest, self.held)

    # Members

    def obey(self, puppet: Puppet, order) -> None:
        match order:
            case told.Join():
                assert puppet.doing == "idle", f"{puppet} is to join"
                self.load(puppet, order.load)
                puppet.doing, puppet.rank, puppet.plan = "running", order.rank, order.plan
                puppet.pause = puppet.checkpoint = False
                puppet.trained = True
            case told.Save():
                assert puppet.doing == "idle" and puppet.whole
                self.leave(puppet, ordered=True)
            case told.Pause():
                puppet.pause = True
            case told.Checkpoint():
                puppet.checkpoint = True
            case told.Exit():
                loose = puppet.plan is not None and not Kind.of(puppet.plan).waits
                assert puppet.doing in ("idle", "over") or loose, f"{puppet} is to exit in the middle of something"
                self.die(puppet.worker, 0)
            case told.Unpin():
                pass

    def connect(self, workers, orders) -> None:
        puppets = [self.puppets[w] for w in workers if w in self.puppets]
        whole_gang = len(puppets) == len(workers)
        if isinstance(orders[0], told.Link):
            for puppet in puppets:
                puppet.linked |= set(workers) - {puppet.worker}
            return
        self.gangs += 1
        for worker, order in zip(workers, orders, strict=True):
            puppet = self.puppets.get(worker)
            if puppet is None:
                continue
            if isinstance(order, told.Check):
                assert puppet.doing == "idle" and not puppet.trained, f"{puppet} is to check"
                puppet.doing, puppet.rank, puppet.generation = "checking", order.rank, self.gangs
                puppet.plan = order.plan
            elif isinstance(order, told.HandOver):
                assert puppet.doing == "idle"
                puppet.doing, puppet.rank, puppet.generation = "giving", order.rank, self.gangs
            else:
                self.obey(puppet, order)
                puppet.generation = self.gangs
        if not whole_gang:
            self.break_gang(self.gangs)

    def load(self, puppet: Puppet, kept) -> None:
        if kept is None:
            return
        if isinstance(kept, told.InMemory):
            assert self.held is not None and kept.step <= self.held.step, "what is to be loaded is there"
        puppet.step = kept.step

    def leave(self, puppet: Puppet, ordered: bool) -> None:
        """Put its state into a buffer."""
        buffer = 1 - self.pinned if self.pinned is not None else (1 - self.held.slot if self.held else 0)
        self.held = Held(buffer, puppet.step)
        if ordered:
            puppet.says.append(said.Saved(buffer=buffer, step=puppet.step))

    def gang_of(self, puppet: Puppet) -> list[Puppet]:
        return [p for p in self.puppets.values() if p.generation == puppet.generation and p.doing == puppet.doing]

    def build(self, puppet: Puppet) -> None:
        if self.fails_to_build:
            self.fails_to_build -= 1
            failed = said.Failed(error="no", doing="building the job", trace="", step=0, whole=False)
            puppet.says.append(failed)
            puppet.doing = "over"
            return
        puppet.doing = "idle"
        puppet.says.append(said.Built(bits=7, total_steps=TOTAL, samples=100))

    def can_step(self, puppet: Puppet) -> bool:
        """Whether all that a step of its gang needs is there."""
        assert puppet.plan is not None
        if Kind.of(puppet.plan) is Kind.LOOSE:
            return puppet.rank == puppet.plan.workers and self.all_servers(puppet)
        gang = self.gang_of(puppet)
        return len(gang) == puppet.plan.gang and min(gang, key=lambda p: p.worker) is puppet

    def all_servers(self, puppet: Puppet) -> bool:
        assert puppet.plan is not None
        servers = [p for p in self.running(puppet.plan) if p.rank >= puppet.plan.workers]
        return len(servers) == puppet.plan.sync.servers

    def running(self, plan: Plan) -> list[Puppet]:
        return [p for p in self.puppets.values() if p.doing == "running" and p.plan == plan]

    def step(self, puppet: Puppet) -> None:
        """Its gang trains one step, or ends."""
        assert puppet.plan is not None
        if str(puppet.plan.layout) in self.impossible:
            for member in self.gang_of(puppet):
                member.doing, member.whole = "idle", False
                member.says.append(
                    said.Failed(error="cannot", doing="", trace="", step=member.step, whole=False, splitting=True)
                )
            return
        loose = Kind.of(puppet.plan) is Kind.LOOSE
        gang = self.running(puppet.plan) if loose else self.gang_of(puppet)
        whole = Kind.of(puppet.plan).whole
        manner, alone = puppet.plan.manner, puppet.plan.gang == 1
        assert loose or alone or manner in self.shown, f"{manner} trains, and was never checked"
        start = max(member.step for member in gang) if loose else puppet.step
        assert loose or {member.step for member in gang} == {puppet.step}, "a gang begins with one state"
        for member in gang:
            member.step = start
        if start < TOTAL:
            row = StepRow(start + 1, 0, 0, 0, 0.5, None, 0.1, 0, 1, (), ())
            keeper = min(gang, key=lambda p: p.rank) if not loose else puppet
            for member in gang:
                member.step = start + 1
                if not loose or member is keeper:
                    member.says.append(said.Steps(rows=(row,)))
            if keeper.checkpoint or start + 1 == TOTAL:
                self.leave(keeper, ordered=keeper.checkpoint)
                keeper.checkpoint = False
        pause = any(member.pause for member in gang)
        if puppet.step >= TOTAL:
            for member in gang:
                member.doing, member.whole = "idle", whole
                sha = "abc" if whole or member.rank == Kind.of(member.plan).keeper(member.plan) else ""
                member.says.append(said.Finished(step=TOTAL, whole=whole, sha256=sha))
        elif pause:
            if not whole:
                self.leave(min(gang, key=lambda p: p.rank) if not loose else puppet, ordered=False)
            for member in gang:
                member.doing, member.whole = "idle", whole
                member.says.append(said.Paused(step=member.step if whole else 0, whole=whole))

    def check(self, puppet: Puppet) -> None:
        """The gang that it is to be of checks whether it trains what one worker would."""
        gang = self.gang_of(puppet)
        assert puppet.plan is not None
        manner, first = puppet.plan.manner, min(gang, key=lambda p: p.rank)
        for member in gang:
            member.doing = "idle"
            if member is not first:
                member.says.append(said.Checked(spent=self.spends))
        if manner in self.different:
            first.says.append(said.Failed(error="no", doing="", trace="", step=0, whole=False, splitting=True))
        else:
            self.shown.add(manner)
            first.says.append(said.Checked(verdict="the same bits", spent=self.spends))

    def hand(self, puppet: Puppet) -> None:
        """The handover that it is part of ends."""
        parties = self.gang_of(puppet)
        giver = next((p for p in parties if p.rank == 0), None)
        for member in parties:
            member.doing = "idle"
            if giver is None:
                member.says.append(said.Handed(step=member.step, error="the giver is gone"))
            else:
                member.step = giver.step
                member.says.append(said.Handed(step=member.step))

    # Mishaps

    def die(self, worker: int, status: int | None, hung: bool = False) -> None:
        puppet = self.puppets.pop(worker, None)
        if puppet is None:
            return
        loose = puppet.plan is not None and Kind.of(puppet.plan) is Kind.LOOSE
        self.ended.append((worker, Loss(status=status, hung="stood still" if hung else "")))
        self.last_words.setdefault(worker, puppet.says)
        if puppet.doing in ("checking", "running", "giving") and not loose:
            self.break_gang(puppet.generation)

    @property
    def last_words(self) -> dict[int, deque[Report]]:
        return self.__dict__.setdefault("_last_words", {})

    def deviate(self, puppet: Puppet, wrong: tuple[int, ...], back: int | None) -> None:
        """The replicas that it trains with are found not to be alike.

        Args:
            back: for how many steps their states have been different; None: only a gradient is.
        """
        since = None if back is None else max(-1, puppet.step - back)
        for member in self.gang_of(puppet):
            member.doing, member.whole = "idle", since is None
            report = said.Deviated(step=member.step, ranks=wrong, since=since, error="different.")
            member.says.append(report)

    def break_gang(self, generation: int) -> None:
        """Those who train together notice that one of them is gone."""
        for member in self.puppets.values():
            if member.generation != generation:
                continue
            if member.doing == "running":
                assert member.plan is not None
                whole = Kind.of(member.plan).whole
                member.doing, member.whole = "idle", whole
                member.says.append(said.LostPeer(step=member.step, whole=whole, peer=0))
            elif member.doing == "checking":
                member.doing = "idle"
                member.says.append(said.LostPeer(step=0, whole=True, peer=0))
            elif member.doing == "giving":
                member.doing = "idle"
                member.says.append(said.Handed(step=member.step, error="one was lost"))

    # What happens next

    def events(self) -> list[tuple]:
        """All that may happen now."""
        found: list[tuple] = []
        for puppet in self.puppets.values():
            if puppet.says:
                found.append(("says", puppet.worker))
            if puppet.doing == "new":
                found.append(("builds", puppet.worker))
            elif puppet.doing == "running" and self.can_step(puppet):
                found.append(("steps", puppet.worker))
            elif puppet.doing == "checking" and len(self.gang_of(puppet)) == puppet.plan.gang:
                found.append(("checks", puppet.worker))
            elif puppet.doing == "giving" and puppet is self.gang_of(puppet)[0]:
                found.append(("hands", puppet.worker))
        found += [("ends", worker) for worker, _ in self.ended]
        found += [("refused", worker) for worker in self.refused]
        if self.writing is not None:
            found.append(("written", -1))
        return found

    def happen(self, event: tuple) -> None:
        kind, worker = event
        self.look()
        match kind:
            case "says":
                self.hear(worker, self.puppets[worker].says.popleft())
            case "builds":
                self.build(self.puppets[worker])
            case "steps":
                self.step(self.puppets[worker])
            case "checks":
                self.check(self.puppets[worker])
            case "hands":
                self.hand(self.puppets[worker])
            case "ends":
                self.bury(worker)
            case "refused":
                self.refused.remove(worker)
                self.take(heard.not_started(self.at, worker, "its host is not to be reached"))
            case "written":
                assert self.writing is not None
                step, self.writing, self.pinned = self.writing[1], None, None
                if step == self.at.durable.tried:  # else it was forgotten before it was written
                    self.written.append(step)
                    self.newest = max(self.newest, step)
                self.take(heard.written(self.at, step, 0))
        self.newest = max([self.newest, self.held.step if self.held else 0])

    def hear(self, worker: int, report: Report) -> None:
        self.take(heard.hear(self.at, worker, report))

    def bury(self, worker: int) -> None:
        """The supervisor hears all that a dead process has said, and then that it is dead."""
        index = next(i for i, (number, _) in enumerate(self.ended) if number == worker)
        _, loss = self.ended.pop(index)
        for report in self.last_words.pop(worker, ()):
            self.hear(worker, report)
        self.take(heard.lost(self.at, worker, loss))

    @property
    def done(self) -> bool:
        return done(self.at)


__all__ = ["TOTAL", "Model", "Phase", "Puppet"]
