"""Replicas that hold a share each instead of everything (ZeRO), by torch's FSDP2.

Stage 1 divides the optimizer's state. Gradients are folded and exchanged as in any run, so the bits are one worker's;
each worker then updates its share of the weights, which are gathered again in the next step. Stage 2 divides
gradients too: FSDP reduces them after every micro-batch, in an order of its own. Stage 3 divides weights as well: a
block's are gathered when it is computed.

In a zero-bubble pipeline weights stay gathered until the step's end, because FSDP would otherwise let go of them
between the gradient of the inputs and that of the weights, and torch's gradients would silently be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils._pytree import tree_map

from manyhands.pipeline.runtime import reduce_sharded
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
        held = dict.fromkeys(name for name in units if any(_within(p, name) for p in parameters))
        for parameter in parameters:
            owner = parameter.rpartition(".")[0]
            if not any(_within(parameter, name) for name in held) and not any(model.get_submodule(owner).children()):
                held[owner] = None
        self.divided = [p for p in parameters if p not in tied and any(_within(p, name) for name in held)]
        """Names of the parameters that are divided."""
        self.kept = {model.get_parameter(name) for name in parameters if name in tied}
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

    def forward(self, inputs: Any, received: Sequence[Tensor] = ()) -> Any:
        return whole(
            self._body(inputs, received)
        )  # FSDP hangs hooks on the output, which shares of a tensor do not take


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
    """

    def __init__(
        self, root: ShardedBody, blocks: Sequence[nn.Module], mesh: DeviceMesh, stage: int, split_backward: bool
    ) -> None:
        self._stage, self._split_backward = stage, split_backward
        self._regather = stage == 3 and not split_backward
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=self._regather, ignored_params=root.kept)
        root.register_forward_hook(_no_views)
        self._root = fully_shard(root, mesh=mesh, reshard_after_forward=False, ignored_params=root.kept)
        self._modules = [module for module in root.modules() if isinstance(module, FSDPModule)]
        for module in self._modules:
            # The job's loss is already divided by its micro-batches: gradients are added up and not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)

    def before_backward(self, last: bool) -> None:
        """A backward pass comes next; `last` of the step."""
        reduces = self._stage >= 2 and not self._split_backward
        self._set(sync=reduces, last=last and reduces, reshard=self._regather or (last and reduces))

    def before_step(self) -> None:
        self.before_backward(last=False)

    def reduce(self) -> None:
        """The step's last gradient is there."""
        if self._stage >= 2 and self._split_backward:
            self._set(sync=True, last=True, reshard=True)
            reduce_sharded(self._root)

    def after_step(self) -> None:
        """Let go of the gathered weights: the shares have changed."""
        for module in self._modules:
            module.reshard()

    def _set(self, sync: bool, last: bool, reshard: bool) -> None:
        self._root.set_requires_gradient_sync(sync)
        self._root.set_is_last_backward(last)
        self._root.set_reshard_after_backward(reshard)


def _no_views(module: nn.Module, args: Any, output: Any) -> Any:
    """FSDP hangs a hook on the output, and an operation in place on a view would lose it without a word."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and leaf._is_view() else leaf, output)
