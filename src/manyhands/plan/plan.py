"""*How* a job is run: plain data, printable and savable. It changes the speed and never the result, but for `sync`:
with `local`, what comes out depends on when replicas agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from manyhands.errors import UsageError
from manyhands.plan.hosts import parse_hosts, parse_shares, place_blocks, place_workers
from manyhands.plan.layout import Layout, as_layout, complete
from manyhands.plan.sync import Sync, as_sync

Device = Literal["auto", "cpu", "cuda"]
Collective = Literal["auto", "direct", "ring", "bidirectional_ring", "tree", "star", "halving_doubling", "packed"]

_FOLLOWS: Any = None
"""The value of a field that was not given: it follows from others."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many workers, on what.

    Of `workers` and `layout` one may be left out: workers alone are replicas, a layout has its number of workers.

    Raises:
        UsageError: a value makes no sense.
    """

    workers: int = _FOLLOWS
    """Processes that share every batch."""
    layout: Layout = _FOLLOWS
    """How the work is divided among them. Also taken as text or as the dict of `as_dict`."""
    device: Device = "auto"
    """`auto` takes CUDA where there is some, else the CPU."""
    threads: int = 1
    """Threads per worker on the CPU. Part of what fixes the bits: keep it the same to get the same weights."""
    workers_per_device: int = 1
    """Workers that may share one CUDA device."""
    collective: Collective = "auto"
    """How gradients travel. Changes the speed, never the sums."""
    sync: Sync = _FOLLOWS
    """When replicas agree. Also taken as text."""
    slow: str = ""
    """`RANK:FACTOR,...`: workers that are made so many times slower, for experiments."""
    hosts: str = ""
    """`here,NAME[:PORT],...`: machines that the workers are on, in blocks of ranks; `here=3,NAME=1` says how many each
    has. Empty: all are on this one."""
    server_hosts: str = ""
    """Machines of the parameter servers, one for each, as in `hosts`. Empty: they are where the workers are."""

    def __post_init__(self) -> None:
        self._settle_layout()
        self._settle_sync()
        self._check_hosts()
        self.slowness(0)
        for name in ("threads", "workers_per_device"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1; it is {getattr(self, name)}.")
        if self.collective not in get_args(Collective):
            raise UsageError(f"--collective {self.collective}: there are {', '.join(get_args(Collective))}.")

    def _settle_layout(self) -> None:
        workers: int | None = self.workers
        layout = as_layout(self.layout, workers) if self.layout is not None else None
        if workers is None:
            names, counts = parse_shares("--hosts", self.hosts)
            workers = layout.workers if layout else sum(counts) or len(names) or 1
        if workers < 1:
            raise UsageError(f"--workers must be at least 1; it is {workers}.")
        layout = layout or Layout(dp=workers)
        if layout.workers != workers:
            raise UsageError(
                f"layout {layout} has {layout.workers} workers, and --workers is {workers}. Leave out --workers, or "
                "give a layout of that many."
            )
        object.__setattr__(self, "workers", workers)
        object.__setattr__(self, "layout", layout)

    def _settle_sync(self) -> None:
        object.__setattr__(self, "sync", as_sync(self.sync))
        if self.sync.divides and self.layout.split:
            raise UsageError(
                f"--sync {self.sync} is for replicas, and in layout {self.layout} a worker has only a part of the "
                "model. Use --sync allreduce, or leave out the layout."
            )
        if self.sync.policy != "allreduce" and self.collective != "auto":
            raise UsageError(f"--collective is for --sync allreduce, not {self.sync.policy}. Leave it out.")

    def _check_hosts(self) -> None:
        place_workers("--hosts", self.hosts, self.workers)
        hosts, servers = parse_hosts("--server-hosts", self.server_hosts), self.sync.helpers
        if hosts and not servers:
            raise UsageError(
                f"--server-hosts {self.server_hosts}: there are no servers with --sync {self.sync}. Add --sync server, "
                "or leave it out."
            )
        if hosts and servers != len(hosts):
            raise UsageError(
                f"--server-hosts has {len(hosts)} host(s), and there are {servers} server(s). Give each server a host "
                f"of its own, or write --sync {replace(self.sync, servers=len(hosts))}."
            )

    @property
    def places(self) -> tuple[str, ...]:
        """The host of every rank; `here` is the one that the run was started on."""
        workers = place_workers("--hosts", self.hosts, self.workers)
        beside = place_blocks(self.sync.helpers, parse_shares("--hosts", self.hosts)[0])
        return workers + (parse_hosts("--server-hosts", self.server_hosts) or beside)

    def slowness(self, rank: int) -> float:
        """How many times slower a worker is to be.

        Raises:
            UsageError: `slow` cannot be read.
        """
        factors = {}
        for item in filter(None, self.slow.split(",")):
            number, _, factor = item.partition(":")
            try:
                factors[int(number)] = float(factor)
            except ValueError:
                factors[-1] = 0.0
            if min(factors) < 0 or not 1 <= min(factors.values()) <= max(factors.values()) < 1000:
                raise UsageError(
                    f"--slow {self.slow}: write RANK:FACTOR, as in 1:3 for a worker 1 that is 3 times slower."
                )
        return factors.get(rank, 1.0)

    def role(self, rank: int) -> str:
        """What the process of this rank is, in words."""
        return f"worker {rank}" if rank < self.workers else f"server {rank - self.workers}"

    @property
    def gang(self) -> int:
        """Processes in all: the workers, and servers if there are some."""
        return self.workers + self.sync.helpers

    @property
    def manner(self) -> str:
        """What decides whether it trains rightly, as text: how the model is divided, whether there are replicas and
        when they agree; not how many workers there are, nor where."""
        return f"{replace(self.layout, dp=min(2, self.layout.dp))}; {self.sync}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold and `Plan(**data)` takes."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"layout": self.layout.as_dict(), "sync": str(self.sync)}

    def resized(
        self,
        workers: int | None = None,
        layout: Layout | str | None = None,
        sync: Sync | str | None = None,
        hosts: str | None = None,
        server_hosts: str | None = None,
    ) -> Plan:
        """The same plan for another gang. With workers alone the number of replicas changes, nothing else. Servers
        leave hosts of their own that a new policy has no use for.

        Raises:
            UsageError: that many workers cannot be laid out like this.
        """
        changed: dict[str, Any] = {}
        if sync is not None or hosts is not None or server_hosts is not None:
            agreed = self.sync if sync is None else as_sync(sync)
            if server_hosts is None:
                server_hosts = self.server_hosts if agreed.helpers == self.sync.helpers else ""
            changed = {"sync": agreed, "hosts": self.hosts if hosts is None else hosts, "server_hosts": server_hosts}
        workers = _workers(workers, layout, hosts)
        if layout is None:
            new = self.layout if workers is None else complete(self.layout, workers)
        else:
            new = Layout.parse(layout, workers) if isinstance(layout, str) else layout
        return replace(self, workers=new.workers if workers is None else workers, layout=new, **changed)

    @staticmethod
    def merged(kept: Mapping[str, Any], given: Mapping[str, Any]) -> Plan:
        """A plan that was kept (`as_dict`, perhaps of an older version), changed by what is given now.

        Raises:
            UsageError: what is given makes no sense, or not with what was kept.
        """
        if not kept:
            return Plan(**given)
        size = {"workers", "layout"}
        others = {name: value for name, value in {**kept, **given}.items() if name not in size}
        if "sync" in given and "server_hosts" not in given:
            former, agreed = as_sync(kept.get("sync")), as_sync(given["sync"])
            others["server_hosts"] = kept.get("server_hosts", "") if former.helpers == agreed.helpers else ""
        before = Plan(**{name: kept[name] for name in size if name in kept})
        workers = _workers(given.get("workers"), given.get("layout"), given.get("hosts"))
        return replace(before.resized(workers, given.get("layout")), **others)

    def check(self, micro_batches: int, cuda_devices: int) -> None:
        """Refuse what the job or the machine cannot carry.

        Raises:
            UsageError: more workers than micro-batches, or than places on the CUDA devices.
        """
        if self.layout.dp > micro_batches:
            parts = self.layout.pp * self.layout.tp
            one = "replica" if parts > 1 else "worker"
            raise UsageError(
                f"{self.layout.dp} {one}s cannot share {micro_batches} micro-batches: every {one} needs at least one. "
                f"Use --workers {micro_batches * parts} or fewer, or give the job more micro_batches."
            )
        if self.device == "cuda" and not cuda_devices:
            raise UsageError("--device cuda: this machine has no CUDA device that torch can use. Use --device cpu.")
        places = cuda_devices * self.workers_per_device
        if self.uses_cuda(cuda_devices) and self.workers > places:
            raise UsageError(
                f"{self.workers} workers need {self.workers} places, and {cuda_devices} CUDA device(s) with "
                f"{self.workers_per_device} worker(s) each have {places}. Use --workers {places}, or let workers share "
                f"a device: --workers-per-device {-(-self.workers // cuda_devices)}."
            )

    def uses_cuda(self, cuda_devices: int) -> bool:
        return self.device == "cuda" or (self.device == "auto" and cuda_devices > 0)


def _workers(workers: int | None, layout: Layout | str | None, hosts: str | None) -> int | None:
    """The number of workers that is asked for, where hosts may say so, too."""
    if workers is None and layout is None and hosts:
        return sum(parse_shares("--hosts", hosts)[1]) or None
    return workers
