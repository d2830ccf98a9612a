"""A cluster as a drawing: where its nodes stand, and how much each link carries.

Ranks and helpers stand on a circle, in an order in which a ring would visit them, so that close ones are neighbours; a
switch stands in the middle of what it joins. Traffic keeps to the right, so the two directions of a cable lie side by
side. Every direction is a pale track as wide as its bandwidth, filled with a strand for each tree that uses it, as wide
as what flows: what stays pale is not used. Links that carry nothing are dashed.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from manyhands.cluster import Cluster, Link
from manyhands.collective.cost import format_rate
from manyhands.collective.forest import Forest, Tree
from manyhands.collective.loads import Wire, shares_of

SIDE = 480
"""Side of the square drawing, in its own units."""
COLOURS = 10
"""Colours of trees; those beyond take the same ones again."""
_RADIUS = 190


class Point(NamedTuple):
    x: float
    y: float


@dataclass(frozen=True)
class Strand:
    """What one tree sends over one link."""

    tree: int
    adds: bool
    part: float
    """The part of the link's bandwidth."""


def place_nodes(cluster: Cluster, order: Sequence[str]) -> dict[str, Point]:
    """A place for every node; `order` are the ranks around the circle."""
    around = [*order, *cluster.helpers]
    middle = SIDE / 2
    # Four nodes make an upright square and eight an octagon with level sides.
    turn = -math.pi / 2 - (math.pi / len(around) if len(around) % 2 == 0 else 0)
    places = {
        name: Point(
            middle + _RADIUS * math.cos(turn + 2 * math.pi * index / len(around)),
            middle + _RADIUS * math.sin(turn + 2 * math.pi * index / len(around)),
        )
        for index, name in enumerate(around)
    }
    rest = [node.name for node in cluster.nodes if node.name not in places]
    neighbours: dict[str, set[str]] = {name: set() for name in rest}
    for link in cluster.links:
        for end, other in ((link.source, link.target), (link.target, link.source)):
            if end in neighbours:
                neighbours[end].add(other)
    places |= dict.fromkeys(rest, Point(middle, middle))
    for _ in range(60):  # the middle of the neighbours, some of which are switches themselves
        for name in rest:
            near = [places[other] for other in neighbours[name]]
            if len(near) < 2:  # what hangs on one node stands inwards of it
                near.append(Point(middle, middle))
            places[name] = Point(sum(p.x for p in near) / len(near), sum(p.y for p in near) / len(near))
    _part(places, rest)
    return places


def _part(places: dict[str, Point], names: Sequence[str]) -> None:
    """Set nodes that would stand in the same place around it."""
    left = list(names)
    while left:
        here = places[left[0]]
        together = [name for name in left if math.dist(places[name], here) < 30]
        left = [name for name in left if name not in together]
        for index, name in enumerate(together if len(together) > 1 else []):
            angle = 2 * math.pi * index / len(together)
            places[name] = Point(here.x + 72 * math.cos(angle), here.y + 72 * math.sin(angle))


def strands(forest: Forest, cluster: Cluster, flow: Fraction) -> dict[Wire, list[Strand]]:
    """What every link carries when the data flows at `flow` bytes/s."""
    width = {(link.source, link.target, link.rail): link.bandwidth for link in cluster.links}
    together: dict[Wire, dict[tuple[int, bool], float]] = {}
    for share in shares_of(forest, cluster):
        parts = together.setdefault(share.wire, {})
        key = (share.tree, share.adds)
        parts[key] = parts.get(key, 0.0) + float(share.amount * flow / width[share.wire])
    return {wire: [Strand(*key, part) for key, part in parts.items()] for wire, parts in together.items()}


