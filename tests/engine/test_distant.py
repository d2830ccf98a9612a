"""The depot over connections that break, and clients that say what nobody understands."""

import os
import socket
import struct
import threading
import time
from contextlib import closing, suppress

import pytest
from deadlines import Deadline

import manyhands.engine.hosts.distant as distant
from manyhands.engine.hosts import Depot, DepotLostError, DepotStore, DistantSlots
from manyhands.engine.hosts.line import dial
from manyhands.errors import UserError
from manyhands.shm import Slots
from manyhands.wire import pack

TOKEN = b"a token that nobody guesses"


class Breaking:
    """Passes bytes on to an address, and resets a connection when so many have gone through it: a list, by connection;
    those that come later last."""

    def __init__(self, port: int, after: list[int]) -> None:
        self._port, self._after = port, after
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._port))
                left = self._after.pop(0) if self._after else 1 << 60
                self.connections += 1
                threading.Thread(target=self._pass_on, args=(server, client, 1 << 60), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(client, server, left), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, left: int) -> None:
        with suppress(OSError):
            while data := source.recv(min(4096, left)):
                target.sendall(data)
                left -= len(data)
                if not left:
                    break
        for sock in (source, target):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if left:
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def depot(tmp_path):
    slots = Slots()
    made = Depot(TOKEN, slots.descriptors, tmp_path / "checkpoints")
    yield made, slots
    made.close()
    slots.close()


@pytest.mark.parametrize("after", [[300], [30_000], [100_000], [300, 30_000, 5_000]], ids=str)
def test_a_state_arrives_though_the_connection_breaks(depot, monkeypatch, after):
    monkeypatch.setattr(distant, "_PAUSE_SECONDS", 0.01)
    made, slots = depot
    image = os.urandom(100_000)
    with closing(Breaking(made.port, list(after))) as way, closing(DistantSlots(way.address, TOKEN)) as away:
        away.begin(len(image))[1][:] = image
        slot = away.commit(0, 7, len(image))
        assert slots.newest() == (slot, 7) and bytes(slots.read(slot)) == image
        assert way.connections == len(after) + 1
        assert bytes(away.read(slot)) == image


def test_a_connection_that_was_cut_meanwhile_is_made_again(depot, tmp_path):
    made, _ = depot
    address = ("127.0.0.1", made.port)
    with closing(DepotStore(address, TOKEN)) as store, closing(DistantSlots(address, TOKEN)) as away:
        for cut in (store, away):
            away.newest()
            cut._sock.shutdown(socket.SHUT_RDWR)
            store.set("key", "value")
            assert store.get("key") == "value" and away.newest() is None


def test_who_was_replaced_does_not_write_again(depot):
    made, slots = depot
    address = ("127.0.0.1", made.port)
    with closing(DistantSlots(address, TOKEN)) as old, closing(DistantSlots(address, TOKEN)) as new:
        for away, step in ((old, 1), (new, 2)):
            away.begin(10)
            away.commit(0, step, 10)
        old.begin(10)
        with pytest.raises(DepotLostError, match="another worker leaves the state"):
            old.commit(0, 3, 10)
        assert slots.newest().step == 2


def test_a_depot_that_is_gone_is_given_up(depot, monkeypatch):
    monkeypatch.setattr(distant, "_AGAIN_SECONDS", 0.3)
    made, _ = depot
    with closing(DistantSlots(("127.0.0.1", made.port), TOKEN)) as away:
        away.newest()
        made.close()
        with pytest.raises(DepotLostError, match="cannot reach the machine that the run was started on"):
            away.newest()


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"kind": "shut_down"},
        {"kind": "set_value", "key": [], "value": "x"},
        {"kind": "get_value", "key": "x", "seconds": 1e300},
        {"kind": "get_value", "key": "x", "seconds": -1.0},
        {"kind": "get_value", "key": "x", "seconds": float("nan")},
        {"kind": "write_state", "pinned": 7, "step": 1, "length": 10, "writer": "w", "again": False},
        {"kind": "write_state", "pinned": None, "step": 1 << 70, "length": 10, "writer": "w", "again": False},
        {"kind": "write_state", "pinned": None, "step": 1, "length": -1, "writer": "w", "again": False},
        {"kind": "write_state", "pinned": None, "step": 1, "length": 1 << 60, "writer": "w", "again": False},
        {"kind": "read_state", "slot": -1},
        {"kind": "read_state", "slot": 5},
        {"kind": "read_state", "slot": 0},
    ],
    ids=str,
)
def test_a_request_that_is_none_is_one_line_and_the_end_of_the_connection(depot, request_, caplog):
    made, _ = depot
    with closing(dial(("127.0.0.1", made.port), TOKEN, 10.0)) as sock:
        sock.sendall(pack(request_))
        with suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    end = Deadline()
    while not caplog.records:
        assert not end.passed
        time.sleep(0.01)
    (record,) = caplog.records
    assert "turned away" in record.getMessage() and record.exc_info is None and len(record.getMessage()) < 500
    assert not made._within


@pytest.mark.parametrize("path", ["a\0b", "x" * 100_000, "\ud800", "/etc/passwd"], ids=ascii)
def test_a_file_that_is_no_checkpoint_is_refused_at_once(depot, path):
    made, _ = depot
    with closing(DistantSlots(("127.0.0.1", made.port), TOKEN)) as away:
        with pytest.raises(UserError, match="the run was started on refuses"):
            away.read_file(path)
        assert away.newest() is None
