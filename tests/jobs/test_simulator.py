"""The simulator beside closed forms and a slow, independent one; the figures; traces and what is wrong with them."""

import dataclasses
import heapq
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.errors import UserError
from manyhands.jobs import Pause, Start
from manyhands.jobs.policies import policy_of
from manyhands.jobs.simulator import Trace, World, figures, generate, read_trace, simulate


def trace_of(jobs, **columns) -> Trace:
    """Of (submitted, workers, seconds)."""
    jobs = sorted(jobs)
    count = len(jobs)
    least = np.array([job[1] for job in jobs], dtype=np.int64)
    whole = {
        "most": least,
        "user": np.zeros(count, dtype=np.int64),
        "priority": np.zeros(count, dtype=np.int64),
        "kind": np.zeros(count, dtype=np.int64),
        "spread": np.ones(count),
    }
    return Trace(
        name="test",
        submitted=np.array([job[0] for job in jobs], dtype=float),
        least=least,
        seconds=np.array([job[2] for job in jobs], dtype=float),
        names=[f"j{i}" for i in range(count)],
        users=["u"],
        kinds=["k"],
        **{name: np.array(columns.get(name, values)) for name, values in whole.items()},
    )


jobs_of = st.lists(
    st.tuples(st.integers(0, 50).map(float), st.integers(1, 4), st.integers(1, 40).map(float)), min_size=1, max_size=15
)


def by_hand(jobs, slots):
    """First in, first out, without overtaking."""
    ends, free, now, result = [], slots, 0.0, []
    for submitted, workers, seconds in sorted(jobs):
        now = max(now, submitted)
        while ends and ends[0][0] <= now:
            free += heapq.heappop(ends)[1]
        while free < workers:
            now, freed = heapq.heappop(ends)
            free += freed
        free -= workers
        heapq.heappush(ends, (now + seconds, workers))
        result.append(now + seconds)
    return result


@given(jobs_of, st.lists(st.integers(1, 3), min_size=2, max_size=4))
@settings(max_examples=50)
def test_first_in_first_out(jobs, hosts):
    if sum(hosts) < 4:
        hosts = [4]
    outcome = simulate(trace_of(jobs), World(hosts=hosts), policy_of("fifo"))
    assert outcome.ended == pytest.approx(by_hand(jobs, sum(hosts)))
    assert outcome.used == pytest.approx(sum(workers * seconds for _, workers, seconds in jobs))
    assert outcome.decisions == {"start": len(jobs)}


PAIRS = {(0, 0): (0.8, 0.7), (0, 1): (0.9, 0.6), (1, 1): (0.3, 0.9)}


@pytest.mark.parametrize(
    "name", ["priority", "las:10:100", "fair", "elastic", "las:20+consolidate", "elastic+pack", "las:20+pack"]
)
@given(jobs_of, st.lists(st.integers(1, 4), min_size=1, max_size=4), st.floats(0, 3))
@settings(max_examples=25)
def test_everybody_gets_their_work_done(name, jobs, hosts, restart):
    """Whatever the pauses and moves: slots are never given twice, and each job holds them as long as its work takes."""
    kinds, most = np.arange(len(jobs)) % 2, np.array([job[1] for job in sorted(jobs)]) * 2
    trace = trace_of(jobs, spread=np.full(len(jobs), 0.5), kind=kinds, most=most)
    world = World(hosts=hosts, restart=restart, tick=7.0, pairs=PAIRS, scaling=1.0)
    outcome = simulate(trace, world, policy_of(name))
    ended = ~np.isnan(outcome.ended)
    assert set(np.flatnonzero(~ended)) == set(outcome.refused) == set(np.flatnonzero(trace.least > sum(hosts)))
    held = np.zeros(len(jobs))
    for stay in outcome.stays:
        held[stay.job] += (stay.ended - stay.began) * len(stay.slots)
    assert (held[ended] >= trace.work[ended] * (1 - 1e-6)).all(), "nobody gets more done than slots can do"
    if "pack" in name:
        assert outcome.used <= held.sum() * (1 + 1e-9)
        return
    uses = sorted((slot, stay.began, stay.ended) for stay in outcome.stays for slot in stay.slots)
    for (slot, _, ended_at), (other, began, _) in pairwise(uses):
        assert slot != other or began >= ended_at
    assert held.sum() == pytest.approx(outcome.used)


