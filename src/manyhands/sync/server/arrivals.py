"""Weights that are still on their way while the forward pass begins: a module waits for what it uses, and no more.

Problem: after a step all weights come back from the servers, and the next forward pass needs the first layers' first.
Idea: one forward pass is watched, with all weights there: in which order modules are called, and which parameters are
used while each is the innermost one at work. From then on a module, before it is called, waits for those parameters.
If modules are called in another order than the watched one, or more or fewer of them, all that is missing is waited
for at once; so a model whose path depends on its data is right, and just does not gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Arrivals:
    """Watches a model, and makes its modules wait.

    Args:
        model: its forward pass is what is waited in.
        params: by number.
        take: called with the numbers of parameters that are needed now.
        take_all: called when everything is needed now.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Sequence[Tensor],
        take: Callable[[set[int]], None],
        take_all: Callable[[], None],
    ) -> None:
        self._take, self._take_all = take, take_all
        self._numbers = {param: number for number, param in enumerate(params)}
        self._model = model
        self._calls: list[tuple[nn.Module, set[int]]] = []
        self._watching: _Uses | None = None
        self._at = -1
        """How many calls there have been in this forward pass; -1: nobody waits."""
        self._learned = False
        self._hooks = [
            hook
            for module in model.modules()
            for hook in (
                module.register_forward_pre_hook(self._enter, prepend=True),
                module.register_forward_hook(self._leave, always_call=True),
            )
        ]

    def expect(self) -> None:
        """Weights are on their way: the next forward pass waits for them as it goes, once one has been watched."""
        if self._learned:
            self._at = 0
        else:
            self._take_all()

    def close(self) -> None:
        """Leave the model alone."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, arguments: Any) -> None:
        if not self._learned:
            self._watch(module)
        elif self._at >= 0:
            if self._at < len(self._calls) and self._calls[self._at][0] is module:
                self._take(self._calls[self._at][1])
                self._at += 1
            else:
                self._at = -1
                self._take_all()

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._watching is not None:
            self._watching.stack.pop()
        if module is self._model:
            if self._watching is not None:
                self._watching.__exit__(None, None, None)
                self._watching, self._learned = None, True
            elif self._at >= 0:
                self._at = -1
                self._take_all()

    def _watch(self, module: nn.Module) -> None:
        if self._watching is None:
            if module is not self._model or not module.training:
                return  # somebody looks at a part of the model, or evaluates it
            self._calls.clear()
            self._watching = _Uses(self._numbers)
            self._watching.__enter__()
        used: set[int] = set()
        self._calls.append((module, used))
        self._watching.stack.append(used)


class _Uses(TorchFunctionMode):
    """Notes which parameters are used while which module is the innermost one at work."""

    def __init__(self, numbers: dict[Tensor, int]) -> None:
        super().__init__()
        self._numbers = numbers
        self.stack: list[set[int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.stack:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, nn.Parameter) and leaf in self._numbers:
                    self.stack[-1].add(self._numbers[leaf])
        return func(*args, **(kwargs or {}))
