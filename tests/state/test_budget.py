"""What keeping state may cost: a share of the time and one save; and that it is kept at all."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from manyhands.state import Budget

seconds = st.floats(1e-4, 100)
shares = st.floats(0.001, 0.5)


def play(budget: Budget, moves) -> list[tuple[float, float]]:
    """Train and save as allowed; (seconds trained, seconds spent) of every step."""
    rows = []
    for trained, cost in moves:
        budget.earn(trained)
        spent = 0.0
        if budget.allows():
            budget.spend(cost)
            spent = cost
        rows.append((trained, spent))
    return rows


@given(shares, seconds, st.lists(st.tuples(seconds, seconds), max_size=60))
def test_the_cost_is_a_share_of_the_time_and_at_most_one_save(share, guess, moves):
    rows = play(Budget(share, guess), moves)
    time = spent = 0.0
    dearest = max([cost for _, cost in rows], default=0.0)
    for trained, cost in rows:
        time += trained
        spent += cost
        assert spent <= share * time + dearest + 1e-9


@given(shares, seconds, st.lists(st.tuples(seconds, seconds), max_size=40))
def test_a_long_wait_does_not_earn_a_burst(share, guess, moves):
    """Over any stretch: its share, a save that was due when it began, and one at its end."""
    budget = Budget(share, guess)
    rows, expected = [], []
    for trained, cost in moves:
        expected.append(budget.expected)
        rows += play(budget, [(trained, cost)])
    for begin in range(len(rows)):
        time = spent = 0.0
        dearest = max(expected[begin], *[cost for _, cost in rows])
        for trained, cost in rows[begin:]:
            time += trained
            spent += cost
            assert spent <= share * time + 2 * dearest + 1e-9


@given(shares, seconds, seconds, seconds)
def test_saves_go_on_at_the_share(share, guess, cost, step):
    budget = Budget(share, guess)
    first = int(guess / (share * step)) + 2
    assert sum(spent > 0 for _, spent in play(budget, [(step, cost)] * min(first, 10_000))) or first > 10_000
    if first <= 10_000:
        steps = int(20 * max(cost, guess) / (share * step)) + 20
        if steps <= 20_000:
            saves = sum(spent > 0 for _, spent in play(budget, [(step, cost)] * steps))
            assert saves >= min(steps, int(share * step * steps / max(cost, share * step))) // 4


def test_a_cheap_state_is_kept_every_step():
    rows = play(Budget(0.02, 1e-3), [(0.1, 1e-3)] * 20)
    assert all(spent for _, spent in rows)


def test_an_expensive_one_adapts():
    """2 s of every 100 s, however cheap the first was thought to be."""
    rows = play(Budget(0.02, 1e-6), [(1.0, 2.0)] * 3000)
    saves = [index for index, (_, spent) in enumerate(rows) if spent]
    gaps = [b - a for a, b in itertools.pairwise(saves)]
    assert min(gaps) >= 99 and 27 <= len(saves) <= 30
    assert all(99 <= gap <= 101 for gap in gaps[-15:])


def test_after_a_long_pause_saves_are_not_made_up_for():
    budget = Budget(0.1, 1.0)
    play(budget, [(1e6, 1.0)])
    assert sum(spent > 0 for _, spent in play(budget, [(0.1, 1.0)] * 50)) <= 2


def test_a_save_that_was_ordered_is_paid_back():
    budget = Budget(0.1, 1.0)
    budget.spend(1.0)
    assert not budget.allows()
    budget.earn(15.0)
    assert not budget.allows()
    budget.earn(6.0)
    assert budget.allows()
