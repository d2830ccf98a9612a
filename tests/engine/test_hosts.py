"""Workers on other hosts: what they say and print, how they end, who is let in; and the depot."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from deadlines import DEADLINE, Deadline, stretched
from support import alive

import manyhands.engine.hosts.distant as distant_module
import manyhands.engine.hosts.remote as remote_module
from manyhands.engine import Exited, LocalEngine, Loop, Meeting, Place, Printed, Said
from manyhands.engine.hosts import Agent, Depot, DepotStore, DistantSlots, HostsEngine
from manyhands.engine.hosts.messages import Granted, WriteState
from manyhands.errors import UserError
from manyhands.shm import Board, Slots

TOKEN = b"a token that nobody guesses"


@pytest.fixture(autouse=True)
def entries(monkeypatch):
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))


class Lent:
    """An agent in a thread of this process."""

    def __init__(self, spare: bool = False) -> None:
        self.said: list[str] = []
        self.agent = Agent("127.0.0.1", 0, TOKEN, self.said.append, spare)
        threading.Thread(target=self.agent.serve, daemon=True).start()
        self.address = ("127.0.0.1", self.agent.port)

    def guests(self) -> list[int]:
        return list(self.agent._guests)

    def spare(self) -> subprocess.Popen:
        """The guest that no run has yet; waits for it."""
        end = Deadline()
        while self.agent._spare is None:
            assert not end.passed
            time.sleep(0.01)
        return self.agent._spare[0]


class Desk:
    """An engine of this machine and of lent ones, and everything it has reported."""

    def __init__(self, tmp_path, entry: str = "obedient", **lent: Lent) -> None:
        self.events = []
        self.slots, self.board, loop = Slots(), Board(), Loop()
        self.depot = Depot(TOKEN, self.slots.descriptors, tmp_path)
        hosts = {name: host.address for name, host in lent.items()}
        entry = f"engine_entries:{entry}"
        here = LocalEngine(entry, {}, Place(board=self.board.descriptor, slots=self.slots.descriptors), loop)
        self.engine = HostsEngine(here, hosts, TOKEN, self.depot, entry, {}, loop, self.board)
        self.engine.report_to(self.events.append)

    def until(self, condition, what: str) -> None:
        end = Deadline()
        while not condition():
            assert not end.passed, f"waited {end} for {what}; so far: {self.events}"
            self.engine.poll(0.2)

    def said(self, worker: int) -> list:
        return [event.message for event in self.events if isinstance(event, Said) and event.worker == worker]

    def ended(self, worker: int) -> list:
        return [event.status for event in self.events if isinstance(event, Exited) and event.worker == worker]

    def start(self, worker: int, host: str = "here") -> int:
        pid = self.engine.start(worker, host)
        self.until(lambda: self.said(worker), f"hello of {worker}")
        assert self.said(worker)[0]["pid"] == pid
        return pid


@pytest.fixture
def lend():
    lent: list[Lent] = []

    def one() -> Lent:
        lent.append(Lent())
        return lent[-1]

    yield one
    for host in lent:
        host.agent.close()


@pytest.fixture
def desk(tmp_path):
    desks: list[Desk] = []

    def one(**lent: Lent) -> Desk:
        desks.append(Desk(tmp_path, **lent))
        desks[-1].engine.open()
        return desks[-1]

    yield one
    for each in desks:
        each.engine.close()


def test_workers_anywhere_are_the_same_to_the_supervisor(lend, desk):
    at = desk(a=lend(), b=lend())
    pids = {worker: at.start(worker, host) for worker, host in enumerate(["here", "a", "a", "b"])}
    for worker in pids:
        at.engine.send(worker, {"do": "say", "times": 300})
        at.engine.send(worker, {"do": "print", "text": f"one {worker}\ntwo"})
        at.engine.send(worker, {"do": "exit", "code": worker})
    for worker in pids:
        at.until(lambda w=worker: at.ended(w), f"the end of {worker}")
        assert [message["say"] for message in at.said(worker)[1:]] == list(range(300)), "in order, and all"
        lines = [event.line for event in at.events if isinstance(event, Printed) and event.worker == worker]
        assert lines == [f"one {worker}", "two"]
        assert at.ended(worker) == [worker]


@dataclass(frozen=True)
class Greet:
    """What `engine_entries` takes as `link`."""

    rank: int
    do: str = "link"
    meeting: Meeting | None = None


def test_workers_meet_on_a_host_or_at_the_depot(lend, desk):
    at = desk(a=lend())
    for worker, host in enumerate(["here", "a", "a"]):
        at.start(worker, host)
    orders = [Greet(rank=rank) for rank in range(2)]
    at.engine.connect([1, 2], orders)
    at.until(lambda: len(at.said(1)) > 1 and len(at.said(2)) > 1, "what they heard")
    assert at.said(1)[-1]["heard"] == [[2, 1]]
    sent = []
    at.engine._here.send = lambda worker, message: sent.append(message)
    at.engine.connect([0, 1], orders)
    assert sent == [Greet(rank=0, meeting=Meeting(name="meeting-1", world=2))], "the other is not here"


def test_kills_and_whereabouts(lend, desk):
    at = desk(a=lend())
    began = time.monotonic_ns()
    pid = at.start(0, "a")
    at.until(lambda: at.board.read(0).since > 0, "a beat")
    assert at.board.read(0).step == -1, "nothing yet, which is not a worker that stands still since long ago"
    error = stretched(50e6)
    assert abs(at.engine.clock(0)) < error, "the same clock, in truth"
    assert began - error < at.board.read(0).since < time.monotonic_ns() + error
    at.engine.kill(0)
    at.until(lambda: at.ended(0), "its end")
    assert at.ended(0) == [-signal.SIGKILL]
    assert not alive(pid)


def test_a_lost_host_takes_its_workers_along(lend, desk):
    host = lend()
    at = desk(a=host)
    pids = [at.start(worker, "a") for worker in range(2)]
    (guest,) = host.guests()
    os.kill(guest, signal.SIGKILL)
    at.until(lambda: at.ended(0) and at.ended(1), "their ends")
    assert at.ended(0) == at.ended(1) == [None]
    at.until(lambda: not any(map(alive, pids)), "the processes to end")
    at.start(2, "a")  # the agent is there, and another guest comes
    host.agent.close()
    at.until(lambda: at.ended(2), "its end")
    with pytest.raises(UserError, match=r"host a is not to be reached.*manyhands agent"):
        at.engine.start(3, "a")


def test_a_silent_host_is_lost(lend, desk, monkeypatch):
    monkeypatch.setattr(remote_module, "_SILENT_SECONDS", 1.5)
    host = lend()
    at = desk(a=host)
    at.start(0, "a")
    (guest,) = host.guests()
    os.kill(guest, signal.SIGSTOP)
    try:
        at.until(lambda: at.ended(0), "its end")
    finally:
        os.kill(guest, signal.SIGCONT)
    assert at.ended(0) == [None]


def test_a_spare_guest_is_the_next_one(tmp_path):
    lent = Lent(spare=True)
    try:
        spare = lent.spare()
        desk = Desk(tmp_path, far=lent)
        try:
            desk.engine.open()
            desk.start(1, "far")
            assert lent.guests() == [spare.pid]
        finally:
            desk.engine.close()
        assert spare.wait(DEADLINE) == 0
    finally:
        lent.agent.close()


def test_a_spare_guest_goes_with_its_agent():
    lent = Lent(spare=True)
    spare = lent.spare()
    lent.agent.close()
    assert spare.poll() is not None


def test_nobody_is_left_behind(lend, desk):
    host = lend()
    at = desk(a=host)
    pids = [at.start(worker, "a") for worker in range(2)]
    at.engine.close()
    end = Deadline()
    while any(map(alive, pids)) or host.guests():
        assert not end.passed
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("refuses_elsewhere", r"^host a: this entry refuses: use another$"),
        ("unlike_elsewhere", r"host a would compute something else: torch's version is 2\.0 there and 1\.0 here"),
    ],
)
def test_a_host_that_cannot_take_part_says_why(lend, tmp_path, entry, words):
    host = lend()
    at = Desk(tmp_path, entry, a=host)
    try:
        with pytest.raises(UserError, match=words):
            at.engine.open()
    finally:
        at.engine.close()


def test_strangers_are_turned_away(lend, desk):
    host = lend()
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000)):
        with socket.create_connection(host.address) as sock:
            sock.sendall(garbage)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
    with pytest.raises(UserError, match="token"):
        remote_module.RemoteHost("a", host.address, b"another token than theirs", Loop(), Board(), print).reach()
    desk(a=host).start(0, "a")
    assert len([line for line in host.said if "turned away" in line]) == 3


# The depot


@pytest.fixture
def depot(tmp_path):
    slots = Slots()
    made = Depot(TOKEN, slots.descriptors, tmp_path / "checkpoints")
    address = ("127.0.0.1", made.port)
    with closing(DistantSlots(address, TOKEN)) as away:
        yield made, slots, address, away
    made.close()


def test_what_one_says_the_other_gets(depot, monkeypatch):
    *_, address, _ = depot
    monkeypatch.setattr(distant_module, "_MEETING_SECONDS", 0.2)
    with closing(DepotStore(address, TOKEN)) as first, closing(DepotStore(address, TOKEN)) as second:
        with pytest.raises(TimeoutError, match="nobody has said key"):
            second.get("key")
        saying = threading.Timer(0.05, lambda: first.set("key", "value"))
        saying.start()
        assert second.get("key") == "value"
        saying.join()


def test_slots_from_afar(depot):
    _, slots, _, away = depot
    assert away.newest() is None
    away.reserve(3_000_000)
    memory = away._image
    for step, size in enumerate([10, 3_000_500, 5]):
        image = bytes([step]) * size
        slot, target = away.begin(size)
        target[:] = image
        slot = away.commit(slot, step, size)
        assert slots.newest() == away.newest() == (slot, step)
        assert bytes(slots.read(slot)) == bytes(away.read(slot)) == image
    assert away._image is memory, "what was provided is enough, a header included"
    kept = slots.newest()
    away.pinned = kept.slot
    for step in (7, 8):
        away.begin(4)
        assert away.commit(0, step, 4) == 1 - kept.slot, "what is being read is not overwritten"


def test_half_a_state_is_none(depot):
    _, slots, _, away = depot
    away.begin(100)
    away.commit(0, 1, 100)
    away._ask(WriteState(pinned=None, step=2, length=1 << 20, writer="w"), Granted)
    away._sock.sendall(bytes(1000))
    away.close()
    time.sleep(0.2)
    assert slots.newest().step == 1


def test_only_checkpoints_are_handed_out(depot, tmp_path):
    *_, away = depot
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "state").write_bytes(b"state")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "checkpoints" / "link").symlink_to(tmp_path / "secret")
    assert bytes(away.read_file(str(tmp_path / "checkpoints" / "state"))) == b"state"
    for path in ("secret", "checkpoints/../secret", "checkpoints/link", "checkpoints/none"):
        with pytest.raises(UserError, match="the run was started on refuses"):
            away.read_file(str(tmp_path / path))


def test_the_depot_has_to_be_there(depot):
    made, _, address, away = depot
    made.close()
    with pytest.raises(UserError, match="cannot reach the machine that the run was started on"):
        away.newest()
    with pytest.raises(UserError, match="cannot reach"):
        DepotStore(address, b"some other token, not theirs")


def test_the_owner_gets_in_while_a_stranger_holds_hundreds_of_connections(lend, desk):
    host = lend()
    with contextlib.ExitStack() as held:
        for _ in range(300):
            held.enter_context(socket.create_connection(host.address))
        desk(a=host).start(0, "a")
    assert len([line for line in host.said if "turned away" in line]) <= 3
