"""Everything at once: jobs of all sizes on few slots while workers, supervisors and the controller are killed, and jobs
are moved, paused and packed. Every job ends with the weights of its undisturbed run; nothing is lost or done twice."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from agents import LentHost
from home import JOB, TestHome
from support import ledger_positions, train

pytest.importorskip("starlette", reason="starlette is not installed")
STEPS, SAMPLES, BATCH = 150, 40, 8
PLAIN = (f"--steps={STEPS}",)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return train(tmp_path_factory.mktemp("calm") / "run", JOB, workers=1, job=PLAIN)["weights_sha256"]


class Chaos:
    """What a hostile world does to a controller of two hosts with two slots each."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.home, self.chance = TestHome(path), chance
        path.mkdir()
        token = path / "token"
        token.write_text("a token that nobody guesses\n")
        self.host = LentHost(token)
        self.done: dict[str, int] = {}

    def up(self) -> None:
        self.home.up("--hosts", f"here=2,{self.host.name}=2", "--policy", "priority+elastic+pack")

    def submit(self) -> None:
        size = self.chance.choice(["1", "1", "2", "3", "1:3", "2:4"])
        pause = self.chance.choice([0.002, 0.01, 0.02])
        flags = ("--workers", size, "--priority", self.chance.randrange(3))
        self.home.submit(*flags, job=(*PLAIN, f"--pause={pause}"))

    def disturb(self) -> None:
        jobs = self.home.show()["jobs"]
        alive = [job for job in jobs if job["status"] not in ("finished", "failed", "cancelled")]
        if not alive:
            return
        job, what = self.chance.choice(alive), self.chance.choice(self.WAYS)
        if getattr(self, f"_{what}")(job):
            self.done[what] = self.done.get(what, 0) + 1

    WAYS = ("worker", "worker", "worker", "supervisor", "controller", "pause", "resume", "resume", "move", "move")

    def _worker(self, job) -> bool:
        return bool(job["workers"]) and _kill(self.chance.choice(job["workers"])["pid"])

    def _supervisor(self, job) -> bool:
        return bool(job["supervisor"]) and _kill(job["supervisor"])

    def _controller(self, job) -> bool:
        self.home.kill_controller()
        self.up()
        return True

    def _pause(self, job) -> bool:
        return self.home.cli("pause", job["id"]).returncode == 0

    def _resume(self, job) -> bool:
        return self.home.cli("resume", job["id"]).returncode == 0

    def _move(self, job) -> bool:
        to = self.chance.choice([("here",), (self.host.name,), ("here", self.host.name)])
        return self.home.cli("move", job["id"], "--to", ",".join(to)).returncode == 0

    def close(self) -> None:
        self.home.close()
        self.host.close()


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("jobs", "seconds"), [pytest.param(4, 12.0, id="short"), pytest.param(10, 300.0, id="long", marks=pytest.mark.slow)]
)
def test_every_job_ends_as_if_nothing_had_happened(tmp_path, calm, jobs, seconds):
    chaos = Chaos(tmp_path / "home", random.Random(jobs))
    try:
        chaos.up()
        began, submitted = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds or submitted < jobs:
            if submitted < jobs and passed >= submitted * seconds / jobs * 0.8:
                chaos.submit()
                submitted += 1
            chaos.disturb()
            time.sleep(chaos.chance.uniform(0.0, 1.0))
        for job in chaos.home.show()["jobs"]:
            chaos.home.cli("resume", job["id"])
        shown = chaos.home.until(
            lambda shown: all(job["ended"] for job in shown["jobs"]), "all jobs to end", seconds=600.0
        )
        assert len(shown["jobs"]) == jobs
        for job in shown["jobs"]:
            assert job["status"] == "finished", f"{job['error']}\n{chaos.home.log()}"
            assert job["weights_sha256"] == calm
            found = ledger_positions(Path(job["directory"]), SAMPLES)
            assert found == [(i // SAMPLES, i % SAMPLES) for i in range(STEPS * BATCH)]
        print(chaos.done)
    finally:
        chaos.close()
