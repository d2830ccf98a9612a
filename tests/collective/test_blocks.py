"""Who computes which micro-batches: contiguous, never empty, even, and with as few subtrees as can be."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.collective import assign_blocks, pieces


@st.composite
def sizes(draw):
    micro_batches = draw(st.integers(1, 96))
    return micro_batches, draw(st.integers(1, micro_batches))


def handed_over(cuts, micro_batches: int) -> int:
    return sum(len(pieces(a, b, micro_batches)) for a, b in pairwise(cuts))


@given(sizes())
def test_blocks_tile_the_micro_batches(given_sizes):
    micro_batches, workers = given_sizes
    blocks = assign_blocks(micro_batches, workers)
    assert [index for block in blocks for index in range(*block)] == list(range(micro_batches))
    assert len(blocks) == workers


@given(sizes())
def test_blocks_are_even_and_none_is_empty(given_sizes):
    block_sizes = [block.size for block in assign_blocks(*given_sizes)]
    assert min(block_sizes) >= 1
    assert max(block_sizes) - min(block_sizes) <= 1


def test_no_even_cut_has_fewer_subtrees():
    for micro_batches in range(1, 15):
        for workers in range(1, micro_batches + 1):
            even = {micro_batches // workers, -(-micro_batches // workers)}
            best = min(
                handed_over(cuts, micro_batches)
                for inner in combinations(range(1, micro_batches), workers - 1)
                for cuts in [(0, *inner, micro_batches)]
                if {b - a for a, b in pairwise(cuts)} <= even
            )
            blocks = assign_blocks(micro_batches, workers)
            assert handed_over((0, *(b.stop for b in blocks)), micro_batches) == best, (micro_batches, workers)


@given(st.integers(0, 6), st.integers(0, 6))
def test_powers_of_two_hand_over_one_subtree_each(a, b):
    micro_batches, workers = 1 << max(a, b), 1 << min(a, b)
    assert all(len(block.pieces(micro_batches)) == 1 for block in assign_blocks(micro_batches, workers))


@pytest.mark.parametrize(("micro_batches", "workers"), [(4, 5), (4, 0), (1, 2), (4, -1)])
def test_impossible_numbers_of_workers_are_refused(micro_batches, workers):
    with pytest.raises(ValueError, match=f"{workers} workers cannot share {micro_batches} micro-batches"):
        assign_blocks(micro_batches, workers)


def test_a_large_gang_has_blocks_too():
    blocks = assign_blocks(1024, 1000)
    assert (blocks[0].start, blocks[-1].stop, len(blocks)) == (0, 1024, 1000)
