"""Meshes over a group of one's own: what torch builds on them works without its default process group, or beside it."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import distributed_c10d as c10d
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch_gang import MEMBER, Gang

WORLD = 2


@pytest.fixture(scope="module")
def gang(server):
    gang = Gang(server, WORLD, init=False)
    yield gang
    gang.close()


def own_mesh(name):
    from manyhands.torch.mesh import GroupMesh
    from manyhands.transport import Group

    store = dist.FileStore(f"{MEMBER['folder']}/{name}", WORLD)
    return GroupMesh(name, Group.connect(store, MEMBER["rank"], WORLD, name=name), "cpu", (3, 5))


def a_world_of_ones_own():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def trained(mesh, between=lambda: None):
    """A model's parameters and the last loss, sharded over the mesh (None: not sharded)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    if mesh is not None:
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(3):
        optimizer.zero_grad()
        loss = model(torch.arange(20.0).view(4, 5) / 20 + step).square().mean()
        loss.backward()
        optimizer.step()
        between()
    whole = [getattr(param, "full_tensor", lambda p=param: p)() for param in model.parameters()]
    return [param.tolist() for param in whole], loss.item()


def sharded_without_a_default_group():
    mesh = own_mesh("alone")
    assert trained(mesh) == trained(None)
    assert not dist.is_initialized()
    mesh.close()
    return "same"


def sharded_beside_worlds_that_come_and_go():
    mesh = own_mesh("beside")

    def another():
        if dist.is_initialized():
            dist.destroy_process_group()
        a_world_of_ones_own()

    assert trained(mesh, another) == trained(None)
    mesh.close()
    assert dist.get_world_size() == 1  # closing the mesh is nothing to it
    total = torch.ones(1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    return float(total)


def distributed_tensors():
    mesh = own_mesh("tensors")
    a_world_of_ones_own()  # where this process is rank 0, whatever it is in the mesh
    whole = torch.arange(12.0).view(6, 2)
    rows = distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)
    assert rows.to_local().tolist() == whole.chunk(2)[MEMBER["rank"]].tolist()
    dist.destroy_process_group()
    columns = rows.redistribute(placements=[Shard(1)])
    assert columns.to_local().tolist() == whole[:, MEMBER["rank"] : MEMBER["rank"] + 1].tolist()
    product = (rows.T @ rows).redistribute(placements=[Replicate()]).to_local()
    assert product.tolist() == (whole.T @ whole).tolist()
    assert mesh.get_rank() == (3, 5)[MEMBER["rank"]]
    assert mesh.get_local_rank() == MEMBER["rank"] == next(iter(mesh.get_coordinate()))
    mesh.close()
    return "same"


def nothing_is_left_of_a_closed_mesh():
    before = dict(c10d._world.pg_map)
    mesh = own_mesh("closed")
    (name,) = mesh._dim_group_names
    assert c10d._resolve_process_group(name) is mesh.get_group()
    mesh.close()
    mesh.close()
    with pytest.raises(RuntimeError, match=r"[Cc]ould not"):
        c10d._resolve_process_group(name)
    with pytest.raises(RuntimeError, match=r"manyhands\.closed is closed"):
        mesh.get_group()
    assert dict(c10d._world.pg_map) == before
    return "nothing"


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (sharded_without_a_default_group, "same"),
        (sharded_beside_worlds_that_come_and_go, 1.0),
        (distributed_tensors, "same"),
        (nothing_is_left_of_a_closed_mesh, "nothing"),
    ],
)
def test_meshes_of_groups_of_ones_own(check, expected, gang):
    assert gang.run(check) == [expected] * WORLD
