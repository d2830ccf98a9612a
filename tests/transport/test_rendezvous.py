"""How ranks find each other among strangers, what is left when they part, and garbage on their connections."""

import gc
import json
import logging
import os
import random
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest
import torch
import warm
from deadlines import stretched
from groups import DEADLINE, NEVER, Store, call, join, joined, no_unix, outcomes, together, until

from manyhands.transport import Group, GroupError, PeerLostError, WaitedTooLongError
from manyhands.wire import MAX_FRAME, pack


def door(store, rank=0):
    """Where a rank lets others in."""
    return json.loads(store.get(f"group/{rank}"))


def start(store, rank, world, **options):
    def connect():
        try:
            results.append(Group.connect(store, rank, world, **options))
        except GroupError as error:
            results.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    results = thread.results = []
    thread.start()
    return thread


def joined_by(threads):
    for thread in threads:
        thread.join(DEADLINE)
        assert thread.results
    return [thread.results[0] for thread in threads]


@pytest.mark.parametrize("network", ["memory", "TCP"])
def test_strangers_at_the_door_change_nothing(network, monkeypatch, caplog):
    if network == "TCP":
        no_unix(monkeypatch)
    caplog.set_level(logging.WARNING, logger="manyhands")
    store = Store()
    first = start(store, 0, 2, timeout=NEVER)
    card = door(store)
    strangers = []
    for said in (
        b"",
        b"GET / HTTP/1.0\r\n\r\n" * 10,
        b"MNYHNDS1" + bytes(18),
        b"MNYHNDS1" + b"\xff" * 5000,
        random.Random(0).randbytes(500),
    ):
        for family, address in ((socket.AF_INET, ("127.0.0.1", card["port"])), (socket.AF_UNIX, "\0" + card["unix"])):
            stranger = socket.socket(family, socket.SOCK_STREAM)
            stranger.connect(address)
            stranger.sendall(said)
            strangers.append(stranger)
    other = socket.create_connection(("127.0.0.1", card["port"]))
    other.sendall(b"\0" * 100)
    other.close()
    turned_away = "turned away a connection"
    until(lambda: any(turned_away in record.getMessage() for record in caplog.records), turned_away)
    groups = joined_by([first, start(store, 1, 2, timeout=NEVER)])
    assert call(groups, "barrier", [(), ()]) == [None, None]
    for stranger in strangers:
        stranger.close()
    together(*(group.close for group in groups))


def test_a_rank_that_does_not_come_is_named():
    for patience in (0.5, stretched(20)):  # the longer one if rank 1 was late itself
        store = Store()
        results = together(*(lambda r=r: Group.connect(store, r, 3, timeout=patience) for r in (0, 1)))  # noqa: B023
        if all("rank(s) 2" in str(result) for result in results):
            break
    for result in results:
        assert isinstance(result, WaitedTooLongError) and "rank(s) 2" in str(result)


def test_a_rank_of_another_run_is_not_let_in():
    store, stranger = Store(), Store()
    first = start(store, 0, 2, timeout=NEVER)
    card = store.get("group/0")
    stranger.set("group/secret", "00" * 32)
    stranger.set("group/0", card)
    with pytest.raises(GroupError, match="rank 1 lost rank 0 while connecting"):
        Group.connect(stranger, 1, 2, timeout=DEADLINE)
    groups = joined_by([first, start(store, 1, 2, timeout=NEVER)])  # the place is still free
    assert call(groups, "barrier", [(), ()]) == [None, None]
    together(*(group.close for group in groups))


def test_nobody_where_a_rank_should_be(monkeypatch):
    no_unix(monkeypatch)
    """All refuse: it does not try for ever."""
    store = Store()
    with socket.socket() as deaf:
        deaf.bind(("", 0))  # and listens to nobody
        store.set("group/secret", "00" * 32)
        store.set("group/0", json.dumps({"port": deaf.getsockname()[1], "unix": "x", "interfaces": []}))
        (error,) = together(lambda: Group.connect(store, 1, 2, timeout=NEVER))
    assert isinstance(error, GroupError) and "cannot reach rank 0" in str(error)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("network", ["memory", "TCP"])
def test_nothing_is_left_of_groups_that_were_closed_or_broke(network, monkeypatch):
    if network == "TCP":
        no_unix(monkeypatch)
    with joined(2) as groups:
        call(groups, "barrier", [(), ()])
    gc.collect()
    before = descriptors(), threading.active_count()
    for i in range(5):
        with joined(3) as groups:
            call(groups, "all_reduce", [(torch.ones(1000),)] * 3)
            outcomes([groups[0].send(torch.ones(1000), 1), groups[1].receive(torch.ones(1000), 0)])
            if i % 2:
                outcomes([groups[0].barrier(), groups[1].all_reduce(torch.ones(3))])
        together(*(lambda r=r: Group.connect(Store(), 0, 2, timeout=0.01) for r in range(2)))
    del groups
    gc.collect()
    until(lambda: descriptors() <= before[0] and threading.active_count() <= before[1], f"no more than {before}")


SCRIPT = """
import sys, threading, torch
sys.path[:0] = {folders}
from groups import join
groups = join(2)
[f.result() for f in [g.all_reduce(torch.ones(1000)) for g in groups]]
{end}
print("done", flush=True)
"""


@pytest.mark.parametrize("end", ["", "groups[0].all_reduce(torch.ones(5))", "groups[0].receive(torch.ones(5), 1)"])
def test_a_process_may_end_without_closing_its_groups(end):
    here = Path(__file__).parent
    script = SCRIPT.format(folders=[str(here), str(here.parent)], end=end)
    done = warm.run([sys.executable, "-c", script], DEADLINE)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
    assert "Traceback" not in done.stderr


def test_a_forked_child_does_not_hold_connections():
    """As a data loader's worker does, which outlives its parent for a while."""
    groups = join(2)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    future = groups[0].receive(torch.ones(5), 1)
    groups[1].close()
    (error,) = outcomes([future])
    assert isinstance(error, PeerLostError)
    os.close(write)
    os.close(read)
    os.waitpid(pid, 0)
    groups[0].close()


GARBAGE = {
    "control": [struct.pack("<I", MAX_FRAME + 1), b"\xff" * 64, pack({"say": "waiting"}), pack({"say": "failed"})],
    "messages": [
        b"\xff" * 64,
        struct.pack("<4sBqQ", b"MHMS", 250, 0, 4),
        struct.pack("<4sBqQ", b"MHMS", 0, 0, 1 << 60),
    ],
    "data": [b"\xff" * 200],
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_from_a_peer_is_an_error_that_names_it(kind, monkeypatch):
    no_unix(monkeypatch)
    for garbage in GARBAGE[kind]:
        with joined(2) as groups:
            link = groups[1]._links[0]
            sock = next(iter(link.data.values())) if kind == "data" else getattr(link, kind)
            futures = [groups[0].receive(torch.ones(5), 1)] if kind == "messages" else []
            sock.send(garbage)
            if kind != "messages":
                futures.append(groups[0].all_reduce(torch.ones(1000)))
            (error,) = outcomes(futures)
            assert isinstance(error, GroupError) and "rank 1" in str(error), error


def test_a_truncated_frame_is_a_lost_peer(monkeypatch):
    no_unix(monkeypatch)
    with joined(2) as groups:
        future = groups[0].all_reduce(torch.ones(5))
        control = groups[1]._links[0].control
        control.send(struct.pack("<I", 100) + b"{")
        control.shutdown(socket.SHUT_RDWR)
        (error,) = outcomes([future])
        assert isinstance(error, PeerLostError) and error.rank == 1
