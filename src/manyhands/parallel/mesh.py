"""The gang as a mesh: pipeline ranks x replicas x tensor shards, with a group along each dimension.

A generation of a split run has processes of its own, so its groups are made once and end with it. They are made through
the gang's group (transport/parts.py), and torch's default process group is left to the job (torch/mesh.py).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from manyhands.plan import DIMENSIONS, Dimension, Layout
from manyhands.torch.mesh import GroupMesh
from manyhands.transport import Group, part


class Mesh:
    """This worker's place in the mesh. There is a group along every dimension that has more than one place.

    Args:
        layout: the mesh's shape.
        gang: all workers.
        device: this worker's.

    Attributes:
        stage_rank, replica, shard: this worker's coordinates.

    Raises:
        PeerLostError: another worker is gone.
    """

    def __init__(self, layout: Layout, gang: Group, device: torch.device) -> None:
        self.layout, self.gang, self.device = layout, gang, device
        self.rank = gang.rank
        self.stage_rank, self.replica, self.shard = layout.coordinates(gang.rank)
        self._along: dict[Dimension, GroupMesh] = {}
        try:
            for dimension in DIMENSIONS:
                peers = layout.peers(gang.rank, dimension)
                if len(peers) > 1:
                    group = part(gang, peers, dimension)
                    self._along[dimension] = GroupMesh(dimension, group, device.type, peers)
        except BaseException:
            self.close()
            raise

    def along(self, dimension: Dimension) -> DeviceMesh:
        """The one-dimensional mesh of this worker's peers."""
        return self._along[dimension]

    def process_group(self, dimension: Dimension) -> dist.ProcessGroup:
        return self._along[dimension].get_group()

    def group(self, dimension: Dimension) -> Group:
        """The transport's group of this worker's peers along a dimension."""
        return self._along[dimension].get_group().transport

    @property
    def speaks(self) -> bool:
        """Whether this worker is the one, of those that hold the same part of the model, that hands it over."""
        return self.replica == 0 and self.shard == 0

    def close(self) -> None:
        for mesh in self._along.values():
            mesh.close()
