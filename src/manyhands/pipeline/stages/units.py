"""Between which modules a model may be cut.

A model's layers stand in a list (`nn.ModuleList`, `nn.Sequential`) nearly always. A module that holds such a list is
opened: what it calls are candidates. A member of a list is a unit and is not opened (the lists inside of a block are
its own affair), except a Sequential in a Sequential: a list of lists (ResNet's layers). Without any list the root's
children are units. What is really called, and in which order, is seen in a run: `observe` gives the tree of calls,
`frontier` the units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from manyhands.pipeline.stages.interpose import Handler, Plain, interposed
from manyhands.pipeline.stages.structure import leaves


@dataclass
class Node:
    """A call of a module, and the calls inside of it."""

    module: nn.Module
    name: str
    inner: list[Node] = field(default_factory=list)
    gives_gradients: bool = False
    """Whether an output depends on parameters."""
    refused: str = ""
    """Why the call cannot be looked into."""


def find_units(model: nn.Module) -> tuple[str, ...]:
    """Qualified names of the modules between which the model may be cut, in the order in which it defines them."""
    roles = _roles(model)
    return tuple(name for name, module in model.named_modules() if roles.get(module) == "unit")


def observe(model: nn.Module, run: Callable[[], Any]) -> list[Node]:
    """Run the model and see which modules call which. A list with one node for each call of the root."""
    names = {module: name for name, module in model.named_modules()}
    top = Node(model, "")
    stack = [top]

    def handler(plain: Plain, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = Node(module, names[module])
        stack[-1].inner.append(node)
        stack.append(node)
        try:
            output = plain(*args, **kwargs)
        finally:
            stack.pop()
        node.gives_gradients = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves(output))
        return output

    handlers: dict[nn.Module, Handler] = dict.fromkeys(names, handler)
    with interposed(handlers):
        run()
    return top.inner


def frontier(model: nn.Module, root: Node, at_least: int = 1) -> list[Node]:
    """The calls that become units, and those of modules without parameters between them, in the order of calls.

    Args:
        at_least: open the largest units until there are as many.
    """
    roles = _roles(model)
    chosen: list[Node] = []
    for node in root.inner:
        chosen += _expand(node, roles)
    while sum(map(has_parameters, chosen)) < at_least:
        openable = [node for node in chosen if any(map(has_parameters, node.inner))]
        if not openable:
            break
        largest = max(openable, key=lambda node: sum(p.numel() for p in node.module.parameters()))
        chosen = [part for node in chosen for part in (node.inner if node.module is largest.module else [node])]
    return chosen


def _expand(node: Node, roles: Mapping[nn.Module, str]) -> Iterator[Node]:
    if roles.get(node.module) != "open" or not node.inner:
        yield node
        return
    for inner in node.inner:
        yield from _expand(inner, roles)


def _roles(model: nn.Module) -> dict[nn.Module, str]:
    """Which modules are opened and which are units, as far as their structure tells."""
    roles: dict[nn.Module, str] = {model: "open"}
    _assign(model, roles)
    return roles


def _assign(parent: nn.Module, roles: dict[nn.Module, str]) -> None:
    in_list = _is_list(parent)
    for module in parent.children():
        if module in roles or next(module.parameters(), None) is None:
            continue
        if (_is_list(module) or _holds_list(module)) if not in_list else _is_sequential(parent, module):
            roles[module] = "open"
            _assign(module, roles)
        else:
            roles[module] = "unit"


def _is_sequential(*modules: nn.Module) -> bool:
    return all(isinstance(m, nn.Sequential) and type(m).forward is nn.Sequential.forward for m in modules)


def _is_list(module: nn.Module) -> bool:
    """A list of layers. A ModuleDict is one if all of it is of one kind; else it is a mere namespace."""
    if isinstance(module, nn.ModuleDict):
        return len(module) > 1 and len({type(child) for child in module.values()}) == 1
    return isinstance(module, nn.ModuleList) or _is_sequential(module)


def _holds_list(module: nn.Module) -> bool:
    """Whether layers stand in a list somewhere below. A Sequential of mere layers is a small network, no trunk."""
    if isinstance(module, nn.ModuleDict):
        return True
    for child in module.children():
        several = sum(next(part.parameters(), None) is not None for part in child.children()) > 1
        if _is_list(child) and several:
            deep = any(next(part.children(), None) is not None for part in child.children())
            if deep or not isinstance(child, nn.Sequential):
                return True
        if _holds_list(child):
            return True
    return False


def has_parameters(node: Node) -> bool:
    return next(node.module.parameters(), None) is not None
