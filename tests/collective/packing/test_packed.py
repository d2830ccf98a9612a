"""The packing of any cluster: optimal by an independent program, feasible by an independent checker."""

from dataclasses import replace
from fractions import Fraction

import pytest
from flow_program import rate as flow_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_checker import check
from packing_clusters import a100_boxes, both, clusters, dgx1v, undirected

from manyhands.cluster import Cluster, Link, Node
from manyhands.collective.cost import rate as cost_rate
from manyhands.collective.packing import packed
from manyhands.collective.verify import verify
from manyhands.errors import UserError

OPERATIONS = ["all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce"]


def plan(cluster, operation, **options):
    """Pack and check; the root, where there is one, is the last rank."""
    root = cluster.ranks[-1] if operation in ("broadcast", "reduce") else None
    result = packed(cluster, operation, root=root, **options)
    check(result.forest, cluster, result.certificate.rate, root)
    return result


def hosts(*links, switches=()):
    names = dict.fromkeys(end for u, v, _ in links for end in (u, v))
    nodes = tuple(Node(name=name, kind="switch" if name in switches else "host") for name in names)
    return Cluster(
        name="test", nodes=nodes, links=tuple(Link(source=u, target=v, bandwidth=width) for u, v, width in links)
    )


@settings(max_examples=60)
@given(cluster=clusters(), operation=st.sampled_from(OPERATIONS))
def test_random_clusters_get_what_the_flow_program_says(cluster, operation):
    certificate = plan(cluster, operation).certificate
    assert certificate.exact and certificate.rate == certificate.bound
    root = cluster.ranks[-1] if operation in ("broadcast", "reduce") else None
    assert float(certificate.rate) == pytest.approx(flow_rate(cluster, operation, root), rel=1e-6)


@settings(max_examples=40)
@given(cluster=clusters(most_ranks=7, most_switches=3), operation=st.sampled_from(OPERATIONS))
def test_larger_random_clusters_have_an_exact_certificate(cluster, operation):
    assert plan(cluster, operation).certificate.exact


@settings(max_examples=30)
@given(cluster=clusters(most_switches=0, duplex=True), data=st.data())
def test_no_cut_is_beaten(cluster, data):
    """Whatever set of ranks is drawn: everything has to come in and go out over its links."""
    certificate = plan(cluster, "all_reduce").certificate
    inside = data.draw(st.sets(st.sampled_from(cluster.ranks), min_size=1, max_size=len(cluster.ranks) - 1))
    into = sum(link.bandwidth for link in cluster.links if link.target in inside and link.source not in inside)
    assert certificate.rate <= into


def test_known_rates():
    assert plan(dgx1v(), "all_reduce").certificate.rate == Fraction(24 * 23 * 10**9, 7)
    assert plan(dgx1v([0, 1, 2]), "all_reduce").certificate.rate == 46 * 10**9
    assert plan(a100_boxes(2), "all_reduce").certificate.rate == Fraction(16 * 325 * 10**9, 30)
    assert plan(a100_boxes(2), "broadcast").certificate.rate == 200 * 10**9


def test_the_joint_packing_beats_reduce_scatter_then_all_gather():
    """The triangle with one double link of design.md: 46 against 34.5 GB/s."""
    apart = [plan(dgx1v([0, 1, 2]), operation).certificate.rate for operation in ("reduce_scatter", "all_gather")]
    assert 1 / sum(1 / rate for rate in apart) == Fraction(345 * 10**8)


def test_links_that_agree_to_eight_digits_cost_little():
    cluster = hosts(
        ("h2", "s0", 6992644831), ("s0", "h2", 109111038), ("h1", "s0", 100000000), ("s0", "h1", 3415396533),
        ("h0", "s0", 100000001), ("s0", "h0", 692471853), ("s0", "s1", 100000000), ("s1", "s0", 140347498),
        ("h2", "s1", 735326884), ("s1", "h2", 108129858), switches=("s0", "s1"),
    )  # fmt: skip
    certificate = plan(cluster, "all_reduce").certificate
    assert certificate.bound * (1 - Fraction(1, 10**5)) <= certificate.rate <= certificate.bound
    assert certificate.exact == (certificate.rate == certificate.bound)


def test_the_cut_is_named_in_words():
    slow = hosts(*[(a, b, w) for u, v, w in [("a", "b", 10**9), ("c", "d", 10**9), ("b", "c", 25 * 10**6)]
                   for a, b in ((u, v), (v, u))])  # fmt: skip
    assert plan(slow, "all_reduce").certificate.cut == "hosts {a,b} | {c,d}: 25 MB/s between them"
    assert plan(slow, "broadcast").certificate.cut in (
        "hosts: 25 MB/s into {a,b}",  # the root is d
        "hosts: 25 MB/s into {a}",
    )
    uneven = hosts(("a", "b", 3000), ("b", "a", 2 * 10**6))
    assert plan(uneven, "all_reduce").certificate.cut.startswith("hosts: 3 kB/s ")


def test_unequal_directions_of_a_pair():
    """All reduced at a: every byte goes b -> a and comes back a -> b."""
    assert plan(hosts(("a", "b", 3), ("b", "a", 5)), "all_reduce").certificate.rate == 3


def test_a_switch_neither_adds_nor_copies():
    """From one host over a switch to two others: a copying switch would reach 6, a forwarding one sends twice."""
    cluster = undirected(3, [], kind="host")
    links = tuple(link for i in range(3) for link in both(str(i), "s", 6))
    nodes = (*cluster.nodes, Node(name="s", kind="switch"))
    plain = replace(cluster, nodes=nodes, links=links)
    assert plan(plain, "all_gather").certificate.rate == 9
    assert plan(plain, "broadcast").certificate.rate == 6  # one copy; the second host passes it on
    assert plan(plain, "all_reduce").certificate.rate == Fraction(9, 2)
    able = replace(plain, nodes=(*cluster.nodes, Node(name="s", kind="switch", adds=True, copies=True)))
    result = plan(able, "all_reduce").certificate
    assert (result.rate, result.exact) == (6, True)


def test_rails_are_named_and_not_overloaded():
    rails = Cluster(
        name="rails",
        nodes=(Node(name="a", kind="host"), Node(name="b", kind="host")),
        links=(*both("a", "b", 100, rail="eth0"), *both("a", "b", 300, rail="eth1")),
    )
    result = plan(rails, "all_reduce")
    assert result.certificate.rate == 400
    assert {edge.rail for tree in result.forest.trees for edge in tree.reduce} == {"eth0", "eth1"}


def test_what_cannot_be_packed_says_why():
    with pytest.raises(UserError, match=r"not connected .*\{c\}"):
        packed(hosts(("a", "b", 1), ("b", "a", 1), ("c", "a", 1)))
    with pytest.raises(UserError, match="at least two"):
        packed(undirected(1, []))
    with pytest.raises(UserError, match="needs a root"):
        packed(dgx1v(), "broadcast")
    with pytest.raises(UserError, match="takes no root"):
        packed(dgx1v(), root="0")
    with pytest.raises(UserError, match="cannot add"):
        packed(replace(dgx1v([0, 1]), nodes=(Node(name="0", kind="host", adds=False), Node(name="1", kind="host"))))


@settings(max_examples=40)
@given(cluster=clusters(), operation=st.sampled_from(OPERATIONS))
def test_the_verifier_and_the_cost_model_agree(cluster, operation):
    result = plan(cluster, operation)
    verify(result.forest, cluster)
    assert cost_rate(result.forest, cluster) >= result.certificate.rate