def test_times_of_the_day_do_not_stop_the_clock():
    """Seconds since 1970 have seven digits less to spare."""
    for k in range(40):
        trace = trace_of([(1.7e9, 1, 33.0 + 0.013 * k)])
        outcome = simulate(trace, World(hosts=[1]), policy_of("fifo"))
        assert outcome.ended[0] - 1.7e9 == pytest.approx(33.0 + 0.013 * k, abs=1e-5)


def test_speeds_by_hand():
    """Spread over hosts, grown, and packed."""
    spread = trace_of([(0.0, 2, 10.0)], spread=[0.5])
    assert simulate(spread, World(hosts=[1, 1]), policy_of("fifo")).ended == pytest.approx([10.0]), "no host has two"
    both = trace_of([(0.0, 1, 5.0), (0.0, 1, 5.0), (1.0, 2, 10.0)], spread=[1, 1, 0.5])
    ended = simulate(both, World(hosts=[2, 2]), policy_of("fifo")).ended
    assert ended == pytest.approx([5.0, 5.0, 11.0])
    grown = trace_of([(0.0, 1, 16.0)], most=[4])
    assert simulate(grown, World(hosts=[4], scaling=1.0), policy_of("elastic")).ended == pytest.approx([4.0])
    pair = trace_of([(0.0, 1, 8.0), (0.0, 1, 9.0)], kind=[1, 0])
    world = World(hosts=[1], pairs={(0, 1): (0.9, 0.8)}, restart=0.0)
    # 8 s of work at 0.8 of the speed, 9 s at 0.9: both end after 10.
    assert simulate(pair, world, policy_of("fifo+pack")).ended == pytest.approx([10.0, 10.0])


def test_restarts_cost_time():
    trace = trace_of([(0.0, 1, 100.0), (10.0, 1, 10.0)], priority=[0, 1])
    outcome = simulate(trace, World(hosts=[1], restart=5.0), policy_of("priority"))
    assert outcome.ended == pytest.approx([115.0, 20.0])
    assert outcome.decisions == {"start": 3, "pause": 1}


def test_figures_by_hand():
    trace = trace_of([(0.0, 1, 10.0), (0.0, 1, 30.0)], user=[0, 1])
    found = figures(simulate(trace, World(hosts=[1]), policy_of("fifo")))
    assert found.jobs == 2
    assert found.completion["mean"] == pytest.approx(25.0)
    assert found.wait["mean"] == pytest.approx(5.0)
    assert found.useful == pytest.approx(1.0)
    assert found.makespan == pytest.approx(40.0)
    assert found.utilisation == pytest.approx(1.0)
    slowdowns = 1.0, 40 / 30
    assert found.fairness == pytest.approx(sum(slowdowns) ** 2 / (2 * sum(s * s for s in slowdowns)))


def test_policies_that_cannot_be():
    trace = trace_of([(0.0, 1, 1.0)])
    with pytest.raises(RuntimeError, match="waiting for ever"):
        simulate(trace, World(hosts=[1]), lambda state: [])
    with pytest.raises(RuntimeError, match="as it cannot be"):
        simulate(trace, World(hosts=[2]), lambda state: [Start(0, (0, 1))])
    two = trace_of([(0.0, 1, 1.0), (0.0, 1, 1.0)])
    with pytest.raises(RuntimeError, match="not to be had"):
        simulate(two, World(hosts=[1]), lambda state: [Start(0, (0,)), Start(1, (0,))])
    with pytest.raises(KeyError):
        simulate(trace, World(hosts=[1]), lambda state: [Pause(0)])


def test_short_jobs_wait_less_by_service():
    trace = generate(800, 32, seed=3, load=1.3)
    mean = {
        name: figures(simulate(trace, World(hosts=[8] * 4), policy_of(name))).completion["mean"]
        for name in ("fifo", "las")
    }
    assert mean["fifo"] > 2 * mean["las"]


