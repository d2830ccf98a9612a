"""A rank that times Open MPI through mpi4py and NumPy; answers the same requests as `manyhands.bench.rank`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from manyhands.bench.serve import serve

WORLD = MPI.COMM_WORLD


def prepared(operation: str, size: int) -> tuple[Callable[[], object], np.ndarray, np.ndarray]:
    """A call that does it, what goes in, what comes out."""
    part = max(1, size // 4 // WORLD.size)
    whole = np.empty(part * WORLD.size, dtype=np.float32)
    piece = np.empty(part, dtype=np.float32)
    whole.fill(0)
    piece.fill(0)
    match operation:
        case "all_reduce":
            return lambda: WORLD.Allreduce(MPI.IN_PLACE, whole), whole, whole
        case "broadcast":
            return lambda: WORLD.Bcast(whole, 0), whole, whole
        case "all_gather":
            return lambda: WORLD.Allgather(piece, whole), piece, whole
    return lambda: WORLD.Reduce_scatter_block(whole, piece), whole, piece


def timed(operation: str, size: int, repeat: int, warm_up: int = 0) -> float:
    run, _, _ = prepared(operation, size)
    if warm_up:
        prepared(operation, warm_up)[0]()
    WORLD.Barrier()
    began = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - began) / repeat


def check(operation: str, size: int) -> bool:
    run, given, result = prepared(operation, size)
    given.fill(WORLD.rank + 1)
    run()
    match operation:
        case "all_gather":
            return bool((result.reshape(WORLD.size, -1) == np.arange(1, WORLD.size + 1)[:, None]).all())
        case "broadcast":
            return bool((result == 1).all())
    return bool((result == WORLD.size * (WORLD.size + 1) // 2).all())


if __name__ == "__main__":
    WORLD.Barrier()
    serve(sys.argv[-1], WORLD.rank, {"version": MPI.Get_library_version()}, {"time": timed, "check": check})
