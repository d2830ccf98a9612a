"""Fleets of ranks that train until a goal is reached, on this machine or on some hosts of a lab."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from manyhands.bench import Fleet, Launch, local
from manyhands.lab import Lab
from sync_sides.course import Course, Trial

HERE = Path(__file__).resolve().parent
_PATHS = [str(HERE.parent), str(HERE.parent / "peers"), os.environ.get("PYTHONPATH", "")]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, _PATHS)), "OMP_NUM_THREADS": "1"}
_ANSWER_SECONDS = 1800.0
_CHUNK = 10
"""Steps of DDP at a time. In between, which is not counted, somebody looks whether the goal was reached."""


def fleet(side: str, world: int, launch: Launch) -> Fleet:
    """Ranks of `ours` or `ddp`."""
    command = [sys.executable, str(HERE / "goal_rank.py"), "--side", side]
    return Fleet(f"{side} to a goal", world, launch, command, _ANSWER_SECONDS)


def here(world: int) -> Launch:
    """Ranks on this machine."""
    return local(world, ENVIRONMENT)


def on_hosts(lab: Lab, count: int, port: int) -> Launch:
    """Ranks on the first hosts of a lab."""

    def launch(command: list[str], output: IO[bytes]) -> list[subprocess.Popen[Any]]:
        own = {**ENVIRONMENT, "WORLD_SIZE": str(count), "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "host"}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        return [lab.run(node, command, own, **pipes) for node in lab.cluster.ranks[:count]]

    return launch


def ours(ranks: Fleet, sync: str, workers: int, slow: str = "") -> Callable[[Trial], Course]:
    """Trains with these ranks."""

    def train(trial: Trial) -> Course:
        order = {"example": trial.case.example, "flags": trial.flags, "sync": sync, "workers": workers, "slow": slow}
        answers = ranks.ask("train", **order, goal=trial.goal, limit=trial.limit, last=trial.last)
        course = Course()
        for seconds, loss in next(rows for rows in answers if rows):
            course.add(seconds, loss)
        return course

    return train


def ddp(ranks: Fleet, slow: str = "") -> Callable[[Trial], Course]:
    """Trains with these ranks, under DDP."""

    def train(trial: Trial) -> Course:
        ranks.ask("begin", example=trial.case.example, flags=trial.flags, slow=slow)
        course, before = Course(), 0.0
        while len(course.losses) < trial.last and before < trial.limit and course.reached(trial.goal) is None:
            answers = ranks.ask("steps", count=_CHUNK)
            for rows in zip(*answers, strict=True):
                course.add(before + max(s for s, _ in rows), math.fsum(loss for _, loss in rows) / len(rows))
            before = course.seconds[-1]
        return course

    return train
