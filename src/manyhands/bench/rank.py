"""A rank that times torch.distributed: `python -m manyhands.bench.rank --backend gloo --address PATH`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from manyhands.bench.serve import serve

_ITEM = 4
"""Bytes of a float32."""


def main(handlers: Mapping[str, Callable[..., Any]] | None = None) -> None:
    """Join the group, then do as told. `handlers` are things to do besides timing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--address", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.backend == "manyhands":
        import manyhands.torch  # noqa: F401
    began = time.perf_counter()
    dist.init_process_group(options.backend)
    dist.barrier()
    about = {"seconds": time.perf_counter() - began}
    own: dict[str, Callable[..., Any]] = {"time": timed, "check": check, "copy": copied}
    serve(options.address, dist.get_rank(), about, {**own, **(handlers or {})})
    dist.destroy_process_group()


def timed(operation: str, size: int, repeat: int, warm_up: int = 0) -> float:
    """Seconds of one operation, of `repeat` in a row, after a first one with `warm_up` bytes."""
    run, _, _ = prepared(operation, size)
    if warm_up:
        prepared(operation, warm_up)[0]()
    dist.barrier()
    began = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - began) / repeat


def copied(size: int, repeat: int) -> float:
    """Seconds in which this rank copies so many bytes while all others do the same: what memory gives, for scale."""
    source, target = torch.zeros(size // _ITEM), torch.ones(size // _ITEM)
    target.copy_(source)
    dist.barrier()
    began = time.perf_counter()
    for _ in range(repeat):
        target.copy_(source)
    return (time.perf_counter() - began) / repeat


def check(operation: str, size: int) -> bool:
    """Whether the result is right, to the last element."""
    run, given, result = prepared(operation, size)
    rank, world = dist.get_rank(), dist.get_world_size()
    given.fill_(rank + 1)
    run()
    match operation:
        case "all_gather":
            return bool((result.view(world, -1) == torch.arange(1.0, world + 1)[:, None]).all())
        case "broadcast":
            return bool((result == 1).all())
        case "reduce" if rank:
            return True
    return bool((result == world * (world + 1) // 2).all())


def prepared(operation: str, size: int) -> tuple[Callable[[], object], Tensor, Tensor]:
    """A call that does an operation, what goes in, what comes out. `size` is of the whole: what all-gather gives out,
    and what reduce-scatter takes in."""
    world = dist.get_world_size()
    part = max(1, size // _ITEM // world)
    whole = torch.ones(part * world).zero_()  # written to: pages that nobody touched would be one and the same
    match operation:
        case "all_reduce":
            return lambda: dist.all_reduce(whole), whole, whole
        case "broadcast":
            return lambda: dist.broadcast(whole, 0), whole, whole
        case "reduce":
            return lambda: dist.reduce(whole, 0), whole, whole
    piece = torch.ones(part).zero_()
    if operation == "all_gather":
        return lambda: dist.all_gather_into_tensor(whole, piece), piece, whole
    return lambda: dist.reduce_scatter_tensor(piece, whole), whole, piece


if __name__ == "__main__":
    main()
