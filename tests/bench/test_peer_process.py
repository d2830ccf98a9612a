"""Commands that benchmarks wait for end by their deadline, with all that they started."""

import sys
from pathlib import Path

import pytest
from deadlines import stretched
from support import ROOT, alive
from support_lab import eventually

sys.path.append(str(ROOT / "benchmarks"))

from peer_process import LateError, finish

HANGS = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)  # as torchrun's workers
Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(1000)
"""


def test_one_that_hangs_is_killed_with_what_it_started(tmp_path):
    """And not waited for, although its child holds its output open."""
    told = Path(tmp_path / "child")
    for seconds in (0.5, stretched(20)):  # the longer one if it came to nothing before
        with pytest.raises(LateError, match="not within"):
            finish([sys.executable, "-c", HANGS, told], seconds)
        if told.exists():
            break
    pid = int(told.read_text())
    eventually(lambda: not alive(pid), "the end of the child")


def test_what_one_says_and_how_it_fails():
    assert finish([sys.executable, "-c", "import os; print(os.environ['A'])"], stretched(60), {"A": "b"}) == "b\n"
    with pytest.raises(RuntimeError, match="ended with code 3:\nno") as failed:
        finish([sys.executable, "-c", "import sys; print('no', file=sys.stderr); sys.exit(3)"], stretched(60))
    assert not isinstance(failed.value, LateError)
