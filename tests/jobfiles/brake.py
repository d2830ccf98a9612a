"""What lets a test do something to a run before it is over, however long the test takes.

While the file exists, every forward pass takes the seconds that stand in it, and one step does not end. Neither has
an influence on the weights.
"""

import time
from pathlib import Path


def pause(file: Path | None) -> None:
    """In a forward pass."""
    try:
        time.sleep(float(file.read_text() or 0) if file else 0)
    except FileNotFoundError:
        pass


_GIVES = 14
"""Steps before the last one, or half of them if they are few, each of which ends after half as long again as the job
has been braked."""


def hold(file: Path | None, step: int, last: int) -> None:
    """At the end of a step: the last one does not end. Those before it do, later and later, so that what a test asks
    of the run at a step boundary comes about even if it is slow to ask."""
    until = float("inf")
    try:
        if file and step < last:
            began = file.stat().st_mtime
            until = time.time() + max(0.05, (time.time() - began) / 2)
        while file and step >= last - min(_GIVES, last // 2) and time.time() < until and file.exists():
            time.sleep(0.005)
    except FileNotFoundError:
        pass
