"""What a server holds: its shards as the optimizer's parameters, and the state that belongs to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from manyhands.sync.server.shards import Shard


class Holding:
    """A server's shards.

    Args:
        optimizer: over all parameters, perhaps with state; from now on over the shards, in the same groups.
        params: by number, all trainable ones.
        shards: the server's own, by item.
        homes: where the weights of each are to live.
    """

    def __init__(
        self, optimizer: Optimizer, params: Sequence[Tensor], shards: Mapping[int, Shard], homes: Mapping[int, Tensor]
    ) -> None:
        self._optimizer, self._shards = optimizer, shards
        self._shapes = [list(param.shape) for param in params]
        groups = [param for group in optimizer.param_groups for param in group["params"]]
        self._index = {number: index for index, p in enumerate(groups) for number, q in enumerate(params) if p is q}
        self._held: dict[int, nn.Parameter] = {}
        own: dict[Tensor, list[nn.Parameter]] = {}
        for item, shard in shards.items():
            param = params[shard.tensor]
            with torch.no_grad():
                homes[item].copy_(_cut(param.detach(), shard))
            held = self._held[item] = nn.Parameter(homes[item])
            if param in optimizer.state:
                state = optimizer.state[param]
                optimizer.state[held] = {key: _part(value, param, shard) for key, value in state.items()}
            own.setdefault(param, []).append(held)
        for param in groups:
            optimizer.state.pop(param, None)
        for group in optimizer.param_groups:
            group["params"] = [held for param in group["params"] for held in own.get(param, [])]

    def give(self, totals: Sequence[Tensor], unused: frozenset[int]) -> None:
        """Give the shards the gradients of this step, by item."""
        for item, held in self._held.items():
            held.grad = None if self._shards[item].tensor in unused else totals[item]

    @property
    def items(self) -> list[int]:
        """The items that the server holds."""
        return list(self._held)

    def scale(self, factor: float) -> None:
        """Multiply the gradients."""
        for held in self._held.values():
            if held.grad is not None:
                held.grad.mul_(factor)

    def clip(self, limit: float | None, norm: float) -> None:
        """Scale the gradients as `torch.nn.utils.clip_grad_norm_` does."""
        grads = [held for held in self._held.values() if held.grad is not None]
        if limit is not None and grads:
            torch.nn.utils.clip_grads_with_norm_(grads, limit, torch.tensor(norm))

    def capture(self) -> dict[str, Any]:
        """The state of the shards, by the index of their parameter in the whole optimizer."""
        rows = []
        for item, held in self._held.items():
            shard = self._shards[item]
            if held in self._optimizer.state and shard.tensor in self._index:
                state = dict(self._optimizer.state[held])
                place = {"index": self._index[shard.tensor], "start": shard.start, "shape": self._shapes[shard.tensor]}
                rows.append(place | {"item": item, "state": state})
        settings = [{k: v for k, v in g.items() if k != "params"} for g in self._optimizer.param_groups]
        return {"rows": rows, "groups": settings}

    def load(self, kept: Mapping[str, Any]) -> None:
        """Take up what `capture` gave, of the same shards."""
        for row in kept["rows"]:
            state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in row["state"].items()}
            self._optimizer.state[self._held[row["item"]]] = state
        for group, settings in zip(self._optimizer.param_groups, kept["groups"], strict=True):
            group.update(settings)


def join_state(whole: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An optimizer's `state_dict`, of which the servers have the state: put together from `Holding.capture`."""
    rows: dict[int, list[Any]] = {}
    for part in parts:
        for row in part["rows"]:
            rows.setdefault(row["index"], []).append(row)
    state = {}
    for index, found in sorted(rows.items()):
        states = [row["state"] for row in sorted(found, key=lambda row: row["start"])]
        state[index] = {key: _joined([s[key] for s in states], found[0]["shape"]) for key in states[0]}
    groups = [
        group | {k: v for k, v in settings.items() if k in group}
        for group, settings in zip(whole["param_groups"], parts[0]["groups"], strict=True)
    ]
    return {"state": state, "param_groups": groups}


def _cut(tensor: Tensor, shard: Shard) -> Tensor:
    return tensor if shard.stop is None else tensor.reshape(-1)[shard.start : shard.stop]


def _part(value: Any, param: Tensor, shard: Shard) -> Any:
    """A shard's part of a parameter's state; what is no number per element goes with every shard."""
    if isinstance(value, Tensor) and value.numel() == param.numel() and value.dim():
        return _cut(value, shard).clone()
    return value.clone() if isinstance(value, Tensor) else value


def _joined(values: Sequence[Any], shape: Sequence[int]) -> Any:
    if len(values) > 1 and isinstance(values[0], Tensor) and values[0].dim():
        return torch.cat(list(values)).view(*shape)
    return values[0]
