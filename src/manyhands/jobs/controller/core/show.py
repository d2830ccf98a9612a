"""How a controller, its hosts and its jobs stand, as clients see it: plain data."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from manyhands.jobs.chart import Bar, chart_data
from manyhands.jobs.controller.core.books import Books
from manyhands.jobs.controller.storage.record import Job, Status

_BARS = 5000
"""How many stays the page shows, the last ones."""


def show(about: Mapping[str, Any], books: Books) -> dict[str, Any]:
    """How a controller, its hosts and its jobs stand; times are in seconds since the epoch.

    Args:
        about: what there is to say of the controller itself.
    """
    return {
        "now": time.time(),
        "controller": dict(about),
        "hosts": [
            {"name": name, "slots": len(slots), "numbers": list(slots), "there": books.cluster.is_there(name)}
            for name, slots in books.cluster.hosts.items()
        ],
        "jobs": [_job(job, books) for job in books.jobs.values()],
    }


def history(books: Books) -> dict[str, Any]:
    """The last stays on slots, as `drawSlots` (jobs/chart.py) takes them; times in s from the earliest."""
    now, stays, cluster = time.time(), books.holdings.stays[-_BARS:], books.cluster
    shown = {stay.job for stay in stays}
    jobs = [job for job in books.jobs.values() if job.number in shown or not job.status.over]
    origin = min([stay.began for stay in stays] + [job.submitted for job in jobs], default=now)
    used = set(cluster.live).union(*(stay.slots for stay in stays))
    slots = sorted(used, key=lambda slot: (cluster.slots[slot], slot))
    row_of = {slot: row for row, slot in enumerate(slots)}
    hosts = Counter(cluster.slots[slot] for slot in slots)
    bars = [
        Bar(stay.job, [row_of[slot] for slot in stay.slots], stay.began - origin, (stay.ended or math.inf) - origin)
        for stay in stays
    ]
    data = chart_data(
        [*bars, Bar(0, (), 0.0, now - origin)],
        [job.submitted - origin for job in jobs],
        [job.ended - origin for job in jobs if job.ended],
    )
    return {
        "hosts": list(hosts.values()),
        "hostNames": list(hosts),
        "names": {job.number: f"{job.number} {job.name}" for job in jobs},
        "policies": {"now": data},
    }


def _job(job: Job, books: Books) -> dict[str, Any]:
    gang = books.gangs.get(job.number)
    status = gang.status if gang is not None else None
    return {
        "id": job.number,
        "name": job.name,
        "status": "pausing" if job.status is Status.RUNNING and not job.target else job.status.value,
        "step": job.step,
        "total_steps": job.total_steps,
        "loss": _finite(status.loss) if status is not None else None,
        "workers": [asdict(worker) for worker in status.workers] if status is not None else [],
        "servers": [asdict(server) for server in status.servers] if status is not None else [],
        "supervisor": status.supervisor if status is not None else None,
        "slots": list(job.held),
        "profile": dict(status.profile) if status is not None else {},
        "shares": gang.way if gang is not None else None,
        "least": job.least,
        "most": job.most,
        "priority": job.priority,
        "user": job.user,
        "submitted": job.submitted,
        "ended": job.ended,
        "error": _why(job, len(books.cluster.live)),
        "weights_sha256": job.weights,
        "directory": str(books.home.job(job.number).run.path),
    }


def _finite(value: float | None) -> float | None:
    """The value, or None if it is not finite: JSON knows no such numbers."""
    return value if value is not None and math.isfinite(value) else None


def _why(job: Job, slots: int) -> str:
    if not job.status.over and job.least > slots:
        return f"it needs {job.least} slots, and the cluster has {slots} now"
    return job.error
