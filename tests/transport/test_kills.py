"""Ranks that are killed: those that are left learn it, whatever they were doing, long before the group's timeout. (How
long it takes, benchmarks/collectives.py measures.)

Ranks are processes, forked from one that has no threads and torch loaded (a forkserver of our own).
"""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from groups import DEADLINE, NEVER, no_unix, until

from manyhands.transport import Group, PeerLostError


class FileStore:
    """A store as torch's, in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def set(self, key, value):
        path = self.folder / key.replace("/", "-")
        path.with_suffix(".part").write_text(value)
        path.with_suffix(".part").rename(path)

    def get(self, key):
        path = self.folder / key.replace("/", "-")
        until(path.exists, key)
        return path.read_text()


class Patch:
    """What `no_unix` needs of pytest's, in a process of its own."""

    def setattr(self, target, name, value):
        setattr(target, name, value)


def rank(folder, number, world, network, sizes, seed):
    """Reduce, broadcast and send for ever; write down how it ended and when."""
    if network == "TCP":
        no_unix(Patch())
    torch.set_num_threads(1)  # the threads that it had before the fork are gone
    chance = random.Random(seed)
    group = Group.connect(FileStore(folder), number, world, timeout=NEVER, portable=network == "Python")
    (folder / f"ready{number}").touch()
    try:
        while True:
            tensor = torch.ones(chance.choice(sizes))
            match chance.randrange(4):
                case 0:
                    group.broadcast(tensor, chance.randrange(world)).result()
                case 1 if world > 1:
                    source, target = chance.sample(range(world), 2)
                    if number == source:
                        group.send(tensor, target).result()
                    if number == target:
                        group.receive(tensor, source).result()
                case _:
                    group.all_reduce(tensor).result()
                    assert (tensor == world).all()
    except Exception as error:
        end = {"kind": type(error).__name__, "text": str(error)}
        if isinstance(error, PeerLostError):
            end["rank"] = error.rank
        (folder / f"end{number}.part").write_text(json.dumps(end))
        (folder / f"end{number}.part").rename(folder / f"end{number}")
        group.close()


def forked(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def ended(processes):
    return [process.pid for process in processes if process.exitcode is not None]


def kill_one(folder, world, network, sizes, chance):
    folder.mkdir()
    seed, victim = chance.randrange(1 << 30), chance.randrange(world)
    processes = [forked(rank, folder, r, world, network, sizes, seed) for r in range(world)]
    try:
        until(lambda: all((folder / f"ready{r}").exists() for r in range(world)) or ended(processes), "ranks to join")
        assert not ended(processes)
        time.sleep(chance.uniform(0, 0.1))
        os.kill(processes[victim].pid, signal.SIGKILL)
        left = [r for r in range(world) if r != victim]
        until(lambda: all((folder / f"end{r}").exists() for r in left), f"ranks to learn that {victim} was killed")
        for r in left:
            end = json.loads((folder / f"end{r}").read_text())
            assert end["kind"] == "PeerLostError" and end["rank"] == victim, end
            assert f"rank {victim}" in end["text"] and f"while rank {r} " in end["text"], end
        for r in left:
            processes[r].join(DEADLINE)
            assert processes[r].exitcode == 0, "it ends without help"
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("network", ["memory", "TCP", "Python"])
def test_survivors_are_told_who_was_killed_whenever_it_was(tmp_path, network):
    chance = random.Random(network)
    for i in range(7):
        sizes = [1, 5000, 300_000] if i % 2 else [2_000_000]
        kill_one(tmp_path / str(i), chance.choice([2, 3, 4]), network, sizes, chance)
