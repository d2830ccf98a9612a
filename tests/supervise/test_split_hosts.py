"""Split runs among strangers: on one host nothing listens, and across hosts nobody without the token gets in."""

import contextlib
import json
import os
import socket
import sys
from pathlib import Path

import pytest
import warm
from agents import PIPES, LentHost
from deadlines import DEADLINE, PATIENT
from support import ROOT, Brake, Run, ledger_positions, train
from support_lab import PYTHON, eventually, output

JOB = ROOT / "tests" / "jobfiles" / "split_net.py"
STEPS = 12
LAYOUTS = ("pp=2", "dp=2,shard=2")
STRANGER = Path(__file__).parent / "stranger.py"


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> str:
    """The weights of one worker."""
    result = train(tmp_path_factory.mktemp("calm") / "run", JOB, workers=1, job=(f"--steps={STEPS}",))
    return result["weights_sha256"]


@pytest.fixture
def brake(tmp_path) -> Brake:
    return Brake(tmp_path / "brake", STEPS - 2, 0.01)


def family(pid: int) -> set[int]:
    """A process and all that it, or they, started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
    found: set[int] = set()
    more = {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in found} - found
    return found


def listening(pid: int | str = "self") -> dict[str, tuple[str, int]]:
    """The address and port of every TCP socket that listens in the network of a process, by what it is called there."""
    found = {}
    for version in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):  # there is no IPv6
            for line in Path(f"/proc/{pid}/net/{version}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    found[f"socket:[{fields[9]}]"] = address_of(fields[1])
    return found


def address_of(text: str) -> tuple[str, int]:
    """Of `0100007F:1F90`: each word of the address is in the order of the machine."""
    words, port = text.split(":")
    raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16)


def held(pids: set[int]) -> set[str]:
    """What the processes have open."""
    found = set()
    for pid in pids:
        for path in list(Path(f"/proc/{pid}/fd").glob("*")):
            with contextlib.suppress(OSError):  # it is closed by now
                found.add(str(path.readlink()))
    return found


def test_listeners_are_found():
    before = listening()
    with socket.create_server(("", 0)) as everywhere, socket.create_server(("127.0.0.1", 0)) as here:
        new = listening().keys() - before.keys()
        ports = {listening()[name] for name in new & held(family(os.getpid()))}
        assert ports == {("0.0.0.0", everywhere.getsockname()[1]), ("127.0.0.1", here.getsockname()[1])}
        assert not new & held({os.getppid()})
    assert address_of("00000000000000000000000001000000:1F90") == ("::1", 8080)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_of_a_run_on_one_host_listens(layout, calm, brake, tmp_path):
    """From its first moment on, while gangs form too: workers that share a host meet without the network."""
    before = listening()
    job = (f"--steps={STEPS}", *brake.job)
    run = Run(tmp_path / "run", JOB, "--layout", layout, "--run-dir", tmp_path / "run", "--", *job)
    seen: list[tuple[str, int]] = []

    def look() -> None:
        now = listening()
        if new := now.keys() - before.keys():  # of others, mostly
            seen.extend(now[name] for name in new & held(family(run.process.pid)))

    run.until(lambda: look() or run.ended() or run.step() >= 3, "step 3")
    os.kill(run.workers(2)[1], 9)  # another gang forms while we look
    brake.release()
    run.until(lambda: look() or run.ended(), "the end")
    assert run.wait() == 0, run.output()
    assert not seen
    assert run.result()["weights_sha256"] == calm


def test_split_runs_across_machines(lab, calm, brake, tmp_path):
    """Machines that share nothing but a network, in which there is a stranger, too."""
    machines, token = lab("star-3"), tmp_path / "token"
    token.write_text("a token that nobody guesses\n")
    with warm.in_lab(machines, ("h0", "h1")) as starts:
        across_machines(machines, starts, token, calm, brake, tmp_path)


def across_machines(machines, starts, token, calm, brake, tmp_path) -> None:
    host = LentHost(token, lambda command: starts["h1"](command, **PIPES), "h1")
    try:
        first = begin(starts["h0"], host, LAYOUTS[0], token, tmp_path / "first", brake.job)
        eventually(lambda: first.poll() is not None or committed(tmp_path / "first") >= 2, "the second step")
        assert first.poll() is None, first.stdout.read()
        nobody_gets_in(machines)
        brake.release()
        assert weights(first, tmp_path / "first") == calm
        second = begin(starts["h0"], host, LAYOUTS[1], token, tmp_path / "second")
        assert weights(second, tmp_path / "second") == calm
    finally:
        host.close()


def begin(start, host, layout, token, directory, job=()):
    """A run that was started on h0, with a worker there and one on the host."""
    words = ["train", JOB, "--run-dir", directory, "--token", token, "--hosts", f"here,{host.name}"]
    words += ["--layout", layout, *PATIENT, "--", f"--steps={STEPS}", *job]
    return start([sys.executable, "-m", "manyhands", *map(str, words)], **PIPES)


def weights(run, directory: Path) -> str:
    """The digest of what a run ends with."""
    with run.stdout:
        out = run.stdout.read()
    assert run.wait(DEADLINE) == 0, out
    return json.loads((directory / "result.json").read_text())["weights_sha256"]


def committed(directory: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len(ledger_positions(directory, 40)) // 8
    return 0


def nobody_gets_in(machines) -> None:
    """The stranger on h2 tries every port of the other two. There are some: the agent's, and the starting machine's."""
    doors = []
    for node in ("h0", "h1"):
        pid = output(machines, node, *PYTHON, "-c", "import os; print(os.readlink('/proc/self/ns/net'))")
        inside = next(p for p in Path("/proc").glob("[0-9]*/ns/net") if _network(p) == pid)
        doors += [f"{machines.addresses[node]}:{port}" for _, port in listening(inside.parts[2]).values()]
    assert len(doors) == 2, doors
    got = json.loads(output(machines, "h2", sys.executable, str(STRANGER), *doors).splitlines()[-1])
    assert got == [[door, [], False] for door in doors]


def _network(path: Path) -> str:
    with contextlib.suppress(OSError):
        return str(path.readlink())
    return ""
