"""An asynchronous parameter server of Ray actors, as Ray's documentation shows it, that trains until a goal is reached.

python benchmarks/peers/ray_server.py --example gpt --goal 2.6 --limit 60 --last 400

As there ("Parameter Server" among Ray Core's examples) the server is an actor with `apply_gradients` and `get_weights`,
workers are actors with `compute_gradients`, and the driver hands the weights that came back for a worker's gradient to
that worker again, whoever is ready first (`ray.wait`). What is not from there: the job, its clipping and schedule; a
share counts as its part of a step, so its learning rate is that part of the job's; a worker made slower; losses, which
come back beside gradients. Prints [seconds, loss] of every step, which is as many shares as there are workers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import default_collate

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray

from manyhands import Job, Plan
from manyhands.training.jobfile import load_job
from manyhands.training.steps.brake import Brake

JOB = Path(__file__).resolve().parents[1] / "jobs" / "example.py"
WINDOW = 10


def load(example: str, flags: str) -> Job:
    torch.set_num_threads(1)
    return load_job(JOB, ["--example", example, f"--flags={flags}"])


@ray.remote(num_cpus=1)
class Server:
    def __init__(self, example: str, flags: str, workers: int) -> None:
        self.job, self.workers, self.pushes = load(example, flags), workers, 0
        torch.manual_seed(self.job.seed)
        self.model = self.job.model()
        self.optimizer = self.job.optimizer(self.model.parameters())
        self.scheduler = self.job.scheduler(self.optimizer) if self.job.scheduler else None

    def get_weights(self) -> dict[str, Any]:
        return {name: value.numpy() for name, value in self.model.state_dict().items()}

    def apply_gradients(self, gradients: list[Any]) -> dict[str, Any]:
        for param, gradient in zip(self.model.parameters(), gradients, strict=True):
            param.grad = torch.tensor(gradient)
        if self.job.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip_grad_norm)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] /= self.workers
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.pushes += 1
        if self.scheduler is not None and self.pushes % self.workers == 0:
            self.scheduler.step()
        return self.get_weights()


@ray.remote(num_cpus=1)
class Worker:
    def __init__(self, example: str, flags: str, rank: int, workers: int, slow: float) -> None:
        self.job = job = load(example, flags)
        torch.manual_seed(job.seed + 1 + rank)
        self.model, self.data = job.model(), job.data()
        self.parts, self.share = job.micro_batches // workers, job.batch_size // workers
        self.brake = Brake(slow)

    def ready(self) -> None:
        """Returns when it has been made."""

    def compute_gradients(self, weights: dict[str, Any]) -> tuple[list[Any], float]:
        self.model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        self.model.zero_grad()
        chosen, total = torch.randint(len(self.data), (self.share,)).tolist(), 0.0
        size = self.share // self.parts
        for part in range(self.parts):
            self.brake.hold()
            inputs, targets = default_collate([self.data[i] for i in chosen[part * size : (part + 1) * size]])
            loss = self.job.loss(self.model(inputs), targets) / self.parts
            loss.backward()
            self.brake.let_go()
            total += float(loss.detach())
        found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.model.parameters()]
        return [gradient.detach().numpy() for gradient in found], total


def train(options: argparse.Namespace) -> list[tuple[float, float]]:
    n, plan = options.workers, Plan(workers=options.workers, slow=options.slow)
    server = Server.remote(options.example, options.flags, n)
    workers = [Worker.remote(options.example, options.flags, r, n, plan.slowness(r)) for r in range(n)]
    ray.get([worker.ready.remote() for worker in workers] + [server.get_weights.remote()])
    began, shares, rows = time.perf_counter(), [], []
    weights, running = server.get_weights.remote(), {}

    def begin(worker: Any) -> None:
        gradients, loss = worker.compute_gradients.options(num_returns=2).remote(weights)
        running[gradients] = worker, loss

    for worker in workers:
        begin(worker)
    while len(rows) < options.last and time.perf_counter() - began <= options.limit:
        ready = ray.wait(list(running))[0][0]
        worker, loss = running.pop(ready)
        weights = server.apply_gradients.remote(ready)
        begin(worker)
        shares.append(ray.get(loss))
        if len(shares) % n == 0:
            rows.append((time.perf_counter() - began, sum(shares[-n:]) / n))
        if len(rows) >= WINDOW and sum(loss for _, loss in rows[-WINDOW:]) / WINDOW <= options.goal:
            break
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", default="gpt")
    parser.add_argument("--flags", default="")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--slow", default="")
    parser.add_argument("--goal", type=float, default=-1e9)
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--last", type=int, default=100)
    options = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=options.workers + 1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    print(json.dumps(train(options)))
    sys.stdout.flush()
    ray.shutdown()


if __name__ == "__main__":
    main()
