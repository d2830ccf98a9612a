"""A careful DistributedDataParallel training loop over a manyhands `Job`: what the benchmarks compare with.

The same model, data, loss, optimizer, clipping, scheduler and micro-batches; gradients are accumulated under
`no_sync` and averaged by gloo (or another backend), overlapped with the last backward pass. Samples come from a plain
permutation and are stacked by `default_collate` in the process itself, as manyhands does it. Buffers are broadcast from
rank 0 once a step, which is DDP's default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import default_collate

from manyhands import Job
from manyhands.training.steps.brake import Brake


class DDPLoop:
    """One rank's loop.

    Args:
        job: what to train.
        micro_batches: parts that every batch is cut into, over all ranks.
        backend: that exchanges gradients; None: the process group is there already.
        slow: how many times as long micro-batches take here, as with `manyhands train --slow`. They are stretched by
            what the last one took that was not followed by an exchange, so there must be two of them.
    """

    def __init__(self, job: Job, micro_batches: int, backend: str | None = "gloo", slow: float = 1.0) -> None:
        torch.set_num_threads(1)
        if backend == "manyhands":
            import manyhands.torch  # noqa: F401
        if backend is not None:
            dist.init_process_group(backend)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        self.job = job
        self.parts = micro_batches // self.world
        if slow > 1 and self.parts < 2:
            raise ValueError(f"a slow rank needs at least 2 micro-batches, not {self.parts}")
        self._brake = Brake(slow)
        torch.manual_seed(job.seed)
        self.model = DistributedDataParallel(job.model(), gradient_as_bucket_view=True)
        self.optimizer = job.optimizer(self.model.parameters())
        self.scheduler = job.scheduler(self.optimizer) if job.scheduler else None
        self.data = job.data()
        torch.manual_seed(job.seed + 1 + self.rank)

    def shares(self, step: int) -> Iterator[list[int]]:
        """This rank's sample indices, step after step for ever; an epoch's incomplete last batch is dropped."""
        batch, own = self.job.batch_size, self.job.batch_size // self.world
        steps_per_epoch = len(self.data) // batch
        while True:
            epoch, first = divmod(step, steps_per_epoch)
            order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(epoch)).tolist()
            for start in range(first * batch, steps_per_epoch * batch, batch):
                yield order[start + self.rank * own : start + (self.rank + 1) * own]
                step += 1

    def step(self, share: list[int]) -> float:
        """One optimizer step; this rank's mean loss."""
        size = len(share) // self.parts
        total = 0.0
        for part in range(self.parts):
            self._brake.hold()
            inputs, targets = default_collate([self.data[i] for i in share[part * size : (part + 1) * size]])
            with nullcontext() if part == self.parts - 1 else self.model.no_sync():
                loss = self.job.loss(self.model(inputs), targets) / self.parts
                loss.backward()
            if part < self.parts - 1:
                self._brake.let_go()
            total += float(loss.detach())
        if self.job.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()
        return total
