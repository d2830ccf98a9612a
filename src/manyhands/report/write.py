"""The report of a run: one page that explains it, made from what the run directory holds.

It can be written at any time, of a run that is live, finished, failed or was killed: a section whose figures
are missing says so. The page stays under 2 MB whatever the length of the run, because curves are reduced to
columns (least, greatest and mean value) and only so many spans of the timeline are shown.
"""

from __future__ import annotations

import os
import time
from html import escape
from pathlib import Path

from manyhands.report.agreement import agreement
from manyhands.report.curves import losses, membership, throughput
from manyhands.report.header import header
from manyhands.report.page import date, page
from manyhands.report.story import load_story
from manyhands.report.times import one_step, phases
from manyhands.run import RunDirectory


def write_report(directory: RunDirectory) -> None:
    """Write `report.html` whole or not at all.

    Raises:
        OSError: the disk is full or gone. The report that was there stays.
    """
    run = load_story(directory)
    name = Path(run.settings.get("job_file") or run.settings.get("job_name") or directory.path).name
    body = [
        header(run, name),
        losses(run),
        throughput(run),
        membership(run),
        agreement(run),
        phases(run),
        one_step(directory, run),
        f"<footer>Written {date(time.time())} from {escape(str(directory.path))}</footer>",
    ]
    # The supervisor and `manyhands report` may write at the same time.
    partial = directory.report.with_name(f"{directory.report.name}.{os.getpid()}.partial")
    try:
        partial.write_text(page(f"{name}: {run.status}", "".join(body)), encoding="utf-8")
        partial.replace(directory.report)
    finally:
        partial.unlink(missing_ok=True)
