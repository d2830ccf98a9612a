"""The gang as a mesh: pipeline ranks x replicas x tensor shards, with a process group along each dimension.

A generation of a split run has processes of its own, so its groups are made once and end with it.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import manyhands.torch  # noqa: F401 the backend
from manyhands.plan import DIMENSIONS, Layout
from manyhands.torch.backend import ProcessGroup
from manyhands.transport import Group


class Mesh:
    """This worker's place.

    Args:
        layout: the mesh's shape.
        gang: all workers.
        device: this worker's.

    Attributes:
        stage_rank, replica, shard: this worker's coordinates.
    """

    def __init__(self, layout: Layout, gang: Group, device: torch.device) -> None:
        self.layout, self.gang = layout, gang
        self.rank = gang.rank
        self.stage_rank, self.replica, self.shard = layout.coordinates(gang.rank)
        dist.init_process_group("manyhands", store=_store(gang), rank=gang.rank, world_size=gang.world)
        shape = (layout.pp, layout.dp, layout.tp)
        self._mesh = init_device_mesh(device.type, shape, mesh_dim_names=DIMENSIONS)
        gang.barrier().result()  # the store is rank 0's: it may go, on a refusal, as soon as nobody looks anything up

    def along(self, dimension: str) -> DeviceMesh:
        """The one-dimensional mesh of this worker's peers."""
        return self._mesh[dimension]

    def process_group(self, dimension: str) -> dist.ProcessGroup:
        return self._mesh.get_group(dimension)

    def group(self, dimension: str) -> Group:
        """The transport's group of these peers."""
        group = self.process_group(dimension)
        assert isinstance(group, ProcessGroup)
        return group.transport

    @property
    def speaks(self) -> bool:
        """Whether this worker is the one, of those that hold the same part of the model, that hands it over."""
        return self.replica == 0 and self.shard == 0

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def _store(gang: Group) -> dist.Store:
    """A store of this generation's own: a former one's addresses would lead astray."""
    mine: dist.TCPStore | None = None
    if gang.rank == 0:
        mine = dist.TCPStore("127.0.0.1", 0, gang.world, is_master=True, wait_for_workers=False)
    port = int(gang.all_gather_bytes(str(mine.port if mine else 0).encode())[0])
    return mine or dist.TCPStore("127.0.0.1", port, gang.world, is_master=False)
