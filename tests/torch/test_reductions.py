"""all_reduce, reduce and reduce_scatter in all dtypes, layouts and sizes, against plain sums and against gloo."""

import itertools

import pytest
import torch
import torch.distributed as dist
from inputs import COMPLEX, FLOATS, GLOO, INTEGERS, LAYOUTS, UNSIGNED, assert_same, laid_out, values
from torch_gang import gloo

SUM, AVG, MIN, MAX, PROD = (getattr(dist.ReduceOp, name) for name in ("SUM", "AVG", "MIN", "MAX", "PRODUCT"))
OPS = {SUM: torch.add, AVG: torch.add, MIN: torch.minimum, MAX: torch.maximum, PROD: torch.mul}
SHAPES = [(4, 6), (1,), (), (0, 3), (2, 3, 5)]

SUPPORTED = [
    *itertools.product(FLOATS, [SUM, AVG, MIN, MAX, PROD]),
    *itertools.product(INTEGERS, [SUM, MIN, MAX, PROD]),
    *itertools.product(UNSIGNED, [SUM, PROD]),
    *itertools.product(COMPLEX, [SUM, AVG]),
    *itertools.product([torch.bool], [SUM, MIN, MAX, PROD]),
]


def expected(op, inputs):
    """The plain reduction, in the widest dtype."""
    dtype = inputs[0].dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else torch.int64
    total = inputs[0].to(wide)
    for other in inputs[1:]:
        total = OPS[op](total, other.to(wide))
    return (total / len(inputs) if op == AVG else total).to(dtype)


def everyones(dtype, shape, seed=0):
    return [values(dtype, shape, rank, seed) for rank in range(dist.get_world_size())]


def check_all_reduce(dtype, op):
    rank = dist.get_rank()
    for shape, layout in itertools.product(SHAPES, LAYOUTS):
        inputs = everyones(dtype, shape)
        tensor = laid_out(inputs[rank], layout)
        dist.all_reduce(tensor, op)
        context = f"{op} of {dtype} {shape} {layout}"
        assert_same(tensor, expected(op, inputs), op in (MIN, MAX), context)
        if dtype in GLOO and op != AVG and layout == "contiguous" and tensor.numel():
            other = inputs[rank].clone()
            dist.all_reduce(other, op, group=gloo())
            assert_same(tensor, other, op in (MIN, MAX), f"{context} and gloo")


def check_reduce(dtype, op):
    world, rank = dist.get_world_size(), dist.get_rank()
    for root, layout in itertools.product(range(world), ["contiguous", "strided"]):
        inputs = everyones(dtype, (3, 5), seed=root)
        tensor = laid_out(inputs[rank], layout)
        dist.reduce(tensor, root, op)
        if rank == root:
            assert_same(tensor, expected(op, inputs), op in (MIN, MAX), f"{op} of {dtype} to {root} {layout}")
        else:
            assert_same(tensor, inputs[rank], True, f"the input of {op} of {dtype} to {root}")


def check_reduce_scatter(dtype, op):
    world, rank = dist.get_world_size(), dist.get_rank()
    for shape, layout in itertools.product([(2, 3), (1,), (0, 3), (5, 1, 2)], LAYOUTS):
        inputs = everyones(dtype, (world, *shape))
        wanted = expected(op, inputs)[rank]
        context = f"{op} of {dtype} {shape} {layout}"
        source = laid_out(inputs[rank], layout)
        output = laid_out(torch.zeros(shape, dtype=dtype), layout)
        scatter_tensor(output, source, op)
        assert_same(output, wanted, op in (MIN, MAX), context)
        assert_same(source, inputs[rank], True, f"the input of {context}")
        output.zero_()
        dist.reduce_scatter(output, [laid_out(part, layout) for part in inputs[rank]], op)
        assert_same(output, wanted, op in (MIN, MAX), f"list, {context}")


def scatter_tensor(output, input, op=SUM, **options):
    """By its name of this torch version."""
    return getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)(output, input, op, **options)


def check_reduce_scatter_uneven(dtype):
    world, rank = dist.get_world_size(), dist.get_rank()
    parts = [everyones(dtype, (peer + 1, 2), seed=peer) for peer in range(world)]
    parts[-1] = [part[:0] for part in parts[-1]]
    for layout in LAYOUTS:
        output = laid_out(torch.zeros_like(parts[rank][rank]), layout)
        given = [laid_out(part[rank], layout) for part in parts]
        dist.reduce_scatter(output, given)
        assert_same(output, expected(SUM, parts[rank]), False, f"uneven {dtype} {layout}")
        for part, original in zip(given, parts, strict=True):
            assert_same(part, original[rank], True, "an input")


def check_reduce_scatter_in_place():
    """The output may be the own part of the input."""
    world, rank = dist.get_world_size(), dist.get_rank()
    inputs = everyones(torch.float32, (world, 1000))
    whole = inputs[rank].clone()
    scatter_tensor(whole[rank], whole.view(-1))
    assert_same(whole[rank], expected(SUM, inputs)[rank], False, "in place")


