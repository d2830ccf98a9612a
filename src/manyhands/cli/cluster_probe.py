"""`manyhands cluster probe`: measure the links between live hosts."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from manyhands.cli.cluster_tables import print_cluster
from manyhands.cli.command import Command
from manyhands.errors import UsageError, UserError
from manyhands.plan import Option

if TYPE_CHECKING:
    from manyhands.cluster import Cluster

_ALONE = """links are measured between hosts, and here it runs on one. Run it on each of them at once; with two:
  manyhands cluster probe --rank 0 --world-size 2 --master {0}:29500    # here
  manyhands cluster probe --rank 1 --world-size 2 --master {0}:29500    # on the other host
or on hosts that this machine emulates: sudo manyhands lab mesh-4 -- manyhands cluster probe"""


@dataclass(frozen=True, kw_only=True)
class Probe(Command):
    """Measure every link between hosts; run it on all of them at once.

        On the first of two hosts: manyhands cluster probe --rank 0 --world-size 2 --master FIRST:29500
        On the other one:          manyhands cluster probe --rank 1 --world-size 2 --master FIRST:29500
        On emulated ones:          sudo manyhands lab mesh-4 -- manyhands cluster probe

    FIRST is the first host's address. torchrun and `manyhands lab` set what the three options say.
    """

    rank: Annotated[int | None, Option("N", "RANK")] = None
    """This host's number, from 0."""
    world_size: Annotated[int | None, Option("N", "WORLD_SIZE")] = None
    """How many hosts take part."""
    master: Annotated[str | None, Option("HOST:PORT", "MASTER_ADDR and MASTER_PORT")] = None
    """Where rank 0 listens; any free port of its host."""
    output: Annotated[Path | None, Option("FILE", "nowhere", short="-o")] = None
    """Where to write the cluster as TOML (rank 0)."""
    json: bool = False
    """Print JSON: the cluster, as `manyhands cluster show --json` does."""
    timeout: Annotated[float, Option("SECONDS")] = 60.0
    """How long to wait for others before giving up."""

    def run(self, job_arguments: list[str]) -> int:
        if self.rank is None and self.world_size is None and not {"RANK", "WORLD_SIZE"} & set(os.environ):
            raise UsageError(_ALONE.format(socket.gethostname()))
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
        from manyhands.cluster import format_toml

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
