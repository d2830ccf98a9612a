"""Programs carried out by a naive interpreter (queues and numpy), against sums computed at once."""

from collections import deque
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.collective import (
    Contribution,
    Edge,
    Forest,
    Op,
    Tree,
    compile_forest,
    count_ahead,
    count_chunks,
    ranges,
)
from manyhands.collective.blocks import assign_blocks


def carry_out(programs, buffers):
    """Run all ranks' programs; a rank goes on until it must wait."""
    channels = {}
    todo = [deque(p.instructions) for p in programs]
    while any(todo):
        moved = False
        for rank, row in enumerate(todo):
            while row:
                step = row[0]

                def at(place, rank=rank, step=step):
                    return buffers[rank][place.buffer][place.start : place.start + step.count]

                if step.op in (Op.RECEIVE, Op.RECEIVE_ADD):
                    queue = channels.get((step.peer, rank, step.rail))
                    if not queue:
                        break
                    data = queue.popleft()
                    assert len(data) == step.count
                    at(step.target)[:] = data if step.op is Op.RECEIVE else at(step.left) + data
                elif step.op is Op.SEND:
                    channels.setdefault((rank, step.peer, step.rail), deque()).append(at(step.left).copy())
                elif step.op is Op.ADD:
                    at(step.target)[:] = at(step.left) + at(step.right)
                else:
                    at(step.target)[:] = at(step.left)
                row.popleft()
                moved = True
        assert moved, "deadlock"
    assert not any(channels.values()), "unread messages"


@st.composite
def trees(draw, names, helpers, operation, root=None):
    """A random tree over the members and perhaps helpers, in a random shape for each direction."""
    root = root or draw(st.sampled_from(names + (helpers if operation == "all_reduce" else [])))
    parts = []
    for _ in range(2):
        nodes = [root, *draw(st.permutations([n for n in names + helpers if n != root]))]
        parents = {n: nodes[draw(st.integers(0, i))] for i, n in enumerate(nodes[1:])}
        parts.append([(n, parents[n]) for n in nodes[1:]])
    reduce = tuple(Edge(child, parent) for child, parent in reversed(parts[0]))
    broadcast = tuple(Edge(parent, child) for child, parent in parts[1])
    if operation in ("reduce", "reduce_scatter"):
        broadcast = ()
    if operation in ("all_gather", "broadcast"):
        reduce = ()
    share = Fraction(draw(st.integers(1, 5)))
    return Tree(share, root, reduce, broadcast)


@st.composite
def forests(draw, operation):
    names = [f"n{i}" for i in range(draw(st.integers(1, 5)))]
    helpers = [f"z{i}" for i in range(draw(st.integers(0, 2)))]
    if operation in ("reduce_scatter", "all_gather"):
        rows = [
            [draw(trees(names, helpers, operation, name)) for _ in range(draw(st.integers(1, 2)))] for name in names
        ]
        whole = [
            Tree(t.share / sum(x.share for x in row) / len(names), t.root, t.reduce, t.broadcast)
            for row in rows
            for t in row
        ]
    else:
        root = None if operation == "all_reduce" else draw(st.sampled_from(names))
        row = [draw(trees(names, helpers, operation, root)) for _ in range(draw(st.integers(1, 4)))]
        whole = [Tree(t.share / sum(x.share for x in row), t.root, t.reduce, t.broadcast) for t in row]
    return Forest("random", operation, tuple(names), tuple(whole))


