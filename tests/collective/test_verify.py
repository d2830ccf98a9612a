"""Every generator passes the verifier on random clusters; whatever is broken is refused."""

from dataclasses import replace
from fractions import Fraction

import pytest
from clusters import clusters, mesh_cluster, star_cluster
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manyhands.cluster import Node
from manyhands.collective.algorithms import ALGORITHMS, ring, star
from manyhands.collective.forest import Edge, Forest, Tree
from manyhands.collective.verify import InvalidForest, verify
from manyhands.errors import UserError

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce")


def brute_force(forest: Forest) -> None:
    """By numbers: member i brings 10**i, and everyone must end with what the operation says."""
    everything = sum(10**i for i in range(len(forest.members)))
    for tree in forest.trees:
        sums = {name: 10**i for i, name in enumerate(forest.members)}
        for edge in tree.reduce:
            sums[edge.target] = sums.get(edge.target, 0) + sums.pop(edge.source)
        if forest.operation in ("all_reduce", "reduce_scatter", "reduce"):
            assert sums[tree.root] == everything
        result = {tree.root: sums[tree.root]}
        for edge in tree.broadcast:
            assert edge.target not in result
            result[edge.target] = result[edge.source]
        if forest.operation in ("all_reduce", "all_gather", "broadcast"):
            assert all(result[name] == sums[tree.root] for name in forest.members)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ALGORITHMS)
@settings(max_examples=25)
@given(cluster=clusters())
def test_every_generator_is_valid(name, operation, cluster):
    try:
        forest = ALGORITHMS[name](cluster, operation)
    except UserError:
        # The only refusals: algorithms without a schedule for that operation.
        assert (name, operation) in {
            *(("helper_hosts", op) for op in OPERATIONS if op != "all_reduce"),
            ("double_binary_tree", "reduce_scatter"),
            ("double_binary_tree", "all_gather"),
        }
        return
    verify(forest, cluster)
    brute_force(forest)
    assert forest.algorithm == name and forest.operation == operation and forest.members == cluster.ranks


def mutations(forest: Forest, draw) -> Forest:
    """The forest with one thing changed that makes it wrong."""
    index = draw(st.integers(0, len(forest.trees) - 1))
    tree = forest.trees[index]
    part = draw(st.sampled_from([name for name in ("reduce", "broadcast") if getattr(tree, name)]))
    edges = list(getattr(tree, part))
    at = draw(st.integers(0, len(edges) - 1))
    kind = draw(st.sampled_from(["drop", "double", "order", "turn", "share", "root", "missing tree"]))
    if kind == "drop":
        del edges[at]
    elif kind == "double":
        edges.insert(draw(st.integers(0, len(edges))), edges[at])
    elif kind == "order":
        other = draw(st.integers(0, len(edges) - 1))
        first, second = sorted((edges[at], edges[other]), key=edges.index)
        # Only edges that depend on each other must keep their order.
        assume(first.target == second.source)
        i, j = edges.index(first), edges.index(second)
        edges[i], edges[j] = edges[j], edges[i]
    elif kind == "turn":
        edges[at] = Edge(edges[at].target, edges[at].source, edges[at].via[::-1])
    elif kind == "share":
        return replace(forest, trees=_swap(forest, index, replace(tree, share=tree.share / 2)))
    elif kind == "root":
        others = [name for name in forest.members if name != tree.root]
        return replace(forest, trees=_swap(forest, index, replace(tree, root=draw(st.sampled_from(others)))))
    else:
        return replace(forest, trees=forest.trees[:index] + forest.trees[index + 1 :])
    return replace(forest, trees=_swap(forest, index, replace(tree, **{part: tuple(edges)})))


def _swap(forest: Forest, index: int, tree: Tree) -> tuple[Tree, ...]:
    return (*forest.trees[:index], tree, *forest.trees[index + 1 :])


@settings(max_examples=150)
@given(data=st.data())
def test_broken_forests_are_refused(data):
    cluster = data.draw(clusters(most=6, least=2))
    name = data.draw(st.sampled_from(list(ALGORITHMS)))
    try:
        forest = ALGORITHMS[name](cluster, data.draw(st.sampled_from(OPERATIONS)))
    except UserError:
        assume(False)
    broken = mutations(forest, data.draw)
    with pytest.raises(InvalidForest):
        verify(broken)


def test_messages_say_where():
    forest = star(star_cluster(3), roots=["h1"])
    tree = forest.trees[0]
    with pytest.raises(InvalidForest, match=r"star, tree 0 \(root h1\): what h2 holds does not reach the root"):
        verify(replace(forest, trees=(replace(tree, reduce=tree.reduce[:1]),)))
    with pytest.raises(InvalidForest, match=r"broadcast edge 2 \(h1 -> h0\): h0 gets the result twice"):
        verify(replace(forest, trees=(replace(tree, broadcast=(*tree.broadcast, tree.broadcast[0])),)))
    with pytest.raises(InvalidForest, match="sum to 1/2, not to 1"):
        verify(replace(forest, trees=(replace(tree, share=Fraction(1, 2)),)))


def test_links_must_exist():
    forest = ring(mesh_cluster(4), order=["h0", "h1", "h2", "h3"])
    mesh = mesh_cluster(4)
    cut = replace(mesh, links=tuple(link for link in mesh.links if (link.source, link.target) != ("h1", "h2")))
    with pytest.raises(InvalidForest, match="no link h1 -> h2"):
        verify(forest, cut)
    named = tuple(replace(link, rail="eth7") for link in mesh.links)
    verify(forest, replace(mesh, links=named))  # where there is one only, it need not be named
    wrong = tuple(edge._replace(rail="eth9") for edge in forest.trees[0].reduce)
    with pytest.raises(InvalidForest, match="no rail 'eth9', but 'eth7'"):
        verify(
            replace(forest, trees=(replace(forest.trees[0], reduce=wrong), *forest.trees[1:])),
            replace(mesh, links=named),
        )
    both = tuple(replace(link, rail=rail) for link in mesh.links for rail in ("eth7", "eth8"))
    with pytest.raises(InvalidForest, match="no rail '', but 'eth7', 'eth8'"):
        verify(forest, replace(mesh, links=both))


def test_switches_and_unable_helpers_may_not_add_or_copy():
    cluster = star_cluster(3)
    spokes = tuple(Edge(name, "switch") for name in cluster.ranks)
    back = tuple(Edge("switch", name) for name in cluster.ranks)
    forest = Forest("at the switch", "all_reduce", cluster.ranks, (Tree(Fraction(1), "switch", spokes, back),))
    verify(forest)
    with pytest.raises(InvalidForest, match="switch would have to add"):
        verify(forest, cluster)
    able = Node(name="switch", kind="switch", adds=True)
    with pytest.raises(InvalidForest, match="switch would have to copy"):
        verify(forest, replace(cluster, nodes=(*cluster.nodes[:3], able)))
    verify(forest, replace(cluster, nodes=(*cluster.nodes[:3], replace(able, copies=True))))


def test_members_must_hold_data():
    cluster = star_cluster(2, helpers=1)
    forest = star(cluster)
    helpers = tuple(replace(node, kind="helper") if node.name == "h1" else node for node in cluster.nodes)
    with pytest.raises(InvalidForest, match="h1 is a helper, which holds no data, but a member"):
        verify(forest, replace(cluster, nodes=helpers))
