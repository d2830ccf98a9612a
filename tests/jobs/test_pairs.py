"""What is known and hoped of pairs, and packing that learns by trial."""

import numpy as np
import pytest
from moments import after, moment
from scipy.optimize import linear_sum_assignment

from manyhands.errors import UserError
from manyhands.jobs import Pack, Pause
from manyhands.jobs.pairs import AVERAGE, Pairs
from manyhands.jobs.policies import policy_of
from manyhands.jobs.simulator import World, generate, generate_pairs, read_pairs, simulate


def test_nothing_known_is_hope_for_all():
    hopes = Pairs().among([3, 5])
    assert set(hopes) == {(3, 3), (3, 5), (5, 3), (5, 5)}
    assert all(AVERAGE < first <= 1 and AVERAGE < second <= 1 for first, second in hopes.values())


def test_what_was_measured_is_not_guessed_and_teaches_about_others():
    pairs = Pairs({("loud", "a"): (0.9, 0.3), ("loud", "b"): (0.9, 0.3), ("soft", "a"): (0.9, 0.95)})
    found = pairs.among(["loud", "soft", "a", "b", "c"])
    assert found["loud", "a"] == (0.9, 0.3) and found["a", "loud"] == (0.3, 0.9)
    assert found["c", "loud"][0] < found["c", "soft"][0], "who disturbs others will disturb this one"
    assert found["a", "loud"] == (0.3, 0.9)


def test_two_that_do_not_fit_say_nothing_of_others():
    assert Pairs({(0, 1): (0.0, 0.0)}).among([0, 2])[0, 2] == Pairs().among([0, 2])[0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_trials_find_nearly_all_that_is_to_be_gained_and_keep_no_pair_that_loses(seed):
    """Beside what one who knows all speeds would gain."""
    count, kinds = 8, 12
    truth = generate_pairs(kinds, seed)
    kind = np.random.default_rng(seed).integers(0, kinds, 2 * count).tolist()
    gain = np.array([[max(0.0, sum(truth[h, g]) - 1) for g in kind[count:]] for h in kind[:count]])
    rows, columns = linear_sum_assignment(gain, maximize=True)
    pairs, guests, policy, trials = Pairs(), dict[int, int](), policy_of("fifo+pack"), 0
    for _ in range(200):
        # A guest's row comes after its host's, so that it is the second.
        jobs = [{"kind": kind[j], **({"on": (j,)} if j < count else {})} for j in range(2 * count)]
        for guest, slot in guests.items():
            jobs[guest]["on"] = (slot,)
        state = moment([1] * count, jobs, pairs=pairs.among(kind))
        decisions = policy(state)
        after(state, decisions)
        if not decisions:
            break
        for decision in decisions:
            guests.pop(decision.job - 100, None)
        for decision in decisions:
            assert isinstance(decision, Pack | Pause)
            if isinstance(decision, Pack):
                slot, guest = decision.slots[0], decision.job - 100
                guests[guest] = slot
                trials += (kind[slot], kind[guest]) not in pairs.measured
                pairs.measure(kind[slot], kind[guest], truth[kind[slot], kind[guest]])
    else:
        raise AssertionError("it never settles")
    gains = [sum(truth[kind[slot], kind[guest]]) - 1 for guest, slot in guests.items()]
    assert min(gains) > 0
    assert sum(gains) >= 0.9 * gain[rows, columns].sum()
    assert trials <= len({(kind[h], kind[g]) for h in range(count) for g in range(count, 2 * count)})


def test_a_simulation_with_trials_ends_between_none_and_all_knowing():
    kinds = 6
    trace = generate(200, 8, seed=3, load=1.5, kinds=kinds)
    truth = generate_pairs(kinds, 1)

    def mean(policy: str, **world) -> float:
        outcome = simulate(trace, World(hosts=[4, 4], pairs=truth, **world), policy_of(policy))
        assert not np.isnan(outcome.ended).any()
        return float((outcome.ended - trace.submitted).mean())

    alone, tried, known = mean("fifo"), mean("fifo+pack", trial=60.0), mean("fifo+pack")
    assert tried < 0.95 * alone
    assert known < 1.1 * tried


def test_generated_pairs_are_like_those_that_were_measured():
    sums = np.array([sum(speeds) for speeds in generate_pairs(200, 0).values()])
    fits = sums[sums > 0]
    assert 0.04 < (sums == 0).mean() < 0.08
    assert 0.15 < (fits < 1).mean() < 0.25
    assert 1.25 < np.median(fits) < 1.45


OWN = "first,second,speed_first,speed_second\na,b,0.9,0.5\na,a,0,0\n"
GAVEL = """{"v100": {"('a', 1)": {"null": 10.0, "('b', 1)": [9.0, 2.5], "('a', 1)": [0.0, 0.0]},
"('b', 1)": {"null": 5.0, "('a', 1)": [2.5, 9.0]}, "('a', 2)": {"null": 7.0}}}"""


@pytest.mark.parametrize("text", [OWN, GAVEL])
def test_pairs_from_a_file(tmp_path, text):
    path = tmp_path / "pairs"
    path.write_text(text)
    kinds, speeds = read_pairs(path)
    assert kinds == ["a", "b"]
    assert speeds == {(0, 1): (0.9, 0.5), (1, 0): (0.5, 0.9), (0, 0): (0.0, 0.0)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("first,second\na,b\n", "line 2"),
        ("first,second,speed_first,speed_second\na,b,0.9,0.5\na,b,-1,x\n", "line 3"),
        ('{"k80": {}}', "there is no device v100; there are k80"),
        ("{", "JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, reason):
    path = tmp_path / "pairs"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        read_pairs(path)
