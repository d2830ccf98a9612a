"""What goes wrong reaches every rank as an exception that names rank and operation, and never as a hang: long before
the group's timeout of half an hour."""

import re
import time

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch_gang import MEMBER, Gang, begun

from manyhands.torch.errors import OperationFailedError
from manyhands.transport.errors import GroupError


@pytest.fixture
def gang_to_break(server, request):
    gang = Gang(server, 3)
    yield gang
    gang.close()


def reduce_until_it_fails():
    """Operations in flight when the fault comes; the error."""
    dist.all_reduce(torch.ones(10))
    begun()
    try:
        while True:
            works = [dist.all_reduce(torch.ones(1 << 16), async_op=True) for _ in range(4)]
            for work in works:
                work.wait()
    except OperationFailedError as error:
        failed = [work for work in works if work.is_completed() and not work.is_success()]
        assert failed and isinstance(failed[0].exception(), GroupError)
        return str(error)


def wait_for_nobody():
    begun()
    with pytest.raises(OperationFailedError) as error:
        dist.barrier()
    with pytest.raises(OperationFailedError):  # and whatever follows fails at once
        dist.all_reduce(torch.ones(1))
    return str(error.value)


def prepare():
    MEMBER["model"] = DistributedDataParallel(nn.Linear(100, 100))
    MEMBER["model"](torch.ones(4, 100)).sum().backward()
    functional.all_reduce(torch.ones(100), "sum", dist.group.WORLD).sum().item()


def backward_until_it_fails():
    """C++ waits for the buckets; the error arrives in `backward`."""
    model = MEMBER["model"]
    begun()
    try:
        while True:
            model(torch.ones(4, 100)).sum().backward()
    except RuntimeError as error:
        return str(error)


def functional_until_it_fails():
    begun()
    try:
        while True:
            functional.all_reduce(torch.ones(100), "sum", dist.group.WORLD).sum().item()
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize(
    "doing", [reduce_until_it_fails, wait_for_nobody, backward_until_it_fails, functional_until_it_fails]
)
def test_a_rank_that_is_killed(gang_to_break, doing):
    survivors = [member for member in gang_to_break.members if member[0]["rank"] != 1]
    everyone = [0, 2] if doing is wait_for_nobody else [0, 1, 2]
    gang_to_break.run(prepare)
    for rank in everyone:
        gang_to_break.start(doing, rank=rank)
    gang_to_break.until_begun(everyone)
    time.sleep(0.1)  # to be in the midst of it
    gang_to_break.kill(1)
    for text in gang_to_break.results(survivors, doing.__name__):
        assert "rank 1" in text and ("all_reduce" in text or "barrier" in text), text


def call_differently(rank):
    with pytest.raises(OperationFailedError) as error:
        if rank == 0:
            dist.broadcast(torch.ones(5), 0)
        dist.all_reduce(torch.ones(5, dtype=torch.float64 if rank == 2 else torch.float32))
        dist.all_reduce(torch.ones(5))
    return str(error.value)


def test_ranks_that_call_different_operations(gang_to_break):
    for rank in range(3):
        gang_to_break.start(call_differently, rank, rank=rank)
    for text in gang_to_break.results(gang_to_break.members, "call_differently"):
        assert "broadcast" in text and "all_reduce" in text, text


def receive_until_it_fails():
    begun()
    with pytest.raises(OperationFailedError) as error:
        dist.recv(torch.ones(5), 1)
    return str(error.value)


def test_a_receive_from_a_rank_that_is_killed(gang_to_break):
    for rank in (0, 2):
        gang_to_break.start(receive_until_it_fails, rank=rank)
    gang_to_break.until_begun([0, 2])
    time.sleep(0.1)
    gang_to_break.kill(1)
    survivors = [member for member in gang_to_break.members if member[0]["rank"] != 1]
    for text in gang_to_break.results(survivors, "receive"):
        assert "rank 1" in text


def start_late(rank):
    """One rank does not come: the others give up after the group's timeout."""
    group = dist.new_group()
    group._group.timeout = 1.0  # that of `new_group` would be one for making it, too
    dist.barrier()
    if rank != 1:
        with pytest.raises(OperationFailedError) as error:
            dist.all_reduce(torch.ones(5), group=group)
        return str(error.value)
    return "all_reduce is late on rank 1"


def test_a_rank_that_does_not_come(gang_to_break):
    for rank in range(3):
        gang_to_break.start(start_late, rank, rank=rank)
    for text in gang_to_break.results(gang_to_break.members, "start_late"):
        assert "all_reduce" in text and re.search(r"rank 1$|rank [02] waited 1 s for rank [01]", text), text


def break_a_subgroup(rank):
    """What breaks one group leaves another one alone."""
    pair = dist.new_group([0, 1])
    if rank < 2:
        with pytest.raises(OperationFailedError):
            dist.all_reduce(torch.ones(5 + rank), group=pair)
    total = torch.ones(3)
    dist.all_reduce(total)
    return total[0].item()


def test_a_broken_group_breaks_no_other(gang_to_break):
    for rank in range(3):
        gang_to_break.start(break_a_subgroup, rank, rank=rank)
    assert gang_to_break.results(gang_to_break.members, "break_a_subgroup") == [3.0] * 3
