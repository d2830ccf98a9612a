"""DistributedDataParallel as everyone writes it; only the import and the backend's name are manyhands'.

torchrun --nproc-per-node 2 examples/ddp.py [--backend manyhands|gloo] [--steps 50]
"""

import argparse
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import manyhands.torch  # registers the backend


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default=manyhands.torch.BACKEND)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()

    dist.init_process_group(options.backend)
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    teacher = torch.randn(32, 10)  # the same on every rank
    data = torch.Generator().manual_seed(1 + rank)

    start = time.perf_counter()
    for _ in range(options.steps):
        x = torch.randn(64, 32, generator=data)
        loss = nn.functional.cross_entropy(model(x), (x @ teacher).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = (time.perf_counter() - start) / options.steps

    mean = loss.detach()
    dist.all_reduce(mean, dist.ReduceOp.AVG)
    if rank == 0:
        print(f"{options.backend}, {world} ranks: loss {mean.item():.4f}, {1000 * seconds:.2f} ms a step")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
