"""As many bytes as the ring, in a logarithmic number of rounds."""

from collections import Counter
from math import ceil, log2

import pytest
from clusters import star_cluster

from manyhands.collective.algorithms import halving_doubling
from manyhands.collective.algorithms.halving_doubling import binomial
from manyhands.collective.partials import partials_of


def distance(child: int, parent: int, count: int) -> int:
    return child ^ parent if count & (count - 1) == 0 else (child - parent) % count


@pytest.mark.parametrize("count", range(2, 40))
def test_rounds_and_bytes(count):
    """In every round everybody sends to one rank only, (n-1)/n of the data in all."""
    sent, peers = Counter(), {}
    rounds = [1 << bit for bit in range(ceil(log2(count)))]
    if count & (count - 1):
        rounds.reverse()
    for root in range(count):
        parents = binomial(root, count)
        assert set(parents) == set(range(count)) - {root}
        times = {child: rounds.index(distance(child, parent, count)) for child, parent in parents.items()}
        assert list(times.values()) == sorted(times.values())
        for child, parent in parents.items():
            sent[child] += 1
            peers.setdefault((child, times[child]), set()).add(parent)
            assert parent == root or times[parent] > times[child]
    assert set(sent.values()) == {count - 1}
    assert all(len(group) == 1 for group in peers.values())


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_partial_sums_are_nodes_of_the_aligned_tree(count):
    forest = halving_doubling(star_cluster(count))
    assert all(set(partials_of(forest, tree).values()) == {1} for tree in forest.trees)


def test_power_of_two_is_a_hypercube():
    forest = halving_doubling(star_cluster(8))
    for tree in forest.trees:
        for edge in tree.reduce:
            a, b = int(edge.source[1:]), int(edge.target[1:])
            assert bin(a ^ b).count("1") == 1
