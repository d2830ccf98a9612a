"""The process group: PyTorch's calls, put as operations of the transport.

PyTorch calls with lists of tensors of any form and options; the transport takes flat buffers. Everything here returns
a `Work` at once. Methods that were renamed in torch 2.13 have both names.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from manyhands.torch.arguments import (
    Tensors,
    check_dense,
    check_fit,
    check_parts,
    check_root,
    check_same_dtype,
    nested,
    reduce_op,
    rows,
    same_size,
    several,
)
from manyhands.torch.buffers import Results, flat
from manyhands.torch.identity import Identity
from manyhands.torch.sparse import all_reduce_sparse
from manyhands.torch.work import Outcome, Work

if TYPE_CHECKING:
    from manyhands.transport.group import Group

MAX_CALLBACKS = 256
"""Callbacks of futures that wait at the same time; a thread each, started when needed."""


class ProcessGroup(Identity):
    """A group of ranks that communicate over a `Group` of the transport."""

    def __init__(self, rank: int, size: int, group: Group) -> None:
        super().__init__(rank, size)
        self._group = group
        self._coalesced: list[Work] | None = None
        self._callbacks = ThreadPoolExecutor(MAX_CALLBACKS, thread_name_prefix="manyhands-callback")
        self._close = weakref.finalize(self, close, group, self._callbacks)
        # Groups that are open when the process ends leave by themselves, without waiting.
        self._close.atexit = False  # type: ignore[attr-defined]

    @property
    def transport(self) -> Group:
        """The group that moves the bytes."""
        return self._group

    # Reductions

    def allreduce(self, tensors: Tensors, opts: Any = dist.ReduceOp.SUM) -> Work:
        tensors, title = several(tensors), self._title("all_reduce")
        if len(tensors) == 1 and tensors[0].is_sparse:
            op = reduce_op(title, opts, tensors[0])
            return self._work(title, *all_reduce_sparse(title, self._group, tensors[0], op), tensors)
        check_dense(title, tensors)
        results = Results()
        outcomes = [
            self._group.all_reduce(results.filled(tensor), reduce_op(title, opts, tensor)) for tensor in tensors
        ]
        return self._work(title, outcomes, results.finish, tensors)

    def allreduce_coalesced(self, tensors: Sequence[Tensor], opts: Any = dist.ReduceOp.SUM) -> Work:
        """All-reduce tensors in one buffer: for many small ones a copy costs less than a collective."""
        title = self._title("all_reduce_coalesced")
        check_dense(title, tensors)
        check_same_dtype(title, tensors)
        results = Results()
        buffer = results.pieces(tensors)
        torch.cat([flat(tensor) for tensor in tensors], out=buffer)
        outcome = self._group.all_reduce(buffer, reduce_op(title, opts, tensors[0]))
        return self._work(title, [outcome], results.finish, tensors)

    def reduce(self, tensors: Tensors, opts: Any, op: Any = dist.ReduceOp.SUM) -> Work:
        tensors, title = several(tensors), self._title("reduce")
        check_dense(title, tensors)
        root, op = check_root(title, self.size(), opts), getattr(opts, "reduceOp", op)
        results = Results()
        outcomes = []
        for tensor in tensors:
            buffer = results.filled(tensor) if root == self.rank() else flat(tensor)
            outcomes.append(self._group.reduce(buffer, root, reduce_op(title, op, tensor)))
        return self._work(title, outcomes, results.finish, tensors)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = dist.ReduceOp.SUM) -> Work:
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = dist.ReduceOp.SUM
    ) -> Work:
        title = self._title("reduce_scatter")
        results = Results()
        outcomes = []
        for output, input in zip(outputs, inputs, strict=True):
            check_fit(title, self.size(), whole=input, part=output)
            buffer = results.empty(output)
            outcomes.append(self._group.reduce_scatter(buffer, flat(input), reduce_op(title, opts, input)))
        return self._work(title, outcomes, results.finish, outputs)

    def reduce_scatter(self, outputs: Tensors, inputs: Sequence[Any], opts: Any = dist.ReduceOp.SUM) -> Work:
        title = self._title("reduce_scatter")
        outputs, results = several(outputs), Results()
        outcomes: list[Outcome] = []
        for output, parts in zip(outputs, nested(inputs), strict=True):
            check_parts(title, self.size(), self.rank(), parts, own=output)
            op, buffer = reduce_op(title, opts, output), results.empty(output)
            if same_size(parts):
                outcomes.append(self._group.reduce_scatter(buffer, torch.cat([flat(part) for part in parts]), op))
                continue
            buffer.copy_(flat(parts[self.rank()]))
            for root, part in enumerate(parts):  # every rank knows all sizes, so all take this way
                outcomes.append(self._group.reduce(buffer if root == self.rank() else flat(part), root, op))
        return self._work(title, outcomes, results.finish, outputs)

    # Copies

    def broadcast(self, tensors: Tensors, opts: Any) -> Work:
        tensors, title = several(tensors), self._title("broadcast")
        check_dense(title, tensors)
        root, results = check_root(title, self.size(), opts), Results()
        outcomes = [self._group.broadcast(results.filled(tensor), root) for tensor in tensors]
        return self._work(title, outcomes, results.finish, tensors)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        return self.all_gather_single_coalesced([output], [input], opts)

    def all_gather_single_coalesced(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None
    ) -> Work:
        title = self._title("all_gather")
        results = Results()
        outcomes = []
        for output, input in zip(outputs, inputs, strict=True):
            check_fit(title, self.size(), whole=output, part=input)
            outcomes.append(self._group.all_gather(results.empty(output), flat(input)))
        return self._work(title, outcomes, results.finish, outputs)

    def allgather(self, outputs: Sequence[Any], inputs: Tensors, opts: Any = None) -> Work:
        title, results = self._title("all_gather"), Results()
        outcomes: list[Outcome] = []
        for parts, input in zip(nested(outputs), several(inputs), strict=True):
            check_parts(title, self.size(), self.rank(), parts, own=input)
            if same_size(parts):
                outcomes.append(self._group.all_gather(results.pieces(parts), flat(input)))
                continue
            for root, part in enumerate(parts):  # every rank knows all sizes, so all take this way
                buffer = results.empty(part)
                if root == self.rank():
                    buffer.copy_(flat(input))
                outcomes.append(self._group.broadcast(buffer, root))
        return self._work(title, outcomes, results.finish, [part for parts in nested(outputs) for part in parts])

    def allgather_coalesced(
        self, outputs: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], opts: Any = None
    ) -> Work:
        """`outputs[rank][i]` becomes the i-th input of that rank."""
        return self.allgather(list(zip(*outputs, strict=True)), inputs)

    def gather(self, outputs: Sequence[Any], inputs: Tensors, opts: Any) -> Work:
        title, results = self._title("gather"), Results()
        root, (input,) = check_root(title, self.size(), opts), several(inputs)
        check_dense(title, [input])
        buffers, parts = None, []
        if root == self.rank():
            (parts,) = nested(outputs)
            check_parts(title, self.size(), self.rank(), parts, own=input)
            buffers = [results.empty(part) for part in parts]
        return self._work(title, [self._group.gather(buffers, flat(input), root)], results.finish, parts)

    def scatter(self, outputs: Tensors, inputs: Sequence[Any], opts: Any) -> Work:
        title, results = self._title("scatter"), Results()
        root, (output,) = check_root(title, self.size(), opts), several(outputs)
        check_dense(title, [output])
        buffers = None
        if root == self.rank():
            (parts,) = nested(inputs)
            check_parts(title, self.size(), self.rank(), parts, own=output)
            buffers = [flat(part) for part in parts]
        return self._work(title, [self._group.scatter(results.empty(output), buffers, root)], results.finish, [output])

    def alltoall(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None) -> Work:
        title, results = self._title("all_to_all"), Results()
        check_parts(title, self.size(), self.rank(), outputs, own=inputs[self.rank()])
        check_parts(title, self.size(), self.rank(), inputs, own=outputs[self.rank()])
        received = [results.empty(output) for output in outputs]
        return self._work(
            title, [self._group.all_to_all(received, [flat(part) for part in inputs])], results.finish, outputs
        )

    def all_to_all_single(
        self,
        output: Tensor,
        input: Tensor,
        output_split_sizes: Sequence[int],
        input_split_sizes: Sequence[int],
        opts: Any = None,
    ) -> Work:
        title, results = self._title("all_to_all"), Results()
        check_dense(title, [output, input])
        check_same_dtype(title, [output, input])
        received = rows(title, output, results.empty(output), output_split_sizes, self.size())
        sent = rows(title, input, flat(input), input_split_sizes, self.size())
        return self._work(title, [self._group.all_to_all(received, sent)], results.finish, [output])

    # From one rank to another

    def send(self, tensors: Sequence[Tensor], dstRank: int, tag: int) -> Work:
        title = self._title(f"send to rank {dstRank}")
        check_dense(title, tensors)
        outcomes = [self._group.send(flat(tensor), dstRank, tag) for tensor in tensors]
        return self._work(title, outcomes, None, [])  # whoever keeps the handle, as pipelines do, keeps no tensor

    def recv(self, tensors: Sequence[Tensor], srcRank: int, tag: int) -> Work:
        return self._receive(f"receive from rank {srcRank}", tensors, srcRank, tag)

    def recv_anysource(self, tensors: Sequence[Tensor], tag: int) -> Work:
        return self._receive("receive from any rank", tensors, None, tag)

    def _receive(self, what: str, tensors: Sequence[Tensor], peer: int | None, tag: int) -> Work:
        title, results = self._title(what), Results()
        check_dense(title, tensors)
        outcomes = [self._group.receive(results.empty(tensor), peer, tag) for tensor in tensors]
        return self._work(title, outcomes, results.finish, tensors)

    def barrier(self, opts: Any = None) -> Work:
        return self._work(self._title("barrier"), [self._group.barrier()], None, [])

    # The names before torch 2.13

    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single
    alltoall_base = all_to_all_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    # Coalescing: operations run in the order they were issued anyway, so it only makes one handle of several

    def _start_coalescing(self, device: torch.device) -> None:
        self._coalesced = []

    def _end_coalescing(self, device: torch.device) -> Work:
        works, self._coalesced = self._coalesced or [], None
        tensors = [tensor for work in works for tensor in work.result()]
        return Work("coalesced operations", [work.outcome for work in works], None, tensors, self._callbacks)

    # The end

    def shutdown(self) -> None:
        """What `destroy_process_group` calls. Operations in flight fail."""
        self._close()

    def abort(self) -> None:
        self._close()

    # Help

    def _title(self, operation: str) -> str:
        return f"{operation} (rank {self.rank()} of group {self.getGroupName()})"

    def _work(
        self, title: str, outcomes: Sequence[Outcome], finish: Callable[[], None] | None, tensors: Sequence[Tensor]
    ) -> Work:
        work = Work(title, outcomes, finish, tensors, self._callbacks)
        with work.span():
            pass  # in a profile, the moment of the call
        if self._coalesced is not None:
            self._coalesced.append(work)
        return work


def close(group: Group, callbacks: ThreadPoolExecutor) -> None:
    group.close()
    callbacks.shutdown(wait=False)
