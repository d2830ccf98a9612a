"""What one worker of a split run holds: the stages that are its own, and the parameters in them.

Every worker builds the whole model, so that initial values, names and the optimizer's groups are those of one worker.
Then it empties what others hold. The optimizer works on `handles`: plain tensors that look at the worker's own part
of each parameter, so any optimizer that works element by element works unchanged, whether a parameter is whole, a
shard, or not here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from manyhands.parallel.call import call
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.sharding import Sharding
from manyhands.parallel.ties import Tie
from manyhands.pipeline import Table
from manyhands.pipeline.stage import Body, Crossing
from manyhands.tensor_parallel.exchange import take
from manyhands.tensor_parallel.values import Placement


@dataclass
class Part:
    """One stage on this worker."""

    index: int
    """Of the stage."""
    body: Body
    parameters: list[str]
    """Global names of those it owns."""
    buffers: list[str]
    """Global names of those that its forward may change."""
    units: list[str]
    """Names of the modules that it calls."""

    def weights(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters as they are now: FSDP shows gathered ones in place of its shards."""
        found = []
        for name in self.parameters:
            module, _, leaf = name.rpartition(".")
            found.append(getattr(model.get_submodule(module), leaf))
        return found


@dataclass
class Whole:
    """A stage that is the whole model."""

    model: nn.Module
    receives: Sequence[Crossing] = ()
    sends: Sequence[Crossing] = ()
    entered: Any = field(default=lambda: None)

    def __call__(self, inputs: Any, received: Sequence[Tensor]) -> Any:
        return call(self.model, inputs)


@dataclass
class Built:
    """What a worker holds, and how its parts become whole."""

    parts: list[Part]
    handles: dict[str, nn.Parameter]
    """By global name, what the optimizer works on; empty where another worker holds the parameter."""
    owned: list[str]
    """Names of the parameters that are here, whole or divided, in the model's order."""
    ties: list[Tie]
    table: Table
    cuts: tuple[int, ...]
    """The first unit of every stage."""
    mesh: Mesh
    parameters: dict[str, nn.Parameter]
    """By global name, the model's; FSDP shows others in their place while it has gathered them."""
    shardings: dict[int, Sharding]
    sharded: set[str]
    """Names of the parameters that replicas divide."""
    placements: dict[str, Placement]
    """By name, how parameters are divided over the tensor group."""
    borrowed: set[str]
    """Names of the parameters of which this is a copy: an earlier stage owns them."""
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Around forward and loss."""

    def keeps(self, name: str) -> bool:
        """Whether this worker hands the parameter over when the state is put together."""
        return name not in self.borrowed and self.mesh.speaks

    @cached_property
    def divided(self) -> set[str]:
        """Names of the parameters of which only a share is here."""
        return self.sharded | set(self.placements)

    def counts(self, name: str) -> bool:
        """Whether this worker's share counts in the norm: every element once."""
        first_replica = name in self.sharded or self.mesh.replica == 0
        return name not in self.borrowed and first_replica and (name in self.placements or self.mesh.shard == 0)

    def whole(self, name: str, share: Tensor) -> Tensor:
        """A parameter, or a tensor of its form, put together; all that share it must call this together."""
        if name in self.sharded:
            param = self._parameter(name)
            mesh, form = param.device_mesh, {"shape": param.shape, "stride": param.stride()}
            share = DTensor.from_local(share, mesh, param.placements, run_check=False, **form).full_tensor()
        if name in self.placements:
            placed = self.placements[name]
            assert placed.split is not None
            share = placed.peers.join(share, placed.dim, placed.split)
        return share

    def mine(self, name: str, whole: Tensor) -> Tensor:
        """This worker's share."""
        share = whole
        if name in self.placements:
            placed = self.placements[name]
            assert placed.split is not None
            share = take(share, placed.dim, placed.split, placed.peers.rank)
        if name in self.sharded:
            share = self.of_replica(name, share)
        return share

    def of_replica(self, name: str, share: Tensor) -> Tensor:
        """Of what a tensor group's worker has, this replica's share."""
        param = self._parameter(name)
        here = share.to(param.to_local().device)
        return distribute_tensor(here, param.device_mesh, param.placements, src_data_rank=None).to_local()

    def _parameter(self, name: str) -> DTensor:
        param = self.parameters[name]
        assert isinstance(param, DTensor)
        return param


class Names:
    """The names of a model, taken before anything is split."""

    def __init__(self, model: nn.Module) -> None:
        self.order = [name for name, _ in model.named_parameters()]
        """Of the parameters, once each, in the model's order."""
        first = {param: name for name, param in reversed(list(model.named_parameters(remove_duplicate=False)))}
        first |= {param: name for name, param in model.named_parameters()}
        self.canonical = {name: first[param] for name, param in model.named_parameters(remove_duplicate=False)}
        """Every name of a parameter -> the one in `order`."""
        self.shapes = {name: param.shape for name, param in model.named_parameters()}
        self.dtypes = {name: param.dtype for name, param in model.named_parameters()}
        self.state = list(model.state_dict())
        self.buffers = [name for name, _ in model.named_buffers()]


def empty(model: nn.Module, owned: Iterable[str]) -> None:
    """Let go of the values of all parameters but the owned ones."""
    kept = set(owned)
    for name, param in model.named_parameters():
        if name not in kept:
            param.data = torch.empty(0, dtype=param.dtype, device=param.device)


def make_handles(parameters: Mapping[str, nn.Parameter], owned: Collection[str]) -> dict[str, nn.Parameter]:
    """By name, the tensor that the optimizer works on: a sharded parameter's own shard, else the parameter."""
    handles = dict(parameters)
    for name in owned:
        param = parameters[name]
        if isinstance(param, DTensor):
            handles[name] = nn.Parameter(param.detach().to_local(), requires_grad=param.requires_grad)
    return handles


def give_to(optimizer: Optimizer, before: Mapping[Tensor, str], handles: Mapping[str, nn.Parameter]) -> None:
    """Have the optimizer, which was made for the whole model's parameters, work on the handles."""
    for group in optimizer.param_groups:
        group["params"] = [handles[before[param]] for param in group["params"]]
