"""Where trainings compete: on this machine, with a slow worker, behind one switch, behind one with a slow port."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import BENCHMARKS
from peer_process import LateError, finish

from manyhands.cli.collective_bench import bound
from manyhands.cluster import Cluster, preset
from manyhands.lab import Lab
from manyhands.plan.sync import Sync
from sync_sides import command_runs, rank_fleets
from sync_sides.contest import PEER, Train
from sync_sides.course import Course, Trial

WORKERS, MOST_SERVERS = 4, 2
POLICIES = (
    "allreduce",
    "allreduce,balance=off",
    "server",
    "server,servers=2",
    "server,staleness=3",
    "server,staleness=any",
    "server,servers=2,staleness=any",
    "local,every=8",
    "local,every=16,outer=nesterov",
    "local,every=16,wire=int8",
)
RAY = "Ray actors"
FAST, SLOW = "12.5MB", "2.5MB"
_PORTS = (29500, 29600)
_START_SECONDS = 180.0
"""Ray's, and that of its actors, before the clock of a trial runs."""


@dataclass(frozen=True)
class Place:
    """A situation."""

    name: str
    about: str
    slow: str = ""
    hosts: str = ""
    """Bandwidths of the workers' links; empty: all are on this machine."""
    examples: tuple[str, ...] = ()
    """If it has its own."""

    @property
    def cluster(self) -> Cluster | None:
        """The workers' hosts, and then those of servers."""
        if not self.hosts:
            return None
        total = WORKERS + MOST_SERVERS
        return preset(f"star-{total}:{','.join([self.hosts, *[FAST] * MOST_SERVERS])}")


PLACES = {
    "a": Place("equal", "4 equal workers on this machine"),
    "b": Place("slow_worker", "the same, worker 1 three times slower", slow="1:3"),
    "c": Place("star", "4 workers and 2 servers behind a switch, 100 Mbit/s each", hosts=",".join([FAST] * WORKERS)),
    "d": Place(
        "slow_link", "the same, one worker's link has 20 Mbit/s", hosts=",".join([*[FAST] * (WORKERS - 1), SLOW])
    ),
    "g": Place(
        "star_light",
        "4 workers and 2 servers behind a switch, 100 Mbit/s each; little to compute for many parameters",
        hosts=",".join([FAST] * WORKERS),
        examples=("light",),
    ),
    "f": Place(
        "slow_machine",
        "4 workers as if each had a machine: all held back to a quarter of their speed, worker 1 to a twelfth",
        slow="0:4,1:12,2:4,3:4",
    ),
}


@contextlib.contextmanager
def sides(place: Place, policies: Sequence[str]) -> Iterator[dict[str, Train]]:
    """Who competes there."""
    with contextlib.ExitStack() as opened:
        cluster = place.cluster
        if cluster is None:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="sync-")))
            found = {policy: on_this_machine(folder, policy, place.slow) for policy in policies}
            found[PEER] = lambda trial: _fresh_ddp(trial, place.slow)
        else:
            lab = opened.enter_context(Lab(cluster))
            world = len(cluster.ranks)
            ranks, peers = (
                opened.enter_context(rank_fleets.fleet(side, count, rank_fleets.on_hosts(lab, count, port)))
                for side, count, port in zip(("ours", "ddp"), (world, WORKERS), _PORTS, strict=True)
            )
            found = {policy: rank_fleets.ours(ranks, policy, WORKERS, place.slow) for policy in policies}
            found[PEER] = rank_fleets.ddp(peers, place.slow)
        if place.slow and no_ray() is None:
            found[RAY] = lambda trial: ray_actors(trial, place.slow)
        yield found


def on_this_machine(folder: Path, policy: str, slow: str) -> Train:
    """`manyhands train`."""
    return lambda trial: command_runs.train(folder, trial, policy, WORKERS, slow)


def _fresh_ddp(trial: Trial, slow: str) -> Course:
    """DDP in new processes, as `manyhands train` has: first steps take longer."""
    with rank_fleets.fleet("ddp", WORKERS, rank_fleets.here(WORKERS)) as peers:
        return rank_fleets.ddp(peers, slow)(trial)


def no_ray() -> str | None:
    """Why Ray cannot be compared with; None if it can."""
    return None if importlib.util.find_spec("ray") else "there is no ray (pip install ray)"


def ray_actors(trial: Trial, slow: str) -> Course:
    """Ray's asynchronous parameter server."""
    flags = {"example": trial.case.example, "flags": trial.flags, "workers": WORKERS, "slow": slow}
    flags |= {"goal": trial.goal, "limit": trial.limit, "last": trial.last}
    command = [sys.executable, str(BENCHMARKS / "peers" / "ray_server.py"), *(f"--{k}={v}" for k, v in flags.items())]
    environment = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    course = Course()
    try:
        said = finish(command, trial.limit + _START_SECONDS, environment)
    except LateError as error:
        course.late = str(error)
        return course
    for seconds, loss in json.loads(said.splitlines()[-1]):
        course.add(seconds, loss)
    return course


def bounds(cluster: Cluster, size: int, policies: Sequence[str]) -> Mapping[str, float]:
    """Seconds that the bytes of a step need on the busiest link in one direction, however well they are sent. DDP's
    ring gives all the same share; our all-reduce looks at the links."""
    n = WORKERS
    width = {link.source: link.bandwidth for link in cluster.links}
    slowest = min(width[name] for name in cluster.ranks[:n])
    found = {}
    for policy in [*policies, PEER]:
        sync = Sync.parse(policy if policy != PEER else "allreduce")
        ring = 2 * (n - 1) / n * size / slowest if policy == PEER else optimum(cluster, size) or 0.0
        if sync.policy == "local":
            found[policy] = ring / sync.every / (4 if sync.wire == "int8" else 2 if sync.wire == "bf16" else 1)
        elif sync.policy == "allreduce":
            found[policy] = ring
        else:
            server = min(width[name] for name in cluster.ranks[n : n + sync.servers])
            into = n * size / sync.servers / server
            copies = 2 if sync.loose and sync.servers > 1 else 1
            found[policy] = copies * into if sync.loose else max(into, size / slowest)
    return found


def optimum(cluster: Cluster, size: int) -> float | None:
    """Seconds below which no all-reduce among the workers gets, whatever its trees."""
    return bound(cluster.subset(cluster.ranks[:WORKERS]), "all_reduce", size)
