"""Sparse sums against the dense tree: the same bits, whoever adds up what."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyhands.collective import assign_blocks, fold, leaves
from manyhands.tables import Rows, RowSum, add, combine, divide, no_rows

ROWS, WIDTH = 7, 3
# Zeros of both signs, and sizes whose sums are rounded.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-8, 3e7, -3e7, 0.1])


def tree(values: list[torch.Tensor]) -> torch.Tensor:
    """The aligned binary tree, by recursion."""
    if len(values) == 1:
        return values[0]
    half = 1 << (len(values) - 1).bit_length() - 1
    return tree(values[:half]) + tree(values[half:])


def dense(rows: Rows) -> torch.Tensor:
    whole = torch.zeros(ROWS, rows.values.shape[1])
    whole[rows.ids] = rows.values
    return whole


def raw(tensor: torch.Tensor) -> list:
    return tensor.contiguous().view(torch.int32).tolist()


@st.composite
def micro_batch(draw) -> Rows:
    ids = sorted(draw(st.sets(st.integers(0, ROWS - 1))))
    values = draw(st.lists(VALUES, min_size=len(ids) * WIDTH, max_size=len(ids) * WIDTH))
    return Rows(torch.tensor(ids, dtype=torch.int64), torch.tensor(values).reshape(len(ids), WIDTH))


def fold_block(start: int, stop: int, total: int, parts: list[Rows]) -> list[Rows]:
    block = RowSum(fold(leaves(start, stop), total))
    for leaf, index in enumerate(range(start, stop)):
        block.push(leaf, Rows(*(t.clone() for t in parts[index])))
    return block.pieces()


def check(total: Rows, parts: list[Rows]) -> None:
    assert total.ids.tolist() == sorted({i for part in parts for i in part.ids.tolist()})
    assert raw(total.values) == raw(tree([dense(part) for part in parts])[total.ids])


@given(st.lists(micro_batch(), min_size=1, max_size=13))
def test_any_number_of_workers_has_the_bits_of_the_dense_tree(parts):
    count = len(parts)
    for workers in range(1, count + 1):
        blocks = assign_blocks(count, workers)
        pieces = [fold_block(block.start, block.stop, count, parts) for block in blocks]
        assert [len(p) for p in pieces] == [len(b.pieces(count)) for b in blocks]
        check(combine([block.pieces(count) for block in blocks], pieces, count), parts)


@given(st.data(), st.lists(micro_batch(), min_size=1, max_size=13))
def test_any_cut_into_blocks(data, parts):
    count = len(parts)
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1)))) if count > 1 else []
    ends = list(zip([0, *cuts], [*cuts, count], strict=True))
    nodes = [fold(leaves(start, stop), count).rest for start, stop in ends]
    check(combine(nodes, [fold_block(start, stop, count, parts) for start, stop in ends], count), parts)


@given(st.integers(1, 9), st.integers(0, 2**31))
def test_random_numbers(count, seed):
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        ids = np.flatnonzero(random.random(ROWS) < 0.6)
        values = random.standard_normal((len(ids), 65), np.float32)
        parts.append(Rows(torch.from_numpy(ids), torch.from_numpy(values)))
    (total,) = fold_block(0, count, count, parts)
    check(total, parts)


def test_the_operands_are_left_alone():
    left = Rows(torch.tensor([1, 2]), torch.ones(2, 3))
    right = Rows(torch.tensor([2, 5]), torch.ones(2, 3))
    total = add(left, right)
    assert total.ids.tolist() == [1, 2, 5] and total.values[:, 0].tolist() == [1, 2, 1]
    assert left.values.eq(1).all() and right.values.eq(1).all()
    assert add(left, left).values.eq(2).all() and left.values.eq(1).all()


def test_nothing_and_a_second_step():
    assert add(no_rows(3), no_rows(3)).values.shape == (0, 3)
    block = RowSum(fold(leaves(0, 2), 2))
    for value in (1.0, 5.0):
        block.push(0, Rows(torch.tensor([4]), torch.full((1, 2), value)))
        block.push(1, no_rows(2))
        (total,) = block.pieces()
        assert total.ids.tolist() == [4] and total.values.eq(value).all()
        block.clear()


@given(micro_batch(), micro_batch(), st.integers(1, 4))
def test_owners_add_up_their_shares_alone(left, right, owners):
    for whole, a, b in zip(divide(add(left, right), owners), divide(left, owners), divide(right, owners), strict=True):
        share = add(a, b)
        assert torch.equal(share.ids, whole.ids) and raw(share.values) == raw(whole.values)


def test_few_sums_are_alive():
    block, most = RowSum(fold(leaves(0, 64), 64)), 0
    for leaf in range(64):
        block.push(leaf, Rows(torch.tensor([leaf]), torch.ones(1, 2)))
        most = max(most, len(block.pieces()))
    assert most <= 7  # log2(64) + 1
