"""A tensor of which every worker of the group holds a share, and which looks whole.

The problem: between the projections of an attention or an MLP each worker has only its heads or hidden units, but the
model's own code goes on with the whole sizes: `unflatten(-1, (3, self.heads, -1))`, `view(batch, -1, heads, width)`.

The idea: `SplitTensor` says it has the whole shape and holds the local share, an ordinary tensor that autograd follows.
What the model does with it arrives in `__torch_function__`. A rule (`rules/`) does the same to the share and says where
the atoms are afterwards; a function without a rule gets the whole tensor, gathered, so the result is right in any
case. Random numbers are drawn for the whole tensor, so that all workers use up what one worker would.

torch's DTensor does the same below autograd, forward and backward. A rule here costs microseconds per call and nothing
in backward, and it knows several pieces in a dimension (`Split`), which fused projections and flattened heads need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from manyhands.errors import UserError
from manyhands.tensor_parallel.exchange import Peers, take
from manyhands.tensor_parallel.split import Split

gathered: Counter[str] = Counter()
"""How often a function without a rule made a split tensor whole, by the function's name."""


_UNSEEN = (
    "{} got a tensor that is split over the tensor group, from code that torch functions cannot see (a custom autograd "
    "function or an extension). Use tp=1 for this model."
)


class NoRule(Exception):
    """A rule does not cover this use of its function."""


class SplitTensor(Tensor):
    """The local share of a tensor.

    Attributes:
        local: the share, part of an autograd graph.
        axis: the split dimension.
        shares: how it is split.
        peers: the tensor group.
        sizes: the whole shape, without the detour that `shape` takes.
    """

    local: Tensor
    axis: int
    shares: Split
    peers: Peers
    sizes: tuple[int, ...]

    @staticmethod
    def __new__(cls: type, local: Tensor, dim: int, split: Split, peers: Peers) -> SplitTensor:
        shape = list(local.shape)
        if shape[dim] != split.local_size(peers.rank):
            raise AssertionError(f"a share of {shape[dim]} elements where {split} says {split.local_size(peers.rank)}")
        shape[dim] = split.size
        asks = local.requires_grad  # so that what a custom autograd function makes of it has a grad_fn: `check`
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=local.dtype, device=local.device, requires_grad=asks)
        made.local, made.axis, made.shares, made.peers, made.sizes = local, dim, split, peers, tuple(shape)
        return made

    def like(self, local: Tensor, dim: int | None = None, split: Split | None = None) -> SplitTensor:
        """Another share in the same group."""
        return SplitTensor(local, self.axis if dim is None else dim, split or self.shares, self.peers)

    def whole(self) -> Tensor:
        """The tensor itself, gathered from all workers."""
        return self.peers.gather(self.local, self.axis, self.shares)

    def check(self) -> None:
        """Autograd follows the share. If it follows the tensor itself, a function was applied that it cannot undo."""
        with torch._C.DisableTorchFunctionSubclass():
            followed = self.grad_fn
        if followed is not None:
            raise UserError(_UNSEEN.format(type(followed).__name__))

    @property
    def from_end(self) -> int:
        """The split dimension counted from the last, as broadcasting does: -1 is the last."""
        return self.axis - self.local.ndim

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SplitTensor(dim={self.axis}, split={self.shares}, local={self.local!r})"

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__":
            return _attribute(func, args[0])
        if name in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        for arg in args:
            if isinstance(arg, SplitTensor):
                arg.check()
        rule = find_rule(name)
        if rule is not None:
            try:
                return rule(func, *args, **kwargs)
            except NoRule:
                pass
        return _by_gathering(func, name, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise UserError(_UNSEEN.format(func))


# fmt: off
_FACTS = frozenset((
    "size", "dim", "numel", "nelement", "ndimension", "is_floating_point", "is_complex", "is_contiguous", "stride",
    "element_size", "get_device", "__len__", "__hash__", "is_tensor", "__repr__", "__format__", "has_names",
    "is_inference", "is_conj", "is_neg", "_is_view",
))
# fmt: on
"""What is asked of the whole tensor and needs none of its elements."""
_HOOKS = frozenset(["register_hook", "retain_grad", "register_post_accumulate_grad_hook"])
_rules: dict[str, Callable[..., Any] | None] = {}
_fallbacks: list[Callable[[str], Callable[..., Any] | None]] = []


def rule(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register `(func, *args, **kwargs) -> result` for torch functions and methods of these names."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _rules.update(dict.fromkeys(names, function))
        return function

    return register


def rule_finder(find: Callable[[str], Callable[..., Any] | None]) -> None:
    """Register a function that finds a rule for names that none is registered for."""
    _fallbacks.append(find)


def find_rule(name: str) -> Callable[..., Any] | None:
    if name not in _rules:
        _rules[name] = next((found for find in _fallbacks if (found := find(name)) is not None), None)
    return _rules[name]


def _attribute(getter: Any, tensor: Tensor) -> Any:
    name = getter.__self__.__name__
    if name in ("requires_grad", "grad_fn", "is_leaf", "is_cuda", "is_cpu"):
        return getattr(tensor.local, name) if isinstance(tensor, SplitTensor) else getter(tensor)
    if name in ("T", "mT", "H", "mH"):
        return tensor.transpose(-2, -1) if name in ("mT", "mH") else tensor.permute(*reversed(range(tensor.ndim)))
    if name == "data":
        return tensor.detach()
    with torch._C.DisableTorchFunctionSubclass():
        return getter(tensor)


def _by_gathering(func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    """The function of whole tensors."""
    target = args[0] if args else None
    changes_it = (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__delitem__")
    if name in _HOOKS:
        raise UserError(f"{name} was called on a tensor that is split over the tensor group. Use tp=1 for this model.")
    if kwargs.get("out") is not None or (changes_it and isinstance(target, SplitTensor)):
        raise UserError(
            f"{name} changes in place a tensor that is split over the tensor group. Write it without changing the "
            "tensor, or use tp=1 for this model."
        )
    gathered[name] += 1
    return func(*_made_whole(args), **_made_whole(kwargs))


def _made_whole(value: Any) -> Any:
    if isinstance(value, SplitTensor):
        return value.whole()
    if isinstance(value, dict):
        return {key: _made_whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple, torch.Size):
        return type(value)(_made_whole(item) for item in value)
    return value


def splits_of(values: Iterable[Any]) -> Iterator[SplitTensor]:
    return (value for value in values if isinstance(value, SplitTensor))


def share_of(value: Any, like: SplitTensor, from_end: int, split: Split) -> Any:
    """What a worker needs of an operand of an elementwise function or a batched product with a split tensor.

    Args:
        value: a number, a whole tensor, or a split one.
        from_end: the split dimension of the result, counted from the end.
    """
    if isinstance(value, SplitTensor):
        if value.from_end == from_end and value.shares == split:
            return value.local
        gathered["operand"] += 1
        value = value.whole()
    if not isinstance(value, Tensor):
        return value
    value = like.peers.enter(value)
    if value.ndim < -from_end or value.shape[from_end] == 1:
        return value
    if value.shape[from_end] != split.size:
        raise NoRule
    return take(value, value.ndim + from_end, split, like.peers.rank)
