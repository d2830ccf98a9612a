"""A node of a Ray cluster dies, and another joins: how long until the job is at work again, and until it uses both.

A cluster of `ray.cluster_utils` on this machine: a head without CPUs and three nodes with two each. The job
(benchmarks/jobs/naps.py) has two to six workers, trains with six, loses a node (its raylet is killed), goes on with
what is left, and has six again after a node was added. Beside manyhands (`up --ray`), Ray Train's TorchTrainer with an
elastic ScalingConfig does the same, turn about, each on a cluster of its own.

killed   from the kill to the first step of a gang without the dead node
added    from when Ray has started the node to the first step of six workers

Needs ray[train]. Expectation: killed at most 15 s, added at most 10 s (medians).
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import BENCHMARKS, ROOT, arguments, console, machine, summary, table, write_results
from peer_process import finish, kill_all

from manyhands.jobs.controller import Client, Home

sys.path.append(str(ROOT / "tests" / "jobs"))  # the cluster is the tests'
from ray_cluster import RayCluster

NODES, SLOTS, LEAST = 3, 2, 2
MOST = NODES * SLOTS
CALM = 25.0
"""Seconds of training before each event."""
_DEADLINE = 300.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int, default=2, help="of them, in how many Ray Train takes part")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    facts, found = machine(), {"manyhands": list[Any](), "Ray Train": list[Any]()}
    for index in range(rounds):
        for name, side in (("manyhands", manyhands), ("Ray Train", ray_train)):
            if name == "manyhands" or index < options.peer_rounds:
                found[name].append(measure(side))
                console.print(f"{name}: {found[name][-1]}")
    rows = []
    for name, runs in found.items():
        times = [summary([run[what] for run in runs]) for what in ("begun", "killed", "added")]
        rows.append([name, str(len(runs)), *(f"{each['median']:.1f} ({each['max']:.1f})" for each in times)])
    columns = ["", "rounds", "submitted", "node killed", "node added"]
    table("seconds until the first step, median (worst)", columns, rows)
    write_results("ray_recovery", options.quick, facts, {"seconds": found})


class Steps:
    """What a side says of its gang: `look` gives the newest step, how many workers made it, and which gang it was."""

    def __init__(self, look: Callable[[], tuple[int, int, Any]], process: Callable[[], int]) -> None:
        self.look, self.process = look, process

    def until(self, reached: Callable[[int, int, Any], bool]) -> float:
        """Seconds until it is so."""
        began = time.monotonic()
        while time.monotonic() < began + _DEADLINE:
            if reached(*self.look()):
                return time.monotonic() - began
            time.sleep(0.05)
        raise RuntimeError(f"not within {_DEADLINE:.0f} s; now {self.look()}")


def measure(side: Callable[[RayCluster, Path], Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="ray-recovery-", ignore_cleanup_errors=True) as folder:
        cluster = RayCluster(NODES, SLOTS, Path(folder))
        try:
            with side(cluster, Path(folder)) as steps:
                begun = steps.until(lambda step, workers, gang: step > 0 and workers == MOST)
                time.sleep(CALM)
                _, _, before = steps.look()
                began = time.monotonic()
                cluster.kill(steps.process())
                spent = time.monotonic() - began
                killed = spent + steps.until(lambda step, workers, gang: gang != before and LEAST <= workers < MOST)
                time.sleep(CALM)
                cluster.add()
                added = steps.until(lambda step, workers, gang: workers == MOST)
            return {"begun": begun, "killed": killed, "added": added}
        finally:
            cluster.close()


@contextlib.contextmanager
def manyhands(cluster: RayCluster, folder: Path) -> Iterator[Steps]:
    home = Home(folder / "home")

    def do(*command: object) -> str:
        return finish([sys.executable, "-m", "manyhands", *command], _DEADLINE, {"MANYHANDS_HOME": str(home.path)})

    do("up", "--ray", cluster.address, "--port", 0)
    job = BENCHMARKS / "jobs" / "naps.py"
    do("submit", job, "--workers", f"{LEAST}:{MOST}")
    client, last = Client(home), [(0, 0, "")]

    def look() -> tuple[int, int, str]:
        """A step that was seen to come after the gang had these workers was made by them."""
        (job,) = client.get("/api/cluster")["jobs"]
        pids = sorted(worker["pid"] for worker in job["workers"])
        if job["status"] == "running" and job["step"] > last[0][0]:
            gang = json.dumps(pids)
            if seen == [gang]:
                last[0] = (job["step"], len(pids), gang)
            else:
                last[0] = (job["step"], *last[0][1:])
            seen[:] = [gang]
        return last[0]

    seen: list[str] = []

    def process() -> int:
        (job,) = client.get("/api/cluster")["jobs"]
        return job["workers"][0]["pid"]

    try:
        yield Steps(look, process)
        do("cancel", 1)
    finally:
        do("down")


@contextlib.contextmanager
def ray_train(cluster: RayCluster, folder: Path) -> Iterator[Steps]:
    log = folder / "steps.txt"
    driver = subprocess.Popen(
        [
            *(sys.executable, BENCHMARKS / "peers" / "ray_trainer.py", "--address", cluster.address),
            *("--least", str(LEAST), "--most", str(MOST), "--log", log, "--storage", folder / "storage"),
        ],
        stdout=(folder / "driver.txt").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    def look() -> tuple[int, int, int]:
        lines = log.read_text().splitlines() if log.exists() else []
        if not lines:
            return 0, 0, 0
        _, step, workers, process = lines[-1].split()
        return int(step), int(workers), int(process)

    try:
        yield Steps(look, lambda: look()[2])
    finally:
        driver.send_signal(signal.SIGINT)
        try:
            driver.wait(30)
        except subprocess.TimeoutExpired:
            pass
        kill_all(driver)


if __name__ == "__main__":
    main()
