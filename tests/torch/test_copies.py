"""Collectives that only move data, in all dtypes and layouts, with even and uneven sizes."""

import itertools

import pytest
import torch
import torch.distributed as dist
from inputs import EVERY, FLOATS8, LAYOUTS, assert_same, laid_out, values

SHAPES = [(4, 6), (1,), (0, 3)]


def everyones(dtype, shape, seed=0):
    return [values(dtype, shape, rank, seed) for rank in range(dist.get_world_size())]


def empty(dtype, shape, layout="contiguous"):
    return laid_out(torch.zeros(shape).to(dtype), layout)


def gather_tensor(output, input, **options):
    """By its name of this torch version."""
    return getattr(dist, "all_gather_single", dist.all_gather_into_tensor)(output, input, **options)


def check_broadcast(dtype):
    world, rank = dist.get_world_size(), dist.get_rank()
    for root, shape, layout in itertools.product(range(world), [*SHAPES, ()], LAYOUTS):
        inputs = everyones(dtype, shape)
        tensor = laid_out(inputs[rank], layout)
        dist.broadcast(tensor, root)
        assert_same(tensor, inputs[root], True, f"{dtype} {shape} {layout} from {root}")


def check_all_gather(dtype):
    world, rank = dist.get_world_size(), dist.get_rank()
    for shape, layout in itertools.product(SHAPES, LAYOUTS):
        inputs = everyones(dtype, shape)
        whole = empty(dtype, (world, *shape), layout)
        gather_tensor(whole, laid_out(inputs[rank], layout))
        parts = [empty(dtype, shape, layout) for _ in range(world)]
        dist.all_gather(parts, laid_out(inputs[rank], layout))
        for peer in range(world):
            assert_same(whole[peer], inputs[peer], True, f"tensor, {dtype} {shape} {layout}")
            assert_same(parts[peer], inputs[peer], True, f"list, {dtype} {shape} {layout}")


def check_all_gather_in_place():
    """The input may be the own part of the output, as FSDP2 has it."""
    world, rank = dist.get_world_size(), dist.get_rank()
    inputs = everyones(torch.float32, (1000,))
    whole = torch.zeros(world, 1000)
    whole[rank] = inputs[rank]
    gather_tensor(whole.view(-1), whole[rank])
    assert_same(whole, torch.stack(inputs), True, "in place")


def check_all_gather_uneven(dtype):
    world, rank = dist.get_world_size(), dist.get_rank()
    inputs = [values(dtype, (2 * peer, 3), peer) for peer in range(world)]
    for layout in LAYOUTS:
        outputs = [empty(dtype, source.shape, layout) for source in inputs]
        dist.all_gather(outputs, laid_out(inputs[rank], layout))
        for output, source in zip(outputs, inputs, strict=True):
            assert_same(output, source, True, f"uneven {dtype} {layout}")


def check_all_gather_coalesced(dtype):
    world, rank = dist.get_world_size(), dist.get_rank()
    shapes = [(3,), (2, 2), (0,), (5, 1)]
    inputs = [everyones(dtype, shape, seed) for seed, shape in enumerate(shapes)]
    outputs = [empty(dtype, (world, *shape)) for shape in shapes]
    with dist._coalescing_manager(async_ops=True) as manager:
        for output, source in zip(outputs, inputs, strict=True):
            gather_tensor(output, source[rank])
    manager.wait()
    for output, source in zip(outputs, inputs, strict=True):
        assert_same(output, torch.stack(source), True, f"coalesced {dtype}")
    lists = [[empty(dtype, shape) for shape in shapes] for _ in range(world)]
    dist.distributed_c10d._get_default_group().allgather_coalesced(lists, [source[rank] for source in inputs]).wait()
    for peer, index in itertools.product(range(world), range(len(shapes))):
        assert_same(lists[peer][index], inputs[index][peer], True, f"coalesced lists {dtype}")


def check_gather_and_scatter(dtype):
    world, rank = dist.get_world_size(), dist.get_rank()
    for root, shape, layout in itertools.product(range(world), SHAPES, LAYOUTS):
        inputs = everyones(dtype, shape, seed=root)
        context = f"{dtype} {shape} {layout} at {root}"
        outputs = [empty(dtype, shape, layout) for _ in range(world)] if rank == root else None
        dist.gather(laid_out(inputs[rank], layout), outputs, dst=root)
        for output, source in zip(outputs or [], inputs, strict=False):
            assert_same(output, source, True, f"gather {context}")
        output = empty(dtype, shape, layout)
        dist.scatter(output, [laid_out(source, layout) for source in inputs] if rank == root else None, src=root)
        assert_same(output, inputs[rank], True, f"scatter {context}")


def check_all_to_all(dtype):
    """Rank r sends (r + 2 p) % 3 rows to rank p; some send nothing."""
    world, rank = dist.get_world_size(), dist.get_rank()
    sizes = [[(source + 2 * target) % 3 for target in range(world)] for source in range(world)]
    parts = [[values(dtype, (sizes[s][t], 2), s, seed=t) for t in range(world)] for s in range(world)]
    wanted = [parts[source][rank] for source in range(world)]
    for layout in LAYOUTS:
        outputs = [empty(dtype, part.shape, layout) for part in wanted]
        dist.all_to_all(outputs, [laid_out(part, layout) for part in parts[rank]])
        for output, part in zip(outputs, wanted, strict=True):
            assert_same(output, part, True, f"list {dtype} {layout}")
        whole = empty(dtype, (sum(map(len, wanted)), 2), layout)
        source = laid_out(torch.cat([part.view(torch.uint8) for part in parts[rank]]).view(dtype), layout)
        dist.all_to_all_single(whole, source, list(map(len, wanted)), sizes[rank])
        for output, part in zip(whole.split(list(map(len, wanted))), wanted, strict=True):
            assert_same(output, part, True, f"split sizes {dtype} {layout}")
    even = everyones(dtype, (world, 3))
    output = empty(dtype, (world, 3))
    dist.all_to_all_single(output, even[rank].clone())
    for peer in range(world):
        assert_same(output[peer], even[peer][rank], True, f"even {dtype}")


