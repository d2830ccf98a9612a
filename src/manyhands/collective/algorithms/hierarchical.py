"""Two levels: first inside every group, then between the groups.

Problem: links inside a host are tens of times faster than those between hosts, so data should leave a host once.
Idea: every rank is the root of one share. In each group the share is added up at the rank in the root's place (its
lane), the lanes' sums go around a ring over the groups, and the result goes back the same way. All ranks of a host use
their own way out at the same time, and each share crosses a group's border once. Inside, ranks that reach each other
without a relay exchange directly; otherwise along a chain through the group.
Cost for G groups of g: about 2 (G-1) latency + 2 (G-1)/(G g) M / b_out per lane, and 2 (g-1)/g M / b_in inside.
Source: Cho et al., "BlueConnect", MLSys 2019; Jia et al., "Highly scalable deep learning training system with
mixed-precision" (hierarchical all-reduce), 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.ring_order import ring_order
from manyhands.collective.algorithms.routes import Routes, grow, members_of, parts, pick_root
from manyhands.collective.forest import Forest, Operation, Tree
from manyhands.errors import UserError


def hierarchical(
    cluster: Cluster,
    operation: Operation = "all_reduce",
    *,
    root: str | None = None,
    groups: Sequence[Sequence[str]] | None = None,
) -> Forest:
    """A ring over groups of ranks that are joined more closely.

    Args:
        root: of a broadcast or reduce. Default: the first rank.
        groups: every rank in one of them. Default: the ranks of each host.

    Raises:
        UserError: groups that leave out or repeat a rank, ranks without a path between them.
    """
    members = members_of(cluster)
    given = [tuple(group) for group in groups] if groups is not None else by_host(cluster)
    if sorted(name for group in given for name in group) != sorted(members) or not all(given):
        raise UserError(f"hierarchical: every rank must be in exactly one group. Ranks: {', '.join(members)}.")
    routes = Routes(cluster)
    inside = [_order_inside(routes, group) for group in given]
    if operation in ("broadcast", "reduce"):
        start = pick_root(cluster, root)
        lanes = max(len(group) for group in inside)
        trees = [_tree(routes, inside, start, lane, Fraction(1, lanes), operation) for lane in range(lanes)]
    else:
        lane_of = {name: lane for group in inside for lane, name in enumerate(group)}
        share = Fraction(1, len(members))
        trees = [_tree(routes, inside, name, lane_of[name], share, operation) for name in members]
    return Forest("hierarchical", operation, members, tuple(trees))


def by_host(cluster: Cluster) -> list[tuple[str, ...]]:
    """The ranks of each host; a rank without one is a host of its own."""
    hosts: dict[str, list[str]] = {}
    for name in cluster.ranks:
        hosts.setdefault(cluster.by_name[name].host or name, []).append(name)
    return [tuple(names) for names in hosts.values()]


def _tree(
    routes: Routes, groups: list[tuple[str, ...]], root: str, lane: int, share: Fraction, operation: Operation
) -> Tree:
    """The share of one root: groups in a line that ends (adding up) or begins (handing out) with the root's."""
    home = next(index for index, group in enumerate(groups) if root in group)
    line = [*groups[home:], *groups[:home]]
    doors = [group[lane % len(group)] for group in line]
    # A root that is not in its lane's place (broadcast, reduce) sends through the rank that is.
    up = {door: doors[(at + 1) % len(doors)] for at, door in enumerate(doors) if at > 0}
    down = {door: doors[at] for at, door in enumerate(doors[1:])}
    for at, group in enumerate(line):
        up |= _inside(routes, group, root if at == 0 else doors[at], towards=True)
        down |= _inside(routes, group, root if at == 0 else doors[at], towards=False)
    adds, hands_out = parts(operation)
    return grow(routes, share, root, up=up if adds else None, down=down if hands_out else None)


def _inside(routes: Routes, group: tuple[str, ...], centre: str, *, towards: bool) -> dict[str, str]:
    """The parents of all but the centre within a group."""
    if _all_direct(routes, group):
        return {name: centre for name in group if name != centre}
    at = group.index(centre)
    line = [*group[at:], *group[:at]]
    if towards:
        return {name: line[(i + 1) % len(line)] for i, name in enumerate(line) if i > 0}
    return {name: line[i] for i, name in enumerate(line[1:])}


def _all_direct(routes: Routes, group: tuple[str, ...]) -> bool:
    return all(routes.between(a, b).relays == 0 for a in group for b in group if a != b)


def _order_inside(routes: Routes, group: tuple[str, ...]) -> tuple[str, ...]:
    """The given order, so that lanes match between groups, unless the group must go along a chain."""
    return group if _all_direct(routes, group) else ring_order(routes, group)
