"""How much memory jobs use on this machine, and how much a slot has."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

RESERVE = 0.1
"""Share of the machine's memory that is not given to jobs."""


def used_by(processes: Iterable[int]) -> int:
    """Bytes of memory that processes use; those that are gone use none.

    What several have in common, as workers that were forked have torch, counts once among them (PSS).
    """
    return sum(_proportional(process) for process in processes)


def of_a_slot(slots: int) -> int:
    """Bytes of memory that each slot of this machine has, if there are so many."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(total * (1 - RESERVE) / max(1, slots))


def _proportional(process: int) -> int:
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass  # it is gone
    return 0
