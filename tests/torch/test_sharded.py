"""FSDP2, hybrid sharding, DTensor, tensor parallelism and pipelines: the same numbers as over gloo."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch_gang import gloo


def ours(shape=None, names=None):
    return init_device_mesh("cpu", shape or (dist.get_world_size(),), mesh_dim_names=names)


def theirs():
    return DeviceMesh.from_group(gloo(), "cpu")


def theirs_2d():
    """Rows and columns of gloo's."""
    world = dist.get_world_size()
    inner, _ = dist.new_subgroups(2, backend="gloo")
    outer, _ = dist.new_subgroups_by_enumeration([list(range(c, world, 2)) for c in range(2)], backend="gloo")
    ranks = torch.arange(world).view(-1, 2)
    return DeviceMesh.from_group([outer, inner], "cpu", mesh=ranks, mesh_dim_names=("outer", "inner"))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width + 3)  # does not divide among the ranks
        self.down = nn.Linear(4 * width + 3, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def blocks(width=16, count=3):
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width) for _ in range(count)), nn.Linear(width, 5))


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def trained(mesh, steps=3, clip=True, **options):
    """Parameters and losses of a sharded model."""
    model = blocks()
    for block in model:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(dist.get_rank())
    losses = []
    for _ in range(steps):
        loss = model(torch.randn(4, 16, generator=generator)).float().square().mean()
        loss.backward()
        if clip:
            losses.append(full(nn.utils.clip_grad_norm_(model.parameters(), 1.0)).detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return [full(parameter).detach() for parameter in model.parameters()], losses


def assert_alike(first, second, tolerance=1e-5):
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.allclose(x, y, rtol=tolerance, atol=tolerance), (x, y)


def check_fsdp():
    for options in ({"reshard_after_forward": True}, {"reshard_after_forward": False}):
        assert_alike(trained(ours(), **options), trained(theirs(), **options))


def check_fsdp_mixed_precision():
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    assert_alike(trained(ours(), mp_policy=policy), trained(theirs(), mp_policy=policy), 2e-2)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    assert_alike(trained(ours(), mp_policy=policy), trained(theirs(), mp_policy=policy), 5e-2)


def check_fsdp_accumulates():
    """Gradients kept unsharded between micro-batches."""

    def train(mesh):
        model = blocks()
        fully_shard(model, mesh=mesh)
        for micro_batch in range(3):
            model.set_requires_gradient_sync(micro_batch == 2)
            model(torch.full((2, 16), float(dist.get_rank() + micro_batch))).square().mean().backward()
        return [[full(parameter.grad) for parameter in model.parameters()]]

    assert_alike(train(ours()), train(theirs()))


def check_hybrid_sharding():
    assert_alike(trained(ours((2, 2), ("outer", "inner"))), trained(theirs_2d()))


def check_tensors():
    """DTensors from each placement to each other, of sizes that do not divide."""
    world = dist.get_world_size()
    torch.manual_seed(1)
    value = torch.randn(2 * world + 1, 7)
    placements = [Shard(0), Shard(1), Replicate()]
    mesh = ours()
    for source in placements:
        for target in placements:
            tensor = distribute_tensor(value, mesh, [source]).redistribute(mesh, [target])
            assert torch.equal(tensor.full_tensor(), value), (source, target)
    left, right = distribute_tensor(value, mesh, [Shard(1)]), distribute_tensor(value.t(), mesh, [Shard(0)])
    product = left @ right
    assert product.placements == (Partial(),)
    assert torch.allclose(product.redistribute(mesh, [Shard(0)]).full_tensor(), value @ value.t(), atol=1e-5)


def check_tensor_parallel():
    def run(mesh):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
        if mesh is not None:
            parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        x = torch.linspace(-1, 1, 24).view(3, 8)
        loss = model(x).square().sum()
        loss.backward()
        return [[full(parameter.grad) for parameter in model.parameters()], [full(loss).detach()]]

    assert_alike(run(ours()), run(None))
    assert_alike(run(ours()), run(theirs()), 1e-6)


def check_tensor_parallel_and_fsdp():
    def run(mesh):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
        parallelize_module(model, mesh["inner"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model, mesh=mesh["outer"])
        loss = model(torch.linspace(-1, 1, 24).view(3, 8) + dist.get_rank() // 2).square().sum()
        loss.backward()
        return [[full(parameter.grad) for parameter in model.parameters()], [full(loss).detach()]]

    assert_alike(run(ours((2, 2), ("outer", "inner"))), run(theirs_2d()))


def check_pipeline():
    """GPipe and 1F1B, one stage a rank, against the whole model."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x, y = torch.linspace(-1, 1, 8 * 16).view(8, 16), torch.zeros(8, 16)
    for kind in (ScheduleGPipe, Schedule1F1B):
        torch.manual_seed(0)
        stages = [Block(16) for _ in range(world)]
        whole = nn.Sequential(*(Block(16) for _ in range(world)))
        whole.load_state_dict(nn.Sequential(*stages).state_dict())
        (4 * nn.functional.mse_loss(whole(x), y)).backward()
        stage = PipelineStage(stages[rank], rank, world, torch.device("cpu"))
        schedule = kind(stage, n_microbatches=4, loss_fn=nn.functional.mse_loss, scale_grads=False)
        if rank == 0:
            schedule.step(x)
        elif rank == world - 1:
            schedule.step(target=y)
        else:
            schedule.step()
        for mine, wanted in zip(stages[rank].parameters(), whole[rank].parameters(), strict=True):
            assert torch.allclose(mine.grad, wanted.grad, atol=1e-5), kind


@pytest.mark.parametrize("check", [check_fsdp, check_fsdp_mixed_precision, check_fsdp_accumulates])
def test_fsdp(pair, check):
    pair.run(check)


@pytest.mark.parametrize("check", [check_tensors, check_tensor_parallel, check_fsdp])
def test_three_ranks(server, check):
    server.gang(3).run(check)


@pytest.mark.parametrize("check", [check_hybrid_sharding, check_tensor_parallel_and_fsdp])
def test_meshes(four, check):
    four.run(check)


@pytest.mark.parametrize("world", [2, 3])
def test_pipelines(server, world):
    server.gang(world).run(check_pipeline)
