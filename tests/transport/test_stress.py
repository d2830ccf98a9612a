"""Races, if there are any: processes on fewer cores than there are, thousands of small operations of random sizes."""

import random

import pytest
import torch
from groups import DEADLINE, NEVER, no_unix
from test_kills import FileStore, Patch, forked

from manyhands.transport import Group


def rank(folder, number, world, network, count):
    if network == "TCP":
        no_unix(Patch())
    torch.set_num_threads(1)
    group = Group.connect(FileStore(folder), number, world, timeout=NEVER)
    chance = random.Random(count)
    waiting = []
    for i in range(count):
        value, size = chance.randrange(100), chance.randrange(1, 50_000)
        tensor = torch.full((size,), float(value + number))
        waiting.append((group.all_reduce(tensor), tensor, float(world * value + world * (world - 1) // 2)))
        if chance.random() < 0.5 or i == count - 1:
            for future, result, wanted in waiting:
                future.result(NEVER)
                assert bool((result == wanted).all()), (i, size)
            waiting.clear()
    group.close()


@pytest.mark.parametrize(("world", "network", "count"), [(2, "memory", 2500), (4, "memory", 800), (3, "TCP", 500)])
def test_thousands_of_small_operations(tmp_path, world, network, count):
    processes = [forked(rank, tmp_path, r, world, network, count) for r in range(world)]
    for process in processes:
        process.join(DEADLINE)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert codes == [0] * world