def check_coalesced(dtype):
    world, rank = dist.get_world_size(), dist.get_rank()
    shapes = [(3,), (2, 2), (), (0,), (7, 3)]
    inputs = [everyones(dtype, shape, seed) for seed, shape in enumerate(shapes)]
    tensors = [laid_out(source[rank], "transposed") for source in inputs]
    with dist._coalescing_manager():
        for tensor in tensors:
            dist.all_reduce(tensor)
    for tensor, source in zip(tensors, inputs, strict=True):
        assert_same(tensor, expected(SUM, source), False, f"coalesced all_reduce of {dtype}")
    inputs = [everyones(dtype, (world, *shape), seed) for seed, shape in enumerate(shapes)]
    outputs = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    with dist._coalescing_manager(async_ops=True) as manager:
        for output, source in zip(outputs, inputs, strict=True):
            scatter_tensor(output, source[rank].reshape(-1) if output.dim() == 0 else source[rank])
    manager.wait()
    for output, source in zip(outputs, inputs, strict=True):
        assert_same(output, expected(SUM, source)[rank], False, f"coalesced reduce_scatter of {dtype}")


def check_explicit_coalescing():
    """The manager with a device, which other backends than NCCL do not have."""
    world = dist.get_world_size()
    one, two = torch.ones(10), torch.ones(3, 3)
    with dist._coalescing_manager(device=torch.device("cpu")):
        dist.broadcast(one, 0)
        dist.reduce(two, 0)
    if dist.get_rank() == 0:
        assert_same(two, torch.full((3, 3), float(world)), True, "coalesced")


def check_sparse(dtype):
    """Ranks with different elements, with the same ones, with none; sparse and hybrid."""
    world, rank = dist.get_world_size(), dist.get_rank()
    for shape, dims in itertools.product([(7, 3), (5,)], [1, 2]):
        inputs = everyones(dtype, shape)
        for peer, dense in enumerate(inputs):
            dense[torch.arange(shape[0]) % (peer + 1) != 0] = 0
        inputs[-1] = inputs[-1] if world == 1 else torch.zeros_like(inputs[-1])
        for op in (SUM, AVG) if dtype.is_floating_point else (SUM,):
            tensor = inputs[rank].to_sparse(min(dims, len(shape)))
            dist.all_reduce(tensor, op)
            assert tensor.is_sparse
            assert_same(tensor.to_dense(), expected(op, inputs), False, f"sparse {op} of {dtype} {shape} {dims}")
            if op == SUM and world > 1:
                other = inputs[rank].to_sparse(min(dims, len(shape)))
                dist.all_reduce(other, group=gloo())
                assert_same(tensor.to_dense(), other.to_dense(), False, "gloo's")


def check_refusals():
    """What cannot be reduced is refused in words, before anything is sent."""
    integers, floats = torch.ones(3, dtype=torch.int64), torch.ones(3)
    cases = [
        (floats, dist.ReduceOp.BAND, "BAND is not supported. Use SUM"),
        (integers, dist.ReduceOp.BXOR, "BXOR is not supported"),
        (floats, dist._make_nccl_premul_sum(2.0), "PREMUL_SUM is not supported"),
        (integers, AVG, "mean of integers"),
        (integers.to(torch.uint16), MAX, r"Cast to torch.int64"),
        (floats.to(torch.float8_e5m2), SUM, r"Cast to torch.bfloat16"),
        (floats.bool(), AVG, "Cast to float"),
        (floats.to_sparse(), MAX, "of sparse tensors only SUM and AVG"),
    ]
    for tensor, op, words in cases:
        with pytest.raises(RuntimeError, match=words):
            dist.all_reduce(tensor, op)
    dist.all_reduce(floats)  # and nothing is out of step
    assert floats[0] == dist.get_world_size()


def check_large(dtype):
    """Larger than any chunk; the same bits on every rank."""
    rank = dist.get_rank()
    inputs = everyones(dtype, (1_500_001,))
    tensor = inputs[rank].clone()
    dist.all_reduce(tensor)
    assert_same(tensor, expected(SUM, inputs), False, f"{dtype}")
    digests = [None] * dist.get_world_size()
    dist.all_gather_object(digests, hash(tensor.view(torch.uint8).numpy().tobytes()))
    assert len(set(digests)) == 1 or not digests


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *UNSIGNED, *COMPLEX, torch.bool], ids=str)
def test_reductions_of_every_dtype(gang, dtype):
    for op in [op for supported, op in SUPPORTED if supported == dtype]:
        gang.run(check_all_reduce, dtype, op)
        gang.run(check_reduce, dtype, op)
        gang.run(check_reduce_scatter, dtype, op)
    gang.run(check_reduce_scatter_uneven, dtype)
    gang.run(check_coalesced, dtype)


def test_reduce_scatter_in_place(gang):
    gang.run(check_reduce_scatter_in_place)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
def test_sparse_tensors(gang, dtype):
    gang.run(check_sparse, dtype)


def test_coalescing_with_a_device(gang):
    gang.run(check_explicit_coalescing)


def test_what_cannot_be_reduced_is_refused(gang):
    gang.run(check_refusals)


def test_large_tensors(gang):
    gang.run(check_large, torch.float32)
    gang.run(check_large, torch.bfloat16)
