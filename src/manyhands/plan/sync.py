"""When replicas agree, as plain data: law 4. As text: `local,every=16,outer=nesterov` or `server,servers=2`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from manyhands.errors import UsageError

Policy = Literal["allreduce", "server", "local"]
Outer = Literal["average", "sgd", "nesterov"]
Wire = Literal["full", "bf16", "int8"]

_BELONGS = {
    "servers": "server",
    "staleness": "server",
    "every": "local",
    "outer": "local",
    "outer_lr": "local",
    "outer_momentum": "local",
    "wire": "local",
}
"""The policy that each setting is of; others are of all."""


@dataclass(frozen=True, kw_only=True)
class Sync:
    """A policy and its settings. `allreduce` and `server` give the job's own result; with `local` it depends on the
    number of workers, too.

    Raises:
        UsageError: a value makes no sense; says what to change.
    """

    policy: Policy = "allreduce"
    """`allreduce`: all add up their gradients and each applies them, every step. `server`: parameter servers add up,
    apply, and hand out the weights. `local`: each trains alone and all agree every few steps."""
    balance: bool = True
    """With a policy that agrees every step: give faster workers more micro-batches, as measured."""
    servers: int = 1
    """`server`: processes that hold the parameters, besides the workers."""
    staleness: int | None = 0
    """`server`: how many steps the fastest worker may be ahead of the slowest. 0: none, all wait for all, and the
    result is that of an all-reduce. Above: each push is applied as it comes. `any`: without a bound."""
    every: int = 16
    """`local`: steps from one agreement to the next."""
    outer: Outer = "average"
    """`local`: what is done with the workers' weights. Their average (LocalSGD), or a step of an outer optimizer along
    the average difference: plain `sgd`, or `nesterov` (DiLoCo)."""
    outer_lr: float = 0.7
    """`local`: learning rate of the outer optimizer."""
    outer_momentum: float = 0.9
    """`local`: its momentum."""
    wire: Wire = "full"
    """`local`: how differences travel; bf16 and int8 keep what they lose for the next time."""

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise UsageError(f"--sync {self.policy}: there is none. Policies: {', '.join(get_args(Policy))}.")
        for name, policy in _BELONGS.items():
            if self.policy != policy and getattr(self, name) != _DEFAULTS[name]:
                raise UsageError(f"--sync {self.policy}: {name} is a setting of {policy}. Leave it out.")
        for name in ("servers", "every"):
            if getattr(self, name) < 1:
                raise UsageError(f"--sync {self.policy}: {name} must be at least 1; it is {getattr(self, name)}.")
        if self.staleness is not None and self.staleness < 0:
            raise UsageError(
                f"--sync server: staleness={self.staleness}: give 0 (all wait for all), a bound above it, or any."
            )
        for name, kind in (("outer", Outer), ("wire", Wire)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(f"--sync: {name}={getattr(self, name)}: there are {', '.join(get_args(kind))}.")
        if self.outer == "average" and {self.outer_lr, self.outer_momentum} != {0.7, 0.9}:
            raise UsageError("--sync local: an average has no outer_lr or outer_momentum. Add outer=nesterov.")
        if self.outer_lr <= 0 or not 0 <= self.outer_momentum < 1:
            raise UsageError("--sync local: outer_lr must be above 0, and outer_momentum from 0 to below 1.")

    @property
    def helpers(self) -> int:
        """Processes besides the workers."""
        return self.servers if self.policy == "server" else 0

    @property
    def loose(self) -> bool:
        """Whether workers go on without waiting for all others."""
        return self.policy == "server" and self.staleness != 0

    @property
    def divides(self) -> bool:
        """Whether any worker's state is only a part of the job's."""
        return self.policy != "allreduce"

    def as_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __str__(self) -> str:
        """The shortest text that parses to it."""
        given = {name: value for name, value in self.as_dict().items() if value != _DEFAULTS[name]}
        given.pop("policy", None)
        return ",".join([self.policy, *(f"{name}={_text(value)}" for name, value in given.items())])

    @staticmethod
    def parse(text: str) -> Sync:
        """Read `local,every=16`.

        Raises:
            UsageError: a key or value is wrong.
        """
        policy, *items = (item.strip() for item in text.split(","))
        values: dict[str, Any] = {"policy": policy}
        for item in items:
            key, equals, value = (part.strip() for part in item.partition("="))
            if key not in _DEFAULTS or key == "policy":
                known = ", ".join(name for name in _DEFAULTS if _BELONGS.get(name, policy) == policy)
                raise UsageError(f"--sync {text}: there is no {key!r}. Settings: {known.removeprefix('policy, ')}.")
            if not equals or not value or key in values:
                raise UsageError(f"--sync {text}: give {key} one value: {key}=VALUE.")
            values[key] = _value(text, key, value)
        return Sync(**values)


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Sync)}


def as_sync(value: Sync | str | Mapping[str, Any] | None) -> Sync:
    """The settings from whichever form they were kept in; None is the default."""
    if isinstance(value, str):
        return Sync.parse(value)
    return value if isinstance(value, Sync) else Sync(**(value or {}))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "any" if value is None else str(value)


def _value(text: str, key: str, value: str) -> Any:
    default = _DEFAULTS[key]
    if isinstance(default, bool):
        if value not in ("on", "off"):
            raise UsageError(f"--sync {text}: {key} is on or off; {value!r} is neither.")
        return value == "on"
    if isinstance(default, str):
        return value
    if key == "staleness" and value == "any":
        return None
    try:
        return type(default)(value)
    except ValueError:
        raise UsageError(f"--sync {text}: {key} is a number; {value!r} is none.") from None
