"""The order of sums: whatever the cut into blocks, the same expression as the aligned tree defined by recursion."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.collective import Fold, Node, assign_blocks, fold, leaves, pieces


def aligned(low: int, high: int):
    """The sum over [low, high) as nested pairs: the left part is the largest power of two below the length."""
    if high - low == 1:
        return low
    half = 1
    while 2 * half < high - low:
        half *= 2
    return aligned(low, low + half), aligned(low + half, high)


def evaluate(plan: Fold, operands: list, add=lambda a, b: (a, b)) -> list:
    """Carry out the additions of a fold on a stack."""
    stack = []
    for operand, count in zip(operands, plan.adds, strict=True):
        stack.append(operand)
        for _ in range(count):
            right, left = stack.pop(), stack.pop()
            stack.append(add(left, right))
    return stack


def through_blocks(cuts: list[int], total: int, operands: list, add=lambda a, b: (a, b)) -> list:
    """Fold every block `[cuts[i], cuts[i + 1])` by itself, then what the blocks hand over."""
    handed, nodes = [], []
    for start, stop in itertools.pairwise(cuts):
        plan = fold(leaves(start, stop), total)
        handed += evaluate(plan, operands[start:stop], add)
        nodes += plan.rest
    return evaluate(fold(nodes, total), handed, add)


def is_subtree(start: int, stop: int, total: int) -> bool:
    """Whether [start, stop) is a node of the tree, by walking down from the root."""
    low, high = 0, total
    while (low, high) != (start, stop):
        if high - low <= 1:
            return False
        half = 1
        while 2 * half < high - low:
            half *= 2
        low, high = (low, low + half) if start < low + half else (low + half, high)
    return True


def fewest_subtrees(start: int, stop: int, total: int) -> int:
    """The least number of subtrees that tile a block, by trying every cut."""
    best = {stop: 0}
    for low in range(stop - 1, start - 1, -1):
        best[low] = min(1 + best[high] for high in range(low + 1, stop + 1) if is_subtree(low, high, total))
    return best[start]


totals = st.integers(1, 200)


@given(totals)
def test_the_fold_of_all_micro_batches_is_the_aligned_tree(total):
    plan = fold(leaves(0, total), total)
    assert len(plan.rest) == 1
    assert sum(plan.adds) == total - 1
    assert evaluate(plan, list(range(total))) == [aligned(0, total)]


@given(st.data(), totals)
def test_any_cut_into_blocks_gives_the_same_expression(data, total):
    inner = data.draw(st.sets(st.integers(0, total)))
    cuts = sorted(inner | {0, total})
    assert through_blocks(cuts, total, list(range(total))) == [aligned(0, total)]


def test_every_cut_of_small_trees():
    for total in range(1, 10):
        for mask in range(1 << (total - 1)):
            cuts = [0, *(i + 1 for i in range(total - 1) if mask >> i & 1), total]
            assert through_blocks(cuts, total, list(range(total))) == [aligned(0, total)], cuts


@given(st.data(), totals)
def test_pieces_tile_the_block_in_order(data, total):
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    position = start
    for node in pieces(start, stop, total):
        assert node.start == position
        position = min((node.index + 1) << node.level, total)
        assert is_subtree(node.start, position, total)
    assert position == stop


def test_pieces_are_as_few_as_possible():
    for total in range(1, 18):
        for start in range(total):
            for stop in range(start + 1, total + 1):
                count = len(pieces(start, stop, total))
                assert count == fewest_subtrees(start, stop, total), (start, stop, total)


@given(st.data(), st.integers(2, 2048))
@settings(max_examples=30)
def test_a_block_has_few_pieces(data, size):
    start = data.draw(st.integers(0, 4096))
    assert len(pieces(start, start + size, 1 << 14)) <= 2 * size.bit_length()


def test_the_pieces_of_the_whole_are_the_root():
    assert pieces(0, 8, 8) == (Node(3, 0),)
    assert pieces(0, 1, 1) == (Node(0, 0),)
    assert len(pieces(0, 5, 5)) == 1
    assert len(pieces(1, 8, 8)) == 3


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_float_sums_have_the_same_bits_for_every_number_of_workers(total, seed):
    values = np.random.default_rng(seed).normal(scale=1e3, size=(total, 5)).astype(np.float32)

    def recursive(tree):
        return values[tree] if isinstance(tree, int) else recursive(tree[0]) + recursive(tree[1])

    expected = recursive(aligned(0, total)).tobytes()
    for workers in range(1, total + 1):
        blocks = assign_blocks(total, workers)
        cuts = [0, *(block.stop for block in blocks)]
        (result,) = through_blocks(cuts, total, list(values), lambda a, b: a + b)
        assert result.tobytes() == expected, workers


def test_order_matters_for_the_values_used_here():
    """Guards the test above: on such values the plain order, left to right, gives other bits."""
    values = np.random.default_rng(0).normal(scale=1e3, size=(40, 5)).astype(np.float32)
    (tree_sum,) = evaluate(fold(leaves(0, 40), 40), list(values), lambda a, b: a + b)
    plain = values[0]
    for value in values[1:]:
        plain = plain + value
    assert plain.tobytes() != tree_sum.tobytes()
