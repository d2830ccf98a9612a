"""Gangs of threads: for trainings that draw no random numbers, which threads would share."""

import socket
import threading
from pathlib import Path

import torch
from deadlines import DEADLINE

from manyhands import Plan, Trainer
from manyhands.transport import Group, links_over


def in_threads(world: int, work) -> list:
    """What `work(rank, group)` gives on each rank; raises what it raises."""
    links = [[None] * world for _ in range(world)]
    for low in range(world):
        for high in range(low + 1, world):
            links[low][high], links[high][low] = socket.socketpair()
    results: list = [None] * world

    def be(rank):
        try:
            results[rank] = work(rank, Group(rank, links_over(rank, links[rank]), timeout=DEADLINE))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE)
        assert not thread.is_alive(), "the gang hangs"
    for row in links:
        for link in row:
            if link is not None:
                link.close()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def trained(
    job, plan: Plan, state=None, steps: int | None = None, ask=lambda trainer: trainer.capture(), tables=Path("tables")
) -> list:
    """What `ask` says of each process's trainer after these steps (to the job's end), from a state if one is given."""

    # Weights are drawn one after another.
    trainers = [Trainer(job, plan, device="cpu", tables=tables) for _ in range(plan.gang)]

    def work(rank, group):
        trainer = trainers[rank]
        if state is not None:
            trainer.restore(state)
        trainer.join(group)
        figures = []
        while trainer.step < (trainer.total_steps if steps is None else steps):
            figures += trainer.train_round()
        answer = ask(trainer)
        trainer.leave()
        return answer, figures

    return in_threads(plan.gang, work)


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
