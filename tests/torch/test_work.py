"""Handles of operations in flight."""

import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

SHORT = timedelta(milliseconds=50)


def check_asynchronous():
    """Many operations at once; waited for in any order."""
    world, rank = dist.get_world_size(), dist.get_rank()
    tensors = [torch.full((1000 * (i + 1),), float(rank + i)) for i in range(10)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in reversed(works):
        assert work.wait() is True
        assert work.is_completed() and work.is_success() and work.exception() is None
    for i, tensor in enumerate(tensors):
        assert tensor.eq(sum(peer + i for peer in range(world))).all()


def check_timeout():
    """A wait may end before the operation; the operation goes on."""
    rank = dist.get_rank()
    tensor = torch.ones(10)
    if rank == 0:
        work = dist.all_reduce(tensor, async_op=True)
        assert not work.is_completed() and work.exception() is None
        with pytest.raises(RuntimeError, match=r"all_reduce \(rank 0 of group .*was not over after 0.05 s"):
            work.wait(SHORT)
        dist.distributed_c10d._get_default_store().set("go", "now")
        work.wait(timedelta(0))  # PyTorch's way to say: without a timeout
    else:
        dist.distributed_c10d._get_default_store().get("go")
        dist.all_reduce(tensor)
    assert tensor.eq(dist.get_world_size()).all()


def check_future():
    """`then` runs after the result is there, in a thread that may itself wait for collectives (as PowerSGD does)."""
    world = dist.get_world_size()
    tensors = [torch.ones(5) for _ in range(20)]

    def twice(future):
        tensor = future.value()[0]
        assert tensor.eq(world).all()
        return dist.all_reduce(tensor, async_op=True).get_future().wait()[0]

    assert dist.all_reduce(torch.ones(1), async_op=True).get_future().wait()[0].item() == world
    future = dist.all_reduce(tensors[0], async_op=True).get_future().then(twice)
    assert future.wait().eq(world**2).all()
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors[1:]]
    assert all(value[0].eq(world).all() for value in torch.futures.wait_all([work.get_future() for work in works]))


def check_results():
    """A result that lies strided in memory is complete when the future is."""
    world = dist.get_world_size()
    tensor = torch.ones(64, 64).t()[::2]
    (result,) = dist.all_reduce(tensor, async_op=True).get_future().wait()
    assert result is tensor and tensor.eq(world).all()
    work = dist.broadcast(tensor, 0, async_op=True)
    work.wait()
    assert work.result()[0] is tensor
    assert dist.barrier(async_op=True).get_future().wait() == []


def check_threads():
    """Groups used by several threads."""
    world = dist.get_world_size()
    groups = [dist.new_group() for _ in range(4)]
    totals = [torch.ones(1000) for _ in groups]
    threads = [
        threading.Thread(
            target=lambda group=group, total=total: [dist.all_reduce(total, group=group) for _ in range(5)]
        )
        for group, total in zip(groups, totals, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(total.eq(world**5).all() for total in totals)
    for group in groups:
        dist.destroy_process_group(group)


def check_profiler():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        dist.all_reduce(torch.ones(10))
        dist.broadcast(torch.ones(10), 0)
    names = [event.name for event in profile.events()]
    assert {"manyhands:all_reduce", "manyhands:all_reduce wait", "manyhands:broadcast"} <= set(names)


def check_dropped():
    """Handles that nobody keeps."""
    for _ in range(50):
        dist.all_reduce(torch.ones(100), async_op=True)
        dist.all_reduce(torch.ones(100), async_op=True).get_future()
    tensor = torch.ones(1)
    dist.all_reduce(tensor)
    assert tensor.item() == dist.get_world_size()


CHECKS = [
    check_asynchronous,
    check_timeout,
    check_future,
    check_results,
    check_threads,
    check_profiler,
    check_dropped,
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("world", [2, 3])
def test_work(server, world, check):
    server.gang(world).run(check)
