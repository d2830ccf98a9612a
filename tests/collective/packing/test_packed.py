"""The packing of any cluster: optimal by an independent program, feasible by an independent checker."""

from fractions import Fraction

import pytest
from flow_program import rate as flow_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_checker import check
from packing_clusters import a100_boxes, clusters, dgx1v

from manyhands.collective.packing import packed

OPERATIONS = ["all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce"]


def plan(cluster, operation, **options):
    """Pack and check; the root, where there is one, is the last rank."""
    root = cluster.ranks[-1] if operation in ("broadcast", "reduce") else None
    result = packed(cluster, operation, root=root, **options)
    check(result.forest, cluster, result.certificate.rate, root)
    return result


@settings(max_examples=60, deadline=None)
@given(cluster=clusters(), operation=st.sampled_from(OPERATIONS))
def test_random_clusters_get_what_the_flow_program_says(cluster, operation):
    certificate = plan(cluster, operation).certificate
    assert certificate.exact and certificate.rate == certificate.bound
    root = cluster.ranks[-1] if operation in ("broadcast", "reduce") else None
    assert float(certificate.rate) == pytest.approx(flow_rate(cluster, operation, root), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(cluster=clusters(most_ranks=7, most_switches=3), operation=st.sampled_from(OPERATIONS))
def test_larger_random_clusters_have_an_exact_certificate(cluster, operation):
    certificate = plan(cluster, operation).certificate
    assert certificate.exact


def test_known_rates():
    assert plan(dgx1v(), "all_reduce").certificate.rate == Fraction(24 * 23 * 10**9, 7)
    assert plan(dgx1v([0, 1, 2]), "all_reduce").certificate.rate == 46 * 10**9
    boxes = plan(a100_boxes(2), "all_reduce").certificate
    assert boxes.rate == Fraction(16 * 325 * 10**9, 30)
    assert plan(a100_boxes(4), "all_gather").certificate.rate == Fraction(4 * 200 * 10**9, 3)
