"""DDP's side of `train_vs_ddp.py`: trains an example for some steps and prints its samples/s.

torchrun --standalone --nproc_per_node=2 benchmarks/peers/ddp_train.py --example gpt --steps 60

`--micro-batches 0` takes each rank's share of the batch in one pass.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch.distributed as dist
from ddp import DDPLoop

from manyhands.training.jobfile import load_job

JOB = Path(__file__).resolve().parents[1] / "jobs" / "example.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", default="gpt")
    parser.add_argument("--flags", default="")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--micro-batches", type=int, default=None, help="default: the job's")
    parser.add_argument("--warm-up", type=float, default=0.2, help="share of the steps that is not timed")
    parser.add_argument("--backend", default="gloo", help="of torch.distributed: gloo, manyhands")
    options = parser.parse_args()
    job = load_job(JOB, ["--example", options.example, f"--flags={options.flags}"])
    micro_batches = job.micro_batches if options.micro_batches is None else options.micro_batches
    loop = DDPLoop(job, micro_batches, options.backend)
    warm = int(options.warm_up * options.steps)
    shares = loop.shares(0)
    began, losses = 0.0, []
    for done in range(options.steps):
        if done == warm:
            began = time.perf_counter()
        losses.append(loop.step(next(shares)))
    took = time.perf_counter() - began
    if loop.rank == 0:
        rate = (options.steps - warm) * job.batch_size / took
        print(json.dumps({"samples_per_second": rate, "loss": losses[-1]}))
    sys.stdout.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
