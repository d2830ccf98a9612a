"""The plan's options as a user gives them, declared once: the command line's help is made of them, and Python takes
the same names.

Each group is a set of options that are given together; a command takes the groups that make sense for it, and
`PlanOptions` has all. An option that is None was not given: the plan's own default holds, or what a resumed run had.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args

from manyhands.errors import UsageError
from manyhands.plan.hosts import parse_hosts
from manyhands.plan.option import Option
from manyhands.plan.plan import Collective, Device, Plan


@dataclass(frozen=True, kw_only=True)
class _Options:
    """A group of options, checked when it is made.

    Raises:
        UsageError: a value makes no sense by itself. Whether all fit together is for the `Plan` to say.
    """

    def given(self) -> dict[str, Any]:
        """The options that were given, by the names of the plan's fields: `Plan(**options.given())`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __post_init__(self) -> None:
        given = self.given()
        workers = {"workers": given.pop("workers")} if "workers" in given else {}
        parse_hosts("--server-hosts", given.pop("server_hosts", ""))
        if given.get("device", "auto") not in get_args(Device):
            raise UsageError(f"--device {given['device']}: there are {', '.join(get_args(Device))}.")
        Plan(**workers)
        for name, value in given.items():
            Plan(**{name: value}, **(workers if name == "layout" else {}))


@dataclass(frozen=True, kw_only=True)
class WorkersOption(_Options):
    """How many workers there are."""

    workers: Annotated[int | None, Option("N", "one for each CUDA device, or one")] = None
    """Processes that share every batch. A layout says it, too."""


@dataclass(frozen=True, kw_only=True)
class DivisionOptions(_Options):
    """How workers divide a step, and when they agree."""

    layout: Annotated[str | None, Option("LAYOUT", "replicas")] = None
    """How the work is divided among the workers: pp=2,dp=2 or tp=2 and so on (docs/layouts.md)."""
    sync: Annotated[str | None, Option("SYNC", "allreduce")] = None
    """When replicas agree: allreduce (every step), server,servers=2 (parameter servers), local,every=16 (every so many
    steps) and so on (docs/sync.md)."""


@dataclass(frozen=True, kw_only=True)
class PlacesOptions(_Options):
    """Which machines take part."""

    hosts: Annotated[str | None, Option("HOST[=N],...", "this machine")] = None
    """Machines of the workers: here is this one, any other is NAME or NAME:PORT, and `manyhands agent` runs there. N
    says how many workers each has."""
    server_hosts: Annotated[str | None, Option("HOST,...", "where the workers are")] = None
    """Machines of the parameter servers, one for each."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(_Options):
    """What a worker computes on, and how workers exchange what they computed."""

    device: Annotated[Device | None, Option("auto|cpu|cuda", "auto: CUDA where there is some")] = None
    """What workers compute on."""
    threads: Annotated[int | None, Option("N", "1")] = None
    """Threads per worker on the CPU. Part of what fixes the bits of the result."""
    workers_per_device: Annotated[int | None, Option("N", "1")] = None
    """Workers that may share one CUDA device."""
    collective: Annotated[Collective | None, Option("|".join(get_args(Collective)), "auto")] = None
    """How gradients travel between workers. The sums are the same bits whatever it is."""


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions(_Options):
    """What is done to a run to see how it bears it."""

    slow: Annotated[str | None, Option("RANK:FACTOR,...", "none")] = None
    """Workers that are made slower, to see what that does: 1:3 makes worker 1 three times slower."""


@dataclass(frozen=True, kw_only=True)
class GangOptions(PlacesOptions, DivisionOptions, WorkersOption):
    """What may change while a job runs."""


@dataclass(frozen=True, kw_only=True)
class JobOptions(ExperimentOptions, DeviceOptions, DivisionOptions):
    """What a job may ask of a controller, which decides how many workers it has, and where."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(ExperimentOptions, DeviceOptions, GangOptions):
    """All options of a plan."""
