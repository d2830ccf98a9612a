"""The page that shows how a collective travels: a packing beside a ring, over the links that there are.

One drawing per forest on the same scale, so that what a schedule leaves unused can be seen; then every tree of the
first one by itself. Pointing at a tree, or at a strand, leaves only that tree lit.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from manyhands.cluster import Cluster
from manyhands.collective.algorithms.ring_order import ring_order
from manyhands.collective.algorithms.routes import Routes
from manyhands.collective.cost import Cost, format_rate, predict
from manyhands.collective.forest import Forest
from manyhands.collective.loads import rate
from manyhands.report.chart import duration
from manyhands.report.page import page, section, table
from manyhands.report.topology import COLOURS, SIDE, Point, draw, draw_tree, place_nodes, strands

MOST_TREES = 12
"""Trees that are drawn by themselves."""
SIZE = 16 * 2**20
"""Bytes that the captions speak of."""


@dataclass(frozen=True)
class _Shown:
    """A forest and what there is to say about it."""

    forest: Forest
    flow: Fraction
    cost: Cost

    @property
    def idle(self) -> str:
        if not self.cost.idle:
            return f"all {self.cost.links} links at work"
        return f"{self.cost.idle} of {self.cost.links} links idle"


def forest_page(
    cluster: Cluster, forests: Sequence[Forest], *, bound: Fraction | None = None, cut: str = "", size: int = SIZE
) -> str:
    """The page that shows how forests travel: one HTML file without anything from elsewhere.

    Args:
        forests: at least one; all of the same operation on this cluster.
        bound: no forest has a greater rate.
        cut: why, in words.
        size: bytes that predicted times are for.
    """
    shown = [_Shown(forest, rate(forest, cluster), predict(forest, cluster, size)) for forest in forests]
    places = place_nodes(cluster, ring_order(Routes(cluster), cluster.ranks))
    first = shown[0]
    operation = first.forest.operation.replace("_", "-")
    title = f"{operation.capitalize()} on {cluster.name}"
    lead = (
        "Every direction of a link is a pale track as wide as its bandwidth, filled with what flows over it. One "
        "colour is one tree; lighter strands hand out. Dashed links carry nothing. Traffic keeps to the right."
    )
    panels = "".join(_panel(cluster, item, places, size) for item in shown)
    body = (
        f"<style>{_STYLE}{_colours()}</style>"
        f'<header><p class="over">{_ranks(cluster)}, {len(cluster.links)} links</p>'
        f"<h1>{html.escape(title)}</h1>"
        f"{_bound(bound, cut, first)}</header>"
        + section("links", _heading(shown), lead, f'<div class="panels">{panels}</div>')
        + _trees(cluster, first, places)
        + f"<script>{_SCRIPT}</script>"
    )
    return page(f"{title}: {first.forest.algorithm}", body)


def forest_svg(cluster: Cluster, forests: Sequence[Forest], *, size: int = SIZE) -> str:
    """The drawings alone, side by side, as one SVG file that follows light and dark."""
    shown = [_Shown(forest, rate(forest, cluster), predict(forest, cluster, size)) for forest in forests]
    places = place_nodes(cluster, ring_order(Routes(cluster), cluster.ranks))
    parts = []
    for index, item in enumerate(shown):
        drawing = draw(cluster, places, strands(item.forest, cluster, item.flow), item.forest.algorithm)
        name = item.forest.algorithm.replace("_", " ")
        caption = f"{format_rate(item.flow)} · {duration(item.cost.seconds)} for {_bytes(size)} · {item.idle}"
        parts.append(
            f'<g transform="translate({index * (SIDE + 20)} 0)"><text class="name" x="{SIDE / 2}" y="28">{name}</text>'
            f'<svg y="34" width="{SIDE}" height="{SIDE}">{drawing}</svg>'
            f'<text class="caption" x="{SIDE / 2}" y="{SIDE + 58}">{html.escape(caption)}</text></g>'
        )
    width, height = len(shown) * (SIDE + 20) - 20, SIDE + 80
    frame = f'<rect width="{width}" height="{height}" rx="12" class="frame"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{_ALONE}{_STYLE}{_colours()}</style>{frame}{''.join(parts)}</svg>\n"
    )


def _ranks(cluster: Cluster) -> str:
    names = ", ".join(cluster.ranks) if len(cluster.ranks) <= 8 else f"{cluster.ranks[0]} to {cluster.ranks[-1]}"
    return html.escape(f"{len(cluster.ranks)} ranks: {names}")


def _heading(shown: Sequence[_Shown]) -> str:
    names = [item.forest.algorithm.replace("_", " ") for item in shown]
    gain = float(shown[0].flow / shown[1].flow) if len(shown) > 1 else 1.0
    words = f"{names[0]}, {gain:.3g} times the {names[1]}" if gain > 1.001 else " and ".join(names)
    return words[0].upper() + words[1:]


def _bound(bound: Fraction | None, cut: str, first: _Shown) -> str:
    if bound is None:
        return ""
    reached = "reaches it" if first.flow == bound else f"reaches {float(first.flow / bound):.1%} of it"
    words = f" What binds it: {cut}." if cut else ""
    name = first.forest.algorithm.replace("_", " ")
    return (
        f'<p class="lead">No schedule moves more than {format_rate(bound)}; {name} {reached}.{html.escape(words)}</p>'
    )


def _panel(cluster: Cluster, item: _Shown, places: dict[str, Point], size: int) -> str:
    name = item.forest.algorithm.replace("_", " ")
    carried = strands(item.forest, cluster, item.flow)
    label = f"{name} over the links of {cluster.name}: {format_rate(item.flow)}, {item.idle}"
    caption = (
        f"<b>{html.escape(name)}</b> {format_rate(item.flow)} · {duration(item.cost.seconds)} for {_bytes(size)}"
        f'<br><span class="{"waste" if item.cost.idle else "full"}">{item.idle}</span>'
    )
    return f"<figure>{draw(cluster, places, carried, label)}<figcaption>{caption}</figcaption></figure>"


def _trees(cluster: Cluster, item: _Shown, places: dict[str, Point]) -> str:
    """Every tree by itself, and all of them in words."""
    figures, rows = [], []
    for index, tree in enumerate(item.forest.trees):
        share = f"{float(tree.share):.1%}" if tree.share.denominator > 40 else str(tree.share)
        key = f'<i class="t{index % COLOURS}"></i>'
        if index < MOST_TREES:
            drawing = draw_tree(cluster, places, tree, index, f"tree {index}, rooted at {tree.root}")
            words = f"<figcaption>{key}{share} of the data, root {html.escape(tree.root)}</figcaption>"
            figures.append(f'<figure class="tree" data-tree="{index}">{drawing}{words}</figure>')
        rows.append([f"{key}{index}", share, html.escape(tree.root), _edges(tree.reduce), _edges(tree.broadcast)])
    more = f" The first {MOST_TREES} of {len(rows)} are drawn." if len(rows) > MOST_TREES else ""
    lead = f"Each takes its share of the data to its root and back on its own way.{more}"
    listed = table("Trees", ["tree", "share", "root", "adds up along", "hands out along"], rows, "forest")
    return section("trees", "The trees", lead, f'<div class="small-panels">{"".join(figures)}</div>{listed}')


def _edges(edges: Sequence[tuple]) -> str:
    words = []
    for source, target, via, rail in edges:
        through = f" via {', '.join(via)}" if via else ""
        words.append(f"{source} → {target}{through}{f' on {rail}' if rail else ''}")
    return html.escape(", ".join(words)) or "-"


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


_LIGHT = ("#2a78d6", "#eb6834", "#1baf7a", "#6a50c7", "#eda100", "#d5518f", "#0e8fa8", "#7a8b1f", "#9a5b2e", "#b3261e")
_DARK = ("#4b96ee", "#f0803f", "#2fc48d", "#9b8cf2", "#e0a01c", "#ea78ab", "#3fb6cc", "#a9bc4a", "#c8895a", "#ff8a80")


def _colours() -> str:
    def sheet(colours: Sequence[str]) -> str:
        return "".join(f"--t{index}:{colour};" for index, colour in enumerate(colours))

    rules = "".join(f".t{index}{{--tree:var(--t{index})}}" for index in range(COLOURS))
    return f":root{{{sheet(_LIGHT)}}}@media (prefers-color-scheme:dark){{:root{{{sheet(_DARK)}}}}}{rules}"


_STYLE = """
header .lead{margin:10px 0 0;font-size:16px}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:8px 28px}
.small-panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:12px 16px;margin-bottom:12px}
figure{margin:0}figcaption{text-align:center;font-size:15px;color:var(--soft)}figcaption b{color:var(--ink)}
figure.tree{border-radius:10px;padding:6px 6px 10px}figure.tree figcaption{font-size:13px}
figcaption .waste{color:var(--warn)}figcaption .full{color:var(--good)}
figcaption i,.forest td>i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px;
background:var(--tree)}
.topology{display:block;width:100%;height:auto;overflow:visible}
.topology line{fill:none}
.topology .track{stroke:var(--ink);stroke-opacity:.09}
.topology .idle{stroke:var(--soft);stroke-opacity:.5;stroke-width:1.4;stroke-dasharray:4 4}
.topology .strand{stroke:var(--tree)}.topology .down{stroke-opacity:.55}
.topology .head{fill:var(--tree);stroke:var(--card);stroke-width:1.2}
.topology .way{fill:var(--card);stroke:var(--ink);stroke-opacity:.5;stroke-width:.7}
.topology .faint{stroke:var(--ink);stroke-opacity:.13;stroke-width:1}
.topology g[data-tree]{transition:opacity .12s}
.topology .node{fill:var(--card);stroke:var(--ink);stroke-width:1.8}
.topology .switch{stroke-opacity:.45;stroke-width:1.3}.topology .helper{stroke-dasharray:3 2}
.topology .root{fill:var(--tree);stroke:var(--tree)}
.topology .root+text{fill:var(--card)}
.topology text{fill:var(--ink);text-anchor:middle;font-size:16px;font-weight:600;pointer-events:none}
.topology text.small{font-size:11px;font-weight:550}
.lit .topology g[data-tree]:not(.on){opacity:.08}
.lit figure.tree:not(.on){opacity:.35}
.forest td{font-size:13px}.forest td:nth-child(-n+3){white-space:nowrap}
"""

# What the page's own style sheet gives the drawings otherwise.
_ALONE = """
:root{--card:#fff;--ink:#1b1d20;--soft:#585d65;--line:#e3e4e6}
@media (prefers-color-scheme:dark){:root{--card:#1a1c1f;--ink:#ecedee;--soft:#a6abb3;--line:#2f3237}}
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink);text-anchor:middle}
.name{font-size:18px;font-weight:640}.caption{font-size:14.5px;fill:var(--soft)}
.frame{fill:var(--card);stroke:var(--line)}
"""

_SCRIPT = """
'use strict';
{
  const main = document.querySelector('main'), shared = document.querySelector('.panels figure');
  function light(tree) {
    main.classList.toggle('lit', tree !== null);
    document.querySelectorAll('[data-tree]').forEach(mark => {
      const ours = shared.contains(mark) || mark.closest('#trees');
      mark.classList.toggle('on', tree !== null && (!ours || mark.dataset.tree === tree));
    });
  }
  document.querySelectorAll('.panels figure:first-child, #trees .small-panels').forEach(place => {
    place.addEventListener('pointerover', event => {
      const mark = event.target.closest('[data-tree]');
      light(mark ? mark.dataset.tree : null);
    });
    place.addEventListener('pointerleave', () => light(null));
  });
}
"""
