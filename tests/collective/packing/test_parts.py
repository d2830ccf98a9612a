"""The parts of a packing by brute force, and the checker itself: it rejects what was tampered with."""

from dataclasses import replace
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packing_checker import check
from packing_clusters import clusters

from manyhands.collective.packing import packed
from manyhands.collective.packing.certificate import human
from manyhands.collective.packing.exact import solve_tight
from manyhands.collective.packing.flow import Flows
from manyhands.collective.packing.shortest import arborescence, undirected_tree

ARCS = [(u, v) for u in range(4) for v in range(4) if u != v]


def capacities(most):
    return st.dictionaries(st.sampled_from(ARCS), st.integers(1, most), min_size=1)


@given(capacity=capacities(9), scale=st.sampled_from([1, 10**12 + 1]))
def test_maximum_flow_is_the_least_cut_in_any_size_of_number(capacity, scale):
    flows = Flows(4, {arc: amount * scale for arc, amount in capacity.items()})

    def width(inside):
        return sum(amount * scale for (u, v), amount in capacity.items() if v in inside and u not in inside)

    cuts = [{3} | {node for node in (1, 2) if bits[node - 1]} for bits in product([0, 1], repeat=2)]
    value, inside = flows.cut(0, 3)
    assert value == flows.value(0, 3) == min(map(width, cuts)) == width(inside)
    assert 0 not in inside and 3 in inside


@given(costs=st.dictionaries(st.sampled_from(ARCS), st.integers(0, 9)), fractions=st.booleans())
def test_the_cheapest_arborescence(costs, fractions):
    kind = Fraction if fractions else float
    arcs = arborescence({arc: kind(cost) for arc, cost in costs.items()}, range(4), 0)
    choices = product(*([(u, v) for u, v in costs if v == node] for node in (1, 2, 3)))
    trees = [links for links in choices if _is_tree({v: u for u, v in links})]
    if not trees:
        assert arcs is None
        return
    assert _is_tree({v: u for u, v in arcs}) and {v for _, v in arcs} == {1, 2, 3}
    assert all(u == 0 or u in [v for _, v in arcs[:place]] for place, (u, _) in enumerate(arcs))
    assert sum(costs[arc] for arc in arcs) == min(sum(costs[arc] for arc in links) for links in trees)


def _is_tree(parent):
    for node in parent:
        for _ in range(4):
            node = parent.get(node, 0)
        if node:
            return False
    return True


@given(costs=st.dictionaries(st.sampled_from([arc for arc in ARCS if arc[0] < arc[1]]), st.integers(0, 9)))
def test_the_cheapest_undirected_tree_is_the_cheapest_arborescence_of_equal_ways(costs):
    both = {arc: cost for (u, v), cost in costs.items() for arc in ((u, v), (v, u))}
    tree, directed = undirected_tree(both, range(4), 0), arborescence(both, range(4), 0)
    assert (tree is None) == (directed is None)
    if tree is not None:
        assert sum(both[arc] for arc in tree) == sum(both[arc] for arc in directed)


@given(values=st.lists(st.fractions(0, 10**6, max_denominator=50), min_size=3, max_size=3), data=st.data())
def test_tight_rows_give_back_the_exact_vertex(values, data):
    numbers = st.integers(-2, 2)
    rows = [data.draw(st.lists(numbers, min_size=3, max_size=3)) for _ in range(3)]
    (a, b, c), (d, e, f), (g, h, i) = rows
    assume(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) != 0)
    assume(all(float(value) for value in values))
    equations = [
        (
            {column: Fraction(factor) for column, factor in enumerate(row) if factor},
            sum((factor * value for factor, value in zip(row, values, strict=True)), Fraction(0)),
        )
        for row in rows
    ]
    import numpy as np

    assert solve_tight(equations, np.array([float(value) for value in values])) == values


@pytest.mark.parametrize(
    ("rate", "words"), [(999, "999 B/s"), (25 * 10**6, "25 MB/s"), (Fraction(10**11, 3), "33.33 GB/s")]
)
def test_rates_for_people(rate, words):
    assert human(rate) == words


@settings(max_examples=60)
@given(cluster=clusters(most_ranks=4), data=st.data())
def test_the_checker_rejects_what_was_tampered_with(cluster, data):
    result = packed(cluster)
    forest, rate = result.forest, result.certificate.rate
    check(forest, cluster, rate)
    place = data.draw(st.integers(0, len(forest.trees) - 1))
    tree = forest.trees[place]
    change = data.draw(st.sampled_from(["drop", "double", "turn", "share", "root", "rate", "order", "skip"]))
    if change == "drop":
        tree = replace(tree, reduce=tree.reduce[1:])
    elif change == "double":
        tree = replace(tree, broadcast=(*tree.broadcast, tree.broadcast[-1]))
    elif change == "turn":
        edge = tree.reduce[0]
        turned = edge._replace(source=edge.target, target=edge.source, via=edge.via[::-1])
        tree = replace(tree, reduce=(turned, *tree.reduce[1:]))
    elif change == "share":
        tree = replace(tree, share=tree.share / 2)
    elif change == "root":
        tree = replace(tree, root=tree.reduce[0].source)
    elif change == "order":
        assume(any(edge.source != tree.root for edge in tree.broadcast))
        tree = replace(tree, broadcast=tree.broadcast[::-1])
    elif change == "skip":
        assume(any(edge.via for edge in tree.reduce))
        tree = replace(tree, reduce=tuple(edge._replace(via=("nowhere",) * len(edge.via)) for edge in tree.reduce))
    else:
        rate *= Fraction(1001, 1000)
    with pytest.raises((AssertionError, KeyError)):
        check(replace(forest, trees=(*forest.trees[:place], tree, *forest.trees[place + 1 :])), cluster, rate)
