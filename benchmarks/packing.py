"""What packing trees wins over rings, what it costs to plan, and how that grows.

On all 181 NVLink-connected subsets of 3 to 8 GPUs of a DGX-1V: the rate of the packing beside the best rings, beside
optimal reduce-scatter followed by optimal all-gather, with at most 8 trees, and with sums in the job's order. Then the
processor time to plan, by cluster and size, which it also draws as `docs/packing.svg`.

Rings: every ring over NVLinks is a column of a linear program that packs them as well as can be, in any fractions;
a hop between GPUs that are not neighbours passes through others where a subset has no ring of neighbours. `whole`
rings use whole NVLinks, as NCCL builds them. Both are kinder to rings than NCCL, which leaves NVLink for PCIe there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise, permutations

import numpy as np
from common import ROOT, arguments, console, machine, table, write_results
from scipy.optimize import Bounds, LinearConstraint, milp

from manyhands.cluster import Cluster
from manyhands.cluster.presets import preset
from manyhands.collective.packing import packed
from manyhands.collective.packing.network import network_of
from manyhands.collective.packing.spanning import pack_spanning
from manyhands.errors import UserError

DRAWING = ROOT / "docs" / "packing.svg"
Walk = tuple[str, ...]


def main() -> None:
    options = arguments(__doc__).parse_args()
    facts = machine()
    figures = {"subsets": subsets(options.quick), "seconds": growth(options.quick)}
    if not options.quick:
        DRAWING.write_text(drawing(figures["seconds"]))
    write_results("packing", options.quick, facts, figures)


def subsets(quick: bool) -> dict[str, object]:
    """Gains on the NVLink-connected subsets of a DGX-1V."""
    rows = [subset(cluster) for cluster in nvlink_subsets(4 if quick else 8)]
    names = {
        "ring": "best rings, any fractions",
        "whole_ring": "best rings of whole NVLinks",
        "apart": "reduce-scatter, then all-gather",
    }
    result: dict[str, object] = {"count": len(rows), "seconds": sum(row["seconds"] for row in rows)}
    printed = []
    for key, name in names.items():
        gains = [row["packed"] / row[key] for row in rows]
        result[key] = {
            "geometric_mean": geometric_mean(gains),
            "most": max(gains),
            "equal": sum(g < 1 + 1e-9 for g in gains),
        }
        printed.append(
            [name, f"{geometric_mean(gains):.3f}", f"{max(gains):.2f}", str(sum(g < 1 + 1e-9 for g in gains))]
        )
    table(f"{len(rows)} subsets: gain of the packing over", ["", "geometric mean", "most", "no gain"], printed)
    few = [row["few"] / row["packed"] for row in rows]
    prices = [row["canonical"] / row["packed"] for row in rows if row["canonical"]]
    result["eight_trees"] = {"least": min(few), "optimal": sum(ratio > 1 - 1e-9 for ratio in few)}
    result["trees"] = {"most": max(row["trees"] for row in rows)}
    result["canonical"] = {
        "possible": len(prices),
        "free": sum(price > 1 - 1e-9 for price in prices),
        "geometric_mean": geometric_mean(prices),
        "least": min(prices),
    }
    console.print(result["eight_trees"], result["trees"], result["canonical"])
    return result


def nvlink_subsets(most: int) -> Iterator[Cluster]:
    whole = preset("dgx1v")
    for size in range(3, most + 1):
        for ranks in combinations(whole.ranks, size):
            cluster = whole.subset(ranks, kinds=["nvlink"])
            reached = {ranks[0]}
            for _ in ranks:
                reached |= {target for source, target in cluster.capacity if source in reached}
            if len(reached) == size:
                yield cluster


def subset(cluster: Cluster) -> dict[str, float]:
    start = time.process_time()
    best = packed(cluster)
    seconds = time.process_time() - start
    assert best.certificate.exact
    apart = [packed(cluster, "reduce_scatter").certificate.rate, packed(cluster, "all_gather").certificate.rate]
    try:
        canonical = float(packed(cluster, canonical=True).certificate.rate)
    except UserError:
        canonical = 0.0
    return {
        "packed": float(best.certificate.rate),
        "trees": len(best.forest.trees),
        "seconds": seconds,
        "few": float(packed(cluster, max_trees=8).certificate.rate),
        "apart": float(1 / sum(1 / rate for rate in apart)),
        "ring": ring_rate(cluster, whole=False),
        "whole_ring": ring_rate(cluster, whole=True),
        "canonical": canonical,
    }


def ring_rate(cluster: Cluster, *, whole: bool) -> float:
    """All-reduce bytes/s of the best packing of rings: n / (2 (n - 1)) of the bandwidth of all rings together."""
    arcs = sorted(cluster.capacity)
    unit = min(cluster.capacity.values())
    loads = {tuple([list(pairwise(walk)).count(arc) for arc in arcs]) for walk in rings(cluster)}
    matrix = np.array(sorted(loads)).T
    widths = [cluster.capacity[arc] / unit for arc in arcs]
    solved = milp(
        -np.ones(matrix.shape[1]),
        constraints=LinearConstraint(matrix, ub=widths),
        integrality=np.full(matrix.shape[1], int(whole)),
        bounds=Bounds(lb=0),
    )
    count = len(cluster.ranks)
    return -float(solved.fun) * unit * count / (2 * (count - 1))


def rings(cluster: Cluster) -> Iterator[Walk]:
    """Closed walks through all ranks with the fewest hops: rings of neighbours, where there are any."""
    ways = shortest_walks(cluster)
    first, *others = cluster.ranks
    found: dict[int, list[Walk]] = {}
    for order in permutations(others):
        legs = list(pairwise((first, *order, first)))
        length = sum(len(ways[leg][0]) - 1 for leg in legs)
        if length > min(found, default=length):
            continue
        walks: list[Walk] = [(first,)]
        for leg in legs:
            walks = [(*walk, *way[1:]) for walk in walks for way in ways[leg]]
        found.setdefault(length, []).extend(walks)
    yield from found[min(found)]


def shortest_walks(cluster: Cluster) -> dict[tuple[str, str], list[Walk]]:
    ways: dict[tuple[str, str], list[Walk]] = {}
    for start in cluster.ranks:
        layer: list[Walk] = [(start,)]
        reached = {start}
        while layer:
            layer = [(*walk, v) for walk in layer for u, v in cluster.capacity if u == walk[-1] and v not in reached]
            for walk in layer:
                ways.setdefault((start, walk[-1]), []).append(walk)
            reached |= {walk[-1] for walk in layer}
    return ways


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def growth(quick: bool) -> dict[str, list[list[float]]]:
    """Processor seconds (of one thread) to plan an all-reduce, by number of ranks."""
    most = 2 if quick else 8
    boxes = [2**i for i in range(most)]
    families: dict[str, list[tuple[int, Callable[[], object]]]] = {
        "boxes of 8 A100, as `packed` does it": [(8 * k, lambda k=k: packed(a100(k))) for k in boxes],
        "boxes of 8 A100, as a whole": [
            (8 * k, lambda k=k: pack_spanning(network_of(a100(k)), "all_reduce", None)) for k in boxes if k <= 16
        ],
        "hosts at one switch": [(n, lambda n=n: packed(preset(f"star-{n}"))) for n in sizes(4, 128, quick)],
        "hosts in a full mesh": [(n, lambda n=n: packed(preset(f"mesh-{n}"))) for n in sizes(4, 32, quick)],
    }
    result: dict[str, list[list[float]]] = {}
    for name, tasks in families.items():
        for ranks, task in tasks:
            start = time.process_time()
            task()
            result.setdefault(name, []).append([ranks, time.process_time() - start])
            console.print(f"{name}: {ranks} ranks in {result[name][-1][1]:.3f} s")
    return result


def a100(boxes: int) -> Cluster:
    return preset("dgx-a100" if boxes == 1 else f"{boxes}x-dgx-a100")


def sizes(least: int, most: int, quick: bool) -> list[int]:
    return [2**i for i in range(2, 10) if least <= 2**i <= (8 if quick else most)]


def drawing(seconds: dict[str, list[list[float]]]) -> str:
    """Seconds over ranks, both logarithmic, as an SVG."""
    width, height, left, bottom, colours = 640, 400, 60, 50, ["#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce"]
    points = [point for line in seconds.values() for point in line]
    low, high = math.floor(math.log10(min(y for _, y in points))), math.ceil(math.log10(max(y for _, y in points)))
    most = math.log2(max(x for x, _ in points))

    def at(ranks: float, duration: float) -> tuple[float, float]:
        x = left + (math.log2(ranks) - 2) / (most - 2) * (width - left - 20)
        y = 20 + (high - math.log10(duration)) / (high - low) * (height - bottom - 20)
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 20 * len(seconds)}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for power in range(low, high + 1):
        y = at(4, 10.0**power)[1]
        parts.append(f'<path d="M{left} {y}H{width - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{10.0**power:g} s</text>')
    for power in range(2, round(most) + 1):
        x = at(2**power, 10.0**low)[0]
        parts.append(f'<text x="{x}" y="{height - bottom + 18}" text-anchor="middle">{2**power}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">ranks</text>')
    for index, (name, line) in enumerate(seconds.items()):
        where = [at(*point) for point in line]
        colour, y = colours[index], height + 20 * index + 4
        parts.append(
            f'<path d="M{" L".join(f"{x} {y}" for x, y in where)}" stroke="{colour}" fill="none" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in where]
        parts.append(f'<rect x="{left}" y="{y - 9}" width="14" height="3" fill="{colour}"/>')
        parts.append(f'<text x="{left + 22}" y="{y - 2}">{name.replace("`", "")}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    main()
