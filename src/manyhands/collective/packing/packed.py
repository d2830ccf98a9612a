"""The throughput-optimal packing of reduce and broadcast trees for any cluster, with a certificate."""

from __future__ import annotations

from dataclasses import dataclass

from manyhands.cluster import Cluster
from manyhands.collective.forest import Forest, Operation
from manyhands.collective.packing.certificate import Certificate, binding, describe
from manyhands.collective.packing.entries import forest_of
from manyhands.collective.packing.explicit import pack_any, pack_explicit, pack_few, pricing_of
from manyhands.collective.packing.network import Network, network_of
from manyhands.collective.packing.spanning import Packing
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
    best = pack_any(network, operation, index)
    if not best.rate:
        raise UserError(_unreachable(cluster, network, best))
    packing, price = best, None
    if canonical:
        packing = _canonical(cluster, network, operation, index, best)
        price = packing.rate / best.rate
    if max_trees is not None:
        packing = pack_few(network, operation, index, packing, max_trees, canonical=canonical)
    certificate = Certificate(
        rate=packing.rate * network.unit,
        bound=packing.bound * network.unit,
        cut=binding(cluster, network, operation, packing),
        exact=packing.rate == packing.bound,
        price=price,
    )
    return Packed(forest=forest_of(network, operation, packing.weights), certificate=certificate)


def _canonical(cluster: Cluster, network: Network, operation: Operation, root: int | None, best: Packing) -> Packing:
    if operation not in ("all_reduce", "reduce", "reduce_scatter"):
        return best  # nothing is added up
    pricing = pricing_of(network, operation, root, canonical=True)
    packing = pack_explicit(network, operation, root, pricing, ceiling=best)
    if packing is None:
        raise UserError(
            f"cluster {cluster.name}: no reduce tree can add in the order of the ranks, as ranks do not forward. "
            "Number the ranks so that neighbours in number are linked (0 with 1, then {0,1} with {2,3}, ...)."
        )
    return packing


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
