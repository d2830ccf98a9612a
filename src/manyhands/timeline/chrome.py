"""Events as a Chrome trace: a JSON array that Perfetto (ui.perfetto.dev) and chrome://tracing open.

One process per rank, one thread per lane, one complete event ("ph": "X") per span; times in microseconds.
Format: "Trace Event Format", Google, 2016.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manyhands.timeline.event import Event


def chrome_trace(events: Iterable[Event], origin: int = 0) -> list[dict[str, Any]]:
    """Trace records for the events, with times counted from `origin` (ns)."""
    records: list[dict[str, Any]] = []
    lanes: dict[tuple[int, str], int] = {}
    for event in events:
        key = (event.rank, event.lane)
        if key not in lanes:
            lanes[key] = sum(rank == event.rank for rank, _ in lanes)
            records += _names(event.rank, event.lane, lanes[key])
        args = {"step": event.step}
        if event.micro_batch >= 0:
            args["micro_batch"] = event.micro_batch
        if event.bytes:
            args["bytes"] = event.bytes
        records.append(
            {
                "name": event.kind,
                "cat": event.lane,
                "ph": "X",
                "pid": event.rank,
                "tid": lanes[key],
                "ts": (event.start - origin) / 1e3,
                "dur": (event.end - event.start) / 1e3,
                "args": args,
            }
        )
    return records


def write_chrome_trace(
    path: Path, events: Iterable[Event], origin: int = 0, earlier: Iterable[dict[str, Any]] = ()
) -> None:
    """Write `earlier` records and the events as gzipped JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with gzip.open(partial, "wt", encoding="utf-8", compresslevel=5) as file:
        json.dump([*earlier, *chrome_trace(events, origin)], file, separators=(",", ":"))
    partial.replace(path)


def read_chrome_trace(path: Path) -> list[dict[str, Any]]:
    """The records of a trace file; none if there is no such file, or it is damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError, zlib.error):
        return []


def _names(rank: int, lane: str, thread: int) -> list[dict[str, Any]]:
    return [
        {"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"worker {rank}"}},
        {"name": "thread_name", "ph": "M", "pid": rank, "tid": thread, "args": {"name": lane}},
    ]
