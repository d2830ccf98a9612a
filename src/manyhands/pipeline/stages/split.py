"""Backward in two parts: gradients of what a stage received now, gradients of its weights later.

The nodes of the autograd graph that lead to received tensors are the *path*; the first part runs it, and every node
of the path with an edge to weights remembers the gradient it was given. The second part runs each of these nodes once
more, for that edge alone, so nothing is computed twice; then what lies between the edges and the weights, in one go.

That needs edges of which a weight-side node has just one. A weight that is used at several places of a stage (a shared
block's bias, T5's position bias) would drag the path between them into the second part: its gradient is taken with the
first part instead, whole. Either way all sums are in the order of an undivided backward pass: the same bits.

Only public parts of torch.autograd are used. `torch.distributed.pipelining._backward` does the same for weights that
are used once, and fails for others ("backward through the graph a second time").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge


@dataclass
class Rest:
    """What the second part of a backward pass needs."""

    late: list[Tensor] = field(default_factory=list)
    """Weights whose gradients are still to come."""
    nodes: list[tuple[Node, list[tuple[Node, int]], tuple[Tensor | None, ...]]] = field(default_factory=list)
    """Nodes of the path, their edges to weights, and the gradients they were given; in the order they ran."""
    early: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    """Gradients that are there already. They wait with the others: before `weights` is called, the first parts of
    other micro-batches may come."""


class Split:
    """Takes the two parts of a stage's backward pass apart."""

    def inputs(
        self,
        outputs: Sequence[Tensor],
        grads: Sequence[Tensor | None] | None,
        received: Sequence[Tensor],
        weights: Iterable[Tensor],
    ) -> tuple[list[Tensor | None], Rest]:
        """Compute the first part of a backward pass: the gradients of what the stage received.

        Args:
            outputs: what the stage gave; others (a weight itself) may be added as further roots.
            grads: their gradients. None: ones.
            received: leaves of the graph.
            weights: all weights of the stage.

        Returns:
            The gradients of `received`, and what `weights` needs.
        """
        given = grads if grads is not None else [torch.ones_like(output) for output in outputs]
        roots = [(o, g) for o, g in zip(outputs, given, strict=True) if o.requires_grad]
        sources = [tensor for tensor in received if tensor.requires_grad]
        graph = _Graph([get_gradient_edge(root).node for root, _ in roots], map(_node, sources))
        trained = [(weight, _node(weight)) for weight in weights if weight.requires_grad]
        early = [weight for weight, node in trained if node in graph.early]
        rest = Rest(late=[weight for weight, node in trained if node in graph.late])
        hooks = [_remember(node, edges, rest) for node, edges in graph.entries.items()]
        try:
            found = _grad([r for r, _ in roots], [*sources, *early], [g for _, g in roots], keep=True)
        finally:
            for hook in hooks:
                hook.remove()
        rest.early += zip(early, found[len(sources) :], strict=True)
        by_source = iter(found)
        return [next(by_source) if tensor.requires_grad else None for tensor in received], rest

    def weights(self, weights: Iterable[Tensor], rest: Rest) -> None:
        """Compute the second part of a backward pass: the weights' gradients are added to `.grad`."""
        edges: list[Any] = []
        grads: list[Tensor | None] = []
        for node, wanted, given in rest.nodes:
            roots = [(GradientEdge(node, index), grad) for index, grad in enumerate(given) if grad is not None]
            targets = [GradientEdge(*edge) for edge in wanted]
            found = _grad([root for root, _ in roots], targets, [grad for _, grad in roots], keep=False)
            for target, grad in zip(targets, found, strict=True):
                if grad is not None:
                    edges.append(target)
                    grads.append(grad)
        rest.nodes.clear()
        for weight, grad in rest.early:
            _add(weight, grad)
        rest.early.clear()
        for weight, grad in zip(rest.late, _grad(edges, rest.late, grads, keep=False), strict=True):
            _add(weight, grad)


class _Graph:
    """The nodes on the path from outputs to inputs, and how weights hang on it.

    Attributes:
        entries: node of the path -> its edges to weight-side nodes that nothing else leads to.
        late, early: nodes of weights (and of what lies before them) whose gradients can wait, or cannot.
    """

    def __init__(self, roots: Sequence[Node], sources: Iterable[Node]) -> None:
        order = _postorder(roots)
        path = set(sources)
        parents: dict[Node, int] = dict.fromkeys(order, 0)
        for node in order:
            for following, _ in node.next_functions:
                if following is not None:
                    parents[following] += 1
                    if following in path:
                        path.add(node)
        self.entries: dict[Node, list[tuple[Node, int]]] = {}
        irregular = [node for node in roots if node not in path]
        for node in order:
            if node in path:
                for following, index in node.next_functions:
                    if following is None or following in path:
                        continue
                    if parents[following] == 1:
                        self.entries.setdefault(node, []).append((following, index))
                    else:
                        irregular.append(following)
        self.early = set(_postorder(irregular))
        regular = [following for edges in self.entries.values() for following, _ in edges]
        self.late = set(_postorder(regular)) - self.early


def _postorder(roots: Iterable[Node]) -> list[Node]:
    """All nodes that can be reached, each after those it leads to."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((following, False) for following, _ in node.next_functions if following is not None)
    return order


def _remember(node: Node, edges: list[tuple[Node, int]], rest: Rest) -> Any:
    return node.register_prehook(lambda grads: rest.nodes.append((node, edges, tuple(grads))))


def _node(tensor: Tensor) -> Node:
    return get_gradient_edge(tensor).node


def _grad(roots: list[Any], wanted: list[Any], grads: list[Any], keep: bool) -> Sequence[Tensor | None]:
    if not roots or not wanted:
        return [None] * len(wanted)
    return torch.autograd.grad(roots, wanted, grads, retain_graph=keep, allow_unused=True)


def _add(weight: Tensor, grad: Tensor | None) -> None:
    if grad is not None:
        weight.grad = grad if weight.grad is None else weight.grad + grad