def draw(cluster: Cluster, places: Mapping[str, Point], carried: Mapping[Wire, Sequence[Strand]], label: str) -> str:
    """What all trees together do with the links, as an SVG element.

    Args:
        carried: what lies on each link; links that are left out carry nothing.
        label: what it shows, for those who cannot see it.
    """
    thickest = max((link.bandwidth for link in cluster.links), default=1)
    unit, radius = _sizes(cluster)
    taken: dict[tuple[str, str], float] = {}
    idle, busy = [], []
    for link in cluster.links:
        wire = (link.source, link.target, link.rail)
        track = max(2.0, unit * link.bandwidth / thickest)
        offset = taken.get(wire[:2], 1.0)
        taken[wire[:2]] = offset + track + 1
        ends = _shortened(places[link.source], places[link.target], radius + 1)
        if wire in carried:
            busy.append(_track(link, ends, offset, track, carried[wire]))
        else:
            idle.append(_idle(link, ends, offset + track / 2))
    nodes = [_node(cluster, name, point, radius, None) for name, point in places.items()]
    return _frame([*idle, *busy, *nodes], places, radius, label)


def draw_tree(cluster: Cluster, places: Mapping[str, Point], tree: Tree, index: int, label: str) -> str:
    """One tree by itself: to its root on solid lines, from it on lighter ones, other links as thin lines."""
    _, radius = _sizes(cluster)
    ends = {
        wire[:2]: (places[wire[0]], places[wire[1]]) for wire in ((link.source, link.target) for link in cluster.links)
    }
    lines = [_line(_shortened(*pair, radius), "faint", 0) for pair in ends.values()]
    seen: dict[tuple[str, str], int] = {}
    for adds, edges in ((True, tree.reduce), (False, tree.broadcast)):
        for edge in edges:
            for hop in pairwise((edge.source, *edge.via, edge.target)):
                level = seen[hop] = seen.get(hop, -1) + 1
                line = _beside(_shortened(*ends[hop], radius + 2), 3 + 5 * min(level, 3))
                kind = f"strand t{index % COLOURS} {'up' if adds else 'down'}"
                title = f"{edge.source} → {edge.target}, {'adding up' if adds else 'handing out'}"
                lines.append(_line(line, kind, 3.5, title) + _arrow(line, 7.5, f"head t{index % COLOURS}"))
    marks = {tree.root: index}
    nodes = [_node(cluster, name, point, radius, marks.get(name)) for name, point in places.items()]
    return _frame([*lines, *nodes], places, radius, label)


def _sizes(cluster: Cluster) -> tuple[float, float]:
    """The width of the widest track, and the radius of a node: smaller where there are many."""
    ranks = max(1, len(cluster.ranks) + len(cluster.helpers))
    return min(15.0, max(5.0, 75 / ranks)), min(19.0, max(8.0, 150 / ranks))


