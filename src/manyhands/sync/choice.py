"""Which forest workers sum their gradients with, and why."""

from __future__ import annotations

from manyhands.cluster import Cluster, Link, Node
from manyhands.collective import Forest
from manyhands.transport.planner import direct, names

_MEMORY_RATE = 10 * 10**9
"""Bytes/s from one worker to another through memory: only its being the same everywhere matters."""
_SIZE = 4 << 20
"""Bytes: a bucket (layout.py), by which forests over unequal links are compared."""


def choose_forest(name: str, world: int, cluster: Cluster | None = None) -> tuple[Forest, str]:
    """The forest for an algorithm's name (`manyhands.plan.Collective`), and the reason in words.

    Args:
        cluster: the links between the workers' hosts, the same text on every rank; None: all are on this one.
    """
    if name == "auto" and cluster is not None:
        from manyhands.collective.choose import choose

        choice = choose(cluster, _SIZE, canonical=True)
        return choice.forest, f"auto: {choice.reason}"
    members = names(world) if cluster is None else tuple(cluster.ranks)
    if name in ("auto", "direct"):
        forest = direct(members)("all_reduce", 1 << 30, 0)
        why = "through shared memory every worker reaches every other: each adds up its share and hands it out"
        return forest, f"direct: {why}" if name == "direct" else f"auto: direct, since {why}"
    cluster = cluster or _shared_memory(members)
    if name == "packed":
        from manyhands.collective.packing import packed  # and with it SciPy's solvers, a second of imports

        result = packed(cluster)
        return result.forest, f"packed, as asked for: {len(result.forest.trees)} trees"
    from manyhands.collective.algorithms import ALGORITHMS, ALIASES

    forest = ALGORITHMS[ALIASES.get(name, name)](cluster)
    return forest, f"{name}, as asked for: {len(forest.trees)} trees"


def _shared_memory(members: tuple[str, ...]) -> Cluster:
    links = [
        Link(source=a, target=b, bandwidth=_MEMORY_RATE, latency=5e-6, kind="memory")
        for a in members
        for b in members
        if a != b
    ]
    nodes = tuple(Node(name=name, kind="host", host="this") for name in members)
    return Cluster(name="shared memory", nodes=nodes, links=tuple(links))
