"""What a worker of a gang does around the training loop: obey orders, report, leave its state for others.

    build -> built -> idle -> join -> running -> idle (paused, or a peer was lost) -> join -> ... -> finished -> exit

A worker that loses a peer keeps its state at the last step boundary and waits for the next order; all it
takes to go on is a new `join`. It never decides anything that concerns others: that is the supervisor's part.

Says: `built`, `sized`, `steps`, `evaluated`, `saved`, `handed`, `idle`, `failed`, `finished`.
Obeys: `build`, `join`, `save`, `hand_over` and `exit` when idle; `pause`, `checkpoint` and `exit` within a step;
`unpin` and `share` always.
"""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import importlib
import json
import mmap
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from manyhands.engine import Channel, Message
from manyhands.engine.hosts import DistantSlots
from manyhands.errors import UserError
from manyhands.job import Job
from manyhands.plan import Plan
from manyhands.shm import Board, Slots
from manyhands.state import Budget, Image, bit_sum, read_image, state_bytes, tree_sha256
from manyhands.timeline import Recorder
from manyhands.train.handover import give, machines, receive, room
from manyhands.train.jobfile import load_job, where
from manyhands.train.links import Home, Links, join_group
from manyhands.train.marks import Mark, Marks
from manyhands.train.probe import Probe, shortened
from manyhands.train.trainer import NotFiniteError, Step, Trainer
from manyhands.train.turns import Turns
from manyhands.transport import Group, GroupError, PeerLostError
from manyhands.transport.interpreter import library

