"""Notes and messages between the workers of a host: who said what, who is gone, who was waited for."""

import os
import signal
import socket
import struct
import threading

import pytest
from children import child, together

from manyhands.transport import READY, REDUCED, Mesh, PeerLostError, SharedMemory
from manyhands.transport.mesh import DATA, MAX_DATA


def connect(world: int) -> list[list[socket.socket | None]]:
    """`links[rank][peer]`: a socket between every two ranks."""
    links = [[None] * world for _ in range(world)]
    for low in range(world):
        for high in range(low + 1, world):
            links[low][high], links[high][low] = socket.socketpair()
    return links


@pytest.fixture
def meshes():
    """Makes gangs in this process and closes their sockets at the end."""
    made = []

    def make(world: int, **options) -> list[Mesh]:
        gang = [Mesh(rank, row, **{"timeout": 20.0, **options}) for rank, row in enumerate(connect(world))]
        made.extend(gang)
        return gang

    yield make
    for mesh in made:
        mesh.close()


@pytest.fixture
def pair():
    """Makes socket pairs and closes them at the end."""
    made = []

    def make() -> tuple[socket.socket, socket.socket]:
        made.extend(socket.socketpair())
        return made[-2], made[-1]

    yield make
    for link in made:
        link.close()


def test_a_note_is_noted_when_every_peer_has_said_it(meshes):
    a, b, c = meshes(3)
    a.progress()
    assert not a.noted(READY, 4, 7)
    b.note(READY, 4, 7)
    a.progress()
    assert not a.noted(READY, 4, 7)
    c.note(READY, 4, 7)
    a.progress()
    assert a.noted(READY, 4, 7)
    for other in [(REDUCED, 4, 7), (READY, 3, 7), (READY, 4, 8)]:
        assert not a.noted(*other)
    a.forget(READY, 4, 7)
    assert not a.noted(READY, 4, 7)


def test_waiting_ends_with_the_last_note(meshes):
    a, b, c = meshes(3)
    seen = []
    a._on_wait = seen.append
    results = together(
        lambda: a.wait_noted(READY, 1, 2**32 + 5, "testing"),  # step numbers wrap in 32 bits
        lambda: b.note(READY, 1, 2**32 + 5),
        lambda: c.note(READY, 1, 2**32 + 5),
    )
    assert results == [None] * 3
    assert seen in ([], [True, False])


def test_a_wait_that_has_to_block_is_announced_and_ends(meshes):
    seen = []
    a, _ = meshes(2, timeout=0.01, on_wait=seen.append)
    with pytest.raises(TimeoutError):
        a.wait_noted(READY, 0, 0, "testing")
    assert seen == [True, False]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_all_gather_is_in_rank_order(meshes, world):
    gang = meshes(world)
    for turn in range(3):
        payloads = [f"{rank} in turn {turn}".encode() * rank for rank in range(world)]
        results = together(*(lambda m=m, p=p: m.all_gather(p, "testing") for m, p in zip(gang, payloads, strict=True)))
        assert results == [payloads] * world


def test_a_fast_worker_may_be_a_turn_ahead(meshes):
    a, b = meshes(2)
    first = together(lambda: a.all_gather(b"a1", "t"), lambda: b.all_gather(b"b1", "t"))
    b.note(READY, 0, 1)
    second = together(lambda: a.all_gather(b"a2", "t"), lambda: b.all_gather(b"b2", "t"))
    assert first == [[b"a1", b"b1"]] * 2 and second == [[b"a2", b"b2"]] * 2
    assert a.noted(READY, 0, 1)


def test_large_payloads_in_all_directions_do_not_block_each_other():
    world, size = 3, 5 << 20
    links = connect(world)
    payloads = [bytes([rank + 1]) * size for rank in range(world)]

    def be(rank):
        mesh = Mesh(rank, links[rank], timeout=20.0)
        for row in range(world):
            for link in links[row]:
                if row != rank and link is not None:
                    link.close()
        mesh.note(READY, 1, rank)
        assert mesh.all_gather(payloads[rank], "testing") == payloads
        mesh.note(REDUCED, 0, 0)
        mesh.wait_noted(REDUCED, 0, 0, "testing")
        assert mesh.all_gather(b"", "testing") == [b""] * world
        mesh.close()

    with child(lambda: be(1)) as one, child(lambda: be(2)) as two:
        be(0)
        assert [os.waitpid(pid, 0)[1] for pid in (one, two)] == [0, 0]


def test_payloads_over_the_bound_are_refused(meshes):
    (a,) = meshes(1)
    assert a.all_gather(b"alone", "testing") == [b"alone"]
    with pytest.raises(ValueError, match=str(MAX_DATA)):
        a.all_gather(bytes(MAX_DATA + 1), "testing")


def test_an_oversize_announcement_is_refused(pair):
    here, there = pair()
    mesh = Mesh(0, [None, here], timeout=20.0)
    there.send(struct.pack("<BBHI", DATA, 0, 0, MAX_DATA + 1))
    with pytest.raises(ValueError, match=f"worker 1 announced {MAX_DATA + 1} bytes; the bound is {MAX_DATA}"):
        mesh.all_gather(b"", "testing")


def test_a_timeout_names_who_was_waited_for(meshes):
    a, _, c, _ = meshes(4, timeout=0.05)
    c.note(READY, 0, 0)
    with pytest.raises(TimeoutError, match=r"exchanging gradients: waited .* for worker 1, worker 3$"):
        a.wait_noted(READY, 0, 0, "exchanging gradients")
    with pytest.raises(TimeoutError, match="for worker 1, worker 2, worker 3"):
        a.all_gather(b"x", "exchanging metrics")


