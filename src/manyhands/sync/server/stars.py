"""How a bucket travels to its server and back: stars, over the links that there are."""

from __future__ import annotations

from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective import Edge, Forest, Operation, Tree
from manyhands.collective.algorithms.routes import Routes
from manyhands.collective.algorithms.star import port
from manyhands.transport.planner import names


class Stars:
    """The forests of a gang whose first `workers` ranks have data and whose others are servers.

    Args:
        cluster: the links between them, one node per rank; None if they are on one host.
    """

    def __init__(self, world: int, workers: int, cluster: Cluster | None) -> None:
        self._members = tuple(cluster.ranks) if cluster else names(world)
        self._workers, self._cluster = workers, cluster
        self._routes = Routes(cluster) if cluster else None

    def weights(self) -> list[float]:
        """The servers' bandwidths, in bytes/s; all the same on one host."""
        servers = self._members[self._workers :]
        return [float(port(self._cluster, name)) if self._cluster else 1.0 for name in servers]

    def forest(self, operation: Operation, server: int) -> Forest:
        """`reduce`: all workers' data to the server; `broadcast`: the server's to all workers; `all_reduce`: both."""
        root, workers = self._members[self._workers + server], self._members[: self._workers]
        first = server * len(workers) // max(1, len(self._members) - len(workers))
        turned = (*workers[first:], *workers[:first])  # so that no worker is asked by all servers at once
        to_root = tuple(self._edge(worker, root) for worker in turned)
        from_root = tuple(self._edge(root, worker) for worker in turned)
        tree = Tree(
            Fraction(1),
            root,
            to_root if operation != "broadcast" else (),
            from_root if operation != "reduce" else (),
        )
        return Forest("servers", operation, self._members, (tree,))

    def _edge(self, source: str, target: str) -> Edge:
        return self._routes.edge(source, target) if self._routes else Edge(source, target)
