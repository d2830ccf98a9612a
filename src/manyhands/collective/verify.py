"""Proves that a forest computes what it says, and that the machines can carry it.

Problem: a wrong schedule gives wrong sums, silently.
Idea: walk each tree's edges in order. A node hands on its sum once and receives nothing after that, so no contribution
counts twice; whoever holds something and is not the root hands it on, so none is lost; hence the root ends with every
member's exactly once. Likewise everyone gets the result once, from someone who has it. Then every hop must be a
link of the cluster, and every node that adds or copies must be able to.
Cost: O(nodes) per tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.routes import parts
from manyhands.collective.forest import Edge, Forest, Tree

Rails = dict[tuple[str, str], list[str]]
"""The rails between neighbours."""


class InvalidForest(ValueError):
    """Names the tree, the node and what is wrong."""


def verify(forest: Forest, cluster: Cluster | None = None) -> None:
    """Check a forest, and with a cluster that its links and nodes can carry it.

    Raises:
        InvalidForest: what is wrong, and where.
    """
    if not forest.members or len(set(forest.members)) < len(forest.members):
        raise InvalidForest(f"{forest.algorithm}: members must be there and differ, not {list(forest.members)}")
    _check_shares(forest)
    _check_roots(forest)
    adds, hands_out = parts(forest.operation)
    rails = _rails(cluster) if cluster is not None else {}
    for index, tree in enumerate(forest.trees):
        where = f"{forest.algorithm}, tree {index} (root {tree.root})"
        if adds:
            _check_reduce(forest, tree, where)
        elif tree.reduce:
            raise InvalidForest(f"{where}: {forest.operation} does not add up, but it has reduce edges")
        if hands_out:
            _check_broadcast(forest, tree, where)
        elif tree.broadcast:
            raise InvalidForest(f"{where}: {forest.operation} does not hand out, but it has broadcast edges")
        if cluster is not None:
            _check_carried(forest, tree, cluster, rails, where)


def _check_shares(forest: Forest) -> None:
    for index, tree in enumerate(forest.trees):
        if tree.share <= 0:
            raise InvalidForest(f"{forest.algorithm}, tree {index}: its share is {tree.share}; leave it out instead")
    total = sum((tree.share for tree in forest.trees), Fraction(0))
    if total != 1:
        raise InvalidForest(f"{forest.algorithm}: the shares of its {len(forest.trees)} trees sum to {total}, not to 1")


def _check_roots(forest: Forest) -> None:
    """Check what the operation asks of the roots."""
    members, roots = forest.members, [tree.root for tree in forest.trees]
    if forest.operation in ("reduce_scatter", "all_gather"):
        for root in roots:
            if root not in members:
                raise InvalidForest(f"{forest.algorithm}: {root} is a root of {forest.operation}, but no member")
        if [forest.rank[root] for root in roots] != sorted(forest.rank[root] for root in roots):
            raise InvalidForest(
                f"{forest.algorithm}: trees of {forest.operation} must come in the order of their roots"
            )
        for member in members:
            total = sum((tree.share for tree in forest.trees if tree.root == member), Fraction(0))
            if total != Fraction(1, len(members)):
                raise InvalidForest(
                    f"{forest.algorithm}: the trees of {member} have {total} of the data; "
                    f"{forest.operation} wants 1/{len(members)} each"
                )
    elif forest.operation in ("broadcast", "reduce") and (len(set(roots)) != 1 or roots[0] not in members):
        raise InvalidForest(
            f"{forest.algorithm}: a {forest.operation} has one root, a member, not {sorted(set(roots))}"
        )


def _check_reduce(forest: Forest, tree: Tree, where: str) -> None:
    """Check an in-arborescence: every sum goes up once, complete, and the root ends with everything once."""
    holding = set(forest.members)
    sent: set[str] = set()
    for number, edge in enumerate(tree.reduce):
        at = f"{where}, reduce edge {number} ({edge.source} -> {edge.target})"
        if edge.source == edge.target:
            raise InvalidForest(f"{at}: leads from a node to itself")
        if edge.source == tree.root:
            raise InvalidForest(f"{at}: the root keeps its sum")
        if edge.source in sent:
            raise InvalidForest(f"{at}: {edge.source} has already handed on its sum, so it would count twice")
        if edge.target in sent:
            raise InvalidForest(f"{at}: comes after {edge.target} handed on its sum, so it would be lost")
        if edge.source not in holding:
            raise InvalidForest(f"{at}: {edge.source} has nothing to hand on")
        sent.add(edge.source)
        holding.add(edge.target)
    stuck = holding - sent - {tree.root}
    if stuck:
        raise InvalidForest(f"{where}: what {_some(stuck)} holds does not reach the root")


def _check_broadcast(forest: Forest, tree: Tree, where: str) -> None:
    """Check an out-arborescence: everyone gets the result once, from someone who has it."""
    has = {tree.root}
    for number, edge in enumerate(tree.broadcast):
        at = f"{where}, broadcast edge {number} ({edge.source} -> {edge.target})"
        if edge.source not in has:
            raise InvalidForest(f"{at}: {edge.source} does not have the result yet")
        if edge.target in has:
            raise InvalidForest(f"{at}: {edge.target} gets the result twice")
        has.add(edge.target)
    missing = set(forest.members) - has
    if missing:
        raise InvalidForest(f"{where}: the result does not reach {_some(missing)}")


def _check_carried(forest: Forest, tree: Tree, cluster: Cluster, rails: Rails, where: str) -> None:
    for edge in (*tree.reduce, *tree.broadcast):
        _check_links(edge, cluster, rails, f"{where}, edge {edge.source} -> {edge.target}")
    received = Counter(edge.target for edge in tree.reduce)
    copies = Counter(edge.source for edge in tree.broadcast)
    ends = (end for edge in (*tree.reduce, *tree.broadcast) for end in edge[:2])
    for name in dict.fromkeys((*forest.members, tree.root, *ends)):
        node = cluster.by_name.get(name)
        if node is None:
            raise InvalidForest(f"{where}: cluster {cluster.name} has no node {name}")
        member = name in forest.rank and forest.rank[name] < len(forest.members)
        if member and not node.holds_data:
            raise InvalidForest(f"{where}: {name} is a {node.kind}, which holds no data, but a member")
        if received[name] and not node.can_add:
            raise InvalidForest(f"{where}: {name} would have to add, but it is a {node.kind} that cannot")
        if copies[name] > (1 if member else 0) and not node.can_copy:
            raise InvalidForest(f"{where}: {name} would have to copy, but it is a {node.kind} that cannot")


def _check_links(edge: Edge, cluster: Cluster, rails: Rails, at: str) -> None:
    stops = (edge.source, *edge.via, edge.target)
    if len(set(stops)) < len(stops):
        raise InvalidForest(f"{at}: passes a node twice")
    for first, (source, target) in enumerate(pairwise(stops)):
        if (source, target) not in rails:
            raise InvalidForest(f"{at}: cluster {cluster.name} has no link {source} -> {target}")
        there = rails[source, target]
        if first == 0 and edge.rail not in there and (edge.rail or len(there) > 1):
            known = ", ".join(repr(rail) for rail in there)
            raise InvalidForest(f"{at}: the link {source} -> {target} has no rail {edge.rail!r}, but {known}")


def _rails(cluster: Cluster) -> Rails:
    rails: Rails = {}
    for link in cluster.links:
        rails.setdefault((link.source, link.target), []).append(link.rail)
    return rails


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
