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
from deadlines import DEADLINE, Deadline

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
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, (node, command, out)
    return out.strip()


BURST = 512 * 1024
"""Bytes that a shaped link lets through at once when it was idle for a moment."""


class Flow:
    """`size` bytes on the way from a node to an address of another, over links of so many bytes/s."""

    def __init__(
        self, lab: Lab, source: str, target: str, address: str, size: int, bandwidth: int, port: int = 5000
    ) -> None:
        self.bandwidth = bandwidth
        pipe = {"stdout": subprocess.PIPE, "text": True}
        self.receiver = lab.run(target, [*PYTHON, str(FLOW), "receive", str(port)], **pipe)
        assert self.receiver.stdout.readline() == "listening\n"
        self.sender = lab.run(source, [*PYTHON, str(FLOW), "send", address, str(port), str(size)], **pipe)

    def share(self) -> float:
        """Of the bandwidth that was used, after a warm-up. From its beginning, the flow cannot have exceeded it,
        whatever else the machine does: a receiver that was held up finds at once what waited for it, so the rest may
        seem faster.
        """
        told = json.loads(self.receiver.communicate(timeout=DEADLINE)[0])
        self.sender.communicate(timeout=DEADLINE)
        assert told["all"] - BURST <= 1.01 * self.bandwidth * told["open"]
        return told["bytes"] / told["seconds"] / self.bandwidth


def carries(flows: Callable[[], list[Flow]], tries: int = 12) -> int:
    """Flows use at least 0.85 of their links, in one of several tries, as this machine may be busy; which one."""
    shares: list[float] = []
    for number in range(1, tries + 1):
        shares = [flow.share() for flow in flows()]
        if min(shares) > 0.85:
            return number
    raise AssertionError(f"links carry {shares} of their bandwidths")


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


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = Deadline()
    while not condition():
        assert not end.passed, f"waited {end} for {what}"
        time.sleep(0.005)
