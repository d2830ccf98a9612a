"""What operators do to labels (`labels.py`): move them, or join them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils.weak import WeakTensorKeyDictionary

from manyhands.tensor_parallel.rules.elementwise import is_elementwise

_MOVES = frozenset(
    [
        "permute",
        "transpose",
        "t",
        "slice",
        "select",
        "expand",
        "cat",
        "stack",
        "split",
        "split_with_sizes",
        "unbind",
        "squeeze",
        "unsqueeze",
        "index",
        "gather",
        "index_select",
        "flip",
        "roll",
        "repeat",
        "unfold",
        "diagonal",
        "constant_pad_nd",
        "tril",
        "triu",
        "narrow",
        "chunk",
        "swapaxes",
        "movedim",
    ]
)
_VIEWS = frozenset(["view", "_unsafe_view", "reshape", "_reshape_alias"])
_COPIES = frozenset(
    ["clone", "_to_copy", "detach", "alias", "contiguous", "lift_fresh", "native_dropout", "to", "hardswish"]
)
_SOFTMAX = frozenset(["_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "cumsum"])
_REDUCTIONS = frozenset(
    [
        "sum",
        "mean",
        "amax",
        "amin",
        "var",
        "std",
        "var_mean",
        "linalg_vector_norm",
        "logsumexp",
        "prod",
        "any",
        "all",
        "max",
        "min",
        "argmax",
        "argmin",
        "norm",
    ]
)
_PRODUCTS = frozenset(["mm", "bmm", "addmm", "baddbmm"])
_NORMS = frozenset(["native_layer_norm", "_fused_rms_norm", "rms_norm"])
_SHIFT = 31


class Labels:
    """The labels of all live tensors, and which labels were joined."""

    def __init__(self, store: WeakTensorKeyDictionary) -> None:
        self.store = store
        self.count = 1  # label 0 is none
        self._pairs: list[Tensor] = []

    def new(self, count: int) -> int:
        """The first of so many new labels."""
        self.count += count
        return self.count - count

    def get(self, tensor: Any) -> Tensor | None:
        return self.store.get(tensor) if isinstance(tensor, Tensor) else None

    def set(self, tensor: Any, labels: Tensor) -> None:
        if isinstance(tensor, Tensor):
            self.store[tensor] = labels if labels.shape == tensor.shape else labels.expand(tensor.shape)

    def combine(self, first: Tensor, second: Tensor) -> Tensor:
        """Labels of elements computed from those of both (broadcast)."""
        first, second = torch.broadcast_tensors(first, second)
        self._join(first, second)
        return torch.maximum(first, second)

    def along(self, labels: Tensor, dims: Sequence[int]) -> Tensor:
        """Labels of elements computed from all along some dimensions, which become 1."""
        result = labels.amax(dim=tuple(dims), keepdim=True) if len(dims) else labels
        self._join(labels, result.expand_as(labels))
        return result

    def join_all(self, given: Sequence[Any], made: Sequence[Any]) -> None:
        """All labels of what was given become one, and all that was made has it."""
        known = [found.amax() for tensor in given if (found := self.get(tensor)) is not None and found.numel()]
        if not known:
            return
        one = torch.stack(known).amax()
        for tensor in given:
            if (found := self.get(tensor)) is not None:
                self._join(found, one.expand_as(found))
        for tensor in made:
            self.set(tensor, one)

    def of_features(self, tensor: Tensor) -> np.ndarray:
        """A label for each element of the last dimension."""
        found = self.get(tensor)
        if found is None:
            return np.zeros(tensor.shape[-1], np.int64)
        return self.along(found, range(found.ndim - 1)).flatten().numpy().copy()

    def joined(self) -> np.ndarray:
        """Pairs of joined labels."""
        codes = torch.cat([torch.zeros(0, dtype=torch.int64), *self._pairs]).unique().numpy()
        return np.stack([codes >> _SHIFT, codes & ((1 << _SHIFT) - 1)], axis=1)

    def _join(self, first: Tensor, second: Tensor) -> None:
        codes = torch.stack([(_compact(first, second) << _SHIFT), _compact(second, first)]).sum(0)
        low = codes & ((1 << _SHIFT) - 1)
        high = codes >> _SHIFT
        different = codes[(low != high) & (low > 0) & (high > 0)]
        if different.numel():
            self._pairs.append(different.unique())


def _compact(labels: Tensor, other: Tensor) -> Tensor:
    """The labels without the dimensions along which both are merely repeated."""
    for dim in range(labels.ndim):
        if labels.stride(dim) == 0 and other.stride(dim) == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
            other = other.narrow(dim, 0, 1)
    return labels


def labels_of_result(labels: Labels, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
    """Give an operator's results their labels."""
    given = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name.endswith("_like") or name.startswith("new_") or all(labels.get(tensor) is None for tensor in given):
        return
    made = [leaf for leaf in _pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
    if name in _VIEWS:
        labels.set(out, _known(labels, args[0]).reshape(out.shape))
    elif name in _COPIES:
        for tensor in made:
            labels.set(tensor, _known(labels, args[0]))
    elif name in _MOVES:
        _move(labels, func, args, kwargs, made)
    elif name in _PRODUCTS:
        labels.set(out, _product(labels, name, args))
    elif name in _SOFTMAX:
        labels.set(out, labels.along(_known(labels, args[0]), [args[1] % args[0].ndim]))
    elif name == "glu":
        first, second = _known(labels, args[0]).chunk(2, args[1] if len(args) > 1 else -1)
        labels.set(out, labels.combine(first, second))
    elif name in _NORMS:
        found = _known(labels, args[0])
        labels.set(made[0], labels.along(found, range(found.ndim - len(args[1]), found.ndim)))
    elif name in _REDUCTIONS:
        _reduce(labels, func, args, kwargs, made)
    elif is_elementwise(name) or name in ("copy_", "fill_"):
        labels.set(out, _elementwise(labels, given, out))
    else:
        labels.join_all(given, made)


def _known(labels: Labels, tensor: Tensor) -> Tensor:
    found = labels.get(tensor)
    return torch.zeros((), dtype=torch.int64).expand(tensor.shape) if found is None else found


def _move(labels: Labels, func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    """The operator itself moves the labels; indices stay what they are."""

    def swap(value: Any) -> Any:
        return _known(labels, value) if isinstance(value, Tensor) else value

    looks_up = func.overloadpacket.__name__ in ("index", "gather", "index_select")
    swapped = [
        _pytree.tree_map_only(Tensor, Tensor.cpu, value) if looks_up and place else _pytree.tree_map(swap, value)
        for place, value in enumerate(args)
    ]
    moved = func(*swapped, **kwargs)
    for tensor, found in zip(
        made, [leaf for leaf in _pytree.tree_leaves(moved) if isinstance(leaf, Tensor)], strict=True
    ):
        labels.set(tensor, found)


def _product(labels: Labels, name: str, args: Any) -> Tensor:
    left, right = (args[1], args[2]) if name in ("addmm", "baddbmm") else (args[0], args[1])
    rows, columns = _known(labels, left), _known(labels, right)
    result = labels.combine(labels.along(rows, [rows.ndim - 1]), labels.along(columns, [columns.ndim - 2]))
    if name in ("addmm", "baddbmm") and labels.get(args[0]) is not None:
        result = labels.combine(result, _known(labels, args[0]))
    return result


def _reduce(labels: Labels, func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    found = _known(labels, args[0])
    names = [argument.name for argument in func._schema.arguments]
    bound = {**dict(zip(names, args, strict=False)), **kwargs}
    dims = bound.get("dim")
    dims = list(range(found.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    dims = [dim % found.ndim for dim in dims] if found.ndim else []
    result = labels.along(found, dims)
    for tensor in made:
        labels.set(tensor, result if tensor.ndim == found.ndim else result.squeeze(tuple(dims)))


def _elementwise(labels: Labels, given: list[Tensor], out: Any) -> Tensor:
    result = torch.zeros((), dtype=torch.int64)
    for tensor in given:
        if (found := labels.get(tensor)) is not None:
            result = labels.combine(result, found)
    return result.expand(out.shape) if isinstance(out, Tensor) else result
