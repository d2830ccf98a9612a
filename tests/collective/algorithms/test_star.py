"""Stars: shares by bandwidth, and the split of BytePS."""

from fractions import Fraction

import pytest
from clusters import BANDWIDTH, star_cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.collective.algorithms import helper_hosts, star
from manyhands.collective.algorithms.weights import Load, shares
from manyhands.collective.loads import rate
from manyhands.errors import UserError


@pytest.mark.parametrize(("n", "k"), [(n, k) for n in range(2, 9) for k in range(n + 1)])
def test_byteps_split(n, k):
    """The shares and the time of the paper's formula, exactly."""
    forest = helper_hosts(star_cluster(n, helpers=k))
    below = n * n + k * n - 2 * k
    portions = {tree.root: tree.share for tree in forest.trees}
    assert all(portions[f"helper{i}"] == Fraction(2 * (n - 1), below) for i in range(k))
    assert all(portions.get(f"h{i}", 0) == Fraction(n - k, below) for i in range(n))
    assert 1 / rate(forest, star_cluster(n, helpers=k)) == Fraction(2 * n * (n - 1), below * BANDWIDTH)


def test_more_helpers_than_ranks_are_left_out():
    cluster = star_cluster(2, helpers=4)
    assert rate(helper_hosts(cluster), cluster) == BANDWIDTH
    assert helper_hosts(cluster).helpers == ("helper0", "helper1")
    with pytest.raises(UserError, match="4 helpers that can add and copy, not 5"):
        helper_hosts(cluster, helpers=5)


def test_one_slow_host_sets_the_bound_only():
    """M / b_slow, where a ring would take 2(n-1)/n as long."""
    cluster = star_cluster(4, speeds=[BANDWIDTH, BANDWIDTH, BANDWIDTH, BANDWIDTH // 5])
    assert rate(star(cluster), cluster) == BANDWIDTH // 5
    assert "h3" not in {tree.root for tree in star(cluster).trees}


def test_one_parameter_server():
    cluster = star_cluster(5)
    assert rate(star(cluster, root="h0"), cluster) == Fraction(BANDWIDTH, 4)


def test_given_weights():
    forest = star(star_cluster(3), weights={"h0": Fraction(1, 3), "h2": Fraction(2, 3)})
    assert [(tree.root, tree.share) for tree in forest.trees] == [("h0", Fraction(1, 3)), ("h2", Fraction(2, 3))]
    with pytest.raises(UserError, match="sum to 1"):
        star(star_cluster(3), weights={"h0": Fraction(1, 3)})
    with pytest.raises(UserError, match="no device or host switch"):
        star(star_cluster(3), roots=["switch"])


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(1, 20)), min_size=1, max_size=6))
def test_shares_are_optimal(rows):
    """No other shares finish earlier: the linear programme, solved by SciPy, has the same optimum."""
    from scipy.optimize import linprog

    loads = [Load(*row) for row in rows]
    found = shares(loads)
    assert sum(found) == 1 and min(found) >= 0
    time = max(
        (load.fixed + load.slope * part) / Fraction(load.bandwidth) for load, part in zip(loads, found, strict=True)
    )
    count = len(loads)
    rows_ub = [[*(load.slope * (i == j) for j in range(count)), -load.bandwidth] for i, load in enumerate(loads)]
    optimum = linprog(
        [*[0] * count, 1],
        A_ub=rows_ub,
        b_ub=[-load.fixed for load in loads],
        A_eq=[[*[1] * count, 0]],
        b_eq=[1],
    )
    assert float(time) == pytest.approx(optimum.fun, abs=1e-9)
