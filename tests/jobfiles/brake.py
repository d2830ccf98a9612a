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


def hold(file: Path | None, step: int, last: int) -> None:
    """At the end of a step."""
    while file and step >= last and file.exists():
        time.sleep(0.005)
