"""All 181 NVLink-connected subsets of 3 to 8 GPUs of a DGX-1V, against the partition bound by brute force."""

from fractions import Fraction
from itertools import combinations

import pytest
from packing_checker import check
from packing_clusters import DOUBLE, NVLINK, SINGLE, dgx1v

from manyhands.collective.packing import packed

LINKS = {**dict.fromkeys(DOUBLE, 2), **dict.fromkeys(SINGLE, 1)}


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
    assert all(sum(width for pair, width in LINKS.items() if gpu in pair) == 6 for gpu in range(8))
    assert len(SUBSETS) == 181


@pytest.mark.parametrize("size", range(3, 9))
def test_the_rate_is_the_partition_bound_and_eight_trees_keep_most_of_it(size):
    for ranks in (ranks for ranks in SUBSETS if len(ranks) == size):
        cluster = dgx1v(ranks)
        best = packed(cluster)
        check(best.forest, cluster, best.certificate.rate)
        assert best.certificate.rate == best.certificate.bound == partition_bound(ranks) * NVLINK, ranks
        few = packed(cluster, max_trees=8)
        check(few.forest, cluster, few.certificate.rate)
        assert len(few.forest.trees) <= 8
        assert few.certificate.rate >= Fraction(95, 100) * best.certificate.rate, ranks
