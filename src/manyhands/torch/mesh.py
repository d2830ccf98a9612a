"""A mesh of devices over a group of our own, beside torch's default process group.

Problem: torch makes a `DeviceMesh`, which FSDP2 and DTensor want, from the default process group, and makes that one if
there is none. But it belongs to the job, which may use `torch.distributed` itself, in a world with other ranks.

Idea: torch finds a mesh's group by its name in a table of C++, for which no default group is needed; the mesh itself
is asked who this rank is. So there is a mesh class that answers from its own group, and puts the group back into that
table when it is asked for it: a job that destroys its process groups clears the table.

This is the only module that relies on private names for it: `DeviceMesh(_init_backend=False, _rank=...)`,
`DeviceMesh._dim_group_names` and `_coordinate_on_dim`; `_register_process_group`, `_resolve_process_group` and
`_unregister_process_group` of `distributed_c10d`; and what a `P2POp` holds. They are the same in torch 2.11 to 2.13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d
from torch.distributed.device_mesh import DeviceMesh

from manyhands.torch.backend import ProcessGroup
from manyhands.transport.group import Group

_open: dict[str, ProcessGroup] = {}
"""Groups of meshes, by name. Meshes have only the name, so that they can be copied as torch's can."""


class GroupMesh(DeviceMesh):
    """A mesh of one dimension, of the ranks of a group. The default process group plays no part in it.

    What asks torch for a rank in the group, as `distribute_tensor` does to send from one rank to the others, still
    needs a mesh of torch's own; say `src_data_rank=None` there.

    Args:
        dimension: the name of its dimension. A process has one open mesh of a name.
        group: the transport between the ranks. The mesh closes it.
        device_type: of all ranks.
        ranks: what the group's ranks are called in the mesh, ascending. Default: 0, 1, ...
    """

    def __init__(self, dimension: str, group: Group, device_type: str, ranks: Sequence[int] | None = None) -> None:
        process_group = ProcessGroup(group.rank, group.world, group)
        self._group_name = f"manyhands.{dimension}"
        process_group.setGroupName(self._group_name)
        process_group.setGroupDesc(f"mesh_{dimension}")
        _open[self._group_name] = process_group
        _enter(process_group)
        ranks = range(group.world) if ranks is None else ranks
        super().__init__(
            device_type,
            torch.tensor(list(ranks), dtype=torch.int),
            mesh_dim_names=(dimension,),
            _init_backend=False,
            _rank=ranks[group.rank],
        )

    @property
    def _dim_group_names(self) -> list[str]:  # type: ignore[override]
        """What functional collectives look their group up by."""
        if self._group_name in _open:
            _enter(_open[self._group_name])
        return [self._group_name]

    def get_group(self, mesh_dim: int | str | None = None) -> ProcessGroup:  # type: ignore[override]
        """The process group of all ranks.

        Raises:
            RuntimeError: the mesh is closed.
        """
        if self._group_name not in _open:
            raise RuntimeError(f"{self._group_name} is closed: its process group was asked for afterwards")
        _enter(_open[self._group_name])
        return _open[self._group_name]

    def get_all_groups(self) -> list[dist.ProcessGroup]:
        return [self.get_group()]

    def get_rank(self) -> int:
        """What this rank is called in the mesh."""
        return self._rank

    def get_local_rank(self, mesh_dim: int | str | None = None) -> int:
        """This rank's place in the mesh."""
        return self.get_group().rank()

    def close(self) -> None:
        """Close the group, and take it from torch's table. May be called twice."""
        process_group = _open.pop(self._group_name, None)
        if process_group is not None:
            if _entered(self._group_name) is process_group:
                c10d._unregister_process_group(self._group_name)  # type: ignore[attr-defined]
            process_group.shutdown()


class PeerOp(dist.P2POp):
    """A send or receive for `batch_isend_irecv`, whose peer is known by its rank in the group and by nothing else."""

    def __init__(
        self, op: Callable[..., Any], tensor: Tensor, *, group: dist.ProcessGroup, group_peer: int, tag: int
    ) -> None:
        self.op, self.tensor, self.group, self.tag = op, tensor, group, tag
        self.peer = self.group_peer = group_peer

    def __repr__(self) -> str:
        return f"PeerOp({self.op.__name__}, rank {self.group_peer} of {self.group.group_name}, tag {self.tag})"


def _enter(process_group: ProcessGroup) -> None:
    """See to it that torch finds the group by its name."""
    if _entered(process_group.getGroupName()) is not process_group:
        c10d._register_process_group(process_group.getGroupName(), process_group)  # type: ignore[attr-defined]


def _entered(name: str) -> dist.ProcessGroup | None:
    try:
        return c10d._resolve_process_group(name)  # type: ignore[attr-defined]
    except RuntimeError:
        return None
