"""Labs for tests: `from support_lab import lab` makes the fixture known; it skips where there can be no lab."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manyhands.cluster import Cluster, preset
from manyhands.lab import Lab, obstacle

FLOW = Path(__file__).parent / "lab" / "flow.py"
PYTHON = (sys.executable, "-I", "-S")
"""Without site packages it starts in 0.02 s."""


@pytest.fixture
def lab() -> Iterator[Callable[[Cluster | str], Lab]]:
    """`lab("mesh-4")` emulates a cluster until the test ends."""
    reason = obstacle()
    if reason is not None:
        pytest.skip(reason)
    with contextlib.ExitStack() as labs:
        yield lambda cluster: labs.enter_context(Lab(preset(cluster) if isinstance(cluster, str) else cluster))


def output(lab: Lab, node: str, *command: str) -> str:
    """What a command prints that ends well."""
    process = lab.run(node, command, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0, (node, command, out)
    return out.strip()


class Flow:
    """Bytes on the way from a node to an address of another."""

    def __init__(self, lab: Lab, source: str, target: str, address: str, size: int, port: int = 5000) -> None:
        pipe = {"stdout": subprocess.PIPE, "text": True}
        self.receiver = lab.run(target, [*PYTHON, str(FLOW), "receive", str(port)], **pipe)
        assert self.receiver.stdout.readline() == "listening\n"
        self.sender = lab.run(source, [*PYTHON, str(FLOW), "send", address, str(port), str(size)], **pipe)

    def rate(self) -> float:
        """Bytes/s, without the burst that a link lets through at once."""
        told = json.loads(self.receiver.communicate(timeout=20)[0])
        self.sender.communicate(timeout=20)
        return told["rate"]


def leftovers(owner: int) -> list[int]:
    """The processes that hold the namespaces of an owner's lab."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[-2:-1] == [str(owner).encode()] and b"hold" in words:
                found.append(int(path.parent.name))
    return found


def processes_in(namespaces: set[str]) -> list[int]:
    """The processes in these network namespaces."""
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            if str(path.readlink()) in namespaces:
                found.append(int(path.parts[2]))
    return found


def eventually(condition: Callable[[], bool], what: str, deadline: float = 10.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"waited {deadline} s for {what}"
        time.sleep(0.005)
