"""All 181 NVLink-connected subsets of 3 to 8 GPUs of a DGX-1V, against the partition bound by brute force."""

from fractions import Fraction
from itertools import combinations

import pytest
from packing_checker import check
from packing_clusters import DOUBLE, NVLINK, SINGLE

from manyhands.cluster.presets import preset
from manyhands.collective.packing import packed

WHOLE = preset("dgx1v")
LINKS = {**dict.fromkeys(DOUBLE, 2), **dict.fromkeys(SINGLE, 1)}


def nvlinks(ranks):
    return WHOLE.subset([f"gpu{rank}" for rank in ranks], kinds=["nvlink"])


def connected(ranks):
    reached = {ranks[0]}
    while True:
        more = {end for pair in LINKS if set(pair) <= set(ranks) and set(pair) & reached for end in pair} - reached
        if not more:
            return reached == set(ranks)
        reached |= more


SUBSETS = [ranks for size in range(3, 9) for ranks in combinations(range(8), size) if connected(ranks)]


def partitions(items):
    """All ways to cut a list into parts, as a part's number for each item."""
    if not items:
        yield {}
        return
    for rest in partitions(items[:-1]):
        for part in range(max(rest.values(), default=-1) + 2):
            yield {**rest, items[-1]: part}


def partition_bound(ranks):
    """min c(P) / (|P| - 1), in links (Nash-Williams, Tutte)."""
    pairs = [(u, v, width) for (u, v), width in LINKS.items() if u in ranks and v in ranks]
    best = None
    for part in partitions(list(ranks)):
        parts = max(part.values()) + 1
        if parts > 1:
            crossing = sum(width for u, v, width in pairs if part[u] != part[v])
            best = min(best or 99, Fraction(crossing, parts - 1))
    return best


def test_every_gpu_has_six_links_and_181_subsets_are_connected():
    assert nvlinks(range(8)).capacity == {
        (f"gpu{u}", f"gpu{v}"): width * NVLINK for pair, width in LINKS.items() for u, v in (pair, pair[::-1])
    }
    assert all(sum(width for pair, width in LINKS.items() if gpu in pair) == 6 for gpu in range(8))
    assert len(SUBSETS) == 181


@pytest.mark.parametrize("size", range(3, 9))
def test_the_rate_is_the_partition_bound_and_eight_trees_keep_most_of_it(size):
    for ranks in (ranks for ranks in SUBSETS if len(ranks) == size):
        cluster = nvlinks(ranks)
        best = packed(cluster)
        check(best.forest, cluster, best.certificate.rate)
        assert best.certificate.rate == best.certificate.bound == partition_bound(ranks) * NVLINK, ranks
        few = packed(cluster, max_trees=8)
        check(few.forest, cluster, few.certificate.rate)
        assert len(few.forest.trees) <= 8
        assert few.certificate.rate >= Fraction(95, 100) * best.certificate.rate, ranks


@pytest.mark.parametrize("order", [(7, 6, 5, 4, 3, 2, 1, 0), (0, 2, 4, 6, 1, 3, 5, 7), (3, 1, 4, 0, 5, 7, 2, 6)])
def test_eight_trees_are_enough_whatever_the_order_of_the_ranks(order):
    few = packed(nvlinks(order), max_trees=8).certificate
    assert few.rate >= Fraction(95, 100) * Fraction(24, 7) * NVLINK
