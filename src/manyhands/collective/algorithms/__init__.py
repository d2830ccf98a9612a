"""Algorithms by name: each a pure function from a cluster to a forest."""

from __future__ import annotations

from collections.abc import Callable

from manyhands.collective.algorithms.bidirectional_ring import bidirectional_ring
from manyhands.collective.algorithms.double_binary_tree import double_binary_tree
from manyhands.collective.algorithms.halving_doubling import halving_doubling
from manyhands.collective.algorithms.helper_hosts import helper_hosts
from manyhands.collective.algorithms.hierarchical import hierarchical
from manyhands.collective.algorithms.ring import ring
from manyhands.collective.algorithms.star import star
from manyhands.collective.forest import Forest

ALGORITHMS: dict[str, Callable[..., Forest]] = {
    "ring": ring,
    "bidirectional_ring": bidirectional_ring,
    "double_binary_tree": double_binary_tree,
    "star": star,
    "hierarchical": hierarchical,
    "halving_doubling": halving_doubling,
    "helper_hosts": helper_hosts,
}
"""`algorithm(cluster, operation="all_reduce", ...)`; those that can take a `root` say so."""

ALIASES = {
    "tree": "double_binary_tree",
    "parameter_server": "star",
    "helpers": "helper_hosts",
    "two_level": "hierarchical",
}
"""Other names in use."""

__all__ = [
    "ALGORITHMS",
    "ALIASES",
    "bidirectional_ring",
    "double_binary_tree",
    "halving_doubling",
    "helper_hosts",
    "hierarchical",
    "ring",
    "star",
]
