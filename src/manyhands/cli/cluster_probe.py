"""`manyhands cluster probe`: measure the links between live hosts."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from manyhands.cli.cluster_tables import print_cluster
from manyhands.cluster import Cluster, format_toml
from manyhands.errors import UsageError, UserError


@dataclass(frozen=True)
class Probe:
    """Measure every link between hosts: run it on all of them at once, as torchrun or the lab do.

    manyhands lab mesh-4 -- manyhands cluster probe
    """

    rank: int | None = None
    """This host's number. Default: RANK."""
    world_size: int | None = None
    """How many hosts take part. Default: WORLD_SIZE."""
    master: str | None = None
    """HOST:PORT of rank 0. Default: MASTER_ADDR and MASTER_PORT."""
    output: Path | None = None
    """Write the cluster there as TOML (rank 0)."""
    json: bool = False
    """Print it as JSON."""
    timeout: float = 60.0
    """Seconds to wait for the others."""

    def run(self, job_arguments: list[str]) -> int:
        rank = _given(self.rank, "rank", "RANK")
        world = _given(self.world_size, "world-size", "WORLD_SIZE")
        if world < 2 or not 0 <= rank < world:
            raise UsageError(f"rank {rank} of {world}: there must be at least 2 ranks, numbered from 0.")
        host, port = self._master()
        began = time.monotonic()
        cluster = _measured(host, port, rank, world, self.timeout)
        if rank == 0:
            self._tell(cluster, world, time.monotonic() - began)
        return 0

    def _master(self) -> tuple[str, int]:
        text = self.master or f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit():
            raise UsageError("give --master HOST:PORT of rank 0, or set MASTER_ADDR and MASTER_PORT.")
        return host, int(port)

    def _tell(self, cluster: Cluster, world: int, seconds: float) -> None:
        if self.output is not None:
            self.output.write_text(format_toml(cluster))
        if self.json:
            print(json.dumps(asdict(cluster)))
            return
        print_cluster(cluster)
        print(f"measured between {world} ranks in {seconds:.1f} s, rendezvous included")


def _given(value: int | None, flag: str, variable: str) -> int:
    if value is not None:
        return value
    try:
        return int(os.environ[variable])
    except (KeyError, ValueError):
        raise UsageError(f"give --{flag} N, or set {variable}, as torchrun and `manyhands lab` do.") from None


def _measured(host: str, port: int, rank: int, world: int, timeout: float) -> Cluster:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # before torch is loaded: what goes wrong is said below
    from torch.distributed import TCPStore

    from manyhands.transport.errors import GroupError
    from manyhands.transport.probe import probed
    from manyhands.transport.rendezvous import connect

    try:
        store = TCPStore(host, port, world, rank == 0, timedelta(seconds=timeout))
    except Exception as error:  # torch's own classes differ between versions
        missed = "the other ranks do not come to rank 0" if rank == 0 else f"rank {rank} cannot reach rank 0"
        raise UserError(f"{missed} at {host}:{port}: {str(error).splitlines()[0]}") from None
    try:
        links = {link.peer: link for link in connect(store, rank, world, "probe", timeout) if link is not None}
        cluster = probed(store, rank, links, "probe", fresh=True)
    except GroupError as error:
        raise UserError(f"rank {rank} has measured nothing: {error}. Start all ranks again.") from None
    store.set(f"probe/done/{rank}", "")
    if rank == 0:  # rank 0 serves the store: it leaves last
        for other in range(world):
            store.get(f"probe/done/{other}")
    for link in links.values():
        link.close()
    return cluster
