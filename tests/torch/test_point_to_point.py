"""Send and receive: any order of tags, both ways at once, from anyone, beside collectives."""

import pytest
import torch
import torch.distributed as dist
from inputs import EVERY, LAYOUTS, assert_same, laid_out, values

BIG = 1 << 20
"""Elements that no socket's buffer holds."""


def check_dtypes():
    rank, world = dist.get_rank(), dist.get_world_size()
    target, source = (rank + 1) % world, (rank - 1) % world
    for dtype in EVERY:
        for layout in LAYOUTS:
            for shape in [(3, 4), (1,), (), (0, 2)]:
                outgoing = laid_out(values(dtype, shape, rank), layout)
                incoming = laid_out(torch.zeros(shape).to(dtype), layout)
                sending = dist.isend(outgoing, target)
                dist.recv(incoming, source)
                sending.wait()
                assert_same(incoming, values(dtype, shape, source), True, f"{dtype} {layout} {shape}")


def check_tags():
    """Received in another order than sent."""
    rank = dist.get_rank()
    if rank == 0:
        works = [dist.isend(torch.full((BIG if tag == 1 else 3,), float(tag)), 1, tag=tag) for tag in range(5)]
        works += [dist.isend(torch.full((2,), float(turn)), 1, tag=9) for turn in range(3)]
        for work in works:
            work.wait()
    elif rank == 1:
        for tag in (4, 1, 0, 3, 2):
            tensor = torch.zeros(BIG if tag == 1 else 3)
            assert dist.recv(tensor, 0, tag=tag) == 0
            assert tensor.eq(tag).all()
        for turn in range(3):  # messages of one tag keep their order
            tensor = torch.zeros(2)
            dist.recv(tensor, 0, tag=9)
            assert tensor.eq(turn).all()


def check_exchange():
    """Both send first; then both receive first."""
    rank = dist.get_rank()
    if rank > 1:
        return
    for sends_first in (True, False):
        outgoing, incoming = torch.full((BIG,), float(rank)), torch.zeros(BIG)
        calls = [lambda: dist.isend(outgoing, 1 - rank), lambda: dist.irecv(incoming, 1 - rank)]  # noqa: B023
        works = [call() for call in (calls if sends_first else reversed(calls))]
        for work in works:
            work.wait()
        assert incoming.eq(1 - rank).all()


def check_batch():
    """A ring by batch_isend_irecv, sends and receives in any order."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for size in (1, BIG):
        outgoing, incoming = torch.full((size,), float(rank)), torch.zeros(size)
        ops = [
            dist.P2POp(dist.isend, outgoing, (rank + 1) % world),
            dist.P2POp(dist.irecv, incoming, (rank - 1) % world),
        ]
        for work in dist.batch_isend_irecv(ops if rank % 2 else ops[::-1]):
            work.wait()
        assert incoming.eq((rank - 1) % world).all()


def check_any_source():
    rank, world = dist.get_rank(), dist.get_world_size()
    if rank:
        dist.send(torch.full((4,), float(rank)), 0, tag=2)
        return
    senders = set()
    for _ in range(world - 1):
        tensor = torch.zeros(4)
        sender = dist.recv(tensor, tag=2)
        assert tensor.eq(sender).all()
        senders.add(sender)
    assert senders == set(range(1, world))


def check_beside_collectives():
    """A receive that waits keeps no collective from going on."""
    rank = dist.get_rank()
    tensor = torch.zeros(5)
    waiting = dist.irecv(tensor, 1) if rank == 0 else None
    total = torch.ones(3)
    dist.all_reduce(total)
    assert total[0] == dist.get_world_size()
    if rank == 1:
        dist.send(torch.ones(5), 0)
    if waiting is not None:
        assert not waiting.is_completed() or tensor.eq(1).all()
        waiting.wait()
        assert waiting.is_completed() and tensor.eq(1).all()


CHECKS = [check_dtypes, check_tags, check_exchange, check_batch, check_any_source, check_beside_collectives]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("world", [2, 3])
def test_messages(server, world, check):
    server.gang(world).run(check)
