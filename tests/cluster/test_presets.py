"""The presets reproduce the published figures of the machines they stand for."""

from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import pytest

from manyhands.cluster import Cluster, parse_bandwidth, preset
from manyhands.errors import UserError

LANE = 23 * 10**9


def partition_bound(cluster: Cluster) -> Fraction:
    """min over partitions P of the ranks of c(P) / (|P| - 1), by trying them all."""
    ranks, capacity = cluster.ranks, cluster.capacity
    best = None
    for blocks in partitions(list(ranks)):
        if len(blocks) > 1:
            block_of = {rank: index for index, block in enumerate(blocks) for rank in block}
            crossing = sum(c for (a, b), c in capacity.items() if a < b and block_of[a] != block_of[b])
            bound = Fraction(crossing, len(blocks) - 1)
            best = bound if best is None else min(best, bound)
    return best


def partitions(items: list) -> list[list[list]]:
    if not items:
        return [[]]
    found = []
    for rest in partitions(items[1:]):
        found.append([[items[0]], *rest])
        found += [[*rest[:i], [items[0], *rest[i]], *rest[i + 1 :]] for i in range(len(rest))]
    return found


def test_dgx1v_reproduces_the_published_rates():
    whole = preset("dgx1v").subset([f"gpu{i}" for i in range(8)], kinds=["nvlink"])
    assert partition_bound(whole) == Fraction(24, 7) * LANE
    assert round(partition_bound(whole) / 10**9, 1) == Fraction("78.9")
    triangle = preset("dgx1v").subset(["gpu0", "gpu1", "gpu2"], kinds=["nvlink"])
    assert partition_bound(triangle) == 46 * 10**9


def test_dgx1v_is_the_hybrid_cube_mesh():
    cluster = preset("dgx1v")
    lanes = {(link.source, link.target): link.bandwidth // LANE for link in cluster.links if link.kind == "nvlink"}
    assert all(lanes[a, b] == lanes[b, a] for a, b in lanes)
    assert Counter(a for (a, _), count in lanes.items() for _ in range(count)) == {f"gpu{i}": 6 for i in range(8)}
    for quad in (range(4), range(4, 8)):
        assert all((f"gpu{a}", f"gpu{b}") in lanes for a, b in combinations(quad, 2))
    connected = [
        subset
        for size in range(3, 9)
        for subset in combinations(cluster.ranks, size)
        if is_connected(cluster.subset(subset, kinds=["nvlink"]))
    ]
    assert len(connected) == 181
    assert is_connected(cluster.subset(cluster.ranks, kinds=["pcie", "qpi"]))


def is_connected(cluster: Cluster) -> bool:
    reached, front = {cluster.nodes[0].name}, [cluster.nodes[0].name]
    while front:
        source = front.pop()
        for target in {link.target for link in cluster.links if link.source == source} - reached:
            reached.add(target)
            front.append(target)
    return reached == set(cluster.by_name)


@pytest.mark.parametrize(("boxes", "gather"), [(2, "346.7"), (4, "266.7")])
def test_dgx_a100_reproduces_the_published_rates(boxes, gather):
    """M/N * max |S| / B+(S) over cuts; GPUs of a box are alike, so how many of each box says which."""
    cluster = preset(f"{boxes}x-dgx-a100")
    count = 8 * boxes
    assert len(cluster.ranks) == count
    switches = [node.name for node in cluster.nodes if node.kind == "switch"]
    worst = Fraction(0)
    for taken in product((0, 1, 7, 8), repeat=boxes):
        inside = {f"gpu{8 * box + i}" for box, many in enumerate(taken) for i in range(many)}
        if len(inside) in (0, count):
            continue
        for sides in product((False, True), repeat=len(switches)):
            cut = inside | {switch for switch, is_in in zip(switches, sides, strict=True) if is_in}
            leaving = sum(c for (a, b), c in cluster.capacity.items() if a in cut and b not in cut)
            worst = max(worst, Fraction(len(inside), leaving))
    assert round(count / worst / 10**9, 1) == Fraction(gather)


def test_boxes_of_any_number():
    assert len(preset("dgx-a100").ranks) == 8
    assert not any(link.kind == "infiniband" for link in preset("dgx-a100").links)
    big = preset("128x-dgx-a100")
    assert len(big.ranks) == 1024
    assert big.by_name["gpu1023"].host == "h127"


def test_networks():
    mesh = preset("mesh-4:1Gbit,20us")
    assert set(mesh.capacity) == {(a, b) for a in mesh.ranks for b in mesh.ranks if a != b}
    assert {(link.bandwidth, link.latency) for link in mesh.links} == {(125_000_000, 2e-5)}
    assert {link.bandwidth for link in preset("mesh-3").links} == {parse_bandwidth("200 Mbit/s")}
    ring, line = preset("ring-5"), preset("line-5")
    assert set(ring.capacity) - set(line.capacity) == {("h0", "h4"), ("h4", "h0")}
    assert len(preset("ring-2").links) == len(preset("line-2").links) == 2
    star = preset("star-4:25MB,25MB,25MB,5MB")
    assert star.capacity["h3", "switch"] == star.capacity["switch", "h3"] == 5_000_000
    helped = preset("star-4+2:25MB,25MB,25MB,5MB")
    assert helped.helpers == ("helper0", "helper1")
    assert helped.ranks == star.ranks
    assert helped.capacity["helper1", "switch"] == 25_000_000
    assert preset("star-2+1:1MB,2MB,3MB").capacity["helper0", "switch"] == 3_000_000
    rails = preset("two-rail-4:25MB,10MB")
    assert rails.capacity["h2", "switch0"] == 25_000_000
    assert rails.capacity["h2", "switch1"] == 10_000_000
    assert ("h2", "switch1") in preset("two-rail-3+1").capacity
    assert preset("two-rail-3+1").helpers == ("helper0",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dgx9", ["no preset dgx9", "dgx1v", "Nx-dgx-a100", "mesh-N", "two-rail-N"]),
        ("mesh", ["no preset mesh", "mesh-N"]),
        ("mesh-0", ["at least 1 host"]),
        ("0x-dgx-a100", ["at least 1 box"]),
        ("mesh-4+1", ["helpers need a switch", "star-4+1"]),
        ("mesh-4:1MB,2MB", ["one bandwidth for all links"]),
        ("mesh-4:quick", ["mesh-4:quick", "'quick' is not a bandwidth"]),
        ("mesh-4:1us,2us", ["2 latencies"]),
        ("star-4:1MB,2MB", ["2 bandwidths for 4 hosts"]),
        ("two-rail-4:1MB,2MB,3MB", ["3 bandwidths for 2 rails"]),
        ("dgx1v:25MB", ["takes no values"]),
    ],
)
def test_wrong_presets(text, words):
    with pytest.raises(UserError) as caught:
        preset(text)
    for word in words:
        assert word in str(caught.value)
