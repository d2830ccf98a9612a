"""Groups of some of the ranks, and the life of groups."""

import gc
import weakref

import pytest
import torch
import torch.distributed as dist
from deadlines import Deadline
from torch.distributed.device_mesh import init_device_mesh


def total(group, value):
    tensor = torch.full((10,), float(value))
    dist.all_reduce(tensor, group=group)
    return tensor[0].item()


def check_subsets():
    """Pairs, a group in another order, groups of one; each sums its own."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for ranks in ([0, 1], [1, 2], [0, 2, 3], [3], [3, 1, 0]):
        group = dist.new_group(ranks)
        if rank not in ranks:
            assert group == dist.GroupMember.NON_GROUP_MEMBER
            continue
        assert dist.get_world_size(group) == len(ranks) and dist.get_backend(group) == "manyhands"
        assert dist.get_process_group_ranks(group) == sorted(ranks)
        assert total(group, rank) == sum(ranks)
        tensor = torch.full((3,), float(rank))
        dist.broadcast(tensor, ranks[-1], group=group)  # a rank of the default group
        assert tensor.eq(ranks[-1]).all()
    assert total(None, 1) == world


def check_at_the_same_time():
    """Operations in flight in groups that overlap."""
    rank, world = dist.get_rank(), dist.get_world_size()
    row, column = [2 * (rank // 2), 2 * (rank // 2) + 1], [rank % 2, rank % 2 + 2]
    (row_group, _), (column_group, _) = (
        dist.new_subgroups_by_enumeration(lists) for lists in ([[0, 1], [2, 3]], [[0, 2], [1, 3]])
    )
    tensors = [torch.full((100_000,), float(rank)) for _ in range(3)]
    works = [
        dist.all_reduce(tensor, group=group, async_op=True)
        for tensor, group in zip(tensors, (row_group, column_group, None), strict=True)
    ]
    for work in works:
        work.wait()
    assert [tensor[-1].item() for tensor in tensors] == [sum(row), sum(column), sum(range(world))]


def check_local_synchronization():
    """Only the members call."""
    if dist.get_rank() in (1, 3):
        group = dist.new_group([1, 3], use_local_synchronization=True)
        assert total(group, 1) == 2
        dist.destroy_process_group(group)


def check_mesh():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
    rank = dist.get_rank()
    assert total(mesh["inner"].get_group(), rank) == 4 * (rank // 2) + 1
    assert total(mesh["outer"].get_group(), rank) == 2 * (rank % 2) + 2


def check_what_a_group_says():
    group = dist.distributed_c10d._get_default_group()
    subgroup = dist.new_group(group_desc="tests")
    assert (group.name(), group.rank(), group.size()) == ("manyhands", dist.get_rank(), dist.get_world_size())
    assert group.group_name != subgroup.group_name and subgroup.group_desc == "tests"
    assert dist.get_backend() == "manyhands" and dist.is_backend_available("manyhands")
    assert torch.device("cpu") in group._device_types
    with pytest.raises(RuntimeError, match="takes no pg_options"):
        dist.new_group(pg_options=dist.ProcessGroupGloo._Options())


def check_collection():
    """A destroyed group leaves nothing behind."""
    group = dist.new_group()
    total(group, 1)
    dist.all_reduce(torch.ones(3), group=group, async_op=True).get_future().wait()
    gone = weakref.ref(group)
    dist.destroy_process_group(group)
    with pytest.raises(RuntimeError, match="closed"):
        group.allreduce(torch.ones(1)).wait()
    del group
    end = Deadline()
    while gone() is not None and not end.passed:  # a thread may be about to let go of it
        gc.collect()
    assert gone() is None


def check_again(store_path):
    """Destroyed and made again, on the same store and with the same names."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for turn in range(3):
        dist.barrier()
        dist.destroy_process_group()
        assert not dist.is_initialized()
        store = dist.FileStore(store_path, world)
        dist.init_process_group("manyhands", store=store, rank=rank, world_size=world)
        assert total(None, turn) == turn * world
        assert total(dist.new_group(), 1) == world


@pytest.mark.parametrize("check", [check_subsets, check_at_the_same_time, check_local_synchronization, check_mesh])
def test_groups_of_some_ranks(four, check):
    four.run(check)


@pytest.mark.parametrize("check", [check_what_a_group_says, check_collection])
def test_a_group(pair, check):
    pair.run(check)


def test_groups_made_again_on_one_store(server, tmp_path):
    from torch_gang import Gang

    gang = Gang(server, 2)
    gang.run(check_again, str(tmp_path / "store"))
    gang.close()
