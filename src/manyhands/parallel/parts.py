"""What one worker holds of a model: the stages that are its own, and the parameters in them.

Every worker builds the whole model, so that initial values and names are those of one worker. Then it empties what
others hold. An optimizer works on `handles`: plain tensors that look at the worker's own part of each parameter, so any
that works element by element works unchanged, whether a parameter is whole, a shard, or not here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from manyhands.parallel.call import call
from manyhands.parallel.mesh import Mesh
from manyhands.parallel.sharding import Sharding
from manyhands.parallel.ties import Tie
from manyhands.parallel.ways import Form
from manyhands.pipeline import Table
from manyhands.pipeline.randomness import Randomness
from manyhands.pipeline.relay import Relay
from manyhands.pipeline.stage import Body, Crossing
from manyhands.tensor_parallel import context, whole
from manyhands.tensor_parallel.exchange import take
from manyhands.tensor_parallel.values import Placement


@dataclass
class Part:
    """One stage on this worker."""

    index: int
    """The number of the stage."""
    body: Body
    parameters: list[str]
    """Global names of the parameters that the part owns."""
    buffers: list[str]
    """Global names of the buffers that the part's forward may change."""
    units: list[str]
    """Names of the modules that the part calls."""

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

    def arriving(self, inputs: Any) -> Sequence[Crossing]:
        """The values that a stage receives from the one before it; none here."""
        return ()

    def __call__(self, inputs: Any, received: Sequence[Tensor]) -> Any:
        return call(self.model, inputs)


class Names:
    """The names of a model, taken before anything is split."""

    def __init__(self, model: nn.Module) -> None:
        self.order = [name for name, _ in model.named_parameters()]
        """Names of the parameters, once each, in the model's order."""
        first = {param: name for name, param in reversed(list(model.named_parameters(remove_duplicate=False)))}
        first |= {param: name for name, param in model.named_parameters()}
        self.canonical = {name: first[param] for name, param in model.named_parameters(remove_duplicate=False)}
        """Every name of a parameter -> the one in `order`."""
        self.shapes = {name: param.shape for name, param in model.named_parameters()}
        self.dtypes = {name: param.dtype for name, param in model.named_parameters()}
        self.state = list(model.state_dict())
        self.buffers = [name for name, _ in model.named_buffers()]


@dataclass(kw_only=True)
class Placed:
    """A model as one worker of a mesh holds it."""

    model: nn.Module
    """The model with all its names; what others hold is empty."""
    names: Names
    mesh: Mesh
    parts: list[Part]
    handles: dict[str, nn.Parameter]
    """What an optimizer works on, by global name; empty where another worker holds the parameter."""
    owned: list[str]
    """Names of the parameters that are here, whole or divided, in the model's order."""
    borrowed: set[str]
    """Names of the parameters that are copies here: an earlier stage owns them."""
    ties: list[Tie]
    table: Table
    cuts: tuple[int, ...]
    """The first unit of every stage."""
    forms: frozenset[Form] | None
    """The forms of batch that the model takes; None: any."""
    parameters: dict[str, nn.Parameter]
    """The model's parameters by global name; FSDP shows others in their place while it has gathered them."""
    shardings: dict[int, Sharding]
    sharded: set[str]
    """Names of the parameters that replicas divide."""
    placements: dict[str, Placement]
    """How parameters are divided over the tensor group, by name."""
    randomness: Randomness
    """The generators that the model draws from."""
    relay: Relay
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def computing(self) -> ExitStack:
        """What a forward pass runs in, and what is made of its output."""
        stack = ExitStack()
        stack.enter_context(self.autocast())
        if self.mesh.layout.tp > 1:
            stack.enter_context(context())
        return stack

    def infer(self, inputs: Any) -> Any:
        """The model's output for a batch, where the last stage is; None elsewhere.

        All workers of a replica call it, and where replicas divide weights (shard=3) all of them, each with a batch of
        its own.

        Raises:
            UserError: the stages are not made for such inputs.
            PeerLostError: a worker is gone.
        """
        with self.computing():
            output = self.relay(inputs)
            return whole(output) if self.mesh.layout.tp > 1 else output

    def room(self, samples: int) -> int | None:
        """The size of batch that the model takes for so many samples; None: it takes none that is large enough."""
        if self.forms is None:
            return samples
        sizes = {form[0][0][0] for form in self.forms if form and form[0][0]}
        return min((size for size in sizes if size >= samples), default=None)

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

    def together(self, name: str, share: Tensor) -> Tensor:
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
        """This worker's share of a whole tensor that has the parameter's form."""
        share = whole
        if name in self.placements:
            placed = self.placements[name]
            assert placed.split is not None
            share = take(share, placed.dim, placed.split, placed.peers.rank)
        if name in self.sharded:
            share = self.of_replica(name, share)
        return share

    def of_replica(self, name: str, share: Tensor) -> Tensor:
        """This replica's share of what a tensor group's worker has."""
        param = self._parameter(name)
        here = share.to(param.to_local().device)
        return distribute_tensor(here, param.device_mesh, param.placements, src_data_rank=None).to_local()

    def _parameter(self, name: str) -> DTensor:
        param = self.parameters[name]
        assert isinstance(param, DTensor)
        return param


def empty(model: nn.Module, owned: Iterable[str]) -> None:
    """Let go of the values of all parameters but the owned ones."""
    kept = set(owned)
    for name, param in model.named_parameters():
        if name not in kept:
            param.data = torch.empty(0, dtype=param.dtype, device=param.device)


def make_handles(parameters: Mapping[str, nn.Parameter], owned: Collection[str]) -> dict[str, nn.Parameter]:
    """The tensor that the optimizer works on, by name: a sharded parameter's own shard, else the parameter."""
    handles = dict(parameters)
    for name in owned:
        param = parameters[name]
        if isinstance(param, DTensor):
            handles[name] = nn.Parameter(param.detach().to_local(), requires_grad=param.requires_grad)
    return handles
