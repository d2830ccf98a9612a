"""Replicas that hold a share each instead of everything (ZeRO), by torch's FSDP2.

Stage 1 divides the optimizer's state. Gradients are folded and exchanged as in any run; each worker then updates its
share of the weights, which are gathered again in the next step. Stage 2 divides gradients too: they are reduced after
every micro-batch (scatter.py). Stage 3 divides weights as well: a block's are gathered when it is computed. All of them
add in the job's order.

In a zero-bubble pipeline stages 2 and 3 are as stage 1: weights stay gathered until the step's end, because FSDP would
otherwise let go of them between the gradient of the inputs and that of the weights, and torch's gradients would
silently be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils._pytree import tree_map

from manyhands.parallel.scatter import TreeReduceScatter
from manyhands.pipeline.stage import Body, Crossing
from manyhands.tensor_parallel import whole


class ShardedBody(nn.Module):
    """A stage's computation as a module whose children are the modules that hold its parameters: what FSDP looks for.

    A parameter that lies on a module which other stages have children of (the model itself, mostly) is not divided, and
    neither is one that ties stages.

    Args:
        body: the computation.
        model: the whole model.
        parameters: global names of the stage's own.
        units: names of the modules that the stage calls.
        tied: names of parameters that other stages use too.
    """

    _body: Body

    def __init__(
        self, body: Body, model: nn.Module, parameters: Sequence[str], units: Sequence[str], tied: Collection[str]
    ) -> None:
        super().__init__()
        self.__dict__["_body"] = body  # not registered: its children are not this module's
        owners = _owners(model, parameters)
        everywhere = [owner for found in owners.values() for owner in found]
        held = dict.fromkeys(name for name in units if any(_within(owner, name) for owner in everywhere))
        mine = {model.get_parameter(name) for name in parameters}
        for owner in everywhere:
            module = model.get_submodule(owner)
            alone = not any(module.children()) and mine.issuperset(module.parameters())
            if alone and not any(_within(owner, name) for name in held):
                held[owner] = None
        self.divided = [
            name
            for name, found in owners.items()
            if name not in tied and all(any(_within(owner, unit) for unit in held) for owner in found)
        ]
        """Names of the parameters that are divided."""
        self.kept = {model.get_parameter(name) for name in parameters if name not in self.divided}
        """Parameters that stay whole."""
        for name in held:
            if not any(name != other and _within(name, other) for other in held):
                self.add_module(name.replace(".", "/"), model.get_submodule(name))

    @property
    def receives(self) -> Sequence[Crossing]:
        return self._body.receives

    @property
    def sends(self) -> Sequence[Crossing]:
        return self._body.sends

    @property
    def entered(self) -> Callable[[], None]:
        return self._body.entered

    @entered.setter
    def entered(self, hook: Callable[[], None]) -> None:
        self._body.entered = hook

    def arriving(self, inputs: Any) -> Sequence[Crossing]:
        """What the stage receives for such inputs."""
        return self._body.arriving(inputs)

    def forward(self, inputs: Any, received: Sequence[Tensor] = ()) -> Any:
        return whole(
            self._body(inputs, received)
        )  # FSDP hangs hooks on the output, which shares of a tensor do not take


def _owners(model: nn.Module, parameters: Sequence[str]) -> dict[str, list[str]]:
    """The names of the modules that hold each parameter: several hold a tied one, and FSDP has to know all of them."""
    names = {model.get_parameter(name): name for name in parameters}
    found: dict[str, list[str]] = {name: [] for name in parameters}
    for name, param in model.named_parameters(remove_duplicate=False):
        if param in names:
            found[names[param]].append(name.rpartition(".")[0])
    return found


def _within(name: str, module: str) -> bool:
    return name.startswith(f"{module}.") or name == module


class Sharding:
    """FSDP over one stage's module.

    Args:
        root: all of the stage; its parameters are divided over the mesh.
        blocks: modules within it that are gathered one at a time.
        mesh: the replicas.
        stage: of ZeRO, 1 to 3.
        split_backward: the table takes input and weight gradients apart.
        micro_batches: of the whole batch, to be added in the job's order; None: in any order.
    """

    def __init__(
        self,
        root: ShardedBody,
        blocks: Sequence[nn.Module],
        mesh: DeviceMesh,
        stage: int,
        split_backward: bool,
        micro_batches: int | None,
    ) -> None:
        self._reduces = reduces(stage, split_backward)
        self._regather = stage == 3 and not split_backward
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=self._regather, ignored_params=root.kept)
        root.register_forward_hook(_no_views)
        self._root = fully_shard(root, mesh=mesh, reshard_after_forward=False, ignored_params=root.kept)
        self._modules = [module for module in root.modules() if isinstance(module, FSDPModule)]
        self._uses = hashlib.blake2b(digest_size=8)
        for number, module in enumerate(self._modules if self._regather else ()):
            module.register_forward_pre_hook(partial(self._use, number), prepend=True)
        if self._reduces:
            for group in _groups(self._modules):
                self._note_gradients(group)
        for module in self._modules:
            # The job's loss is already divided by its micro-batches: gradients are added up and not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        self._scatters: list[TreeReduceScatter] = []
        if micro_batches is not None and self._reduces:
            for module in self._modules:
                self._scatters.append(TreeReduceScatter(micro_batches, mesh.size()))
                module.set_custom_reduce_scatter(self._scatters[-1])  # type: ignore[arg-type]

    def before_step(self) -> None:
        self._uses = hashlib.blake2b(digest_size=8)
        for scatter in self._scatters:
            scatter.begin_step()
        self.before_backward(last=False)

    def used(self) -> str:
        """A digest of which modules' weights were gathered in the step's forward passes, in order, and of which
        gradients were divided as they came; of nothing, where neither is done."""
        return self._uses.hexdigest()

    def _note_gradients(self, group: Any) -> None:
        """Note which weights of a group have a gradient whenever FSDP divides them. It leaves out those that have none,
        and pairs what is left with what others have."""
        divide = group.post_backward

        def noted(*arguments: Any) -> Any:
            live = [getattr(param, "_unsharded_param", None) for param in group.fsdp_params]
            self._uses.update(bytes(param is not None and param.grad is not None for param in live))
            return divide(*arguments)

        group.post_backward = noted

    def _use(self, number: int, module: nn.Module, arguments: Any) -> None:
        self._uses.update(b"%d " % number)

    def before_backward(self, last: bool) -> None:
        """Say that a backward pass comes next; `last`: it is the last of the step."""
        last = last and self._reduces
        self._root.set_requires_gradient_sync(self._reduces)
        self._root.set_is_last_backward(last)
        self._root.set_reshard_after_backward(self._regather or last)

    def after_step(self) -> None:
        """Let go of the gathered weights: the shares have changed."""
        for module in self._modules:
            module.reshard()


def _groups(modules: Sequence[FSDPModule]) -> list[Any]:
    """FSDP's own groups of parameters, whose gradients it divides together."""
    states = [module._get_fsdp_state() for module in modules]
    found = [getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group] for state in states]
    return [group for groups in found for group in groups if group is not None]


def reduces(stage: int, split_backward: bool) -> bool:
    """Whether gradients are divided as they come, by FSDP; else they are folded and exchanged whole."""
    return stage >= 2 and not split_backward


def _no_views(module: nn.Module, args: Any, output: Any) -> Any:
    """Copy an output that is a view: an operation in place on it would lose the hook that FSDP hangs on it."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and leaf._is_view() else leaf, output)
