"""The throughput-optimal packing of reduce and broadcast trees for any cluster, with a certificate."""

from __future__ import annotations

from dataclasses import dataclass

from manyhands.cluster import Cluster
from manyhands.collective.forest import Forest, Operation
from manyhands.collective.packing.certificate import Certificate, describe
from manyhands.collective.packing.entries import forest_of
from manyhands.collective.packing.network import Network, network_of
from manyhands.collective.packing.spanning import Packing, pack_spanning
from manyhands.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A forest and what it promises."""

    forest: Forest
    certificate: Certificate


def packed(
    cluster: Cluster,
    operation: Operation = "all_reduce",
    *,
    root: str | None = None,
    max_trees: int | None = None,
    canonical: bool = False,
) -> Packed:
    """Pack trees into a cluster's links so that as many bytes/s as possible are reduced, handed out, or both.

    Args:
        cluster: every rank takes part. Switches forward; they add or copy only if the cluster says so.
        operation: what the forest does.
        root: of `broadcast` and `reduce`.
        max_trees: at most so many trees, at some cost in rate.
        canonical: only reduce trees whose sums are nodes of the aligned binary tree over the ranks.

    Raises:
        UserError: fewer than two ranks; no root, or a wrong one; a rank that cannot be reached; too few trees.
    """
    network = network_of(cluster)
    index = _root(cluster, operation, root)
    packing = pack_spanning(network, operation, index)
    if not packing.rate:
        raise UserError(_unreachable(cluster, network, packing))
    certificate = Certificate(
        rate=packing.rate * network.unit,
        bound=packing.bound * network.unit,
        cut=describe(cluster, network, packing.cuts, mirrored=operation == "all_reduce" and network.is_duplex),
        exact=packing.rate == packing.bound,
    )
    return Packed(forest=forest_of(network, operation, packing.weights), certificate=certificate)


def _root(cluster: Cluster, operation: Operation, root: str | None) -> int | None:
    if operation not in ("broadcast", "reduce"):
        if root is not None:
            raise UserError(f"packed({operation}) takes no root; only broadcast and reduce have one.")
        return None
    if root not in cluster.ranks:
        raise UserError(f"packed({operation}) needs a root among {', '.join(cluster.ranks)}; it was given {root}.")
    return cluster.ranks.index(root)


def _unreachable(cluster: Cluster, network: Network, packing: Packing) -> str:
    words = describe(cluster, network, packing.cuts, mirrored=False)
    return f"cluster {cluster.name} is not connected ({words}): add the missing links, or leave those nodes out."
