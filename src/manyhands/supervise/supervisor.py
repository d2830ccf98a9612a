"""Keeps a gang at work until the job is done, whatever happens to its workers.

The supervisor is a state machine. Events come in (a worker said something, printed, died; a command, a signal),
change what is known about the members, and then `_decide` looks at all of it and orders what comes next:

    too few members            -> start some (a fork of the template, so milliseconds)
    gang of the wrong size     -> once the newcomers are built, ask for a pause at the next step boundary
    all members idle           -> find the newest state, form the next generation
    all members finished       -> last checkpoint, result, report
    asked to stop, or failed   -> pause, checkpoint, end

Nothing is ever repaired in place: a generation that lost a worker ends, its survivors keep their state at
the last step boundary, and the next generation starts from the newest of them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyhands.engine import Engine, EngineEvent, Exited, Message, Printed, Said
from manyhands.engine.loop import Loop
from manyhands.errors import UserError
from manyhands.plan import Plan
from manyhands.run import Checkpoint, RunDirectory
from manyhands.shm import Board, Slots
from manyhands.supervise.checkpoints import Checkpoints
from manyhands.supervise.ending import Ending, conclude
from manyhands.supervise.loose import goes_on_without, lacks_a_server, links, vacancy
from manyhands.supervise.losses import Losses
from manyhands.supervise.members import Member, Phase, choose_source, describe_loss, handover, processes, seat, to_start
from manyhands.supervise.options import Care
from manyhands.supervise.outside import Onlookers, catch_signals, serve_commands
from manyhands.supervise.record import Record
from manyhands.supervise.view import View
from manyhands.supervise.wanted import Wanted
from manyhands.supervise.watch import Watch


class Supervisor:
    """Runs one job in one run directory, from `run` to an exit code.

    Args:
        directory: acquired by this process.
        engine: opened by `run`.
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
        facts: Mapping[str, Any],
        record: Record,
        view: View,
        slots: Slots,
        board: Board,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._directory, self._engine, self._loop, self._care = directory, engine, loop, care
        self._facts, self._record, self._view = facts, record, view
        self._slots, self._board, self._checkpoint = slots, board, checkpoint
        self._wanted = Wanted(
            plan, facts["micro_batches"], engine, loop, lambda: self._ending is not None, self._resized
        )
        self._members: dict[int, Member] = {}
        self._gang: list[int] = []
        self._gang_plan: Plan | None = None
        self._proven: Plan | None = None
        """The last plan that committed a step."""
        self._generation = 0
        self._next_worker = 0
        self._total_steps = 0
        self._samples = 0
        self._state_bytes = 0
        self._pause_ordered = False
        self._save_for_join = False
        self._checkpoint_ordered = False
        self._losses = Losses(care.attempts, directory.log)
        self._missed = 0
        """The last generation whose members did not find each other."""
        self._watch = Watch(engine, board, care, view.note)
        self._ending: Ending | None = None
        self._sha256 = ""
        self._figures: dict[int, Any] = {}
        """By rank, what workers of a short run found out."""
        self._cuts: dict[str, list[int]] = {}
        """By layout, where its stages begin: found once, by measurement."""
        self._interrupts = 0
        self._handed = 0
        """The last generation for which state was handed over."""
        self._giver = -1
        self._onlookers = Onlookers()
        self._began = time.monotonic()
        self._checkpoints = Checkpoints(directory, care, slots, loop, view.note, self._checkpoint_written)
        self._checkpoints.durable = checkpoint.step if checkpoint else 0

    def run(self) -> int:
        """Train to the end. Returns the exit code: 0 finished, 1 failed, 130 interrupted."""
        with (
            catch_signals(self._loop, self._interrupted, signal.SIGINT, signal.SIGTERM),
            serve_commands(self._loop, self._directory, self._answer, self._onlookers),
        ):
            try:
                while not self._done():
                    try:
                        self._decide()
                    except UserError as error:  # a template that cannot be started again
                        self._fail(str(error))
                        self._decide()
                    if not self._done():
                        self._engine.poll(self._watch.next_check(self._members))
                        self._watch.look(self._members)
                    self._onlookers.tell(self.status)
            finally:
                self._engine.close()
        return self._conclude()

    def on_event(self, event: EngineEvent) -> None:
        """Take what the engine reports."""
        match event:
            case Said(worker, message):
                if worker in self._members:
                    getattr(self, f"_said_{message['say']}")(self._members[worker], message)
            case Printed(worker, line):
                member = self._members.get(worker)
                self._view.printed(member.who if member and member.rank is not None else "worker ?", line)
            case Exited(worker, status):
                self._lost(worker, status)

    # Deciding

    def _decide(self) -> None:
        """Order what the situation asks for."""
        self._losses.decided()
        phases = [member.phase for member in self._members.values()]
        if self._ending is None and phases and all(phase is Phase.FINISHED for phase in phases):
            self._ending = Ending("finished")
        if self._ending is not None:
            self._wind_down(self._ending)
            return
        if Phase.RUNNING not in phases and Phase.SAVING not in phases:
            self._dismiss_unfit()
        for host in to_start(self._members.values(), self._wanted.plan):
            self._start(host)
        if Phase.RUNNING in phases:
            self._admit()
            self._keep_running()
        elif all(m.phase in (Phase.IDLE, Phase.FINISHED) for m in self._members.values()):
            self._form()

    @property
    def _workers(self) -> int:
        """How many workers the generation has, servers not counted."""
        return min(len(self._gang), self._gang_plan.workers) if self._gang_plan else 0

    def _dismiss_unfit(self) -> None:
        """Let go of members that can have no place in the next generation, nor a state to give it."""
        for member in list(self._members.values()):
            gives = member.holds_state and not (member.plan.divides or self._wanted.plan.divides)
            if member.phase is not Phase.FAILED and not member.fits(self._wanted.plan) and not gives:
                self._dismiss(member)

    def _start(self, host: str) -> None:
        worker = self._next_worker
        self._next_worker += 1
        self._board.write(worker, -1, -1, 0)
        pid = self._engine.start(worker, host)
        taken = {member.slot for member in self._members.values() if member.host == host}
        slot = min(set(range(len(taken) + 1)) - taken)
        self._members[worker] = Member(worker, pid, slot, self._wanted.plan, time.monotonic_ns(), host)
        order = {"order": "build", "slot": slot, "plan": self._wanted.plan.as_dict(), "expect": self._expects(host)}
        self._engine.send(worker, order)

    def _expects(self, host: str) -> int:
        """Bytes of the state that a new member will be handed, as far as is known; 0 if it is not to be handed any."""
        moves = all(m.host != host or not m.placed for m in self._members.values()) and not self._wanted.plan.divides
        return self._state_bytes if moves else 0

    def _admit(self) -> None:
        """Let those who have been built take the places of lost members, where a gang goes on without them."""
        plan = self._gang_plan
        if plan is None or not plan.sync.loose or self._pause_ordered:
            return
        for member in list(self._members.values()):
            rank = vacancy(member, plan, self._gang, self._members)
            if rank is None:
                continue
            member.rank, member.placed = rank, True
            member.whole = rank < plan.workers  # a server has to fetch its shards
            self._gang[rank] = member.worker
            self._set_phase(member, Phase.RUNNING)
            order = {"order": "join", "rank": rank, "load": None, "evaluated": self._record.evaluated}
            self._engine.send(member.worker, order | {"pinned": None, "cuts": None, "fresh": True})
            others = [self._members[w] for w in self._gang if w in self._members and w != member.worker]
            self._link(member, [o for o in others if o.phase is Phase.RUNNING], fresh=True)
            text = f"{member.who} ({member.process}) takes the place of the one that was lost"
            self._view.logged(text)
            self._record.membership("began", self._workers, text)

    def _link(self, member: Member, others: Sequence[Member], fresh: bool = False) -> None:
        for pair, orders in links(member, others, fresh):
            self._engine.connect(pair, orders)

    def _keep_running(self) -> None:
        """A generation is at work: pause it for a resize, or have its keeper save a checkpoint."""
        starting = any(member.phase is Phase.STARTING for member in self._members.values())
        if self._gang_plan != self._wanted.plan and not starting and not self._pause_ordered:
            self._pause_ordered = True
            self._order_running({"order": "pause"})
        place = self._gang_plan.workers if self._gang_plan and self._gang_plan.sync.loose else 0
        keeper = self._members.get(self._gang[place]) if self._gang else None
        free = keeper and keeper.phase is Phase.RUNNING and not self._checkpoint_ordered
        if keeper and free and self._checkpoints.due(keeper.step):
            self._checkpoint_ordered = True
            # Obeyed within a step only: a keeper that has become idle meanwhile must not write to a slot.
            # One that goes by time waits until the budget for snapshots covers it; one that goes by steps does not.
            at_once = self._care.checkpoint_every is not None
            self._engine.send(keeper.worker, {"order": "checkpoint", "at_once": at_once})

    def _form(self) -> None:
        """Make a generation of the idle members and start it from the newest state."""
        chosen = seat(list(self._members.values()), self._wanted.plan)
        if self._handed < self._generation + 1 and self._hand_over(chosen):
            return
        for member in list(self._members.values()):
            if member not in chosen:
                self._dismiss(member)
        source = choose_source(chosen, self._slots.newest(), self._checkpoint)
        if source.save_first is not None:
            self._save_for_join = True
            self._set_phase(self._members[source.save_first], Phase.SAVING)
            self._order_save(self._members[source.save_first])
            return
        if source.load and source.load["force"]:
            self._view.note(
                "the workers built different weights from the same seed; one gives its own to all. The result depends "
                "on more than the job: draw initial weights from torch's, numpy's or random's global generators."
            )
        self._begin_generation(chosen, source.load)

    def _hand_over(self, chosen: Sequence[Member]) -> bool:
        """Have the newest state go straight to those who need it, if that is the way; once for a generation."""
        parties = handover(self._members.values(), chosen, self._slots.newest(), self._checkpoint)
        if not parties:
            return False
        self._handed = self._generation + 1
        self._giver = parties[0].worker
        for member in parties:
            self._set_phase(member, Phase.SAVING)
        orders: list[Message] = [{"order": "hand_over", "rank": rank} for rank in range(len(parties))]
        self._engine.connect([member.worker for member in parties], orders)
        return True

    def _begin_generation(self, chosen: Sequence[Member], load: dict[str, Any] | None) -> None:
        self._generation += 1
        self._gang = [member.worker for member in chosen]
        self._gang_plan = self._wanted.plan
        self._pause_ordered = self._checkpoint_ordered = False
        pinned = self._slots.pinned if self._checkpoints.writing else None
        orders: list[Message] = []
        for rank, member in enumerate(chosen):
            member.rank, member.placed = rank, True
            self._set_phase(member, Phase.RUNNING)
            orders.append(
                {
                    "order": "join",
                    "rank": rank,
                    "load": load,
                    "evaluated": self._record.evaluated,
                    "pinned": pinned,
                    "cuts": self._cuts.get(str(self._wanted.plan.layout)),
                    "share": self._wanted.share_of(rank),
                }
            )
        if self._facts["compile"] and any(member.step == 0 for member in chosen):
            self._watch.patience.forget()  # a new worker compiles first
        if self._wanted.plan.sync.loose:
            for member, order in zip(chosen, orders, strict=True):
                self._engine.send(member.worker, order | {"fresh": False})
            for member in chosen:
                self._link(member, chosen[: member.rank])
        else:
            self._engine.connect(self._gang, orders)
        where = f"from step {max([m.step for m in chosen] + ([load['step']] if load else []))}"
        processes = ", ".join(member.process.removeprefix("process ") for member in chosen)
        who = f"{self._workers} worker(s)" + (
            f" and {servers} server(s)" if (servers := self._wanted.plan.sync.helpers) else ""
        )
        self._view.logged(f"generation {self._generation}: {who} {where}, processes {processes}")
        self._record.membership("began", self._workers, f"{who} {where}")
        self._view.start(self._total_steps)

    def _wind_down(self, ending: Ending) -> None:
        """Bring the run to its end: everyone at a boundary, the newest state on disk, then all go."""
        for member in list(self._members.values()):
            if member.phase is Phase.STARTING:
                self._dismiss(member)
        if self._gang_plan is not None and lacks_a_server(self._gang_plan, self._gang, self._members):
            self._end_generation()
        if any(m.phase is Phase.RUNNING for m in self._members.values()):
            if not ending.paused:
                ending.paused = True
                self._order_running({"order": "pause"})
            return
        if any(m.phase is Phase.SAVING for m in self._members.values()) or self._checkpoints.writing:
            return
        if not ending.saved:
            ending.saved = True
            self._save_last()

    def _save_last(self) -> None:
        """Make the newest state durable, from a member or from a slot."""
        holders = [m for m in self._members.values() if m.holds_state]
        newest = max(holders, key=lambda m: m.step, default=None)
        held = self._slots.newest()
        step = max(newest.step if newest else 0, held.step if held else 0)
        if step <= self._checkpoints.durable:
            return
        if held and held.step == step:
            self._write_checkpoint(held.slot, held.step)
        elif newest:
            self._save_for_join = False
            self._set_phase(newest, Phase.SAVING)
            self._order_save(newest)

    def _done(self) -> bool:
        if self._interrupts > 1:
            return True
        busy = any(m.phase in (Phase.RUNNING, Phase.SAVING, Phase.STARTING) for m in self._members.values())
        return bool(self._ending and self._ending.saved and not busy and not self._checkpoints.writing)

    # What members say

    def _said_built(self, member: Member, message: Message) -> None:
        if self._samples and message["samples"] != self._samples:
            self._fail(
                f"data() gave {message['samples']} samples on one worker and {self._samples} on another. It must give "
                "the same on all of them, at any time."
            )
        self._total_steps = message["total_steps"]
        self._samples = message["samples"]
        member.bits = message["bits"]
        self._set_phase(member, Phase.IDLE)

    def _said_joined(self, member: Member, message: Message) -> None:
        if self._record.exchange != message["exchange"]:
            self._view.logged(f"gradients travel {message['exchange']}")
        self._record.exchange = message["exchange"]
        if message.get("cuts"):
            self._cuts[str(member.plan.layout)] = message["cuts"]
        for worker in self._gang:  # steps begin now: splitting a model takes seconds, and is no measure for them
            if worker in self._members:
                self._set_phase(self._members[worker], self._members[worker].phase)

    def _said_sized(self, member: Member, message: Message) -> None:
        self._state_bytes = message["bytes"]

    def _said_steps(self, member: Member, message: Message) -> None:
        committed = self._record.committed
        for seconds in self._record.steps(
            member.rank or 0, max(1, self._workers), message["steps"], self._engine.clock(member.worker)
        ):
            self._watch.patience.learn(seconds)
        member.step = max(member.step, message["steps"][-1][0])
        if self._record.committed > committed and self._record.loss is not None:
            self._losses.progress()
            self._proven = self._gang_plan
            last = self._record.committed == self._total_steps
            args = self._record.committed, self._total_steps, self._record.loss, self._facts["batch_size"]
            self._view.step(*args, self._workers, last)

    def _said_spans(self, member: Member, message: Message) -> None:
        self._record.spans(member.rank or 0, message["rows"], self._engine.clock(member.worker))
        for _, began, ended, *_ in message["rows"]:
            self._watch.patience.learn((ended - began) / 1e9)

    def _said_staleness(self, member: Member, message: Message) -> None:
        self._record.figures("staleness", {name: message[name] for name in ("step", "pushes", "ahead")})

    def _said_served(self, member: Member, message: Message) -> None:
        figures = {name: message[name] for name in ("server", "received", "sent")}
        self._record.figures("server", {"step": self._record.committed, **figures})

    def _said_unlinked(self, member: Member, message: Message) -> None:
        """A member and a server on another host have missed each other: link them again, if both are still there."""
        worker = self._gang[member.plan.workers + message["server"]]
        other = self._members.get(worker)
        if message["far"] and other is not None and other.phase is member.phase is Phase.RUNNING:
            self._link(member, [other])

    def _said_recovered(self, member: Member, message: Message) -> None:
        member.whole = True

    def _said_balanced(self, member: Member, message: Message) -> None:
        shares = "/".join(map(str, message["shares"]))
        text = f"micro-batches are shared out {shares} from step {message['step'] + 1}, as fast as each worker is"
        self._view.logged(text)
        self._record.membership("balanced", self._workers, text)

    def _said_evaluated(self, member: Member, message: Message) -> None:
        if not self._record.evaluation_done(message["step"], message["metrics"]):
            return
        figures = "  ".join(f"{name} {value:.4f}" for name, value in message["metrics"].items())
        self._view.note(f"evaluation after step {message['step']}: {figures}", urgent=False)

    def _said_saved(self, member: Member, message: Message) -> None:
        if member.phase is Phase.SAVING:
            member.step = message["step"]
            self._set_phase(member, Phase.IDLE if self._ending is None else Phase.FINISHED)
            if self._save_for_join:
                self._engine.send(member.worker, {"order": "unpin"})
                self._save_for_join = False
                return
        if self._checkpoints.writing:
            self._engine.send(member.worker, {"order": "unpin"})
            return
        self._write_checkpoint(message["slot"], message["step"])

    def _said_handed(self, member: Member, message: Message) -> None:
        member.step = message["step"]
        self._set_phase(member, Phase.IDLE if self._ending is None else Phase.FINISHED)
        moves = self._proven is not None and self._wanted.plan != self._proven
        if message["error"] and moves and self._giver in self._members and self._ending is None:
            assert self._proven is not None
            self._wanted.plan = self._proven
            self._view.note(f"the state could not be handed over ({message['error']}): the run stays as it was.")

    def _said_idle(self, member: Member, message: Message) -> None:
        member.step, member.whole = message["step"], message["whole"]
        self._set_phase(member, Phase.IDLE)
        if message["why"] == "lost" and message["peer"] < 0 and self._missed < self._generation:
            self._missed = self._generation  # they have not found each other, and nobody died: once for all of them
            self._view.note(f"{member.who}: {message['error']}")
            error = self._losses.unconnected(message["error"])
            if error is not None and self._ending is None:
                self._fail(error)

    def _said_finished(self, member: Member, message: Message) -> None:
        member.step = message["step"]
        member.sha256 = message["sha256"]
        member.whole = message["whole"]
        if "figures" in message and member.rank is not None:
            self._figures[member.rank] = message["figures"]
        self._set_phase(member, Phase.FINISHED)
        if not member.sha256:  # it holds a part; the one that put the parts together says what they are
            return
        if self._sha256 and member.sha256 != self._sha256 and self._facts["reproducible"]:
            self._fail(
                f"workers ended with different weights ({self._sha256[:12]} and {member.sha256[:12]}): something in "
                "the job is not deterministic. The checkpoint holds one of them."
            )
        self._sha256 = member.sha256

    def _said_failed(self, member: Member, message: Message) -> None:
        if self._gives_up_growing(member, message["error"]) or self._goes_back(member, message):
            return
        member.step = message["step"]
        member.whole = message["whole"]
        self._set_phase(member, Phase.FAILED)
        self._view.logged(message["trace"])
        who = member.who if member.rank is not None else "a worker"
        place = f"{who} failed at {message['doing']}: " if message["doing"] else ""
        self._fail(place + message["error"], message["trace"])

    # What happens to members

    def _lost(self, worker: int, status: int | None) -> None:
        member = self._members.pop(worker, None)
        hung = self._watch.forget(worker)
        if member is None:
            return
        if self._ending is not None:
            if member.phase is Phase.SAVING:
                self._ending.saved = False  # another may still hold the state
            return
        if member.phase is Phase.SAVING:
            self._save_for_join = False
        if self._gives_up_growing(member, describe_loss(member, status, False)):
            return
        text, error = self._losses.lost(member, status, hung, self._record.committed)
        self._record.membership("lost", len(self._members), text)
        if error is not None:
            self._fail(error)
            return
        self._view.note(f"{text}; recovering.")
        if member.placed and member.plan.divides and not goes_on_without(member, self._gang, self._members):
            self._end_generation()

    def _fail(self, error: str, trace: str = "") -> None:
        if self._ending is None or self._ending.status == "stopped":
            self._ending = Ending("failed", error, trace)
        if self._gang_plan is not None and self._gang_plan.divides:
            self._end_generation()

    def _end_generation(self) -> None:
        """End a gang whose members hold parts at once: the newest whole state is in a slot."""
        for member in list(self._members.values()):
            if member.placed and member.phase is Phase.RUNNING:
                self._engine.kill(member.worker)
                del self._members[member.worker]
                self._watch.forget(member.worker)

    def _gives_up_growing(self, member: Member, reason: str) -> bool:
        """Whether `member` was to join a gang that works well without it: the resize is given up then, not the run."""
        working = [w for w in self._gang if w in self._members and self._members[w].phase is Phase.RUNNING]
        if member.phase is not Phase.STARTING or not working or len(working) < len(self._gang):
            return False
        assert self._gang_plan is not None
        self._wanted.plan = self._gang_plan
        self._view.note(f"a new worker failed ({reason}); the run goes on with {self._wanted.plan.workers} worker(s).")
        for other in list(self._members.values()):
            if other.worker not in self._gang:
                self._dismiss(other)
        return True

    def _goes_back(self, member: Member, message: Message) -> bool:
        """Whether this was a resize to a layout that the model cannot have: the run goes on with the one before."""
        before, wanted = self._proven, self._gang_plan
        impossible = member.phase is Phase.RUNNING and message["splitting"]
        if self._ending is not None or not impossible or before is None or wanted is None or before == wanted:
            return False
        self._view.logged(message["trace"])
        self._view.note(f"{message['error']}\nThe run goes on as {before.layout}.")
        self._record.membership("resize", self._workers, f"{wanted.layout} is impossible: back to {before.layout}")
        self._wanted.plan = before
        self._end_generation()
        return True

    def _dismiss(self, member: Member) -> None:
        """Let a member go that is not needed any more."""
        del self._members[member.worker]
        if member.phase is Phase.STARTING:
            self._engine.kill(member.worker)
        else:
            self._engine.send(member.worker, {"order": "exit"})

    def _set_phase(self, member: Member, phase: Phase) -> None:
        member.phase = phase
        member.since = time.monotonic_ns()

    def _order_running(self, order: Message) -> None:
        for member in self._members.values():
            if member.phase is Phase.RUNNING:
                self._engine.send(member.worker, order)

    # Checkpoints

    def _order_save(self, member: Member) -> None:
        pinned = self._slots.pinned if self._checkpoints.writing else None
        self._engine.send(member.worker, {"order": "save", "pinned": pinned})

    def _write_checkpoint(self, slot: int, step: int) -> None:
        self._slots.pinned = slot
        if not self._record.sync():  # a checkpoint ahead of its ledger could not account for its samples
            self._checkpoint_written(slot)
            return
        self._checkpoints.write(slot, step, self._record.write_timeline)

    def _checkpoint_written(self, slot: int) -> None:
        self._slots.pinned = None
        self._checkpoint_ordered = False
        for worker in self._members:
            self._engine.send(worker, {"order": "unpin"})

    # Commands and signals

    def _answer(self, request: dict[str, Any], reply: Callable[[dict[str, Any]], None]) -> None:
        match request.get("command"):
            case "show":
                reply(self.status())
            case "stop":
                self._stop("stopped by command")
                reply({"ok": True})
            case "share":
                reply(self._take_turns(request.get("way"), request.get("files")))
            case "resize":
                self._wanted.resize(request, reply)
            case other:
                reply({"error": f"unknown command {other!r}"})

    def _take_turns(self, way: Any, files: Any) -> dict[str, Any]:
        try:
            self._wanted.share(way, files)
        except UserError as error:
            return {"error": str(error)}
        for member in self._members.values():
            if member.phase is Phase.RUNNING and member.rank is not None:
                self._engine.send(member.worker, {"order": "share", "share": self._wanted.share_of(member.rank)})
        return {"ok": True}

    def _resized(self, before: Plan, how: str) -> None:
        size = self._wanted.plan.workers
        self._view.note(f"resizing from {before.workers} to {size} worker(s){how} at the next step boundary.")
        self._record.membership("resize", self._workers, f"resize to {size}{how} asked for")

    def status(self) -> dict[str, Any]:
        """What `manyhands show` tells of a live run."""
        return {
            "status": "running" if self._ending is None else "ending",
            "step": self._record.committed,
            "total_steps": self._total_steps,
            "loss": self._record.loss,
            "at": self._record.committed_at,
            "profile": self._record.profile,
            **processes([m for m in self._members.values() if m.worker in self._gang], self._wanted.plan),
            "target_workers": self._wanted.plan.workers,
            "resizes": self._wanted.resizes,
            "settled": self._gang_plan == self._wanted.plan and all(m.placed for m in self._members.values()),
            "generation": self._generation,
            "recoveries": self._record.recoveries,
            "supervisor": os.getpid(),
        }

    def _interrupted(self, number: signal.Signals) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._view.note(f"{number.name}: stopping at the next step boundary; once more ends at once.")
            self._stop(f"interrupted by {number.name}")

    def _stop(self, reason: str) -> None:
        if self._ending is None:
            self._ending = Ending("stopped", reason)

    # The end

    def _conclude(self) -> int:
        """Write down how it ended; returns the exit code."""
        ending = self._ending = self._ending or Ending("stopped", "interrupted")
        figures: dict[str, Any] = {
            "total_steps": self._total_steps,
            "weights_sha256": self._sha256 if ending.status == "finished" else None,
            "workers": self._workers,
            "samples": self._samples,
            "durable_step": self._checkpoints.durable,
            "seconds": time.monotonic() - self._began,
        }
        if self._figures:
            figures["figures"] = [self._figures[rank] for rank in sorted(self._figures)]
        return conclude(self._directory, ending, self._record, figures, self._view.note)

    @property
    def ending(self) -> Ending | None:
        """Why the run ended; None while it runs."""
        return self._ending