def check_objects():
    world, rank = dist.get_world_size(), dist.get_rank()
    mine = {"rank": rank, "text": "x" * (10 * rank)}
    wanted = [{"rank": peer, "text": "x" * (10 * peer)} for peer in range(world)]
    everyone = [None] * world
    dist.all_gather_object(everyone, mine)
    assert everyone == wanted
    gathered = [None] * world if rank == world - 1 else None
    dist.gather_object(mine, gathered, dst=world - 1)
    assert gathered in (None, wanted)
    several = [mine, 7, None] if rank == 0 else [None] * 3
    dist.broadcast_object_list(several, src=0)
    assert several == [wanted[0], 7, None]
    received = [None]
    dist.scatter_object_list(received, wanted if rank == 0 else None, src=0)
    assert received == [mine]
    if world > 1 and rank < 2:
        several = [mine] if rank == 0 else [None]
        (dist.send_object_list if rank == 0 else dist.recv_object_list)(several, 1 - rank)
        assert several == [wanted[0]]


def check_barrier():
    """Nobody leaves before all have come: what each wrote before is there for all after it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    store = dist.distributed_c10d._get_default_store()
    for turn in range(5):
        store.set(f"barrier/{turn}/{rank}", "here")
        dist.barrier()
        assert store.check([f"barrier/{turn}/{peer}" for peer in range(world)])
    dist.barrier(async_op=True).wait()


def check_arguments():
    world, rank = dist.get_world_size(), dist.get_rank()
    cases = [
        (lambda: gather_tensor(torch.zeros(world * 3 + 1), torch.zeros(3)), "larger tensor must have"),
        (lambda: gather_tensor(torch.zeros(world * 3), torch.zeros(3, dtype=torch.int32)), "one dtype"),
        (lambda: dist.all_gather([torch.zeros(3)] * (world + 1), torch.zeros(3)), "one tensor for each"),
        (lambda: dist.all_gather([torch.zeros(3)] * world, torch.zeros(4)), "must be of one size"),
        (lambda: dist.all_to_all_single(torch.zeros(world), torch.zeros(world), [2] * world), "split sizes"),
        (lambda: dist.broadcast(torch.zeros(2).to_sparse(), 0), "dense tensors"),
        (lambda: group().broadcast(torch.zeros(2), world), f"invalid root rank {world}"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as error:
            call()
        assert f"rank {rank}" in str(error.value)
    dist.barrier()


def group():
    return dist.distributed_c10d._get_default_group()


def check_other_forms():
    """The forms of the calls that only libraries use, on the group itself; old names and new."""
    world, rank = dist.get_world_size(), dist.get_rank()
    tensor = torch.ones(3)
    group().allreduce(tensor).wait()
    group().allreduce([tensor], dist.ReduceOp.MAX).wait()
    assert tensor.tolist() == [float(world)] * 3
    group().broadcast(tensor, 0).wait()
    group().barrier().wait()
    for names in (
        ("_allgather_base", "_reduce_scatter_base", "alltoall_base"),
        ("all_gather_single", "reduce_scatter_single", "all_to_all_single"),
    ):
        gather, scatter, exchange = (getattr(group(), name) for name in names)
        whole, part = torch.zeros(world * 2), torch.zeros(2)
        gather(whole, torch.full((2,), float(rank))).wait()
        assert whole.tolist() == [float(peer) for peer in range(world) for _ in range(2)]
        scatter(part, whole, dist.ReduceScatterOptions()).wait()
        assert part.tolist() == [float(world * rank)] * 2
        exchange(whole, torch.full((2 * world,), float(rank)), [], []).wait()
        assert whole.tolist() == [float(peer) for peer in range(world) for _ in range(2)]


def check_inference_mode():
    world = dist.get_world_size()
    with torch.inference_mode():
        tensor = torch.ones(4, 4)
        dist.all_reduce(tensor)
        dist.all_reduce(tensor.t()[::2])
        dist.broadcast(tensor, 0)
        whole = torch.zeros(world * 4, 4)
        gather_tensor(whole, tensor)
    assert whole.sum() == 16 * world * (world + world * world) / 2


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_copies_of_every_dtype(gang, dtype):
    for check in (check_broadcast, check_all_gather, check_all_gather_uneven, check_gather_and_scatter):
        gang.run(check, dtype)
    if dtype not in FLOATS8:  # PyTorch itself cannot cut those
        gang.run(check_all_gather_coalesced, dtype)
    gang.run(check_all_to_all, dtype)


@pytest.mark.parametrize(
    "check",
    [
        check_all_gather_in_place,
        check_objects,
        check_barrier,
        check_arguments,
        check_other_forms,
        check_inference_mode,
    ],
)
def test_copies(gang, check):
    gang.run(check)
