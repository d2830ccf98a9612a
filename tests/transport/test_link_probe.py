"""What measurements mean, on made-up figures and in a lab."""

import json
import socket
import subprocess
import sys
import time

import pytest
from deadlines import DEADLINE
from support import command
from support_lab import lab  # noqa: F401

from manyhands.cluster import Cluster, read_cluster
from manyhands.transport.measured import MEMORY_RATE, Measured, cluster_of
from manyhands.transport.probe import _Flow, _rounds


def rows(world: int, rail: str, alone, together, local=lambda a, b: False, latency=1e-4) -> list[Measured]:
    """Every rank's view, given functions of (sender, receiver)."""
    measured = []
    for receiver in range(world):
        seen = Measured(local=[s for s in range(world) if s != receiver and local(s, receiver)])
        for sender in range(world):
            if sender != receiver and not local(sender, receiver):
                seen.alone[str(sender)] = {rail: alone(sender, receiver)}
                seen.together[str(sender)] = {rail: together(sender, receiver)}
                seen.latency[str(sender)] = {rail: latency}
        measured.append(seen)
    return measured


def speeds(cluster: Cluster) -> dict[tuple[str, str], int]:
    return {(link.source, link.target): link.bandwidth for link in cluster.links}


@pytest.mark.parametrize("world", range(2, 12))
def test_in_every_round_everyone_meets_someone_else_and_in_all_rounds_everyone(world):
    opponents = [_rounds(rank, world) for rank in range(world)]
    for rank in range(world):
        assert sorted(opponents[rank]) == [r for r in range(world) if r != rank]
    # Each takes its meetings in an order in which the first that is not done is always the first of both.
    todo = [list(row) for row in opponents]
    while any(todo):
        met = [(r, row[0]) for r, row in enumerate(todo) if row and todo[row[0]] and todo[row[0]][0] == r]
        assert met, "they wait for each other in a circle"
        for rank, _ in met:
            todo[rank].pop(0)


def test_pairs_that_are_as_fast_together_have_links_of_their_own():
    cluster = cluster_of(rows(3, "10.0.0.0/24", lambda a, b: 25e6, lambda a, b: 24e6))
    assert speeds(cluster) == {(f"rank{a}", f"rank{b}"): 25_000_000 for a in range(3) for b in range(3) if a != b}


def test_pairs_that_slow_each_other_down_hang_on_a_switch():
    slow = {2}

    def alone(a, b):
        return 5e6 if {a, b} & slow else 25e6

    cluster = cluster_of(rows(4, "10.0.0.0/24", alone, lambda a, b: alone(a, b) / 3))
    expected = {0: 25_000_000, 1: 25_000_000, 2: 5_000_000, 3: 25_000_000}
    for rank, speed in expected.items():
        assert speeds(cluster)[f"rank{rank}", "10.0.0.0/24"] == speed
        assert speeds(cluster)["10.0.0.0/24", f"rank{rank}"] == speed


def test_speeds_that_measurements_cannot_tell_apart_are_one():
    rates = {(0, 1): 25.2e6, (1, 0): 24.1e6, (0, 2): 25e6, (2, 0): 23.5e6, (1, 2): 10e6, (2, 1): 9.7e6}
    cluster = cluster_of(rows(3, "r", lambda a, b: rates[a, b], lambda a, b: rates[a, b]))
    assert set(speeds(cluster).values()) == {25_200_000, 10_000_000}


def test_ranks_of_a_host_share_its_interface():
    def local(a, b):
        return a // 2 == b // 2

    cluster = cluster_of(rows(4, "10.0.0.0/24", lambda a, b: 25e6, lambda a, b: 6e6, local))
    found = speeds(cluster)
    assert found["rank0", "rank1"] == MEMORY_RATE and ("rank0", "rank2") not in found
    assert found["host0 10.0.0.0/24", "10.0.0.0/24"] == 25_000_000
    assert found["rank1", "host0 10.0.0.0/24"] == MEMORY_RATE


def test_a_route_over_other_links_is_no_link():
    line = rows(3, "", lambda a, b: 20e6, lambda a, b: 20e6)
    for receiver, sender in ((0, 1), (1, 0), (1, 2), (2, 1)):
        for table in (line[receiver].alone, line[receiver].together, line[receiver].latency):
            table[str(sender)] = {f"10.0.{min(receiver, sender)}.0/24": table[str(sender)][""]}
    assert set(speeds(cluster_of(line))) == {(f"rank{a}", f"rank{b}") for a, b in ((0, 1), (1, 0), (1, 2), (2, 1))}


def test_only_routes_are_better_than_nothing():
    cluster = cluster_of(rows(2, "", lambda a, b: 20e6, lambda a, b: 20e6))
    assert speeds(cluster) == {("rank0", "rank1"): 20_000_000, ("rank1", "rank0"): 20_000_000}


def test_a_peer_that_takes_all_there_is_ends_no_measurement_late():
    class Keen:
        def send(self, data):
            return len(data)

    flow = _Flow(1, Keen())
    flow.write(end=time.monotonic() + 0.02)
    assert flow.sent_all


@pytest.mark.parametrize(("rank", "what"), [(0, "the other ranks do not come"), (1, "rank 1 cannot reach rank 0")])
def test_a_rank_that_does_not_come_is_named(rank, what):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # Executed, not forked: it tells torch to say nothing before it loads it.
    words = command("cluster", "probe", "--rank", rank, "--world-size", 2, "--master", address, "--timeout", 1)
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert done.stderr.startswith(f"manyhands: {what}") and done.stderr.count("\n") == 1


def test_a_lab_is_found_as_it_was_made(lab, tmp_path):  # noqa: F811
    """Figures within a factor of two, and what is shared, in one of several tries: the machine may be busy."""
    made = lab("two-rail-3:25MB,5MB")
    command = [sys.executable, "-m", "manyhands", "cluster", "probe", "--output", str(tmp_path / "probed.toml")]
    found = []
    for _ in range(5):
        processes = made.run_all(command, {"XDG_CACHE_HOME": str(tmp_path)})
        codes = [p.wait(timeout=DEADLINE) for p in processes]
        if codes == [1, 1, 1]:  # a rank was too busy to answer in time, and they said so
            found.append([])
            continue
        assert codes == [0, 0, 0]
        cluster = read_cluster(str(tmp_path / "probed.toml"))
        assert len(cluster.ranks) == 3
        switches = [n.name for n in cluster.nodes if n.kind == "switch"]
        found.append([[k.bandwidth for k in cluster.links if s in (k.source, k.target)] for s in switches])
        if (
            len(found[-1]) == 2
            and all(15e6 < b < 50e6 for b in found[-1][0])
            and all(3e6 < b < 10e6 for b in found[-1][1])
        ):
            return
    raise AssertionError(json.dumps(found))
