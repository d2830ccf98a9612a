"""What packings claim, checked by what knows nothing of packing: the verifier, the loads of links, the compiler."""

import pytest
from clusters import clusters
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manyhands.collective.algorithms import ALGORITHMS
from manyhands.collective.compile import compile_forest
from manyhands.collective.loads import rate
from manyhands.collective.packing import packed
from manyhands.collective.partials import one_leaf_each, partials_of
from manyhands.collective.program import Op
from manyhands.collective.verify import verify
from manyhands.errors import UserError

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce")


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=15)
@given(cluster=clusters(most=5, least=2), canonical=st.booleans(), limit=st.sampled_from([None, 8]))
def test_packings_are_valid_and_as_fast_as_certified(operation, cluster, canonical, limit):
    root = cluster.ranks[0] if operation in ("broadcast", "reduce") else None
    try:
        plan = packed(cluster, operation, root=root, canonical=canonical, max_trees=limit)
    except UserError as error:  # ranks do not relay, so some clusters cannot add in order
        assert canonical and "no reduce tree can add in the order of the ranks" in str(error)
        return
    verify(plan.forest, cluster)
    blocks = one_leaf_each(len(cluster.ranks)) if canonical else None
    carried = rate(plan.forest, cluster, contributions=blocks)
    assert plan.certificate.rate <= carried <= plan.certificate.bound
    if canonical:
        assert all(set(partials_of(plan.forest, tree).values()) <= {1} for tree in plan.forest.trees)
    if limit is not None:
        assert len(plan.forest.trees) <= limit


@settings(max_examples=40)
@given(data=st.data())
def test_no_algorithm_beats_the_bound(data):
    cluster = data.draw(clusters(most=5, least=2))
    operation = data.draw(st.sampled_from(OPERATIONS))
    root = cluster.ranks[0] if operation in ("broadcast", "reduce") else None
    try:
        forest = ALGORITHMS[data.draw(st.sampled_from(list(ALGORITHMS)))](cluster, operation)
    except UserError:
        assume(False)
    assert rate(forest, cluster) <= packed(cluster, operation, root=root).certificate.bound


@settings(max_examples=100)
@given(data=st.data())
def test_programs_send_as_many_partial_sums_as_predicted(data):
    cluster = data.draw(clusters(most=8, least=2))
    name = data.draw(st.sampled_from(["ring", "star", "halving_doubling", "hierarchical"]))
    forest = ALGORITHMS[name](cluster, "reduce_scatter")
    expected = sum(sum(partials_of(forest, tree).values()) for tree in forest.trees)
    programs = [
        compile_forest(forest, rank, 16 * len(forest.members), association="aligned", in_place=False)
        for rank in range(len(forest.rank))
    ]
    assert sum(step.op == Op.SEND for program in programs for step in program.instructions) == expected
