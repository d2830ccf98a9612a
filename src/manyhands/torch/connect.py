"""How a process group gets its transport: from the store that its ranks share, and the cluster if one is given."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch.distributed as dist

from manyhands.cluster import Cluster, read_cluster
from manyhands.errors import UsageError
from manyhands.torch.backend import ProcessGroup
from manyhands.torch.errors import ArgumentError
from manyhands.transport.group import Group

if TYPE_CHECKING:
    from torch._C._distributed_c10d import _DistributedBackendOptions

CLUSTER = "MANYHANDS_CLUSTER"
"""The environment variable that names a cluster file, or a preset."""

log = logging.getLogger("manyhands")


def create(options: _DistributedBackendOptions, group_options: object) -> ProcessGroup:
    """What `init_process_group` and `new_group` call on every rank of the group.

    Raises:
        ArgumentError: `group_options`, of which there are none.
        UsageError: a cluster file that does not fit the ranks.
    """
    if group_options is not None:
        raise ArgumentError(f"The backend manyhands takes no pg_options, was given {group_options!r}. Leave them out.")
    store, rank, world = options.store, options.group_rank, options.group_size
    ranks = list(options.global_ranks_in_group)  # empty: this is the default group, of all ranks
    group = Group.connect(
        store,
        rank,
        world,
        name=name(store, options.group_id, world),
        timeout=options.timeout.total_seconds(),
        cluster=cluster_of(ranks or list(range(world)), dist.get_world_size() if ranks else world),
    )
    if not ranks and rank == 0:
        log.info("%s", group.description)
    return ProcessGroup(rank, world, group)


def name(store: dist.Store, group_id: str, world: int) -> str:
    """The group's name, with how often it was made before: after `destroy_process_group` PyTorch counts from 0 again,
    and in a store that outlived it the addresses of the former group are still to be read."""
    arrivals = store.add("arrivals", 1)
    return f"{group_id}.{(arrivals - 1) // world}"


def cluster_of(ranks: list[int], world: int) -> Cluster | None:
    """The given cluster as far as these ranks are concerned; None if none is given.

    Raises:
        UsageError: it has not one device or host for each rank.
    """
    file = os.environ.get(CLUSTER)
    if not file:
        return None
    cluster = read_cluster(file)
    if len(cluster.ranks) != world:
        raise UsageError(
            f"{CLUSTER}={file}: cluster {cluster.name} has {len(cluster.ranks)} devices and hosts, but there are "
            f"{world} ranks. Start one rank for each, or unset {CLUSTER} to have the links measured."
        )
    return cluster.subset(cluster.ranks[rank] for rank in ranks)
