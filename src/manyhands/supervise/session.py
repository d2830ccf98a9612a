"""From what the user asked for to a running supervisor: a new run, or the next session of an old one."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from manyhands.engine import HERE, LocalEngine, Loop, Place
from manyhands.engine import Depot as DepotAt
from manyhands.engine.forked import ForkedTemplate
from manyhands.engine.hosts import Depot, HostsEngine, default_token, read_token
from manyhands.errors import UsageError, UserError
from manyhands.gang import Facts, Probing, Spec
from manyhands.gang.held import HeldJob, hold, let_go
from manyhands.plan import Plan, parse_address
from manyhands.run import Checkpoint, RunDirectory, TensorBoard, Tracker, newest_checkpoint, read_json, write_json
from manyhands.shm import Board, Slots
from manyhands.supervise.options import Care
from manyhands.supervise.record import Record
from manyhands.supervise.supervisor import Supervisor
from manyhands.supervise.view import View
from manyhands.wire import decode_as, encode

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Session:
    """One sitting of a run."""

    directory: Path
    job_file: Path | None = None
    """Where the job is from; None if it is `held`, or that of the run that is gone on with."""
    held: HeldJob | None = None
    """A job in memory."""
    arguments: list[str] = field(default_factory=list)
    """The flags of the job file's function."""
    resume: bool = False
    """Whether to go on with the run that the directory holds."""
    plan: dict[str, Any] = field(default_factory=dict)
    """Fields of `Plan` that were given; a resumed run keeps its own for the others."""
    care: Care = field(default_factory=Care)
    trackers: tuple[str, ...] = ()
    probe: Probing | None = None
    """Train only a few steps, in silence, and look at them closely (training/probe.py): `figures` in `result.json`, one
    entry per rank."""
    token: Path | None = None
    """The file with what the hosts' agents know; None: where it is by default."""
    quiet: bool = False
    debug: bool = False
    begun: Callable[[], None] = lambda: None
    """Called when the run is under way, and takes commands."""


def run_session(session: Session) -> int:
    """Train until the end, a stop or a failure. Returns the exit code.

    Raises:
        UserError: it could not begin, or it failed.
    """
    held = hold(session.held) if session.held is not None else ""
    slots, board, loop = Slots(), Board(), Loop()
    try:
        return _sit(session, held, slots, board, loop)
    finally:
        let_go(held)
        loop.close()
        slots.close()
        board.close()


def _sit(session: Session, held: str, slots: Slots, board: Board, loop: Loop) -> int:
    directory = RunDirectory(session.directory)
    resuming = session.resume
    if resuming:
        directory = RunDirectory.open(session.directory)
        settings = read_json(directory.run)
        _check_resumable(session, settings)
    else:
        settings = _settings(session)
    before = settings.get("plan", {})
    plan = Plan.merged(before, session.plan)
    spec = Spec(
        job_file=None if held else Path(settings["job_file"]),
        held=held,
        arguments=tuple(settings["arguments"]),
        cwd=Path(settings["cwd"]),
        plan=plan,
        snapshot_share=session.care.snapshot_share,
        audit=session.care.audit,
        tables=directory.path.resolve() / "tables",
        probe=decode_as(Probing, settings["probe"]) if settings.get("probe") else None,
    )
    engine = _engine(plan, spec, session.token, directory, loop, slots, board)
    if resuming:
        directory.acquire()
    try:
        facts = Facts.read(engine.open().facts)
        unsized = not {"workers", "layout", "hosts"} & {*before, *session.plan}
        if unsized and plan.uses_cuda(facts.cuda_devices):
            plan = plan.resized(max(1, min(facts.cuda_devices, facts.micro_batches)))
        plan.check(facts.micro_batches, facts.cuda_devices)
        if not resuming:
            directory.create()
            directory.acquire()
        settings |= {"plan": plan.as_dict(), "job": asdict(facts), "hardware": _hardware()}
        settings["sessions"] = [*settings.get("sessions", []), {"began": time.time(), "workers": plan.workers}]
        trackers: list[Tracker] = [TensorBoard(directory.path / "tensorboard") for _ in session.trackers]
        write_json(directory.run, settings)
        directory.result.unlink(missing_ok=True)
        view = View(directory.log, session.quiet, silent=session.probe is not None)
        if not resuming:
            view.note(f"run directory {directory.path}", urgent=False)
        if facts.warning:
            view.note(facts.warning)
        if facts.job_sha256 != settings["job_sha256"]:
            view.note(
                f"{settings['job_file'] or 'the job'} has changed since the run began: the result is the new job's, if "
                "it fits."
            )
        if resuming and plan.threads != before["threads"]:
            view.note(f"--threads is {plan.threads} and was {before['threads']}: the bits of the result may differ.")
        checkpoint = _checkpoint(directory, view) if resuming else None
        care = session.care if session.probe is None else replace(session.care, check="off")
        record = Record(directory, trackers, settings["created"], facts.reproducible, view.note)
        supervisor = Supervisor(directory, engine, loop, plan, care, facts, record, view, slots, board, checkpoint)
        code = supervisor.run(session.begun)
    finally:
        engine.close()
        directory.release()
    _finish(session, directory, supervisor, view)
    return code


