"""Frames and handshakes, and what strangers may try."""

import itertools
import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from deadlines import DEADLINE
from hypothesis import given
from hypothesis import strategies as st

from manyhands.wire import MAGIC, MAX_FRAME, VERSION, FrameError, Frames, StrangerError, admit, introduce, pack

SECRET = b"s" * 32
PURPOSE = {"rank": 3, "to": 1, "kind": "data", "rail": "", "ways": []}
values = st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.text(), max_size=3), max_size=4)


def together(*calls):
    """What each call returned or raised, all at the same time."""

    def outcome(call):
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(outcome, call) for call in calls]]


@given(st.lists(values, max_size=6), st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(messages, data):
    stream = b"".join(map(pack, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    frames, out = Frames(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out += frames.feed(stream[start:stop])
    assert out == messages


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack("<I", MAX_FRAME + 1),
        struct.pack("<I", 4) + b"\xff\xfe\x00!",
        struct.pack("<I", 5) + b"[1,2]",
        struct.pack("<I", 0),
        struct.pack("<I", 200_000) + b"[" * 200_000,
    ],
    ids=["oversized", "no text", "no object", "empty", "nested"],
)
def test_what_is_no_frame_is_refused_after_the_frames_before_it(stream):
    frames = Frames()
    assert frames.feed(pack({"say": "x"})) == [{"say": "x"}]
    with pytest.raises(FrameError):
        frames.feed(stream)


@given(st.binary(max_size=200))
def test_random_bytes_are_frames_or_an_error(data):
    try:
        assert all(isinstance(frame, dict) for frame in Frames().feed(data))
    except FrameError:
        pass


def handshake(client, secret=SECRET, rank=1):
    """What the server made of a client: the purpose or the exception. The client gets a socket."""
    ours, theirs = socket.socketpair()

    def server():
        with ours:
            return admit(ours, secret, rank, time.monotonic() + DEADLINE)

    def user():
        with theirs:
            return client(theirs)

    return together(server, user)


def introduced(secret=SECRET, purpose=PURPOSE):
    return lambda sock: introduce(sock, secret, purpose, time.monotonic() + DEADLINE)


def test_a_peer_is_let_in():
    assert handshake(introduced()) == [PURPOSE, None]


def test_whoever_does_not_know_the_secret_is_not_and_does_not_let_itself_be_fooled():
    server, client = handshake(introduced(secret=b"t" * 32))
    assert isinstance(server, (StrangerError, OSError)) and isinstance(client, StrangerError)


def test_whoever_means_another_rank_is_not():
    server, client = handshake(introduced(), rank=2)
    assert isinstance(server, StrangerError) and "rank 1, this is rank 2" in str(server)


def test_a_recorded_handshake_is_worth_nothing():
    tape = bytearray()

    class Recorder(socket.socket):
        def sendall(self, data):
            tape.extend(data)
            super().sendall(data)

    def recorded(sock):
        with Recorder(fileno=sock.detach()) as recorder:
            introduced()(recorder)

    assert handshake(recorded)[0] == PURPOSE

    def replay(sock):
        sock.sendall(tape)
        return sock.recv(100)

    server, _ = handshake(replay)
    assert isinstance(server, StrangerError) and "secret" in str(server)


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100, MAGIC, MAGIC + b"n" * 16 + struct.pack("<H", 60_000) + b"x" * 60_000, b""],
    ids=["HTTP", "cut short", "oversized", "nothing"],
)
def test_what_is_no_handshake_is_refused(said):
    def client(sock):
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)

    server, _ = handshake(client)
    assert isinstance(server, (StrangerError, OSError))


def test_another_version_is_named_by_both_ends():
    def older(sock):
        sock.sendall(b"MNYHNDS1" + bytes(16) + struct.pack("<H", 2) + b"{}")
        return sock.recv(8)

    server, answered = handshake(older)
    assert isinstance(server, StrangerError)
    assert f"version 1 of manyhands' protocol, and this is version {VERSION}. Install the same" in str(server)
    assert answered == MAGIC, "so that the other end can say which version it met"


def test_a_client_says_which_version_it_met():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"MNYHNDS9")
        with pytest.raises(StrangerError, match="version 9 of manyhands' protocol"):
            introduce(theirs, SECRET, PURPOSE, time.monotonic() + DEADLINE)


def test_one_byte_at_a_time_does_not_buy_more_time():
    stop = threading.Event()

    def client(sock):
        for byte in itertools.cycle(MAGIC):
            try:
                sock.send(bytes([byte]))
            except OSError:
                return
            if stop.wait(0.1):
                return

    def server(sock):
        try:
            admit(sock, SECRET, 1, time.monotonic() + 0.3)
        finally:
            stop.set()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        error, _ = together(lambda: server(ours), lambda: client(theirs))
    assert isinstance(error, (OSError, StrangerError))


def test_purposes_travel_as_they_are():
    purpose = PURPOSE | {"ways": [f"10.0.{i}.0/24" for i in range(20)]}
    assert handshake(introduced(purpose=purpose))[0] == json.loads(json.dumps(purpose))
