"""Train a job from a script, a notebook or the command line."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from manyhands.api.run import Run
from manyhands.errors import UsageError
from manyhands.gang.held import HeldJob
from manyhands.job import Job
from manyhands.plan import PlanOptions
from manyhands.run import new_directory
from manyhands.supervise import Care, Session, run_session

JobLike = Job | Callable[..., Job] | str | Path
"""A job, a function that makes one, or a Python file with such a function named `job`."""


def train(
    job: JobLike,
    *,
    run_dir: str | Path | None = None,
    wait: bool = True,
    arguments: Sequence[str] = (),
    trackers: Sequence[str] = (),
    token: str | Path | None = None,
    quiet: bool = False,
    debug: bool = False,
    **options: Any,
) -> Run:
    """Train a job, with as many workers as you like, and get the same model.

        run = manyhands.train("examples/gpt.py", workers=2, layers=6)
        model = run.model()

    From a script or a notebook the job may be a function, or a `Job`, that is defined right there: workers are forked
    from this process, and have all that it has in memory. That works on one machine, and for as long as torch can be
    forked: not after this process has used CUDA, say. What is in a file has no such limits.

    Args:
        job: a Python file with a function `job(...) -> manyhands.Job`, such a function, or a `Job`.
        run_dir: where the run is written, a directory that is not there yet or empty. None: runs/NAME-TIME.
        wait: return when the run has ended; an interrupt (Ctrl-C, a notebook's stop button) ends it at the next step
            boundary, with a checkpoint. If False, return when it has begun: `run.wait()`, `run.resize()`, `run.stop()`.
        arguments: flags of the job file's function as on the command line, besides those in `options`.
        trackers: where figures are written besides the run's own files: `tensorboard`.
        token: the file with what the hosts' agents know.
        quiet: print nothing but what the workers print and what goes wrong.
        debug: say the trace behind a failure.
        **options: those of the plan (`workers`, `layout`, `sync`, `device`, `threads`, `hosts` and so on, as of
            `manyhands train --help`), those of the run's care (`checkpoint_every`, `patience` and so on). All others
            go to the `job` function.

    Raises:
        UsageError: something that was given makes no sense; nothing was begun.
        UserError: the run failed; says of what.
    """
    plan, care, flags = _sort(options)
    session = Session(
        directory=Path(run_dir) if run_dir is not None else new_directory(_name(job)),
        plan=plan.given(),
        care=care,
        trackers=tuple(trackers),
        token=Path(token) if token is not None else None,
        quiet=quiet,
        debug=debug,
        **_job(job, flags, arguments, plan),
    )
    return _run(session, wait)


def resume(
    run_dir: str | Path,
    job: Job | Callable[..., Job] | None = None,
    *,
    wait: bool = True,
    arguments: Sequence[str] = (),
    trackers: Sequence[str] = (),
    token: str | Path | None = None,
    quiet: bool = False,
    debug: bool = False,
    **options: Any,
) -> Run:
    """Go on with a run from its newest whole checkpoint.

    Args:
        run_dir: the run's directory.
        job: the job of a run that was begun with one in memory; others know their file.
        wait, trackers, token, quiet, debug: as of `train`.
        arguments: none; the flags of a job file stay as they were.
        **options: of the plan and the run's care, where they are to be others than before. A function in memory gets
            those that are left over, as it did when the run began.

    Raises:
        UsageError: there is no such run, or something that was given makes no sense.
        UserError: the run failed.
    """
    plan, care, flags = _sort(options)
    if flags and (job is None or isinstance(job, Job)):
        raise UsageError(f"{', '.join(flags)}: a resumed run keeps the flags it began with. Leave them out.")
    session = Session(
        directory=Path(run_dir),
        resume=True,
        arguments=list(arguments),
        plan=plan.given(),
        care=care,
        trackers=tuple(trackers),
        token=Path(token) if token is not None else None,
        quiet=quiet,
        debug=debug,
        held=HeldJob(job, flags) if job is not None else None,
    )
    if job is not None:
        _check_forks(plan)
    return _run(session, wait)


def _sort(options: Mapping[str, Any]) -> tuple[PlanOptions, Care, dict[str, Any]]:
    """The plan's options, those of the care, and the flags of the job."""
    rest = dict(options)
    groups: list[Any] = []
    for kind in (PlanOptions, Care):
        given = {field.name: rest.pop(field.name) for field in fields(kind) if field.name in rest}
        values: dict[str, Any] = {name: _text(value) if name in _TEXTS else value for name, value in given.items()}
        groups.append(kind(**values))
    return groups[0], groups[1], rest


_TEXTS = ("layout", "sync")


def _text(value: Any) -> str | None:
    """A layout or a policy as text, whichever form it has."""
    return None if value is None else str(value)


def _name(job: JobLike) -> str:
    if isinstance(job, str | Path):
        return Path(job).stem
    return HeldJob(job, {}).name


def _job(job: JobLike, flags: Mapping[str, Any], arguments: Sequence[str], plan: PlanOptions) -> dict[str, Any]:
    """The session's fields that say which job it is.

    Raises:
        UsageError: it is none.
    """
    if isinstance(job, str | Path):
        return {"job_file": Path(job), "arguments": [*arguments, *_flags(flags)]}
    if not isinstance(job, Job) and not callable(job):
        raise UsageError(f"train() takes a job file, a function or a manyhands.Job; it got a {type(job).__name__}.")
    if isinstance(job, Job) and flags:
        raise UsageError(
            f"{', '.join(flags)}: no option of the plan, and a Job takes no flags. Give a function that makes the Job."
        )
    if arguments:
        raise UsageError("arguments are for job files. Give a function its flags as keywords.")
    _check_forks(plan)
    return {"held": HeldJob(job, dict(flags))}


def _flags(flags: Mapping[str, Any]) -> list[str]:
    """Keywords as a command line has them.

    Raises:
        UsageError: a value is no number, text, truth value or path.
    """
    found = []
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif isinstance(value, int | float | str | Path):
            found += [flag, str(value)]
        else:
            raise UsageError(
                f"{name} is a {type(value).__name__}: what goes to a job file's function is written down as text. Give "
                "a number, a text or a path, or train a function instead of a file."
            )
    return found


def _check_forks(plan: PlanOptions) -> None:
    """
    Raises:
        UserError: workers that are forked from this process could not train.
    """
    from manyhands.api.forks import check

    check(plan.threads or 1)


def _run(session: Session, wait: bool) -> Run:
    run = Run(session.directory, session.held)
    if wait:
        try:
            run.exit_code = run_session(session)
        finally:
            _clear(session.directory)
        return run
    begun, outcome = threading.Event(), _Outcome()

    def work() -> None:
        try:
            outcome.code = run_session(replace(session, begun=begun.set))
        except BaseException as error:
            outcome.error = error
        finally:
            _clear(session.directory)
            begun.set()

    thread = threading.Thread(target=work, name="manyhands-run", daemon=False)
    thread.start()
    begun.wait()
    if outcome.error is not None:
        thread.join()
        raise outcome.error
    run.follow(thread, outcome)
    return run


def _clear(directory: Path) -> None:
    """Remove a directory that was made for a run and that nothing was written to, since it was refused."""
    with contextlib.suppress(OSError):
        directory.rmdir()


class _Outcome:
    """How a run in another thread has ended."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.error: BaseException | None = None


def _sign() -> inspect.Signature:
    """`train`'s signature with the plan's and the care's options in it, for help and completion."""
    own = inspect.signature(train)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for kind in (PlanOptions, Care):
        for field in fields(kind):
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
                )
            )
    rest = inspect.Parameter("flags", inspect.Parameter.VAR_KEYWORD, annotation=Any)
    return own.replace(parameters=[*parameters, rest])


train.__signature__ = _sign()  # type: ignore[attr-defined]

__all__ = ["JobLike", "resume", "train"]
