"""Two trees whose inner nodes are the leaves of the other."""

from collections import Counter
from math import ceil, log2

import pytest
from clusters import star_cluster

from manyhands.collective.algorithms import double_binary_tree
from manyhands.collective.algorithms.double_binary_tree import two_trees
from manyhands.errors import UserError


def depth(parents: tuple[int, ...], rank: int) -> int:
    return 0 if parents[rank] < 0 else 1 + depth(parents, parents[rank])


@pytest.mark.parametrize("count", range(1, 70))
def test_nobody_has_more_than_two_children_in_all(count):
    trees = two_trees(count)
    children = Counter(parent for parents in trees for parent in parents if parent >= 0)
    assert max(children.values(), default=0) <= 2
    for parents in trees:
        assert parents.count(-1) == 1
        assert max(depth(parents, rank) for rank in range(count)) <= ceil(log2(count + 1))


@pytest.mark.parametrize("count", range(2, 70, 2))
def test_inner_nodes_of_one_tree_are_leaves_of_the_other(count):
    first, second = ({parent for parent in parents if parent >= 0} for parents in two_trees(count))
    assert not first & second


def test_a_root_stands_above_both_trees():
    forest = double_binary_tree(star_cluster(8), "broadcast", root="h3")
    tops = [edge.target for tree in forest.trees for edge in tree.broadcast if edge.source == "h3"]
    assert [tree.root for tree in forest.trees] == ["h3", "h3"] and len(set(tops)) == 2


def test_it_does_not_scatter():
    with pytest.raises(UserError, match=r"no schedule for all_gather\. Use ring or halving_doubling"):
        double_binary_tree(star_cluster(4), "all_gather")
