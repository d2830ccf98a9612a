"""The event simulation: by hand, against longest paths, and as events of the common timeline."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.pipeline import (
    Action,
    Costs,
    Kind,
    Link,
    Table,
    TableError,
    Transfer,
    even_costs,
    make_table,
    simulate,
)
from manyhands.timeline import Event

SECOND = 10**9


def table(*ranks, micro_batches=1, placement=(0, 1)):
    actions = tuple(tuple(map(Action.parse, rank.split())) for rank in ranks)
    return Table(schedule="test", micro_batches=micro_batches, placement=placement, ranks=actions)


def in_seconds(events):
    return [(e.rank, e.lane, e.kind, e.start / SECOND, e.end / SECOND, e.bytes, e.micro_batch) for e in events]


def test_one_micro_batch_by_hand():
    costs = Costs(
        forward=(1, 2),
        input=(3, 4),
        weight=(5, 6),
        send_forward=(Transfer(0.5, 0.25, 100),),
        send_back=(Transfer(1.5, 0.25, 50),),
        overhead=0.125,
    )
    found = simulate(table("0F0 0I0 0W0", "1F0 1B0"), costs, start=7 * SECOND, step=3)
    # 1F0 begins after 0F0, 0.5 on the link and 0.25 on the way; 1B0 takes 4 + 6 and comes back in 1.75.
    assert in_seconds(found.events) == [
        (0, "compute", "forward", 7, 8.125, 0, 0),
        (0, "send", "forward", 8.125, 8.625, 100, 0),
        (1, "compute", "forward", 8.875, 11, 0, 0),
        (1, "compute", "backward", 11, 21.125, 0, 0),
        (1, "send", "backward", 21.125, 22.625, 50, 0),
        (0, "compute", "input_gradient", 22.875, 26, 0, 0),
        (0, "compute", "weight_gradient", 26, 31.125, 0, 0),
    ]
    assert all(isinstance(e, Event) and e.step == 3 and isinstance(e.start, int) for e in found.events)
    assert found.seconds == 24.125 and found.sent == (100, 50)
    assert found.busy == (1.125 + 3.125 + 5.125, 2.125 + 10.125)
    assert found.idle == pytest.approx([1 - busy / 24.125 for busy in found.busy])
    assert found.bubble == pytest.approx(sum(found.idle) / 2)


def test_a_whole_backward_may_cost_less_than_its_parts():
    apart = Costs(forward=(1,), input=(2,), weight=(2,), backward=(3,))
    assert simulate(table("0F0 0B0", placement=(0,)), apart).seconds == 4
    assert simulate(table("0F0 0I0 0W0", placement=(0,)), apart).seconds == 5


def test_transfers_of_one_direction_queue_and_latencies_overlap():
    costs = Costs(forward=(1, 1), input=(1, 1), weight=(0, 0), send_forward=(Transfer(4, 10, 1),))
    found = simulate(make_table("gpipe", 2, 3), costs)
    sends = [(e.start / SECOND, e.end / SECOND) for e in found.events if e.lane == "send" and e.kind == "forward"]
    assert sends == [(1, 5), (5, 9), (9, 13)]
    begins = [e.start / SECOND for e in found.events if e.rank == 1 and e.kind == "forward"]
    assert begins == [15, 19, 23]


def test_hops_between_the_same_ranks_share_a_link_and_directions_do_not():
    # Rank 0 owns stages 0 and 2: 0 -> 1 goes from rank 0 to rank 1, and so does what stage 2 sends back to stage 1.
    made = table("0F0 2F0 2B0 0F1 2F1 2B1 0B0 0B1", "1F0 1F1 1B0 1B1", micro_batches=2, placement=(0, 1, 0))
    costs = Costs(forward=(1, 1, 1), input=(1, 1, 1), weight=(0, 0, 0), send_forward=(Transfer(5),) * 2)
    sends = [e for e in simulate(made, costs).events if e.lane == "send"]
    for rank in (0, 1):
        lane = [e for e in sends if e.rank == rank]
        assert all(a.end <= b.start for a, b in pairwise(lane)) and {e.kind for e in lane} == {"forward", "backward"}
    first, second, third = [(e.kind, e.start / SECOND) for e in sends if e.rank == 0][:3]
    # 1F0 is there at 6 and done at 7; 2F0 begins at 12 and 2B0 is done at 14; 0F1 is done a second later and waits.
    assert (first, second, third) == (("forward", 0 + 1), ("backward", 14), ("forward", 19))


def test_neighbours_on_one_rank_exchange_nothing():
    costs = Costs(forward=(1,) * 4, input=(1,) * 4, weight=(1,) * 4, send_forward=(Transfer(1, 1, 7),) * 3)
    found = simulate(make_table("zb-v", 2, 5), costs)
    assert found.sent == (2 * 5 * 7, 2 * 5 * 7)  # of three hops each way, the turn is free
    interleaved = simulate(make_table("interleaved", 2, 5), costs)
    assert interleaved.sent == (3 * 5 * 7, 3 * 5 * 7)


def test_free_transfers_are_no_events():
    assert all(e.lane == "compute" for e in simulate(make_table("1f1b", 3, 4), even_costs(3)).events)


def test_a_link_gives_seconds_from_bytes():
    assert Link(1e6, 0.5).transfer(3_000_000) == Transfer(3.0, 0.5, 3_000_000)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="has 2 stages, the costs are those of 3"):
        simulate(make_table("1f1b", 2, 2), even_costs(3))
    with pytest.raises(ValueError, match="2 values of weight, not 1"):
        Costs(forward=(1, 1), input=(1, 1), weight=(1,))
    with pytest.raises(ValueError, match="1 values of send_forward, not 2"):
        Costs(forward=(1, 1), input=(1, 1), weight=(1, 1), send_forward=(Transfer(),) * 2)
    with pytest.raises(TableError, match="deadlock"):
        simulate(table("0B0 0F0", "1F0 1B0"), even_costs(2))


amounts = st.integers(0, 50)


@st.composite
def cases(draw):
    name = draw(st.sampled_from(["vanilla", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-v"]))
    made = make_table(name, draw(st.integers(1, 4)), draw(st.integers(1, 6)))

    def many(count, values=amounts):
        return tuple(draw(st.lists(values, min_size=count, max_size=count)))

    transfers = st.builds(Transfer, amounts, amounts, amounts)
    stages = made.stages
    return made, Costs(
        forward=many(stages),
        input=many(stages),
        weight=many(stages),
        backward=draw(st.none() | st.builds(many, st.just(stages))),
        send_forward=many(stages - 1, transfers),
        send_back=draw(st.none() | st.builds(many, st.just(stages - 1), st.just(transfers))),
        overhead=draw(amounts),
    )


def longest_paths(made, costs):
    """When each action ends: a graph of actions and transfers, relaxed until nothing changes."""
    length, before, after_latency = {}, defaultdict(list), {}
    for actions in made.ranks:
        for action in actions:
            kind, stage, _ = action
            parts = {"F": costs.forward, "I": costs.input, "W": costs.weight}
            whole = costs.backward[stage] if costs.backward else costs.input[stage] + costs.weight[stage]
            length[action] = costs.overhead + (whole if kind == "B" else parts[kind][stage])
        for a, b in pairwise(actions):
            before[b].append((a, 0))
    for rank, actions in enumerate(made.ranks):
        queues = {}
        for action in actions:
            kind, stage, index = action
            target = stage + 1 if kind == "F" else stage - 1
            if kind == "W" or not 0 <= target < made.stages:
                continue
            wanted = [
                Action(k, target, index) for k in ((Kind.FORWARD,) if kind == "F" else (Kind.INPUT, Kind.BACKWARD))
            ]
            receiver = next(other for other in wanted if other in length)
            other = made.placement[target]
            if other == rank:
                before[receiver].append((action, 0))
                continue
            hop = costs.send_forward[stage] if kind == "F" else (costs.send_back or costs.send_forward)[target]
            send = ("send", action)
            length[send], after_latency[send] = hop.seconds, hop.latency
            before[send].append((action, 0))
            if other in queues:
                before[send].append((queues[other], 0))
            queues[other] = send
            before[receiver].append((send, hop.latency))
    end = dict.fromkeys(length, 0)
    while True:
        new = {key: length[key] + max((end[a] + wait for a, wait in before[key]), default=0) for key in end}
        if new == end:
            return end
        end = new


@settings(max_examples=120, deadline=None)
@given(cases())
def test_the_simulation_is_the_longest_path(case):
    made, costs = case
    wanted, found = longest_paths(made, costs), simulate(made, costs)
    assert found.seconds == max(wanted[action] for actions in made.ranks for action in actions)
    for rank, actions in enumerate(made.ranks):
        ends = sorted(e.end for e in found.events if e.rank == rank and e.lane == "compute")
        assert ends == sorted(wanted[action] * SECOND for action in actions)
        assert 0 <= found.idle[rank] <= 1


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_lane_does_one_thing_at_a_time(case):
    found = simulate(*case)
    lanes = defaultdict(list)
    for event in found.events:
        lanes[event.rank, event.lane].append(event)
    for (_, lane), events in lanes.items():
        if lane == "compute":
            assert all(a.end <= b.start for a, b in pairwise(events))
    assert sum(e.bytes for e in found.events) == sum(found.sent)
