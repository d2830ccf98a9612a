"""The star: a parameter server, or several.

Problem: all-reduce in two hops, whatever n.
Idea: a root takes a share from everybody, adds it up and sends the sum back. One root is the classic parameter
server; with every rank a root of some share all links work, and on a full mesh this is the best there is. A rank with
share w sends and receives (1 + (n-2) w) M, so faster ranks take larger shares (`weights`).
Cost: 2 latency + max over ranks of (1 + (n-2) w) M / b; a single root: (n-1) M / b each way.
Source: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.routes import Routes, grow, members_of, parts, pick_root
from manyhands.collective.algorithms.weights import Load, shares
from manyhands.collective.forest import Forest, Operation
from manyhands.errors import UserError


def star(
    cluster: Cluster,
    operation: Operation = "all_reduce",
    *,
    root: str | None = None,
    roots: Sequence[str] | None = None,
    weights: Mapping[str, Fraction] | None = None,
) -> Forest:
    """One star per root.

    Args:
        root: of a broadcast or reduce, or the only root of an all-reduce. Default: all ranks are roots.
        roots: of an all-reduce.
        weights: the share of each root, 1 in sum. Default: what the bandwidth of the ranks asks for.

    Raises:
        UserError: roots that are not there, weights that do not sum to 1, ranks without a path between them.
    """
    members = members_of(cluster)
    if operation in ("broadcast", "reduce"):
        portions = {pick_root(cluster, root): Fraction(1)}
    elif operation == "all_reduce":
        chosen = [root] if root is not None else list(roots or (weights or members))
        portions = dict(weights) if weights is not None else _portions(cluster, [pick_root(cluster, r) for r in chosen])
        if sum(portions.values()) != 1 or min(portions.values()) < 0 or set(portions) != set(chosen):
            raise UserError("star: weights must be given for every root, not be negative and sum to 1.")
    else:
        portions = dict.fromkeys(members, Fraction(1, len(members)))
    routes = Routes(cluster)
    adds, hands_out = parts(operation)
    trees = []
    for centre, share in portions.items():
        if share:
            spokes = {name: centre for name in members if name != centre}
            trees.append(grow(routes, share, centre, up=spokes if adds else None, down=spokes if hands_out else None))
    return Forest("star", operation, members, tuple(trees))


def port(cluster: Cluster, name: str) -> int:
    """Bytes/s that a node can send or receive, whichever is less."""
    out = sum(link.bandwidth for link in cluster.links if link.source == name)
    into = sum(link.bandwidth for link in cluster.links if link.target == name)
    return min(out, into)


def _portions(cluster: Cluster, roots: Sequence[str]) -> dict[str, Fraction]:
    count = len(cluster.ranks)
    if count == 1 or len(roots) == 1:
        return {roots[0]: Fraction(1)}
    loads = [Load(1, count - 2, port(cluster, name)) for name in roots]
    if not all(load.bandwidth for load in loads):
        alone = roots[[bool(load.bandwidth) for load in loads].index(False)]
        raise UserError(f"cluster {cluster.name}: {alone} has no link in both directions, so it cannot be a root.")
    return dict(zip(roots, shares(loads), strict=True))
