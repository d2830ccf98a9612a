"""Helper hosts: machines without data that add up for the others.

Problem: n ranks with links of bandwidth b are bound to 2(n-1)/n M / b; k idle machines could take work off them.
Idea: all ranks and all helpers are roots of stars. A helper with share w carries n w M each way, a rank
(1 + (n-2) w) M; equal loads give each helper 2(n-1) / (n^2 + kn - 2k) of the data and each rank
(n-k) / (n^2 + kn - 2k). For unequal links the same water is filled by bandwidth (`weights`). More than n helpers are of
no use: ranks then carry just M.
Cost: 2 latency + 2n(n-1) M / ((n^2 + kn - 2k) b); k = 0 is all-reduce at its optimum, k = n is M / b.
Source: Jiang et al., "A unified architecture for accelerating distributed DNN training in heterogeneous GPU/CPU
clusters" (BytePS), OSDI 2020.
"""

from __future__ import annotations

from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.routes import Routes, grow, members_of
from manyhands.collective.algorithms.star import port
from manyhands.collective.algorithms.weights import Load, shares
from manyhands.collective.forest import Forest, Operation, Tree
from manyhands.errors import UserError


def helper_hosts(cluster: Cluster, operation: Operation = "all_reduce", *, helpers: int | None = None) -> Forest:
    """Stars around ranks and helpers, with the shares that finish first.

    Args:
        helpers: how many of the cluster's helpers take part. Default: as many as there are, at most one per rank.

    Raises:
        UserError: another operation, more helpers than there are, nodes without a path between them.
    """
    if operation != "all_reduce":
        raise UserError(f"helper hosts only add up and send back, so they serve all_reduce, not {operation}. Use star.")
    members = members_of(cluster)
    able = [name for name in cluster.helpers if cluster.by_name[name].can_add and cluster.by_name[name].can_copy]
    count = min(len(able), len(members)) if helpers is None else helpers
    if not 0 <= count <= len(able):
        raise UserError(f"cluster {cluster.name} has {len(able)} helpers that can add and copy, not {count}.")
    if len(members) == 1:
        return Forest("helper_hosts", operation, members, (Tree(Fraction(1), members[0]),))
    n, routes = len(members), Routes(cluster)
    loads = {name: Load(1, n - 2, port(cluster, name)) for name in members}
    loads |= {name: Load(0, n, port(cluster, name)) for name in able[:count]}
    for name, load in loads.items():
        if not load.bandwidth:
            raise UserError(f"cluster {cluster.name}: {name} has no link in both directions, so it cannot be a root.")
    trees = []
    for centre, share in zip(loads, shares(list(loads.values())), strict=True):
        if share:
            spokes = {name: centre for name in members if name != centre}
            trees.append(grow(routes, share, centre, up=spokes, down=spokes))
    return Forest("helper_hosts", operation, members, tuple(trees))