def run(forest, numel, chunks, data, **options):
    programs = [compile_forest(forest, rank, numel, chunks=chunks, **options) for rank in range(len(forest.rank))]
    buffers = []
    for rank, program in enumerate(programs):
        row = [np.full(size, np.nan) for size in program.sizes]
        if rank < len(forest.members):
            for buffer, values in enumerate(data[rank]):
                row[buffer][:] = values
        buffers.append(row)
    carry_out(programs, buffers)
    members = range(len(forest.members))
    return [buffers[r][programs[r].output] for r in members], [buffers[r][0] for r in members]


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["all_reduce", "reduce", "broadcast", "reduce_scatter", "all_gather"]))
def test_every_forest_does_its_operation(data, operation):
    forest = data.draw(forests(operation))
    world = len(forest.members)
    part = data.draw(st.integers(0, 60))
    numel = part * world if operation in ("reduce_scatter", "all_gather") else part
    chunks = data.draw(st.integers(1, 6))
    place = operation not in ("reduce_scatter", "all_gather", "reduce") and data.draw(st.booleans())
    generator = np.random.default_rng(0)
    given_ = [[generator.integers(0, 100, part if operation == "all_gather" else numel)] for _ in range(world)]
    outputs, inputs = run(forest, numel, chunks, given_, in_place=place, ahead=data.draw(st.integers(0, 4)))
    total = sum(row[0] for row in given_)
    root = forest.rank[forest.trees[0].root]
    for rank, output in enumerate(outputs):
        if operation == "all_reduce":
            expected = total
        elif operation == "reduce":
            expected = total if rank == root else output
        elif operation == "broadcast":
            expected = given_[root][0]
        elif operation == "reduce_scatter":
            expected = total[rank * part : (rank + 1) * part]
        else:
            expected = np.concatenate([row[0] for row in given_])
        assert np.array_equal(output, expected, equal_nan=True), (rank, operation)
        if not place:
            assert np.array_equal(inputs[rank], given_[rank][0])


@settings(max_examples=100)
@given(st.data())
def test_aligned_sums_are_the_same_bits_for_every_forest_and_every_number_of_members(data):
    forest = data.draw(forests("all_reduce"))
    world = len(forest.members)
    leaves = data.draw(st.integers(world, 3 * world + 4))
    values = np.random.default_rng(leaves).standard_normal((leaves, 40)) * 10.0 ** np.arange(40)

    def tree_sum(start, stop):
        if stop - start == 1:
            return values[start]
        half = 1
        while half * 2 < stop - start:
            half *= 2
        return tree_sum(start, start + half) + tree_sum(start + half, stop)

    blocks = assign_blocks(leaves, world)
    nodes = tuple(block.pieces(leaves) for block in blocks)
    rows = [[tree_sum(n.start, min(n.start + (1 << n.level), leaves)) for n in row] for row in nodes]
    outputs, _ = run(
        forest,
        40,
        data.draw(st.integers(1, 4)),
        rows,
        association="aligned",
        contribution=Contribution(nodes, leaves),
        in_place=False,
        ahead=data.draw(st.integers(0, 3)),
    )
    for output in outputs:
        assert np.array_equal(output, tree_sum(0, leaves))


def test_parts_of_ranks_are_never_rounded():
    edges = tuple(Edge("a", "b") for _ in range(1))
    forest = Forest("x", "all_gather", ("a", "b"), (Tree(Fraction(1, 2), "a", (), edges), Tree(Fraction(1, 2), "b")))
    assert ranges(forest, 14) == [(0, 7), (7, 14)]


@pytest.mark.parametrize(("size", "few", "many"), [(1000, 1, 1), (1 << 24, 64, 64), (1 << 30, 4096, 4096)])
def test_large_data_flows_in_many_chunks_and_small_data_in_one(size, few, many):
    forest = Forest("x", "all_reduce", ("a", "b"), (Tree(Fraction(1), "a", (Edge("b", "a"),), (Edge("a", "b"),)),))
    assert few <= count_chunks(forest, size) <= many


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_every_rank_sends_so_many_chunks_before_it_waits(ahead):
    there, back = (Edge("a", "b"),), (Edge("b", "a"),)
    trees = (Tree(Fraction(1, 2), "a", back, there), Tree(Fraction(1, 2), "b", there, back))
    forest = Forest("ring", "all_reduce", ("a", "b"), trees)
    for rank in (0, 1):
        ops = [step.op for step in compile_forest(forest, rank, 1 << 12, chunks=8, ahead=ahead).instructions]
        assert ops.index(Op.RECEIVE_ADD) == 1 + ahead


def test_less_is_sent_ahead_the_larger_chunks_are():
    tree = Tree(Fraction(1), "a", (Edge("b", "a"),), (Edge("a", "b"),))
    forest = Forest("x", "all_reduce", ("a", "b"), (tree,))
    counts = [count_ahead(forest, 1 << 20, chunks, lead=1 << 18) for chunks in (1, 4, 8, 16)]
    assert counts == [0, 0, 1, 3]
    assert count_ahead(forest, 1 << 10, 1, lead=1 << 18) == 0  # there is nothing more to send
    assert count_ahead(forest, 1 << 20, 16, lead=0) == 0
