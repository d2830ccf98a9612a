"""What workers inherit from the process that they are forked from, and cannot share: threads, and places in files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from manyhands.errors import UserError


def check_threads(wanted: int) -> None:
    """
    Raises:
        UserError: workers are to compute with several threads, and loading the job has started some: those of a fork
            wait for them for ever.
    """
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if wanted > 1 and threads > 1:
        raise UserError(
            f"the job file starts threads when it is imported ({threads - 1} of them), and workers with --threads "
            f"{wanted}, which are forked afterwards, would hang. Move what computes into model(), data() or loss(), or "
            "use --threads 1."
        )


def opened() -> set[str]:
    """The regular files that this process has open to read."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            flags = Path(f"/proc/self/fdinfo/{entry.name}").read_text().split("flags:")[1].split()[0]
            if int(flags, 8) & os.O_ACCMODE != os.O_WRONLY and stat.S_ISREG(entry.stat().st_mode):
                found.add(str(entry.readlink()))
        except (OSError, IndexError, ValueError):  # it is the one that lists the others
            continue
    return found


def shared_offset(paths: Iterable[str]) -> str:
    """A warning of files that the job file has opened."""
    names = ", ".join(sorted(paths)[:3])
    return (
        f"the job file opens {names} when it is imported. Workers are forked afterwards and share its offset: what one "
        "reads moves it for all others. Open it in data()."
    )