_REPORT_SECONDS = 0.05
"""Steps are reported in batches this far apart: a report costs the supervisor about 0.2 ms of a core."""
_STEPS_PER_MESSAGE = 8
_SPANS_PER_STEP = 250
"""About 50 bytes each: eight steps of them fit into one message."""
_TRACE_LENGTH = 8000
"""Characters; as JSON each is at most 6 bytes, and two such texts fit into a message."""
_COPY_RATE = 1e9
"""Bytes/s: the first guess of what a snapshot costs."""
_GOODBYE_SECONDS = 5.0
_PAUSE, _SAVE = 1, 2
"""What a worker can ask of the gang, as bits of its flag: to pause after the step, to put the state together."""
_SPLITTING = "splitting the model"
_DETAILED_STEPS = 200
"""Steps of a run whose single spans are kept for the timeline."""


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Channel, int], None]]:
    """The engine's entry: load the job, once, in the process that workers are forked from.

    Args:
        spec: `job_file`, `arguments`, `cwd`, `plan`, `board`, `slots` (descriptors), `snapshot_share`, `trial`
            (of a short run that is looked at closely: train/probe.py; or None). On other hosts than the supervisor's
            `slots` is None; `depot` says how to reach it, for a run on several.

    Returns:
        Facts for the supervisor, and the main function of a worker.
    """
    torch.set_num_threads(1)  # a thread pool would not survive the fork
    importlib.import_module("torch._dynamo")  # optimizers import it when first built; that takes a second
    library()  # compiled once on a machine, loaded before the workers are forked
    os.chdir(spec["cwd"])  # where the run began: its flags may hold relative paths
    job = load_job(Path(spec["job_file"]), spec["arguments"])
    if spec.get("trial"):
        job = shortened(job, spec["trial"]["steps"])
    plan = Plan(**spec["plan"])
    if plan.layout.split:
        _split_trainer()
    if plan.hosts:  # how tensors travel between hosts is chosen with scipy; every new worker would wait for that
        importlib.import_module("manyhands.collective.packing")
    cuda_devices = torch.cuda.device_count()
    if torch.cuda.is_initialized():
        raise UserError(
            f"{spec['job_file']} uses CUDA when it is imported. Move that into model(), data() or loss(), which run "
            "in the workers."
        )
    if plan.workers > (os.cpu_count() or 1) and not plan.uses_cuda(cuda_devices) and not plan.hosts:
        note = f"{plan.workers} workers share {os.cpu_count()} cores: expect no speed-up over {os.cpu_count()}."
    else:
        note = ""
    facts = {
        "micro_batches": job.micro_batches,
        "batch_size": job.batch_size,
        "seed": job.seed,
        "precision": job.precision,
        "reproducible": job.reproducible,
        "compile": job.compile,
        "cuda_devices": cuda_devices,
        "device": "cuda" if plan.uses_cuda(cuda_devices) else "cpu",
        "warning": note,
        "job_sha256": hashlib.sha256(Path(spec["job_file"]).read_bytes()).hexdigest(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    return facts, lambda channel, worker: Worker(job, plan, spec, channel, worker).run()


def _settle() -> None:
    """Have the device do what it was told, and give back the memory that is kept for later: others may want it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def _split_trainer() -> type[Trainer]:
    """Imported only where it is needed: torch's pipelines and sharding take half a second."""
    from manyhands.train.split import SplitTrainer

    return SplitTrainer


def _lost_peer(error: Exception, group: Group) -> int | None:
    """The rank whose loss is behind an error, whatever it was raised through: torch wraps what a group raises."""
    try:
        group.check()
    except PeerLostError as lost:
        return lost.rank
    except GroupError:
        pass
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PeerLostError):
            return cause.rank
        cause = cause.__cause__ or cause.__context__
    return None


class Worker:
    def __init__(self, job: Job, plan: Plan, spec: dict[str, Any], channel: Channel, worker: int) -> None:
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        faulthandler.enable()
        self.job = job
        self.plan = plan
        self.channel = channel
        self.worker = worker
        self.job_file = Path(spec["job_file"])
        self.board = Board(spec["board"])
        self.home = Home(**spec["depot"]) if spec.get("depot") else None
        self.slots = Slots(tuple(spec["slots"])) if spec["slots"] else Home(**spec["depot"]).slots()
        self.budget = Budget(spec["snapshot_share"], expected=0.0)
        self.recorder = Recorder(self._whereabouts)
        self.probe = Probe(self.recorder, spec["trial"]) if spec.get("trial") else None
        self.trainer: Trainer | None = None
        self.keeper = False
        self.touched: set[int] = set()
        self.sized = False
        self.evaluated = -1
        self.digest = ""
        self.paused = False
        self.save_ordered = False
        self.save_at_once = False
        self.tables = Path(spec["tables"]) if spec["tables"] else None
        self.shares: tuple[int, ...] = ()
        self.links = Links(channel, self.home)
        self.turns: Turns | None = None
        self.memory: torch.Tensor | None = None
        """Where a state that is on its way will be put."""
        self.unreported: list[list[Any]] = []
        self.reported_at = time.monotonic()

    def run(self) -> None:
        """Build as ordered, then obey until told to exit."""
        if (received := self.channel.receive()) is None:
            return
        try:
            device = self._device(received[0]["slot"])
            self.plan = Plan(**received[0]["plan"])
            kind = _split_trainer() if self._split else Trainer
            self.trainer = trainer = kind(
                self.job, self.plan, device=device, recorder=self.recorder, tables=self.tables
            )
        except Exception as error:
            self._say_failed(error, "building the job", whole=False)
            self.channel.receive()
            return
        if received[0]["expect"]:
            self.memory = room(received[0]["expect"])
            if self.is_far:
                self.slots.reserve(received[0]["expect"])
        self.channel.send(
            {
                "say": "built",
                "bits": bit_sum(trainer.model),
                "total_steps": trainer.total_steps,
                "samples": trainer.samples,
            }
        )
        gc.freeze()
        while (received := self.channel.receive()) is not None:
            order, descriptors = received
            match order["order"]:
                case "join":
                    self._join(order, descriptors)
                case "hand_over":
                    self._hand_over(order, descriptors)
                case "save":
                    self.slots.pinned = order["pinned"]
                    self.save(ordered=True)
                case "unpin":
                    self.slots.pinned = None
                case "link":
                    self.links.add(order, descriptors)
                case "share":
                    self._share(order["share"])
                case "exit":
                    return

    def _share(self, share: dict[str, str] | None) -> None:
        """Take turns with another job on this slot from now on, or no longer."""
        self.recorder.gate = None
        if self.turns is not None:
            self.turns.close()
        self.turns = Turns(Path(share["file"]), share["way"], _settle) if share else None
        self.recorder.gate = self.turns

    def _device(self, slot: int) -> str:
        count = torch.cuda.device_count()
        if not self.plan.uses_cuda(count):
            return "cpu"
        if not count:
            raise UserError(f"--device cuda: {platform.node()} has no CUDA device that torch can use.")
        return f"cuda:{slot % count}"

    def _join(self, order: Message, descriptors: list[int]) -> None:
        """Take a place in a generation and train until it ends, one way or another."""
        assert self.trainer is not None
        trainer = self.trainer
        self.keeper = order["rank"] == 0
        self.evaluated = order["evaluated"]
        self.slots.pinned = order["pinned"]
        self.paused = self.save_ordered = self.save_at_once = False
        self._share(order.get("share"))
        group: Group | None = None
        doing = "loading the state"
        try:
            self.recorder.enter("snapshot")
            if self.plan.sync.loose:
                self._load(order["load"])
                doing = "training"
                from manyhands.train.loose import take_part

                take_part(self, order)
                return
            # Before the state is there: some may have to fetch it, and others wait for less long than that may take.
            group = join_group(order, descriptors, order["rank"], "the gang", self.home)
            if self._split:
                doing = _SPLITTING
                exchanged = trainer.join(group, self.waiting, order["cuts"])  # type: ignore[call-arg]
                self._load(order["load"])
            else:
                self._load(order["load"])
                doing = "joining the gang"
                exchanged = trainer.join(group, self.waiting)
            if self.keeper and group is not None:
                self.channel.send({"say": "joined", "exchange": exchanged, "cuts": trainer.cuts})
            if self.probe is not None:
                self.probe.joined(group)
            doing = "training"
            self._train()
        except PeerLostError as error:
            self._say_lost(error.rank, str(error))
        except Exception as error:
            if group is not None and (lost := _lost_peer(error, group)) is not None:
                self._say_lost(lost)
                return
            whole = not self.plan.divides and self.recorder.phase != "optimizer"
            place = self._place() if doing == "training" else doing
            self.report()
            self._say_failed(error, "" if isinstance(error, NotFiniteError) else place, whole)
        finally:
            trainer.leave()
            if group is not None:
                group.abandon()
            self._share(None)
            self.recorder.enter("idle")

    @property
    def is_far(self) -> bool:
        """Whether the supervisor is on another host."""
        return isinstance(self.slots, DistantSlots)

    @property
    def _split(self) -> bool:
        return self.plan.layout.split

    def _say_lost(self, peer: int, error: str = "") -> None:
        assert self.trainer is not None
        self.report()
        self.channel.send(
            {
                "say": "idle",
                "why": "lost",
                "peer": peer,
                "error": error,
                "step": self.trainer.step,
                "whole": not self.plan.divides,
            }
        )

    def _load(self, source: dict[str, Any] | None) -> None:
        """Take over the state from a slot or a file, unless there already."""
        assert self.trainer is not None
        if source is None or (source["step"] == self.trainer.step and not source["force"]):
            return
        if "slot" in source:
            image = self.slots.read(source["slot"])
        elif isinstance(self.slots, DistantSlots):
            image = self.slots.read_file(source["path"])
        else:
            with Path(source["path"]).open("rb") as file:  # the mapping goes with the last tensor that looks into it
                image = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        tree, metadata = read_image(image)
        self.trainer.restore(tree)
        self.unreported = json.loads(metadata["unreported"])

    def _hand_over(self, order: Message, descriptors: list[int]) -> None:
        """Give the state to others, or take it from the one that has it (rank 0), without a detour."""
        assert self.trainer is not None
        self.recorder.enter("snapshot")
        group: Group | None = None
        error = ""
        try:
            group = join_group(order, descriptors, order["rank"], "the handover", self.home, machines)
            assert group is not None
            if order["rank"] == 0:
                steps = json.dumps([[*row[:-1], []] for row in self.unreported])
                metadata = {"step": str(self.trainer.step), "unreported": steps}
                give(group, Image(self.trainer.capture(), metadata))
            else:
                tree, told = read_image(receive(group, 0, self.memory))
                self.trainer.restore(tree, keep=True)
                self.unreported = json.loads(told["unreported"])
            group.close(_GOODBYE_SECONDS)
        except GroupError as lost:
            error = str(lost)
            if group is not None:
                group.abandon()
        self.memory = None
        self.channel.send({"say": "handed", "step": self.trainer.step, "error": error})
        self.recorder.enter("idle")

    def _train(self) -> None:
        """Step until the job ends or a pause is agreed on."""
        trainer = self.trainer
        assert trainer is not None
        self.recorder.take()  # what went before belongs to no step
        self.evaluate_if_due()
        while trainer.step < trainer.total_steps:
            marks = Marks(self.recorder, lambda: self.is_detailed(trainer.step))
            if self.probe:
                steps: Sequence[Step] = [self.probe.step(trainer, self.listen)]
            else:
                steps = trainer.train_round(self.listen, marks.add)
            self._say_shares()
            self.recorder.enter("snapshot")  # what follows keeps state and records
            marks.end(len(steps))
            for step, mark in zip(steps, marks.steps, strict=True):
                self.budget.earn((mark.ended - mark.began) / 1e9)
                self._record(step, mark)
            flags = steps[-1].flags
            self._keep_state(flags)
            self.evaluate_if_due()
            if any(flag & _PAUSE for flag in flags):
                self.report()
                self.channel.send(
                    {"say": "idle", "why": "paused", "step": trainer.step, "whole": not self.plan.divides}
                )
                return
        sha256 = trainer.weights_sha256() if not self.plan.divides else self.digest
        self.report()
        self._say_served()
        finished = {"say": "finished", "step": trainer.step, "sha256": sha256, "whole": not self.plan.divides}
        self.channel.send(finished | ({"figures": self.probe.figures} if self.probe else {}))

    def is_detailed(self, step: int) -> bool:
        """Whether the single spans of the step after so many are kept."""
        assert self.trainer is not None
        return step < 10 or step % -(-self.trainer.total_steps // _DETAILED_STEPS) == 0

    def _say_served(self) -> None:
        """A server says what it has moved."""
        assert self.trainer is not None
        group, server = self.trainer.group, self.trainer.rank - self.plan.workers
        if group is not None and server >= 0:
            received = sum(way.received for way in group.traffic())
            self.channel.send({"say": "served", "server": server, "received": received, "sent": group.sent})

    def _say_shares(self) -> None:
        """Say how the micro-batches are shared out, when that has changed."""
        assert self.trainer is not None
        shares = tuple(block.size for block in self.trainer.policy.blocks if block.size)
        if self.keeper and self.shares and shares != self.shares:
            self.channel.send({"say": "balanced", "step": self.trainer.step, "shares": shares})
        self.shares = shares

    def _keep_state(self, flags: Sequence[int]) -> None:
        """After a step: leave the state for others, if it is time."""
        assert self.trainer is not None
        if not self.plan.divides:
            if self.keeper and (self.save_at_once or self._can_afford_a_save()):
                self.save(self.save_ordered)
        elif any(flags) or self.trainer.step == self.trainer.total_steps:
            self.save(self.save_ordered)  # all of a gang that divides the state, when any of them asked for it

    def evaluate_if_due(self) -> None:
        """Evaluate at the step where the trainer stands, if the job asks for it and nobody has yet."""
        trainer, evaluation = self.trainer, self.job.evaluate
        assert trainer is not None
        if evaluation is None or trainer.step <= self.evaluated or trainer.step == 0:
            return
        every = evaluation.every or trainer.total_steps
        if trainer.step == trainer.total_steps or trainer.step // every > max(0, self.evaluated) // every:
            metrics = trainer.evaluate()
            self.evaluated = trainer.step
            self.report()
            self.channel.send({"say": "evaluated", "step": trainer.step, "metrics": metrics})
            self.recorder.enter("idle")

    def listen(self) -> int:
        """Take orders that have come during a step; what this worker asks of the gang after it."""
        while self.channel.pending():
            received = self.channel.receive()
            if received is None:
                raise SystemExit(1)
            match received[0]["order"]:
                case "link":
                    self.links.add(*received)
                case "pause":
                    self.paused = True
                case "checkpoint":
                    self.save_ordered = True
                    self.save_at_once = received[0]["at_once"]
                case "unpin":
                    self.slots.pinned = None
                case "share":
                    self._share(received[0]["share"])
                case "exit":
                    raise SystemExit(0)
        save = self.plan.divides and self.keeper and (self.save_at_once or self.budget.allows())
        return (_PAUSE if self.paused else 0) | (_SAVE if save else 0)

    def _can_afford_a_save(self) -> bool:
        """Whether the budget covers a snapshot. Optimizers make their state in the first step, so it is sized late."""
        assert self.trainer is not None
        if self.budget.allows() and not self.sized:
            self.sized = True
            size = state_bytes(self.trainer.capture())
            self.slots.reserve(size)
            self.channel.send({"say": "sized", "bytes": size})
            self.budget.expected = size / _COPY_RATE
        return self.budget.allows()

    def save(self, ordered: bool) -> None:
        """Leave the state in a slot. One that was ordered stays pinned until the supervisor has read it."""
        assert self.trainer is not None
        self.recorder.enter("snapshot")
        began = time.monotonic()
        # Steps that nobody has heard of yet go with the state: whoever takes it over reports them.
        steps = json.dumps([[*row[:-1], []] for row in self.unreported])
        state = self.trainer.capture()
        if self.plan.divides and not self.keeper:
            self.recorder.enter("idle")
            return
        if self.plan.divides and self.trainer.step == self.trainer.total_steps:
            self.digest = tree_sha256(state["model"])
        image = Image(state, {"step": str(self.trainer.step), "unreported": steps})
        slot, target = self.slots.begin(image.length)
        image.write(target)
        slot = self.slots.commit(slot, self.trainer.step, image.length)
        self.budget.spend(time.monotonic() - began, typical=slot in self.touched)
        self.touched.add(slot)
        self.save_ordered = self.save_at_once = False
        if ordered:
            self.slots.pinned = slot
            self.report()
            self.channel.send({"say": "saved", "slot": slot, "step": self.trainer.step})
        self.recorder.enter("idle")

    def _record(self, step: Step, mark: Mark) -> None:
        # The steps of a short run are reported one by one, so that all of their spans fit.
        spans = mark.spans[: _SPANS_PER_STEP * (_STEPS_PER_MESSAGE if self.probe else 1)]
        self.commit([*step[:-1], mark.began, mark.ended, mark.sums, spans])

    def commit(self, row: list[Any]) -> None:
        """A step was committed: here, or, as servers know, by a worker. It is reported with the next batch."""
        self.unreported.append(row)
        if self.probe or time.monotonic() - self.reported_at >= _REPORT_SECONDS:
            self.report()

    def spans(self, step: int, mark: Mark) -> None:
        """Tell where the time of a share went, which commits no step by itself."""
        row = [step, mark.began, mark.ended, mark.sums, mark.spans[:_SPANS_PER_STEP]]
        self.channel.send({"say": "spans", "rows": [row]})

    def report(self) -> None:
        """Send the steps that have not been reported. Every worker reports all, so none is lost with a worker."""
        for begin in range(0, len(self.unreported), _STEPS_PER_MESSAGE):
            self.channel.send({"say": "steps", "steps": self.unreported[begin : begin + _STEPS_PER_MESSAGE]})
        self.unreported.clear()
        self.reported_at = time.monotonic()

    def _say_failed(self, error: Exception, doing: str, whole: bool) -> None:
        text = str(error) if isinstance(error, UserError) else where(error, self.job_file)
        if isinstance(error, torch.OutOfMemoryError):
            text += ". Give the job more micro_batches, so that each is smaller, or use --workers fewer per device."
        trace = "".join(traceback.format_exception(error))[-_TRACE_LENGTH:]
        step = self.trainer.step if self.trainer else 0
        self.channel.send(
            {
                "say": "failed",
                "error": text[:_TRACE_LENGTH],
                "doing": doing,
                "trace": trace,
                "whole": whole,
                "splitting": doing == _SPLITTING,
                "step": step,
            }
        )

    def _place(self) -> str:
        """Where in the job this worker is, in words."""
        assert self.trainer is not None
        phase, micro_batch = self.recorder.phase, self.recorder.micro_batch
        inside = f", micro-batch {micro_batch}" if micro_batch >= 0 else ""
        return f"step {self.trainer.step + 1}{inside} ({phase})"

    def waiting(self, waits: bool) -> None:
        self.recorder.enter("idle" if waits else "exchange")

    def _whereabouts(self, phase: int, micro_batch: int) -> None:
        self.board.write(self.worker, self.trainer.step if self.trainer else -1, micro_batch, phase)
