"""Ray Train's TorchTrainer, elastic, with the job of benchmarks/jobs/naps.py.

python benchmarks/peers/ray_trainer.py --address HOST:PORT --least 2 --most 6 --log FILE --storage FOLDER

Rank 0 appends a line to the log after every step: the time, the step, how many workers there are, its process. A
checkpoint is reported every 20 steps, and a new group of workers goes on from the last one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
JOBS = Path(__file__).resolve().parents[1] / "jobs"


def train(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch
    import torch

    sys.path.insert(0, str(JOBS))
    import naps

    torch.set_num_threads(1)
    context = ray.train.get_context()
    job, world, rank = naps.job(), context.get_world_size(), context.get_world_rank()
    model = ray.train.torch.prepare_model(job.model())
    optimizer, first = job.optimizer(model.parameters()), 0
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt")
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first = state["step"]
    x, y = job.data().tensors
    for step in range(first, 1_000_000):
        for _ in range(max(1, job.micro_batches // world)):  # as many naps as the same job takes in manyhands
            loss = job.loss(model(x[:8]), y[:8])
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0:
            with Path(config["log"]).open("a") as log:
                log.write(f"{time.time()} {step + 1} {world} {os.getpid()}\n")
        if (step + 1) % 20 == 0:
            with tempfile.TemporaryDirectory() as folder:
                report = None
                if rank == 0:
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                    torch.save(state, Path(folder) / "state.pt")
                    report = ray.train.Checkpoint.from_directory(folder)
                ray.train.report({"loss": loss.item()}, checkpoint=report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--address", "--log", "--storage"):
        parser.add_argument(flag, required=True)
    for flag in ("--least", "--most"):
        parser.add_argument(flag, type=int, required=True)
    options = parser.parse_args()
    import ray
    import ray.train
    import ray.train.torch

    ray.init(options.address, log_to_driver=False)
    ray.train.torch.TorchTrainer(
        train,
        train_loop_config={"log": options.log},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(options.least, options.most),
            resources_per_worker={"CPU": 1},
            elastic_resize_monitor_interval_s=1.0,  # 60 by default
        ),
        run_config=ray.train.RunConfig(
            storage_path=options.storage, failure_config=ray.train.FailureConfig(max_failures=-1)
        ),
    ).fit()


if __name__ == "__main__":
    main()