def _frame(parts: Sequence[str], places: Mapping[str, Point], radius: float, label: str) -> str:
    top = min(point.y for point in places.values()) - radius - 4
    height = max(point.y for point in places.values()) + radius + 4 - top
    return (
        f'<svg class="topology" viewBox="0 {top:.0f} {SIDE} {height:.0f}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _shortened(a: Point, b: Point, by: float) -> tuple[Point, Point]:
    length = math.dist(a, b) or 1.0
    x, y = (b.x - a.x) / length * by, (b.y - a.y) / length * by
    return Point(a.x + x, a.y + y), Point(b.x - x, b.y - y)


def _beside(ends: tuple[Point, Point], offset: float) -> tuple[Point, Point]:
    """The line moved to the right, seen in its direction."""
    a, b = ends
    length = math.dist(a, b) or 1.0
    x, y = -(b.y - a.y) / length * offset, (b.x - a.x) / length * offset
    return Point(a.x + x, a.y + y), Point(b.x + x, b.y + y)


def _line(ends: tuple[Point, Point], kind: str, width: float, title: str = "") -> str:
    (a, b), inner = ends, f"<title>{html.escape(title)}</title>" if title else ""
    style = f' stroke-width="{width:.2f}"' if width else ""
    place = f'x1="{a.x:.1f}" y1="{a.y:.1f}" x2="{b.x:.1f}" y2="{b.y:.1f}"'
    return f'<line class="{kind}" {place}{style}>{inner}</line>'


def _name(link: Link) -> str:
    return f"{link.source} → {link.target}" + (f" ({link.rail})" if link.rail else "")


def _idle(link: Link, ends: tuple[Point, Point], offset: float) -> str:
    return _line(_beside(ends, offset), "idle", 0, f"{_name(link)}: idle, {format_rate(link.bandwidth)} unused")


def _track(link: Link, ends: tuple[Point, Point], offset: float, track: float, carried: Sequence[Strand]) -> str:
    used = sum(strand.part for strand in carried)
    words = f"{_name(link)}: {format_rate(used * link.bandwidth)} of {format_rate(link.bandwidth)}"
    parts = [_line(_beside(ends, offset + track / 2), "track", track, words)]
    inner = offset
    for strand in sorted(carried, key=lambda strand: (strand.tree, not strand.adds)):
        width = strand.part * track
        what = "adding up" if strand.adds else "handing out"
        kind = f"strand t{strand.tree % COLOURS} {'up' if strand.adds else 'down'}"
        title = f"tree {strand.tree}, {what}: {format_rate(strand.part * link.bandwidth)}. {words}"
        line = _line(_beside(ends, inner + width / 2), kind, width, title)
        parts.append(f'<g data-tree="{strand.tree}">{line}</g>')
        inner += width
    parts.append(_arrow(_beside(ends, offset + used * track / 2), max(3.0, 0.55 * used * track), "way"))
    return "".join(parts)


def _arrow(ends: tuple[Point, Point], size: float, kind: str) -> str:
    """A head two thirds of the way, where those of the two directions do not meet."""
    (a, b), length = ends, math.dist(*ends) or 1.0
    x, y = (b.x - a.x) / length, (b.y - a.y) / length
    tip = Point(a.x + (b.x - a.x) * 0.66 + x * size, a.y + (b.y - a.y) * 0.66 + y * size)
    back = Point(tip.x - 1.6 * size * x, tip.y - 1.6 * size * y)
    sides = [Point(back.x + side * size * y, back.y - side * size * x) for side in (-0.75, 0.75)]
    points = " ".join(f"{point.x:.1f},{point.y:.1f}" for point in (tip, *sides))
    return f'<polygon class="{kind}" points="{points}"/>'


def _node(cluster: Cluster, name: str, point: Point, radius: float, tree: int | None) -> str:
    node = cluster.by_name[name]
    mark = f" root t{tree % COLOURS}" if tree is not None else ""
    at, text = f'cx="{point.x:.1f}" cy="{point.y:.1f}"', _short(cluster, name)
    if node.holds_data:
        shape = f'<circle class="node{mark}" {at} r="{radius:.1f}"/>'
    else:
        wide, high = max(24.0, 7 * len(text) + 10), 22
        place = f'x="{point.x - wide / 2:.1f}" y="{point.y - high / 2:.1f}" width="{wide:.1f}" height="{high}"'
        shape = f'<rect class="node {node.kind}{mark}" {place} rx="6"/>'
    small = "" if node.holds_data and len(text) <= 3 and radius >= 13 else ' class="small"'
    return (
        f"<g><title>{html.escape(f'{name}, a {node.kind}')}</title>{shape}"
        f'<text x="{point.x:.1f}" y="{point.y:.1f}" dy="0.35em"{small}>{html.escape(text)}</text></g>'
    )


def _short(cluster: Cluster, name: str) -> str:
    """What fits into a circle: the number of a rank where numbers tell ranks apart; for others, the name."""
    if not cluster.by_name[name].holds_data:
        return name if len(name) <= 12 else name[:11] + "…"
    numbers = {"".join(filter(str.isdigit, rank)) for rank in cluster.ranks}
    number = "".join(filter(str.isdigit, name))
    return number if number and len(numbers) == len(cluster.ranks) else name[:5]
