"""A link that is cut in the middle of a collective: every rank learns it, and who cannot be reached, long before the
group's timeout of half an hour. (How long it takes, benchmarks/collectives.py measures.)"""

import re
import sys
from pathlib import Path

import pytest
from deadlines import DEADLINE
from support_lab import eventually, lab  # noqa: F401


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
    eventually(lambda: all((tmp_path / f"ready{r}").exists() for r in range(3)), "ranks to reduce")
    made.cut(a, b)
    eventually(lambda: all((tmp_path / f"end{r}").exists() for r in range(3)), "ranks to learn of the cut")
    for r in range(3):
        text = (tmp_path / f"end{r}").read_text()
        assert "all_reduce" in text and re.search(r"rank \d (cannot be reached|was lost)", text), text
    for process in processes:
        assert process.wait(timeout=DEADLINE) == 0
