"""A batch on its way from the worker that read it to those that hold other parts of the same replica.

Who reads, with a first stage that takes inputs and a last one that takes targets:

    shard 0 of the ranks that hold the first or the last stage    reads
    shard 0 of the ranks between them                             gets the inputs from the rank of the first stage:
                                                                  a stage computes masks and positions again
    the other shards                                              get what they need from their shard 0

A message carries the tensors as they lie in memory, since kernels may add in another order for other strides, and where
reading has left the random generators, if it drew from them. Cost: a micro-batch's bytes per worker that reads none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyhands.errors import UserError
from manyhands.plan import Layout
from manyhands.state.gather import pack, unpack
from manyhands.transport import Group

_TAG = 0xFEED
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, kw_only=True)
class Route:
    """One worker's place among those that read and those that are handed what others read."""

    giver: int | None = None
    """The rank that hands the worker every batch; None: the worker reads for itself."""
    takers: tuple[int, ...] = ()
    """Ranks to which the worker hands every batch."""
    targets: bool = True
    """Whether the worker holds the last stage, which takes the targets."""
    takers_targets: bool = True
    """Whether the worker's takers take the targets."""


def route(layout: Layout, placement: Sequence[int], rank: int) -> Route:
    """The place of a rank.

    Args:
        placement: by stage, the pipeline rank that holds it.
    """
    stage_rank, replica, shard = layout.coordinates(rank)
    first, last = placement[0], placement[-1]
    between = [place for place in range(layout.pp) if place not in (first, last)]
    if shard:
        giver: int | None = layout.rank_of(stage_rank, replica)
    else:
        giver = layout.rank_of(first, replica) if stage_rank in between else None
    shards = tuple(layout.rank_of(stage_rank, replica, other) for other in range(1, layout.tp))
    inner = tuple(layout.rank_of(place, replica) for place in between) if stage_rank == first else ()
    return Route(
        giver=giver,
        takers=() if shard else shards + inner,
        targets=stage_rank == last,
        takers_targets=stage_rank == last,
    )


class Passing:
    """Hands batches on, in the order in which they are read.

    Args:
        group: the gang.
        route: this worker's place in it.
        device: where what it is handed is put.
    """

    def __init__(self, group: Group, route: Route, device: torch.device) -> None:
        self.route, self._group, self._device = route, group, device
        self._leaving: list[Future[None]] = []

    def give(self, tree: Any) -> None:
        """Hand a tree of tensors and plain values to the takers; does not wait for them.

        Raises:
            UserError: something in it cannot be sent.
            PeerLostError: a taker is gone.
        """
        if not self.route.takers:
            return
        tensors: list[Tensor] = []
        raw = pack({"form": _form(tree, tensors), "tensors": tensors})
        for future in [future for future in self._leaving if future.done()]:
            future.result()
        self._leaving = [future for future in self._leaving if not future.done()]
        for taker in self.route.takers:
            self._leaving.append(self._group.send(torch.tensor([raw.numel()]), taker, _TAG))
            self._leaving.append(self._group.send(raw, taker, _TAG + 1))

    def take(self) -> Any:
        """The next tree from the giver; waits for it.

        Raises:
            PeerLostError: the giver is gone.
        """
        assert self.route.giver is not None
        length = torch.zeros(1, dtype=torch.int64)
        self._group.receive(length, self.route.giver, _TAG).result()
        raw = torch.empty(int(length), dtype=torch.uint8)
        self._group.receive(raw, self.route.giver, _TAG + 1).result()
        received = unpack(raw)
        return _tree(received["form"], [tensor.to(self._device) for tensor in received["tensors"]])


def _form(value: Any, tensors: list[Tensor]) -> list[Any]:
    """What a tree is made of, as plain data; its tensors are added to `tensors`, row by row as they lie in memory."""
    if isinstance(value, Tensor):
        order = sorted(range(value.dim()), key=lambda d: -value.stride(d))
        laid_out = value.detach().permute(order)
        dense = laid_out.is_contiguous()
        tensors.append(laid_out if dense else value.detach().contiguous())
        return ["tensor", len(tensors) - 1, order if dense else None]
    if isinstance(value, Mapping):
        return ["dict", [[key, _form(item, tensors)] for key, item in value.items()]]
    if isinstance(value, tuple | list):
        return ["list", [_form(item, tensors) for item in value]]
    if isinstance(value, _PLAIN):
        return ["value", value]
    raise UserError(
        f"the data has a {type(value).__name__}, which cannot be handed to another worker. Return tensors, numbers and "
        "text from the dataset, or use a layout without tp and with pp=2 at most."
    )


def _tree(form: list[Any], tensors: list[Tensor]) -> Any:
    match form:
        case ["tensor", index, order]:
            tensor = tensors[index]
            return tensor if order is None else tensor.permute([order.index(d) for d in range(len(order))])
        case ["dict", items]:
            return {key: _tree(item, tensors) for key, item in items}
        case ["list", items]:
            return [_tree(item, tensors) for item in items]
        case ["value", value]:
            return value
    raise AssertionError(f"{form} is no form")