def test_a_timeout_while_sharing_memory_names_who_was_waited_for(meshes):
    a, _, _ = meshes(3, timeout=0.05)
    memory = SharedMemory(1)
    with pytest.raises(TimeoutError, match=r"sharing memory: waited .* for worker 1, worker 2$"):
        a.share(memory)
    memory.close()


def test_frames_may_arrive_in_any_pieces(pair):
    here, there = pair()
    mesh = Mesh(0, [None, here], timeout=20.0)
    stream = struct.pack("<BBHI", READY, 0, 3, 9) + struct.pack("<BBHI", DATA, 0, 0, 5) + b"hello"
    stream += struct.pack("<BBHI", REDUCED, 0, 3, 9)
    for byte in stream:
        there.send(bytes([byte]))
        mesh.progress()
    assert mesh.noted(READY, 3, 9) and mesh.noted(REDUCED, 3, 9)
    assert mesh.all_gather(b"", "testing") == [b"", b"hello"]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_peer_that_dies_is_noticed_at_once(signal_number):
    links = connect(3)
    with child(signal.pause) as pid:  # the child holds worker 2's ends, and those of nobody else
        for link in links[2]:
            if link is not None:
                link.close()
        a, b = Mesh(0, links[0]), Mesh(1, links[1])
        # The fork holds copies of the ends of 0 and 1 as well; they do not keep worker 2's side open.
        os.kill(pid, signal_number)
        lost = together(
            lambda: a.wait_noted(READY, 0, 0, "exchanging gradients"), lambda: b.all_gather(b"x", "exchanging metrics")
        )
        assert [str(e) for e in lost] == [
            "worker 2 was lost while exchanging gradients",
            "worker 2 was lost while exchanging metrics",
        ]
        assert all(isinstance(e, PeerLostError) and e.rank == 2 for e in lost)
        a.close()
        b.close()


def test_check_tells_of_a_lost_peer_while_computing(meshes):
    a, b, _ = meshes(3)
    a.check()
    b.close()
    with pytest.raises(PeerLostError, match="worker 1 was lost while computing"):
        a.check()


def test_what_a_dead_peer_had_said_still_counts(meshes):
    a, b = meshes(2)
    b.note(READY, 0, 0)
    b._links[0].send(struct.pack("<BBHI", DATA, 0, 0, 3) + b"bye")
    b.close()
    a.wait_noted(READY, 0, 0, "testing")
    a.note(REDUCED, 0, 0)  # nobody hears it, and that is no error yet
    with pytest.raises(PeerLostError):
        a.wait_noted(REDUCED, 0, 0, "testing")


def test_notes_reach_a_peer_that_is_long_in_reading_them(meshes):
    """A worker may be a whole backward pass ahead: 1000 buckets are 4 GB of gradients. Its peer is not lost."""
    a, b = meshes(2)
    said = threading.Event()

    def hurry():
        for bucket in range(1000):
            a.note(READY, bucket, 0)
        said.set()
        a.check()
        return a.all_gather(b"a", "testing")

    def dawdle():
        said.wait(0.3)  # it computes; whoever waits for it does so for no longer than that
        for bucket in range(1000):
            b.wait_noted(READY, bucket, 0, "testing")
        return b.all_gather(b"b", "testing")

    assert together(hurry, dawdle) == [[b"a", b"b"]] * 2


def test_shared_memory_reaches_every_rank(meshes):
    gang = meshes(3)

    def exchange(mesh):
        own = SharedMemory(64, name="manyhands-test")
        own.view[:8] = struct.pack("<Q", 100 + mesh.rank)
        views = mesh.share(own)
        return [struct.unpack("<Q", memory.view[:8])[0] for memory in views], views

    results = together(*(lambda m=m: exchange(m) for m in gang))
    assert [numbers for numbers, _ in results] == [[100, 101, 102]] * 3
    assert not any(os.get_inheritable(memory.descriptor) for _, views in results for memory in views)
    results[0][1][2].view[20] = 77  # worker 0 writes into worker 2's memory
    assert results[1][1][2].view[20] == results[2][1][2].view[20] == 77
    for _, views in results:
        for memory in views:
            memory.close()


def test_a_peer_that_is_done_sharing_may_already_speak(pair):
    """It has everyone's memory and announces a bucket while this worker still waits for another's."""
    (near_1, far_1), (near_2, far_2) = pair(), pair()
    own, other = SharedMemory(64), SharedMemory(64)
    note = struct.pack("<BBHI", READY, 0, 0, 0)
    socket.send_fds(far_1, [b"m"], [other.descriptor])
    far_1.send(note)

    def late(waits):
        if waits and not said:
            said.append(True)
            socket.send_fds(far_2, [b"m"], [other.descriptor])
            far_2.send(note)

    said = []
    mesh = Mesh(0, [None, near_1, near_2], timeout=5.0, on_wait=late)
    views = mesh.share(own)
    mesh.wait_noted(READY, 0, 0, "testing")
    assert len(views) == 3
    for memory in (*views, other):
        memory.close()


def test_sharing_memory_with_a_dead_peer(meshes):
    a, b = meshes(2)
    b.close()
    memory = SharedMemory(64)
    with pytest.raises(PeerLostError, match="worker 1 was lost while sharing memory"):
        a.share(memory)
    memory.close()


def test_a_peer_that_hands_over_no_descriptor_is_lost(pair):
    here, there = pair()
    mesh = Mesh(0, [None, here], timeout=20.0)
    there.send(b"m")
    memory = SharedMemory(64)
    with pytest.raises(PeerLostError, match="worker 1 was lost while sharing memory"):
        mesh.share(memory)
    memory.close()
