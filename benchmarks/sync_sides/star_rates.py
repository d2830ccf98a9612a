"""Bytes/s of synchronous servers beside predictions: how many servers are worth their hosts?

A model of a few layers whose arithmetic takes next to no time, so that a step takes what its exchange takes. Predicted
is the forest that servers stand for: as many stars as servers, each with its share of the data, first all inwards and
then all outwards, as no server hands out anything before all has come in. All-reduce is the forest that the workers
really use.

Beside them the same hosts as helpers of an all-reduce, which add up without keeping anything, where ranks do their part
as well (collective/algorithms/helper_hosts.py): the bare exchange of the same buckets. Its bound is BytePS's formula.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from common import console, summary, table

from manyhands.cluster import Cluster, preset
from manyhands.collective import Forest, Operation
from manyhands.collective.algorithms import ALGORITHMS
from manyhands.collective.cost import predict
from manyhands.lab import Lab
from manyhands.sync import choose_forest
from manyhands.sync.server.stars import Stars
from sync_sides import rank_fleets
from sync_sides.contest import spread
from sync_sides.star_rank import LAYER_BYTES

WORKERS = 4
SERVERS = (1, 2, 4)
BANDWIDTH = 12_500_000
LAYERS, QUICK_LAYERS = 16, 4
STEPS = 2
TOLERANCE = 0.15
_PORT = 29500


def measure(rounds: int, quick: bool) -> dict[str, Any]:
    """All-reduce and servers in turn, in one lab."""
    layers = QUICK_LAYERS if quick else LAYERS
    size = layers * LAYER_BYTES
    cluster = preset(f"star-{WORKERS + max(SERVERS)}:{BANDWIDTH // 1000}kB")
    plans: dict[str, dict[str, Any]] = {"allreduce": {"sync": "allreduce"}}
    plans |= {f"{k} servers": {"sync": f"server,servers={k}"} for k in SERVERS}
    plans |= {f"{k} helpers": {"helpers": k} for k in (0, *SERVERS)}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    world = len(cluster.ranks)
    with Lab(cluster) as lab, rank_fleets.fleet("ours", world, rank_fleets.on_hosts(lab, world, _PORT)) as ranks:
        for number in range(rounds):
            for name in list(plans)[:: -1 if number % 2 else 1]:
                order = plans[name] | {"workers": WORKERS, "layers": layers, "steps": STEPS}
                side = "helped" if "helpers" in order else "rate"
                answers = ranks.ask(side, name=f"{name}, {number}", **order)
                seconds[name].append(max(answer for answer in answers if answer is not None))
                console.print(f"{number + 1}/{rounds}, {name}: {seconds[name][-1]:.2f} s a step")
    rows = [_row(name, cluster, size, values) for name, values in seconds.items()]
    show(rows, size)
    worst = max(abs(row["error"]) for row in rows)
    return {
        "workers": WORKERS,
        "bytes": size,
        "bandwidth": BANDWIDTH,
        "rounds": rounds,
        "rows": rows,
        "worst_error": worst,
        "target_met": worst <= TOLERANCE,
        "servers_needed": {"push, then pull": _needed(sequential=True), "both at once": _needed(sequential=False)},
    }


def _row(name: str, cluster: Cluster, size: int, values: list[float]) -> dict[str, Any]:
    """Predicted is what the cost model says, the bound is by the bytes of the busiest link."""
    n, b = WORKERS, BANDWIDTH
    servers = int(name.split()[0]) if name.endswith("servers") else 0
    helpers = int(name.split()[0]) if name.endswith("helpers") else 0
    part = cluster.subset(cluster.ranks[: n + servers])
    if servers:
        predicted, bound = predicted_servers(part, servers, size), 2 * n * size / (servers * b)
    elif name.endswith("helpers"):
        predicted, bound = predicted_helpers(helpers, size), _helped_seconds(helpers, size)
    else:
        predicted, bound = predicted_all_reduce(part, size), 2 * (n - 1) * size / (n * b)
    row = {"side": name, "seconds": summary(values), "predicted_seconds": predicted, "bound_seconds": bound}
    median = row["seconds"]["median"]
    return row | {"rate": size / median, "error": predicted / median - 1}


def _helped_seconds(helpers: int, size: int) -> float:
    """BytePS's formula for helper hosts."""
    n = WORKERS
    return 2 * n * (n - 1) * size / ((n * n + helpers * n - 2 * helpers) * BANDWIDTH)


def predicted_servers(cluster: Cluster, servers: int, size: int) -> float:
    """All stars at once, inwards and then outwards."""
    stars = Stars(WORKERS + servers, WORKERS, cluster)
    operations: tuple[Operation, ...] = ("reduce", "broadcast")
    return sum(predict(_joined(stars, operation, servers), cluster, size).seconds for operation in operations)


def _joined(stars: Stars, operation: Operation, servers: int) -> Forest:
    forests = [stars.forest(operation, server) for server in range(servers)]
    trees = tuple(replace(tree, share=Fraction(1, servers)) for forest in forests for tree in forest.trees)
    return replace(forests[0], trees=trees)


def predicted_all_reduce(cluster: Cluster, size: int) -> float:
    """The forest that all-reduce takes, over this cluster's links."""
    forest, _ = choose_forest("auto", WORKERS, cluster)
    return predict(forest, cluster, size).seconds


def predicted_helpers(helpers: int, size: int) -> float:
    """The same hosts as helpers of an all-reduce, by the cost model."""
    cluster = preset(f"star-{WORKERS}+{helpers}:{BANDWIDTH // 1000}kB" if helpers else f"star-{WORKERS}:{BANDWIDTH}B")
    return predict(ALGORITHMS["helper_hosts"](cluster), cluster, size).seconds


def _needed(*, sequential: bool) -> int:
    """The least number of servers that move fewer bytes over their busiest link than all-reduce over its own."""
    n = WORKERS
    return next(k for k in range(1, 100 * n) if Fraction((1 + sequential) * n, k) < Fraction(2 * (n - 1), n))


def show(rows: list[dict[str, Any]], size: int) -> None:
    printed = [
        [
            row["side"],
            spread(row["seconds"], "{:.2f}"),
            f"{row['rate'] / 1e6:.2f}",
            f"{row['predicted_seconds']:.2f}",
            f"{row['error']:+.1%}",
            f"{row['bound_seconds']:.2f}",
        ]
        for row in rows
    ]
    columns = ["", "s a step", "MB/s", "predicted s", "error", "bound s"]
    table(f"{WORKERS} workers, {size / 1e6:.1f} MB, {BANDWIDTH / 1e6} MB/s a link", columns, printed)
