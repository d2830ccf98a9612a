"""Functional collectives, eager and traced, and distributed checkpoints."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.checkpoint as checkpoint
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch_gang import gloo


def everything(x, group):
    """Each functional collective once; all results."""
    world = dist.get_world_size()
    results = [functional.all_reduce(x, op, group) for op in ("sum", "max", "avg", "min", "product")]
    results.append(functional.all_gather_tensor(x, 0, group))
    results.append(functional.all_gather_tensor(x, 1, group))
    results.append(functional.reduce_scatter_tensor(x.repeat(world, 1), "sum", 0, group))
    results += functional.all_reduce_coalesced([x, x + 1], "sum", group)
    results += functional.all_gather_into_tensor_coalesced([x, x + 1], group)
    results += functional.reduce_scatter_tensor_coalesced([x.repeat(world, 1)], "sum", [0], group)
    results.append(functional.all_to_all_single(x.repeat(world, 1), None, None, group))
    results.append(functional.broadcast(x, 0, group))
    return [result * 1 for result in results]


def check_eager():
    x = torch.arange(12.0).view(3, 4) + dist.get_rank()
    wanted = everything(x.clone(), gloo()) if dist.get_world_size() else []
    for actual, expected in zip(everything(x, dist.group.WORLD), wanted, strict=True):
        assert torch.allclose(actual, expected)


def check_autograd():
    """all_to_all, all_gather and reduce_scatter have derivatives."""

    def run(group):
        x = (torch.arange(8.0).view(4, 2) + dist.get_rank()).requires_grad_()
        y = functional.all_gather_tensor_autograd(x * 2, 0, group)
        z = functional.reduce_scatter_tensor_autograd(y.sin(), "sum", 0, group)
        rows = [4 // dist.get_world_size()] * dist.get_world_size()
        w = functional.all_to_all_single_autograd(z, rows, rows, group)
        w.square().sum().backward()
        return x.grad

    assert torch.allclose(run(dist.group.WORLD), run(gloo()))


def check_compiled():
    x = torch.arange(12.0).view(3, 4) + dist.get_rank()

    def step(x):
        total = functional.all_reduce(x * 2, "sum", dist.group.WORLD)
        return functional.all_gather_tensor(total.relu(), 0, dist.group.WORLD) + 1

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        assert torch.equal(compiled(x), step(x))
    torch._dynamo.reset()


def check_compiled_collectives():
    """dist.* in a traced function becomes functional."""

    def step(x):
        y = x * 2
        dist.all_reduce(y)
        return y + 1

    x = torch.ones(3) + dist.get_rank()
    assert torch.equal(torch.compile(step, backend="aot_eager", fullgraph=True)(x), step(x))
    torch._dynamo.reset()


def model_and_optimizer(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2, 7)).sum().backward()
    optimizer.step()
    return model, optimizer


def check_checkpoint(path):
    """Saved sharded, loaded into another model; planned by collectives of objects."""
    model, optimizer = model_and_optimizer(seed=0)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    checkpoint.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=path)
    other, other_optimizer = model_and_optimizer(seed=1)
    other_state, other_optimizer_state = get_state_dict(other, other_optimizer)
    checkpoint.load({"model": other_state, "optimizer": other_optimizer_state}, checkpoint_id=path)
    set_state_dict(other, other_optimizer, model_state_dict=other_state, optim_state_dict=other_optimizer_state)
    for mine, loaded in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.full_tensor(), loaded.full_tensor())
        for name in ("exp_avg", "exp_avg_sq"):
            first, second = optimizer.state[mine][name], other_optimizer.state[loaded][name]
            assert torch.equal(first.full_tensor(), second.full_tensor())


def check_asynchronous_checkpoint(path):
    model, _ = model_and_optimizer(seed=0)
    state = {"model": model.state_dict()}
    checkpoint.async_save(state, checkpoint_id=path).result()
    other, _ = model_and_optimizer(seed=1)
    loaded = {"model": other.state_dict()}
    checkpoint.load(loaded, checkpoint_id=path)
    for name, tensor in state["model"].items():
        assert torch.equal(tensor.full_tensor(), loaded["model"][name].full_tensor())


def test_functional_collectives(gang):
    gang.run(check_eager)


def test_derivatives(pair):
    pair.run(check_autograd)


@pytest.mark.parametrize("check", [check_checkpoint, check_asynchronous_checkpoint])
@pytest.mark.parametrize("world", [2, 3])
def test_checkpoints(server, tmp_path, world, check):
    server.gang(world).run(check, str(tmp_path / "checkpoint"))


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_compiled, check_compiled_collectives])
def test_traced(pair, check):
    pair.run(check)
