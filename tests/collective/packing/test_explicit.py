"""Packings over explicit trees: canonical sums and helpers, against enumeration and closed forms."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_checker import check
from packing_clusters import a100_boxes, both, clusters, dgx1v, undirected
from scipy.optimize import linprog

from manyhands.cluster import Cluster, Node
from manyhands.collective.blocks import Block
from manyhands.collective.cost import rate as cost_rate
from manyhands.collective.packing import packed
from manyhands.errors import UserError


def aligned_nodes(count):
    """The leaf sets of the aligned binary tree."""
    sets, width = set(), 1
    while width < 2 * count:
        sets |= {frozenset(range(start, min(start + width, count))) for start in range(0, count, width)}
        width *= 2
    return sets


def below(tree, members):
    """The ranks that each edge of a reduce tree carries the sum of."""
    carried = {name: {members.index(name)} if name in members else set() for edge in tree.reduce for name in edge[:2]}
    for edge in tree.reduce:
        yield frozenset(carried[edge.source])
        carried[edge.target] |= carried[edge.source]


def assert_canonical(forest):
    allowed = aligned_nodes(len(forest.members))
    for tree in forest.trees:
        for leaves in below(tree, forest.members):
            assert leaves in allowed, (leaves, tree)


def all_trees(count, pairs, root):
    """Every tree over direct links that leads into a root, as its links."""
    others = [node for node in range(count) if node != root]
    choices = [[(u, v) for u, v in pairs if u == node] for node in others]
    for links in product(*choices):
        parent = dict(links)
        for node in others:
            steps = 0
            while node != root and steps <= count:
                node, steps = parent[node], steps + 1
            if node != root:
                break
        else:
            yield links


def canonical_by_enumeration(count, edges):
    """The best rate over all pairs of a canonical reduce tree and any broadcast tree, by one linear program."""
    width = {(u, v): w for a, b, w in edges for u, v in ((a, b), (b, a))}
    allowed = aligned_nodes(count)
    columns = []
    for root in range(count):
        trees = list(all_trees(count, width, root))
        ups = [links for links in trees if all(leaves in allowed for leaves in _below_links(links, count, root))]
        downs = [[(v, u) for u, v in links] for links in trees]
        columns += [[*up, *down] for up in ups for down in downs]
    loads = np.array([[column.count(link) for column in columns] for link in width])
    if not columns:
        return None
    return -linprog(-np.ones(len(columns)), A_ub=loads, b_ub=list(width.values()), method="highs").fun


def _below_links(links, count, root):
    parent = dict(links)
    for node in set(range(count)) - {root}:
        leaves = set()
        for leaf in range(count):
            at = leaf
            while at != root and at != node:
                at = parent[at]
            if at == node:
                leaves.add(leaf)
        yield frozenset(leaves)


@settings(max_examples=25)
@given(
    edges=st.lists(st.integers(0, 4), min_size=6, max_size=6).map(
        lambda widths: [
            (u, v, w) for (u, v), w in zip([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], widths, strict=True) if w
        ]
    )
)
def test_canonical_is_the_best_of_all_canonical_trees(edges):
    expected = canonical_by_enumeration(4, edges)
    if expected is None:
        with pytest.raises(UserError, match=r"not connected|in the order of the ranks"):
            packed(undirected(4, edges), canonical=True)
        return
    result = packed(undirected(4, edges), canonical=True)
    check(result.forest, undirected(4, edges), result.certificate.rate)
    assert_canonical(result.forest)
    assert result.certificate.exact
    assert float(result.certificate.rate) == pytest.approx(expected, rel=1e-9)
    assert result.certificate.price == result.certificate.rate / packed(undirected(4, edges)).certificate.rate


@settings(max_examples=15)
@given(cluster=clusters(most_ranks=6, most_switches=2), operation=st.sampled_from(["all_reduce", "reduce_scatter"]))
def test_canonical_packings_of_random_clusters(cluster, operation):
    try:
        result = packed(cluster, operation, canonical=True)
    except UserError as error:
        assert "in the order of the ranks" in str(error)
        return
    check(result.forest, cluster, result.certificate.rate)
    assert_canonical(result.forest)
    assert 0 < result.certificate.price <= 1
    assert result.certificate.rate <= result.certificate.bound


def test_the_price_of_canonical_sums():
    assert packed(dgx1v(), canonical=True).certificate.price == 1
    assert packed(dgx1v([0, 1, 4, 5]), canonical=True).certificate.price == Fraction(2, 3)
    with pytest.raises(UserError, match="Number the ranks"):
        packed(undirected(4, [(0, 2, 1), (2, 1, 1), (1, 3, 1)]), canonical=True)


def test_nothing_is_added_up_in_a_broadcast_so_canonical_costs_nothing():
    result = packed(dgx1v(), "all_gather", canonical=True)
    assert (result.certificate.price, result.forest) == (1, packed(dgx1v(), "all_gather").forest)


def with_helpers(count, helpers, width=1000):
    """Hosts with data and hosts without behind one switch, as in BytePS."""
    nodes = [Node(name=f"gpu{i}", kind="host") for i in range(count)]
    nodes += [Node(name=f"cpu{i}", kind="helper") for i in range(helpers)]
    links = tuple(link for node in nodes for link in both(node.name, "switch", width))
    return Cluster(name="byteps", nodes=(*nodes, Node(name="switch", kind="switch")), links=links)


@pytest.mark.parametrize(("count", "helpers"), [(n, k) for n in range(2, 7) for k in range(min(n, 4) + 1)] + [(8, 2)])
def test_helpers_reach_the_optimum_of_byteps_and_prove_it(count, helpers):
    """2 n (n - 1) / (n**2 + k n - 2 k) * M / B seconds (Jiang et al., OSDI 2020)."""
    cluster = with_helpers(count, helpers)
    result = packed(cluster)
    check(result.forest, cluster, result.certificate.rate)
    formula = Fraction(1000 * (count**2 + helpers * count - 2 * helpers), 2 * count * (count - 1))
    assert result.certificate.rate == result.certificate.bound == formula


def test_canonical_with_helpers_adds_in_order_too():
    cluster = with_helpers(4, 2)
    result = packed(cluster, canonical=True)
    check(result.forest, cluster, result.certificate.rate)
    assert_canonical(result.forest)
    assert result.certificate.price == 1


def test_many_helpers_have_an_honest_bound():
    """More than are tried in all combinations: at least the formula, and the bound is what coding could reach."""
    cluster = with_helpers(6, 6)
    result = packed(cluster)
    check(result.forest, cluster, result.certificate.rate)
    assert Fraction(1000) * (1 - Fraction(1, 10**9)) <= result.certificate.rate <= result.certificate.bound


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce"])
@pytest.mark.parametrize("canonical", [False, True])
def test_at_most_so_many_trees(operation, canonical):
    for cluster, most in ((dgx1v(), 8), (a100_boxes(1), 8)):
        root = cluster.ranks[0] if operation in ("broadcast", "reduce") else None
        best = packed(cluster, operation, root=root, canonical=canonical)
        few = packed(cluster, operation, root=root, canonical=canonical, max_trees=most)
        check(few.forest, cluster, few.certificate.rate, root)
        assert len(few.forest.trees) <= most
        assert best.certificate.rate / 2 <= few.certificate.rate <= best.certificate.rate
        if canonical and operation in ("all_reduce", "reduce_scatter", "reduce"):
            assert_canonical(few.forest)


def test_one_tree_is_the_least():
    assert len(packed(dgx1v(), max_trees=1).forest.trees) == 1
    with pytest.raises(UserError, match="at least 8"):
        packed(dgx1v(), "all_gather", max_trees=7)
    with pytest.raises(UserError, match="at least 1"):
        packed(dgx1v(), max_trees=0)


@settings(max_examples=15)
@given(cluster=clusters(most_ranks=6, most_switches=2))
def test_each_edge_of_a_canonical_tree_carries_one_sum(cluster):
    """The cost model of exchanges in the job's order, with one leaf a rank, finds the rate that is promised."""
    try:
        result = packed(cluster, canonical=True)
    except UserError:
        return
    leaves = [Block(rank, rank + 1) for rank in range(len(cluster.ranks))]
    assert cost_rate(result.forest, cluster, contributions=leaves) >= result.certificate.rate
