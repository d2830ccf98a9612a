"""Durable checkpoints: written whole or not at all, checked before they are believed.

    checkpoints/step-00000200/state.safetensors    the image of the state, as it lay in shared memory
    checkpoints/step-00000200/checkpoint.json      {"step", "bytes", "sha256", "written"}

The folder is written under a temporary name, every file synced, and then renamed, which the file system does
at once or not at all. Whatever carries the final name and matches its digest is good.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

STATE = "state.safetensors"
RECORD = "checkpoint.json"

_NAME = re.compile(r"step-(\d+)")
_CHUNK = 8 << 20


class Checkpoint(NamedTuple):
    """A checkpoint that verified."""

    step: int
    path: Path
    """The checkpoint's folder."""

    @property
    def state(self) -> Path:
        return self.path / STATE


def write_checkpoint(folder: Path, step: int, image: memoryview) -> Checkpoint:
    """Write the image of the state after `step`; returns when the disk has it.

    Raises:
        OSError: the disk is full or gone. Nothing is left behind then.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.partial"
    replaced = folder / f".{final.name}.replaced.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        digest = hashlib.sha256()

        def chunks() -> Iterator[memoryview]:
            for start in range(0, len(image), _CHUNK):
                chunk = image[start : start + _CHUNK]
                digest.update(chunk)
                yield chunk

        _write(partial / STATE, chunks())
        record = {"step": step, "bytes": len(image), "sha256": digest.hexdigest(), "written": time.time()}
        _write(partial / RECORD, [memoryview(json.dumps(record).encode())])
        _sync_folder(partial)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        partial.rename(final)
        _sync_folder(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)
        raise
    return Checkpoint(step, final)


def prune(folder: Path, keep: int, newest: int) -> None:
    """Delete all but the last `keep` checkpoints up to step `newest`, and what a crash left half written.

    Later ones are left alone: they were there before, damaged, when the run went back to an older one.
    """
    for partial in folder.glob(".*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    for step in sorted(step for step in _steps(folder) if step <= newest)[:-keep]:
        shutil.rmtree(folder / f"step-{step:08d}", ignore_errors=True)


def forget_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps."""
    for later in (found for found in _steps(folder) if found > step):
        shutil.rmtree(folder / f"step-{later:08d}", ignore_errors=True)


def newest_checkpoint(folder: Path, on_damaged: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies; those that do not are named and skipped."""
    for step in sorted(_steps(folder), reverse=True):
        path = folder / f"step-{step:08d}"
        fault = verify(path)
        if fault is None:
            return Checkpoint(step, path)
        on_damaged(f"checkpoint {path} is damaged and is skipped: {fault}.")
    return None


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        record = json.loads((path / RECORD).read_bytes())
        with (path / STATE).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != record["bytes"]:
                return f"{STATE} has {size} bytes and should have {record['bytes']}"
            if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                return f"{STATE} does not match its sha256"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return str(error)
    return None


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]


def _write(path: Path, chunks: Iterator[memoryview] | list[memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        for chunk in chunks:
            while chunk:
                chunk = chunk[os.write(descriptor, chunk) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
