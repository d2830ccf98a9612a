"""`manyhands lab`: a command on every host of an emulated cluster."""

import os
import re
import signal
import subprocess
import sys

import pytest
from deadlines import DEADLINE
from support import cli
from support_lab import eventually, leftovers

from manyhands.lab import obstacle

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


def test_output_has_the_name_of_its_host_and_codes_pass_through():
    done = cli("lab", "star-3", "--scale", "0.5", "--", "sh", "-c", "echo out $RANK; printf err{rank} >&2; hostname")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(
        line for i in range(3) for line in (f"h{i} | out {i}", f"h{i} | h{i}")
    )
    assert sorted(done.stderr.splitlines()) == [f"h{i} | err{i}" for i in range(3)]


def test_the_first_failure_ends_the_others():
    done = cli("lab", "mesh-2", "--", "sh", "-c", "[ {rank} = 1 ] && exit 7; sleep 1000", timeout=DEADLINE)
    assert done.returncode == 7
    assert "h1 exited with code 7" in done.stderr
    assert "h0" not in done.stderr


def test_the_others_may_go_on():
    command = ("sh", "-c", "[ {rank} = 1 ] && kill -9 $$; sleep 0.3; echo done")
    done = cli("lab", "mesh-2", "--keep-going", "--", *command, timeout=DEADLINE)
    assert done.returncode == 128 + signal.SIGKILL
    assert "h1 was ended by SIGKILL" in done.stderr
    assert done.stdout == "h0 | done\n"


UNHURRIED = """
from manyhands.cli import lab, main
lab._GRACE = float("inf")
main()
"""


def test_an_interrupt_ends_all():
    command = ("sh", "-c", "trap 'echo bye; exit' TERM; echo ready; while :; do sleep 0.05; done")
    with subprocess.Popen(
        [sys.executable, "-c", UNHURRIED, "lab", "mesh-2", "--", *command], stdout=subprocess.PIPE, text=True
    ) as lab:
        try:
            assert sorted(lab.stdout.readline() for _ in range(2)) == ["h0 | ready\n", "h1 | ready\n"]
            assert len(leftovers(lab.pid)) == 3
            os.kill(lab.pid, signal.SIGINT)
            out, _ = lab.communicate(timeout=DEADLINE)
        finally:
            lab.kill()
    assert lab.returncode == 130
    assert sorted(re.findall("bye", out)) == ["bye", "bye"]
    eventually(lambda: not leftovers(lab.pid), "the lab to be gone")
