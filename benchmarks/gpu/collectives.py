"""All-reduce of tensors on a GPU, staged through pinned memory, by 2 and 4 ranks that share it; beside gloo.

Both backends in the same processes, in alternating rounds. The bound is the copy down and up at the bus's measured
speed, shared by the ranks; what is above it is not overlapped with wire and sums.

Needs CUDA (skips with a reason elsewhere). `--device cpu` shows that the script works.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import arguments, device_missing, machine, table, write_results

SIZES = [1 << 20, 16 << 20, 128 << 20]
ROUNDS = 7


def bus_rate(device: torch.device) -> float:
    """Bytes/s between pinned memory and the device, one way; of a memory copy where there is no device."""
    host = torch.empty(64 << 20, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.empty_like(host, device=device)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        there.copy_(host)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return host.numel() / min(times)


def rank(number: int, world: int, device_name: str, sizes: list[int], port: int, results: Any) -> None:
    import manyhands.torch  # noqa: F401

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    device = torch.device(device_name)
    dist.init_process_group("gloo", rank=number, world_size=world)
    groups = {"gloo": dist.group.WORLD, "manyhands": dist.new_group(backend="manyhands")}
    for size in sizes:
        times: dict[str, list[float]] = {name: [] for name in groups}
        for turn in range(ROUNDS + 1):
            for name in sorted(groups, reverse=turn % 2 == 1):
                tensor = torch.ones(size // 4, device=device)
                dist.barrier()
                began = time.perf_counter()
                dist.all_reduce(tensor, group=groups[name])
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:  # the first makes buffers
                    times[name].append(time.perf_counter() - began)
                assert bool((tensor == world).all()), f"{name}: wrong sum"
        if number == 0:
            results.put((world, size, times))
    dist.destroy_process_group()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="as --quick")
    flags = parser.parse_args()
    if device_missing(flags.device):
        return
    quick = flags.quick or flags.tiny
    facts, bus = machine(), bus_rate(torch.device(flags.device))
    queue = mp.get_context("spawn").SimpleQueue()
    rows, figures = [], []
    for turn, world in enumerate((2, 4)):
        sizes = SIZES[:1] if quick else SIZES
        mp.spawn(rank, (world, flags.device, sizes, 29600 + turn, queue), nprocs=world)  # type: ignore[arg-type]
        for _ in sizes:
            world, size, times = queue.get()
            ours, theirs = (statistics.median(times[name]) for name in ("manyhands", "gloo"))
            bound = 2 * size * world / bus
            figures.append({"ranks": world, "bytes": size, "seconds": times, "bound": bound})
            ratio = [b / a for a, b in zip(times["manyhands"], times["gloo"], strict=True)]
            rows.append([str(world), f"{size >> 20} MiB", f"{ours * 1e3:.2f} ms", f"{theirs * 1e3:.2f} ms"])
            rows[-1] += [f"{statistics.median(ratio):.2f}", f"{bound * 1e3:.2f} ms"]
    headings = ["ranks", "size", "manyhands", "gloo", "gloo / manyhands", "copies alone, shared bus"]
    table("all-reduce of tensors on one device", headings, rows)
    write_results("gpu_collectives", quick or flags.device == "cpu", facts, {"bus": bus, "all_reduce": figures})


if __name__ == "__main__":
    main()