def _engine(
    plan: Plan,
    spec: Spec,
    token: Path | None,
    directory: RunDirectory,
    loop: Loop,
    slots: Slots,
    board: Board,
) -> LocalEngine | HostsEngine:
    """The engine of the machines that the plan names.

    Raises:
        UserError: other machines take part, and there is no token.
    """
    entry, place = "manyhands.training.entry:prepare", Place(board=board.descriptor, slots=slots.descriptors)
    told = encode(spec)
    others = {name: parse_address(name) for name in plan.places if name != HERE}
    if not plan.hosts and not plan.server_hosts:
        # What is in memory here cannot be imported elsewhere: workers are forked from a fork of this process.
        return LocalEngine(entry, told, place, loop, make_template=ForkedTemplate if spec.held else None)
    if spec.held:
        raise UsageError("a job that is no file is trained on this machine alone. Put it into a file to use --hosts.")
    secret = read_token(token or default_token())
    depot = Depot(secret, slots.descriptors, directory.checkpoints)
    home = DepotAt(host="127.0.0.1", port=depot.port, token=secret.decode())
    here = LocalEngine(entry, told, replace(place, depot=home), loop)
    return HostsEngine(here, others, secret, depot, entry, told, loop, board, only_there=HERE not in plan.places)


def _settings(session: Session) -> dict[str, Any]:
    """What `run.json` says of a run from its beginning on."""
    settings = {"format": _FORMAT, "created": time.time(), "arguments": session.arguments, "cwd": str(Path.cwd())}
    if session.held is not None:
        return settings | {"job_file": None, "job_name": session.held.name, "job_sha256": session.held.sha256}
    assert session.job_file is not None
    if not session.job_file.is_file():
        raise UsageError(f"the job file {session.job_file} does not exist.")
    digest = hashlib.sha256(session.job_file.read_bytes()).hexdigest()
    settings |= {"job_file": str(session.job_file.resolve()), "job_sha256": digest}
    return settings | ({"probe": asdict(session.probe)} if session.probe is not None else {})


def _check_resumable(session: Session, settings: dict[str, Any]) -> None:
    if session.held is not None:
        return
    if settings["job_file"] is None:
        raise UsageError(
            "the run's job is no file: it was in memory when the run began. Go on from there: "
            f"manyhands.train(job, resume={str(session.directory)!r})"
        )
    if session.arguments:
        raise UsageError(
            f"a resumed run keeps the flags it began with ({' '.join(settings['arguments']) or 'none'}). Leave out "
            "what follows --, or begin a new run."
        )
    if not Path(settings["job_file"]).is_file():
        raise UsageError(f"the run's job file {settings['job_file']} does not exist any more. Put it back.")


def _checkpoint(directory: RunDirectory, view: View) -> Checkpoint | None:
    checkpoint = newest_checkpoint(directory.checkpoints, view.note)
    where = f"checkpoint of step {checkpoint.step}" if checkpoint else "the beginning: no checkpoint is whole"
    view.note(f"resuming {directory.path} from {where}", urgent=False)
    return checkpoint


def _hardware() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def _finish(session: Session, directory: RunDirectory, supervisor: Supervisor, view: View) -> None:
    """Write the report, say how the run ended, and raise if it failed."""
    try:
        from manyhands.report import write_report

        write_report(directory)
    except Exception as error:  # the training is what counts; the report can be made again
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        view.note(f"cannot write {directory.report}: {reason}. Try again: manyhands report {directory.path}")
    ending = supervisor.ending
    result = read_json(directory.result)
    if ending is not None and ending.status == "finished":
        view.note(f"finished {result['steps']} steps, weights {result['weights_sha256'][:12]}", urgent=False)
        view.note(f"report: {directory.report}", urgent=False)
    else:
        durable = result.get("durable_step", 0)
        kept = f"the state after step {durable} is kept" if durable else "nothing was trained yet"
        view.note(f"{ending.status if ending else 'stopped'}; {kept}. Go on: manyhands train --resume {directory.path}")
    view.close()
    if ending is not None and ending.status == "failed":
        raise UserError(ending.error + (f"\n{ending.trace}" if session.debug else ""))
