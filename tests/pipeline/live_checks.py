"""What the members of a gang do for test_live_activations.py and test_torch_runtime.py."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch_gang import MEMBER

import manyhands.torch  # noqa: F401 the backend
from manyhands import Job
from manyhands.pipeline import make_table
from manyhands.pipeline.runtime import runtime
from manyhands.plan import Layout, Plan
from manyhands.training import Trainer
from manyhands.transport import Group


class Count:
    """Of objects that graphs hold, and the most there were."""

    now = most = made = 0

    @classmethod
    def add(cls) -> object:
        held = Held()
        weakref.finalize(held, cls.remove)
        cls.made += 1
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        return held

    @classmethod
    def remove(cls) -> None:
        cls.now -= 1


class Held:
    """What a graph holds."""


class Holding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.held = Count.add()
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grads[0] * weight, (grads[0] * x).sum().view(1)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return Holding.apply(x, self.weight)


class Ones(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1024

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.ones(1), torch.ones(1)


def live(cases: list[tuple[str, int]]) -> list[tuple[int, int, int]]:
    """For every (schedule, micro-batches): the objects that were made in a step, the most that lived at once, and
    those that are left. One layer a stage, and one object for each of its forwards."""
    return [_live(schedule, count) for schedule, count in cases]


def _live(schedule: str, count: int) -> tuple[int, int, int]:
    layout = Layout(pp=MEMBER["world"], schedule=schedule)
    job = Job(
        model=lambda: nn.Sequential(*(Layer() for _ in range(layout.stages))),
        data=Ones,
        loss=lambda output, target: (output - 2 * target).square().mean(),
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-3),
        batch_size=count,
        micro_batches=count,
        steps=10,
    )
    trainer = Trainer(job, Plan(layout=layout), device="cpu")
    trainer.join(_gang(), cuts=range(layout.stages))
    trainer.train_step()
    Count.most, Count.made = Count.now, 0
    trainer.train_step()
    trainer.leave()
    return Count.made, Count.most, Count.now


def _gang() -> Group:
    MEMBER["joined"] = MEMBER.get("joined", 0) + 1
    store = dist.FileStore(f"{MEMBER['folder']}/links{MEMBER['joined']}", MEMBER["world"])
    return Group.connect(store, MEMBER["rank"], MEMBER["world"], name=f"gang {MEMBER['joined']}")


def on_torch_stages(schedules: list[str], count: int, backend: str) -> dict[str, float]:
    """Each schedule's table on torch's own stages: the largest difference from the whole model's gradients."""
    store = dist.FileStore(f"{MEMBER['folder']}/{backend}", MEMBER["world"])
    dist.init_process_group(backend, store=store, rank=MEMBER["rank"], world_size=MEMBER["world"])
    try:
        return {schedule: _on_torch_stages(schedule, count) for schedule in schedules}
    finally:
        dist.destroy_process_group()


def _on_torch_stages(schedule: str, count: int) -> float:
    table = make_table(schedule, MEMBER["world"], count)
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(table.stages)]
    x, target = torch.randn(2 * count, 6), torch.randn(2 * count, 6)
    whole = copy.deepcopy(nn.Sequential(*blocks))
    for inputs, targets in zip(x.chunk(count), target.chunk(count), strict=True):
        (_loss(whole(inputs), targets) / count).backward()
    mine = table.stages_of(MEMBER["rank"])
    stages = [PipelineStage(blocks[stage], stage, table.stages, torch.device("cpu")) for stage in mine]
    made = runtime(stages, table, loss=_loss)
    last = {"target": target, "losses": []} if table.stages - 1 in mine else {}
    made.step(*([x] if 0 in mine else []), **last)
    pairs = [pair for stage in mine for pair in zip(blocks[stage].parameters(), whole[stage].parameters(), strict=True)]
    return max(float((a.grad - b.grad).abs().max()) for a, b in pairs)


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()
