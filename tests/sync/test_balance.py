"""Uneven blocks: as fast as can be, against brute force; and when they change."""

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from manyhands.collective import assign_blocks
from manyhands.sync.balance import Balance

speeds = st.lists(st.floats(0.1, 10), min_size=1, max_size=5)


@given(speeds, st.integers(0, 7))
def test_no_cut_is_done_sooner(seconds, more):
    micro_batches = len(seconds) + more
    blocks = assign_blocks(micro_batches, len(seconds), tuple(seconds))
    assert [index for block in blocks for index in range(*block)] == list(range(micro_batches))
    assert all(block.size for block in blocks)
    best = min(
        max((b - a) * s for (a, b), s in zip(pairwise((0, *inner, micro_batches)), seconds, strict=True))
        for inner in combinations(range(1, micro_batches), len(seconds) - 1)
    )
    assert max(block.size * s for block, s in zip(blocks, seconds, strict=True)) <= best * (1 + 1e-9)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 100))
def test_equal_speeds_are_no_news(micro_batches, workers, second):
    workers = min(workers, micro_batches)
    even = [b.size for b in assign_blocks(micro_batches, workers)]
    assert max(b.size for b in assign_blocks(micro_batches, workers, (second,) * workers)) == max(even)


def shares(balance: Balance) -> list[int]:
    return [block.size for block in balance.blocks]


def test_a_slow_worker_gets_less_and_gets_it_back():
    balance = Balance(assign_blocks(16, 4))
    changes = [step(balance, [1.0, 1.05, 1.0, 3.0]) for _ in range(12)]
    assert shares(balance) == [5, 5, 5, 1]
    assert [bool(change) for change in changes] == [False] * 11 + [True]
    for _ in range(18):
        step(balance, [1.0, 1.0, 1.0, 1.0])
    assert shares(balance) == [4, 4, 4, 4]


def step(balance: Balance, seconds: list[float], exchange=lambda shares: 0.0):
    """A step of workers of these speeds, and of what the exchange takes for these shares."""
    longest = max(block.size * second for block, second in zip(balance.blocks, seconds, strict=True))
    return balance.learn(seconds, longest + exchange(shares(balance)))


def test_pieces_cost_what_the_exchange_takes():
    def pieces(blocks):
        return sum(len(block.pieces(8)) for block in blocks)

    for exchange, changes in ((4.0, True), (9.0, False)):
        balance = Balance(assign_blocks(8, 4), pieces)
        for _ in range(30):
            step(balance, [1.0, 1.0, 1.0, 3.0], exchange=lambda shares, e=exchange: e)
        assert (shares(balance) != [2, 2, 2, 2]) == changes


def test_a_change_that_costs_more_than_it_saves_is_taken_back_until_speeds_are_others():
    balance = Balance(assign_blocks(16, 4))
    seen = []
    for speeds in [[1.0, 1.0, 1.0, 3.0]] * 60 + [[1.0, 1.0, 1.0, 6.0]] * 60:
        step(balance, speeds, exchange=lambda shares: 0.0 if shares == [4, 4, 4, 4] else 9.0)
        seen.append(shares(balance))
    tried = [now for before, now in pairwise(seen) if now != before]
    assert tried[:2] == [[5, 5, 5, 1], [4, 4, 4, 4]]
    assert [new[-1] for new in tried[2:]] == [1], "for one that is 6 times slower it is worth while"


@given(st.lists(st.lists(st.floats(0.97, 1.03), min_size=4, max_size=4), min_size=30, max_size=60))
def test_noise_moves_nothing(rows):
    balance = Balance(assign_blocks(16, 4))
    for index, row in enumerate(rows):
        hiccup = [20.0 if index % 7 == rank == 3 else second for rank, second in enumerate(row)]
        assert step(balance, hiccup) is None


def test_one_micro_batch_each_cannot_be_moved():
    balance = Balance(assign_blocks(3, 3))
    assert all(step(balance, [1.0, 9.0, 1.0]) is None for _ in range(30))
