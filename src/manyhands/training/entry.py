"""Where workers come from: the job is loaded once, in the process that they are forked from; each is built when told
so."""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import importlib
import os
import platform
import signal
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy
import torch

from manyhands import __version__
from manyhands.engine import Channel, Loaded, Place
from manyhands.errors import UserError
from manyhands.gang import ORDERS, SPEC, Facts, Order, Spec
from manyhands.gang.held import held
from manyhands.gang.orders import Build
from manyhands.gang.reports import Built
from manyhands.job import Job
from manyhands.plan import Plan
from manyhands.shm import Board, Slots
from manyhands.state import bit_sum
from manyhands.timeline import Recorder
from manyhands.training.datasum import data_sha256
from manyhands.training.inherited import check_threads, opened, shared_offset
from manyhands.training.jobfile import held_job, load_job
from manyhands.training.keeper import Keeper
from manyhands.training.links import slots_at
from manyhands.training.probe import Probe, shortened
from manyhands.training.reporter import Reporter
from manyhands.training.steps import load_steps
from manyhands.training.trainer import Trainer
from manyhands.training.worker import Worker
from manyhands.transport.interpreter import library


def prepare(told: object, place: Place) -> tuple[Loaded, Callable[[Channel, int], None]]:
    """The engine's entry: load the job.

    Args:
        told: a `Spec` as JSON.
        place: what this host has for it.

    Returns:
        What was found, for the supervisor, and the main function of a worker.

    Raises:
        UserError: the job cannot be loaded here; says why.
    """
    spec = SPEC.decode(told)
    if place.slots is None:
        _check_files(spec)
    torch.set_num_threads(1)  # a thread pool would not survive the fork
    importlib.import_module("torch._dynamo")  # optimizers import it when first built; that takes a second
    library()  # compiled once on a machine, loaded before the workers are forked
    os.chdir(spec.cwd)
    before = opened()
    job = load_job(spec.job_file, list(spec.arguments)) if spec.job_file is not None else held_job(spec.held)
    if spec.probe:
        job = shortened(job, spec.probe.steps)
    load_steps(spec.plan)
    if spec.plan.hosts:  # how tensors travel between hosts is chosen with scipy; every new worker would wait for that
        importlib.import_module("manyhands.collective.packing")
    facts = _facts(job, spec)
    check_threads(spec.plan.threads)
    if found := opened() - before:
        facts = replace(facts, warning=" ".join(filter(None, [facts.warning, shared_offset(found)])))
    loaded = Loaded(facts=asdict(facts), cuda_devices=facts.cuda_devices, alike=facts.alike)
    return loaded, lambda channel, worker: _work(job, spec, place, channel, worker)


def _check_files(spec: Spec) -> None:
    """
    Raises:
        UserError: this is another host than the one that the run was started on, and it has not the job's files.
    """
    if spec.job_file is None:
        raise UserError("the job is in the memory of another host. Put it into a file to train it on several.")
    for path in (spec.cwd, spec.job_file):
        if not path.exists():
            raise UserError(f"there is no {path}. The job's files have to be in the same place on every host.")


def _facts(job: Job, spec: Spec) -> Facts:
    plan, cuda_devices, cores = spec.plan, torch.cuda.device_count(), os.cpu_count() or 1
    if torch.cuda.is_initialized():
        raise UserError(
            f"{spec.job_file or 'this process'} uses CUDA before the workers are forked. Move that into model(), "
            "data() or loss(), which run in the workers."
        )
    note = ""
    if plan.workers > cores and not plan.uses_cuda(cuda_devices) and not plan.hosts:
        note = f"{plan.workers} workers share {cores} cores: expect no speed-up over {cores}."
    return Facts(
        micro_batches=job.micro_batches,
        batch_size=job.batch_size,
        seed=job.seed,
        precision=job.precision,
        reproducible=job.reproducible,
        compile=job.compile,
        cuda_devices=cuda_devices,
        device="cuda" if plan.uses_cuda(cuda_devices) else "cpu",
        warning=note,
        job_sha256=_digest(spec),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "manyhands": __version__,
        },
    )


def _digest(spec: Spec) -> str:
    return hashlib.sha256(spec.job_file.read_bytes()).hexdigest() if spec.job_file else held(spec.held).sha256


def _work(job: Job, spec: Spec, place: Place, channel: Channel, worker: int) -> None:
    """Build as ordered, then obey until told to exit."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    faulthandler.enable()
    received = channel.receive()
    if received is None:
        return
    order: Order = ORDERS.decode(received[0])
    assert isinstance(order, Build)
    where = _Whereabouts(Board(place.board), worker)
    recorder = Recorder(where.write)
    probe = Probe(recorder, spec.probe) if spec.probe else None
    reporter = Reporter(channel, one_by_one=probe is not None)
    try:
        trainer = _build(job, order, recorder, spec, here=place.slots is not None)
    except Exception as error:
        reporter.failed(error, "building the job", 0, False, spec.job_file)
        channel.receive()
        return
    where.trainer = trainer
    slots = Slots(place.slots) if place.slots else slots_at(place.depot)
    keeper = Keeper(trainer, slots, spec.snapshot_share, reporter, recorder)
    keeper.expect(order.expect)
    bits = bit_sum(trainer.model)
    data = data_sha256(trainer.feed.data, job.seed)
    reporter.say(Built(bits=bits, total_steps=trainer.total_steps, samples=trainer.samples, data=data))
    gc.freeze()
    Worker(
        job, order.plan, spec.job_file, place.depot, worker, channel, trainer, keeper, reporter, recorder, probe
    ).run()


def _build(job: Job, order: Build, recorder: Recorder, spec: Spec, here: bool) -> Trainer:
    device, tables = _device(order.plan, order.device), spec.tables if here else None
    return Trainer(job, order.plan, device=device, recorder=recorder, tables=tables, audit=spec.audit)


def _device(plan: Plan, device: int) -> str:
    count = torch.cuda.device_count()
    if not plan.uses_cuda(count):
        return "cpu"
    if not count:
        raise UserError(f"--device cuda: {platform.node()} has no CUDA device that torch can use.")
    return f"cuda:{device % count}"


class _Whereabouts:
    """Writes to the board where the worker is: its trainer's step, once it has one."""

    def __init__(self, board: Board, worker: int) -> None:
        self._board, self._worker = board, worker
        self.trainer: Trainer | None = None

    def write(self, phase: int, micro_batch: int) -> None:
        self._board.write(self._worker, self.trainer.step if self.trainer else -1, micro_batch, phase)
