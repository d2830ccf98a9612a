"""torchrun's side of `recovery.py`: DDP with a checkpoint after every step, resumed from whatever is there.

torchrun --standalone --nproc_per_node=2 --max-restarts=3 benchmarks/peers/ddp_gpt.py --directory DIR

Writes to DIR: `workers.jsonl`, a line per process that starts; `steps.jsonl`, a line per step once its
checkpoint has its final name. Nothing is synced to disk, so the checkpoint survives processes but not the
machine, like manyhands' snapshots in shared memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from ddp import DDPLoop

from manyhands.training.jobfile import load_job

JOB = Path(__file__).resolve().parents[1] / "jobs" / "example.py"


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line in one write, which no other process's can split."""
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def load(loop: DDPLoop, path: Path) -> int:
    """Take over the checkpoint, if there is one; its step."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    loop.model.module.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    if loop.scheduler is not None:
        loop.scheduler.load_state_dict(state["scheduler"])
    return state["step"]


def save(loop: DDPLoop, path: Path, step: int) -> None:
    """Write the checkpoint under another name and rename it, so that a crash leaves one of the two."""
    state = {
        "model": loop.model.module.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "scheduler": loop.scheduler.state_dict() if loop.scheduler is not None else None,
        "step": step,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--flags", default="")
    options = parser.parse_args()
    restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    rank = int(os.environ["RANK"])
    append(options.directory / "workers.jsonl", {"pid": os.getpid(), "rank": rank, "restart": restart})
    job = load_job(JOB, ["--example", "gpt", f"--flags={options.flags}"])
    loop = DDPLoop(job, job.micro_batches)
    checkpoint = options.directory / "checkpoint.pt"
    step = load(loop, checkpoint)
    for share in loop.shares(step):
        loss = loop.step(share)
        step += 1
        if rank == 0:
            save(loop, checkpoint, step)
            append(options.directory / "steps.jsonl", {"step": step, "restart": restart, "loss": loss})


if __name__ == "__main__":
    sys.exit(main())
