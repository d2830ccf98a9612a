"""A rank that exchanges gradients which cost next to nothing to compute, so that links are what counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from manyhands import Job, Plan, Trainer
from manyhands.cluster import Cluster
from manyhands.collective import Node
from manyhands.collective.algorithms.helper_hosts import helper_hosts
from manyhands.sync import Exchange, lay_out
from manyhands.transport import Group

WIDTH = 512
LAYER_BYTES = 4 * WIDTH * WIDTH


def rate(
    meet: Callable[[list[int], str], Group], rank: int, name: str, sync: str, workers: int, layers: int, steps: int
) -> float | None:
    """Seconds of a step, of so many in a row after a first one; None on ranks that the plan does not need."""
    plan = Plan(workers=workers, sync=sync, device="cpu")
    if rank >= plan.gang:
        return None
    trainer = Trainer(_job(workers, layers), plan, device="cpu")
    gang = meet(list(range(plan.gang)), name)
    trainer.join(gang)
    trainer.train_step()
    trainer.steps.arrive()
    gang.barrier().result()
    began = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    trainer.steps.arrive()
    seconds = (time.perf_counter() - began) / steps
    gang.barrier().result()
    trainer.leave()
    return seconds


def helped(
    meet: Callable[[list[int], str], Group], rank: int, name: str, workers: int, helpers: int, layers: int, steps: int
) -> float | None:
    """The same bytes in the same buckets, all-reduced by the workers with the help of hosts that bring none."""
    if rank >= workers + helpers:
        return None
    gang = meet(list(range(workers + helpers)), name)
    assert gang.cluster is not None
    forest = helper_hosts(with_helpers(gang.cluster, workers))
    layout = lay_out([torch.ones(WIDTH, WIDTH) for _ in range(layers)])
    nodes = [(Node(0, r),) if r < workers else () for r in range(workers + helpers)]
    exchange = Exchange(layout, nodes, workers, gang, torch.device("cpu"), forest)
    for item in exchange.outputs[0] if exchange.outputs else ():
        item.fill_(1.0)

    def step() -> None:
        for bucket in range(len(layout.buckets)):
            exchange.announce(bucket)
        exchange.finish(b"")

    step()
    if rank < workers:
        assert all((total == workers).all() for total in exchange.totals)
    gang.barrier().result()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    seconds = (time.perf_counter() - began) / steps
    gang.barrier().result()
    gang.close()
    return seconds


def with_helpers(cluster: Cluster, workers: int) -> Cluster:
    """The same hosts, of which only the first have data."""
    others = cluster.ranks[workers:]
    nodes = tuple(replace(node, kind="helper") if node.name in others else node for node in cluster.nodes)
    return replace(cluster, nodes=nodes)


def _job(workers: int, layers: int) -> Job:
    return Job(
        model=lambda: nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))),
        data=lambda: TensorDataset(torch.ones(1024, WIDTH), torch.zeros(1024, WIDTH)),
        loss=F.mse_loss,
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-6),
        batch_size=workers,
        micro_batches=workers,
        steps=10_000,
    )
