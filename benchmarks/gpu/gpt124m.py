"""Tokens/s of a 124M-parameter GPT on one GPU: `Trainer(job)` beside a plain loop written by hand.

Model and data are `benchmarks/jobs/gpt124m.py`: bf16 autocast, fused AdamW, clipping, 64 sequences of 1024 tokens
a step in 4 micro-batches. The sides take turns, some steps each, once without and once with torch.compile:

  plain                      gradients accumulate in `.grad`; the loss is not read; pinned copies to the device
  manyhands                  reproducible=True: deterministic kernels, sums in the job's order
  manyhands, any order       reproducible=False

Bound: manyhands / plain at least 0.98. The share of the peak counts 6 N + 12 L W C FLOPs a token (N parameters
without the position embedding, L layers of width W, C tokens of context), over the rate of a large bf16 matrix
product measured here.

Needs CUDA. `--tiny --device cpu` only shows that the script works.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic kernels demand it; for all sides

import torch
from common import BENCHMARKS, arguments, device_missing, machine, ratios, table, write_results
from torch import Tensor, nn
from torch.utils.data import default_collate

from manyhands import Job, Trainer
from manyhands.training.jobfile import load_job

JOB = BENCHMARKS / "jobs" / "gpt124m.py"
TINY = shlex.split("--layers 2 --width 64 --heads 2 --context 64 --vocabulary 512 --batch-size 8 --micro-batches 4")
WARM_UP = 3


class Side(Protocol):
    """One way to train."""

    deterministic: bool
    """Whether it needs torch's deterministic kernels: a setting of the process, so it goes with the turns."""

    def step(self) -> object: ...


class Ours:
    """A `Trainer` in this process."""

    def __init__(self, job: Job, device: str) -> None:
        self.trainer = Trainer(job, device=device)
        self.deterministic = job.reproducible

    def step(self) -> object:
        return self.trainer.train_step()


class Plain:
    """What one writes by hand."""

    deterministic = False

    def __init__(self, job: Job, device: str) -> None:
        torch.manual_seed(job.seed)
        self.job, self.device = job, device
        self.model = job.model().to(device)
        self.call = torch.compile(self.model) if job.compile else self.model
        self.optimizer = job.optimizer(self.model.parameters())
        self.data = job.data()
        self.order = torch.randperm(len(self.data)).tolist()
        self.position = 0

    def batch(self) -> list[Tensor]:
        """The next micro-batch on the device."""
        size = self.job.micro_batch_size
        chosen = [self.order[(self.position + i) % len(self.order)] for i in range(size)]
        self.position += size
        tensors = default_collate([self.data[i] for i in chosen])
        if self.device == "cpu":
            return tensors
        return [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]

    def step(self) -> object:
        for _ in range(self.job.micro_batches):
            inputs, targets = self.batch()
            with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16):
                loss = self.job.loss(self.call(inputs), targets)
            (loss / self.job.micro_batches).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip_grad_norm or 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, for any device")
    parser.add_argument("--pairs", type=int, help="rounds; default 7")
    parser.add_argument("--steps", type=int, help="steps of a turn; default 10")
    options = parser.parse_args()
    if device_missing(options.device):
        return
    quick = options.quick or options.tiny
    pairs, steps = options.pairs or (2 if quick else 7), options.steps or (2 if quick else 10)
    facts = machine()
    peak = matmul_flops(options.device, 512 if options.tiny else 8192)
    measured = {
        name: compare(load_sides(options.device, TINY if options.tiny else [], compiled), options.device, pairs, steps)
        for name, compiled in (("eager", False), ("compiled", True))
    }
    job = load_job(JOB, TINY if options.tiny else [])
    flops = flops_per_token(job)
    show(measured, flops, peak)
    figures = {"bound": 0.98, "peak_flops": peak, "flops_per_token": flops, "measured": measured}
    write_results("gpt124m", quick, facts, figures)


def load_sides(device: str, flags: list[str], compiled: bool) -> dict[str, Side]:
    """The contestants, with their jobs."""
    flags = [*flags, "--compile"] if compiled else flags
    job = load_job(JOB, flags)
    return {
        "plain": Plain(job, device),
        "manyhands": Ours(job, device),
        "manyhands, any order": Ours(load_job(JOB, [*flags, "--no-reproducible"]), device),
    }


def compare(sides: dict[str, Side], device: str, pairs: int, steps: int) -> dict[str, Any]:
    """Tokens/s of the sides in turn, and their ratios to the plain loop within each round."""
    ours = next(side for side in sides.values() if isinstance(side, Ours))
    tokens = ours.trainer.job.batch_size * ours.trainer.data.context
    for side in sides.values():
        turn(side, device, WARM_UP)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(pairs):
        for name, side in sides.items():
            rates[name].append(tokens * steps / turn(side, device, steps))
    against = {name: ratios(rates[name], rates["plain"]) for name in sides if name != "plain"}
    return {"tokens_per_second": rates, "ratio_to_plain": against}


def turn(side: Side, device: str, steps: int) -> float:
    """Seconds of some steps."""
    torch.use_deterministic_algorithms(side.deterministic and device != "cpu")
    wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        side.step()
    wait(device)
    return time.perf_counter() - began


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def matmul_flops(device: str, size: int) -> float:
    """The best rate of a square bf16 matrix product, FLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(6):
        wait(device)
        began = time.perf_counter()
        for _ in range(20):
            a @ b
        wait(device)
        best = max(best, 20 * 2 * size**3 / (time.perf_counter() - began))
    return best


def flops_per_token(job: Job) -> float:
    """Of forward and backward, without recomputation; attention counted whole although it is causal."""
    with torch.device("meta"):
        model = job.model()
    parameters = sum(p.numel() for p in model.parameters()) - model.position.weight.numel()
    context, width = model.position.weight.shape
    return 6 * parameters + 12 * len(model.blocks) * width * context


def show(measured: dict[str, dict[str, Any]], flops: float, peak: float) -> None:
    rows = []
    for mode, figures in measured.items():
        for name, rates in figures["tokens_per_second"].items():
            median = sorted(rates)[len(rates) // 2]
            ratio = figures["ratio_to_plain"].get(name)
            cells = [f"{ratio[key]:.3f}" for key in ("median", "min", "max")] if ratio else ["", "", ""]
            rows.append([f"{mode}: {name}", f"{median:,.0f}", f"{median * flops / peak:.1%}", *cells])
    title = f"GPT, {flops / 1e9:.2f} GFLOP a token; measured peak {peak / 1e12:.2f} TFLOP/s"
    table(title, ["", "tokens/s", "of the peak", "ratio to plain", "min", "max"], rows)


if __name__ == "__main__":
    main()