def test_the_generator_is_like_its_model():
    trace = generate(30_000, 64, seed=0, load=1.5)
    again = generate(30_000, 64, seed=0, load=1.5)
    for field in dataclasses.fields(trace):
        assert np.array_equal(getattr(trace, field.name), getattr(again, field.name))
    assert (trace.least == 1).mean() == pytest.approx(0.92, abs=0.01)
    single, large = trace.least == 1, trace.least >= 8
    assert trace.seconds[single].mean() == pytest.approx(185 * 60, rel=0.35)
    assert trace.seconds[large].mean() == pytest.approx(1264 * 60, rel=0.25)
    assert trace.work[large].sum() / trace.work.sum() == pytest.approx(0.52, abs=0.12)
    assert trace.load(64) == pytest.approx(1.5, rel=0.01)


OWN = """submitted,workers,seconds,most,user,priority,kind,spread,name
5,2,10,4,ann,1,gpt,0.5,big
0,1,3,,,,,,
1,0,3,,,,,,
"""
PHILLY = """job_id,user,num_gpu,submit_time,iterations,model_name,duration,interval
7,vc,4,12198,6910,resnet101,211,8
"""
ALIBABA = """name,cpu_milli,num_gpu,gpu_milli,creation_time,deletion_time,scheduled_time
p,1,1,500,10,50,20
q,1,2,1000,10,50,
"""


def test_traces_are_read(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(OWN)
    trace = read_trace(path)
    assert trace.submitted.tolist() == [0, 5]
    assert trace.least.tolist() == [1, 2]
    assert trace.most.tolist() == [1, 4]
    assert trace.spread.tolist() == [1.0, 0.5]
    assert [trace.users[u] for u in trace.user] == ["", "ann"]
    assert trace.names[1] == "big"
    assert trace.left_out == 1
    path.write_text(PHILLY)
    assert read_trace(path).seconds.tolist() == [211 * 60]
    path.write_text(ALIBABA)
    trace = read_trace(path)
    assert trace.seconds.tolist() == [30]
    assert trace.left_out == 1, "it never ran"


WRONG = {
    "submitted,workers,seconds\n1,2,3\n1,x,3\n": ["line 3", "workers is 'x'"],
    "submitted,workers,seconds\n1,2\n": ["line 2", "too few columns"],
    "submitted,workers,seconds\n1,2,-3\n": ["line 2", "below 0"],
    "submitted,workers,seconds\nnan,2,3\n": ["line 2", "submitted is 'nan'"],
    "submitted,workers,seconds\n1,-2,3\n": ["line 2", "-2 is no number of workers"],
    "submitted,workers,seconds,most\n1,4,3,2\n": ["line 2", "2 workers at most, and asks for 4"],
    "submitted,workers,seconds,spread\n1,4,3,1.5\n": ["line 2", "spread is 1.5"],
    "a,b\n1,2\n": ["columns a,b", "seconds,submitted,workers"],
    "": ["first line"],
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_lines_are_named(text, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_trace(path)
    assert all(word in str(caught.value) for word in [str(path), *WRONG[text]]), caught.value


@pytest.mark.slow
def test_thirty_thousand_jobs():
    """As many as in the traces of real clusters. (How long it takes, benchmarks/simulator.py measures.)"""
    trace = generate(30_000, 256, seed=1, load=1.1)
    outcome = simulate(trace, World(hosts=[8] * 32), policy_of("las"))
    assert (outcome.ended >= trace.submitted).all() and np.isfinite(outcome.ended).all()


def test_a_trace_at_another_load():
    trace = trace_of([(10.0, 1, 40.0), (20.0, 2, 30.0), (60.0, 8, 1000.0)])
    assert trace.at_load(0.5, 4).submitted.tolist() == [0.0, 10.0, 50.0], (
        "(40 + 60) / (4 * 0.5) s; who needs 8 cannot run"
    )
    assert trace.at_load(0.5, 4).load(4) > 10
