"""From a user's file and flags to a `Job`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path

import tyro

from manyhands.errors import UsageError, UserError
from manyhands.gang.held import held
from manyhands.job import Job


def load_job(path: Path, arguments: list[str]) -> Job:
    """Import the file and call its `job` function with the flags.

    Raises:
        UsageError: the file does not exist, does not import, or has no `job` that returns a `Job`.
        SystemExit: `--help`, or a flag that `job` does not take; tyro has printed what there is to say.
    """
    if not path.is_file():
        raise UsageError(f"the job file {path} does not exist.")
    name = f"manyhands_job_{path.stem}"  # not the bare stem: a file named random.py must not hide Python's own
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"the job file {path} is not a Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"the job file {path} does not import: {where(error, path)}") from error
    function = getattr(module, "job", None)
    if not callable(function):
        raise UsageError(f"the job file {path} has no function `job`. Define `def job(...) -> manyhands.Job`.")
    try:
        built = tyro.cli(function, args=arguments, prog=f"{path.name} --", description=module.__doc__ or "")
    except UserError:
        raise
    except Exception as error:
        raise UsageError(f"job() in {path} failed: {where(error, path)}") from error
    if not isinstance(built, Job):
        raise UsageError(f"job() in {path} must return a manyhands.Job; it returned a {type(built).__name__}.")
    return built


def held_job(name: str) -> Job:
    """The job that this process has in memory under a name, or what the function there makes of its flags.

    Raises:
        UsageError: the function does not take these flags, fails, or returns no `Job`.
    """
    found = held(name)
    if isinstance(found.job, Job):
        return found.job
    try:
        inspect.signature(found.job).bind(**found.flags)
    except TypeError as error:
        raise UsageError(f"{found.name}(): {error}. Keywords that are not the plan's go to this function.") from None
    try:
        built = found.job(**found.flags)
    except UserError:
        raise
    except Exception as error:
        raise UsageError(f"{found.name}() failed: {where(error)}") from error
    if not isinstance(built, Job):
        raise UsageError(f"{found.name}() must return a manyhands.Job; it returned a {type(built).__name__}.")
    return built


def where(error: BaseException, path: Path | None = None) -> str:
    """An error in one line: its type and text, and the last line of the user's code that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if path is not None and Path(f.filename).name == path.name]
    user = own or [f for f in frames if "/manyhands/" not in f.filename and "<frozen" not in f.filename]
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{text} (line {error.lineno})"
    if not user:
        return text
    frame = user[-1]
    return f"{text} ({frame.filename}:{frame.lineno}, in {frame.name})"
