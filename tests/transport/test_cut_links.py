"""A link that is cut in the middle of a collective: in seconds every rank learns it, and who cannot be reached."""

import re
import sys
import time
from pathlib import Path

import pytest
from support_lab import lab  # noqa: F401

SOON = 6.0
"""Seconds on a machine that is overloaded; as a rule it is under two."""
DEADLINE = 60.0


def until(condition, what):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("cluster", "a", "b"),
    [
        ("mesh-3", "h1", "h2"),  # both ends lose the carrier
        ("star-3", "h1", "switch"),  # one end only: the others hear nothing any more
        ("two-rail-3", "h1", "switch1"),
    ],
)
def test_every_rank_is_told(lab, tmp_path, cluster, a, b):  # noqa: F811
    made = lab(cluster)
    processes = made.run_all([sys.executable, str(Path(__file__).with_name("reduce_for_ever.py")), str(tmp_path)])
    until(lambda: all((tmp_path / f"ready{r}").exists() for r in range(3)), "ranks to reduce")
    cut = time.monotonic()
    made.cut(a, b)
    until(lambda: all((tmp_path / f"end{r}").exists() for r in range(3)), "ranks to learn that a link was cut")
    for r in range(3):
        when, text = (tmp_path / f"end{r}").read_text().split(" ", 1)
        assert float(when) - cut < SOON
        assert "all_reduce" in text and re.search(r"rank \d (cannot be reached|was lost)", text), text
    for process in processes:
        assert process.wait(timeout=DEADLINE) == 0
