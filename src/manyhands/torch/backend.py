"""The process group: PyTorch's calls, put as operations of the transport.

PyTorch calls with lists of tensors of any form and options; the transport takes flat buffers. Everything here returns
a `Work` at once. Methods that were renamed in torch 2.13 have both names.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from manyhands.torch.buffers import Results, check_dense, check_same_dtype, flat, reduce_op
from manyhands.torch.errors import ArgumentError
from manyhands.torch.work import Outcome, Work

if TYPE_CHECKING:
    from manyhands.transport.group import Group

Tensors = Tensor | Sequence[Tensor]

MAX_CALLBACKS = 256
"""Callbacks of futures that wait at the same time; a thread each, started when needed."""


Base: Any = dist.ProcessGroup
"""Untyped: its stub lists the C++ overloads, of which a Python class has one form that takes all."""


class ProcessGroup(Base):
    """A group of ranks that communicate over a `Group` of the transport.

    Args:
        ranks: the members, as ranks of the default group.
    """

    supports_splitting = False
    supports_coalescing = False
    supports_time_estimate = False

    def __init__(self, rank: int, size: int, group: Group, ranks: Sequence[int]) -> None:
        super().__init__(rank, size)  # the form that Python classes can inherit
        self._group = group
        self._ranks = list(ranks)
        self._names = {"name": "", "desc": ""}
        self._coalesced: list[Work] | None = None
        self._callbacks = ThreadPoolExecutor(MAX_CALLBACKS, thread_name_prefix="manyhands-callback")
        self._close = weakref.finalize(self, close, group, self._callbacks)

    # Reductions

    def allreduce(self, tensors: Tensors, opts: Any = dist.ReduceOp.SUM) -> Work:
        tensors, title = several(tensors), self._title("all_reduce")
        check_dense(title, tensors)
        results = Results()
        outcomes = [
            self._group.all_reduce(results.filled(tensor), reduce_op(title, opts, tensor)) for tensor in tensors
        ]
        return self._work(title, outcomes, tensors, results)

    def allreduce_coalesced(self, tensors: Sequence[Tensor], opts: Any = dist.ReduceOp.SUM) -> Work:
        """All in one buffer: for many small tensors, which is what it is for, a copy costs less than a collective."""
        title = self._title("all_reduce_coalesced")
        check_dense(title, tensors)
        check_same_dtype(title, tensors)
        results = Results()
        buffer = results.pieces(tensors)
        torch.cat([flat(tensor) for tensor in tensors], out=buffer)
        outcome = self._group.all_reduce(buffer, reduce_op(title, opts, tensors[0]))
        return self._work(title, [outcome], tensors, results)

    def reduce(self, tensors: Tensors, opts: Any, op: Any = dist.ReduceOp.SUM) -> Work:
        tensors, title = several(tensors), self._title("reduce")
        check_dense(title, tensors)
        root, op = self._root(title, opts), getattr(opts, "reduceOp", op)
        results = Results()
        outcomes = []
        for tensor in tensors:
            buffer = results.filled(tensor) if root == self.rank() else flat(tensor)
            outcomes.append(self._group.reduce(buffer, root, reduce_op(title, op, tensor)))
        return self._work(title, outcomes, tensors, results)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = dist.ReduceOp.SUM) -> Work:
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = dist.ReduceOp.SUM
    ) -> Work:
        title = self._title("reduce_scatter")
        results = Results()
        outcomes = []
        for output, input in zip(outputs, inputs, strict=True):
            self._check_fit(title, whole=input, part=output)
            buffer = results.empty(output)
            outcomes.append(self._group.reduce_scatter(buffer, flat(input), reduce_op(title, opts, input)))
        return self._work(title, outcomes, outputs, results)

    def reduce_scatter(self, outputs: Tensors, inputs: Sequence[Any], opts: Any = dist.ReduceOp.SUM) -> Work:
        title = self._title("reduce_scatter")
        outputs, results = several(outputs), Results()
        outcomes: list[Outcome] = []
        for output, parts in zip(outputs, nested(inputs), strict=True):
            self._check_parts(title, parts, own=output)
            op, buffer = reduce_op(title, opts, output), results.empty(output)
            if same_size(parts):
                outcomes.append(self._group.reduce_scatter(buffer, torch.cat([flat(part) for part in parts]), op))
                continue
            buffer.copy_(flat(parts[self.rank()]))
            for root, part in enumerate(parts):  # every rank knows all sizes, so all take this way
                outcomes.append(self._group.reduce(buffer if root == self.rank() else flat(part), root, op))
        return self._work(title, outcomes, outputs, results)

    # Copies

    def broadcast(self, tensors: Tensors, opts: Any) -> Work:
        tensors, title = several(tensors), self._title("broadcast")
        check_dense(title, tensors)
        root, results = self._root(title, opts), Results()
        outcomes = [self._group.broadcast(results.filled(tensor), root) for tensor in tensors]
        return self._work(title, outcomes, tensors, results)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        return self.all_gather_single_coalesced([output], [input], opts)

    def all_gather_single_coalesced(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None
    ) -> Work:
        title = self._title("all_gather")
        results = Results()
        outcomes = []
        for output, input in zip(outputs, inputs, strict=True):
            self._check_fit(title, whole=output, part=input)
            outcomes.append(self._group.all_gather(results.empty(output), flat(input)))
        return self._work(title, outcomes, outputs, results)

    def allgather(self, outputs: Sequence[Any], inputs: Tensors, opts: Any = None) -> Work:
        title, results = self._title("all_gather"), Results()
        outcomes: list[Outcome] = []
        for parts, input in zip(nested(outputs), several(inputs), strict=True):
            self._check_parts(title, parts, own=input)
            if same_size(parts):
                outcomes.append(self._group.all_gather(results.pieces(parts), flat(input)))
                continue
            for root, part in enumerate(parts):  # every rank knows all sizes, so all take this way
                buffer = results.empty(part)
                if root == self.rank():
                    buffer.copy_(flat(input))
                outcomes.append(self._group.broadcast(buffer, root))
        return self._work(title, outcomes, [part for parts in nested(outputs) for part in parts], results)

    def allgather_coalesced(
        self, outputs: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], opts: Any = None
    ) -> Work:
        """`outputs[rank][i]` becomes the i-th input of that rank."""
        return self.allgather(list(zip(*outputs, strict=True)), inputs)

    def gather(self, outputs: Sequence[Any], inputs: Tensors, opts: Any) -> Work:
        title, results = self._title("gather"), Results()
        root, (input,) = self._root(title, opts), several(inputs)
        check_dense(title, [input])
        buffers, parts = None, []
        if root == self.rank():
            (parts,) = nested(outputs)
            self._check_parts(title, parts, own=input)
            buffers = [results.empty(part) for part in parts]
        return self._work(title, [self._group.gather(buffers, flat(input), root)], parts, results)

    def scatter(self, outputs: Tensors, inputs: Sequence[Any], opts: Any) -> Work:
        title, results = self._title("scatter"), Results()
        root, (output,) = self._root(title, opts), several(outputs)
        check_dense(title, [output])
        buffers = None
        if root == self.rank():
            (parts,) = nested(inputs)
            self._check_parts(title, parts, own=output)
            buffers = [flat(part) for part in parts]
        return self._work(title, [self._group.scatter(results.empty(output), buffers, root)], [output], results)

    def alltoall(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None) -> Work:
        title, results = self._title("all_to_all"), Results()
        self._check_parts(title, outputs, own=inputs[self.rank()])
        self._check_parts(title, inputs, own=outputs[self.rank()])
        received = [results.empty(output) for output in outputs]
        return self._work(title, [self._group.all_to_all(received, [flat(part) for part in inputs])], outputs, results)

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
        return self._work(title, [self._group.all_to_all(received, sent)], [output], results)

    # From one rank to another

    def send(self, tensors: Sequence[Tensor], dstRank: int, tag: int) -> Work:
        title = self._title(f"send to rank {dstRank}")
        check_dense(title, tensors)
        outcomes = [self._group.send(flat(tensor), dstRank, tag) for tensor in tensors]
        return self._work(title, outcomes, tensors, Results())

    def recv(self, tensors: Sequence[Tensor], srcRank: int, tag: int) -> Work:
        return self._receive(f"receive from rank {srcRank}", tensors, srcRank, tag)

    def recv_anysource(self, tensors: Sequence[Tensor], tag: int) -> Work:
        return self._receive("receive from any rank", tensors, None, tag)

    def _receive(self, what: str, tensors: Sequence[Tensor], peer: int | None, tag: int) -> Work:
        title, results = self._title(what), Results()
        check_dense(title, tensors)
        outcomes = [self._group.receive(results.empty(tensor), peer, tag) for tensor in tensors]
        return self._work(title, outcomes, tensors, results)

    def barrier(self, opts: Any = None) -> Work:
        return self._work(self._title("barrier"), [self._group.barrier()], [], Results())

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
        return Work("coalesced operations", [work.outcome for work in works], tensors, None, self._callbacks)

    # What PyTorch asks of a group. Methods of these names are called from C++

    def getBackendName(self) -> str:
        return "manyhands"

    def getGroupName(self) -> str:
        return self._names["name"]

    def setGroupName(self, name: str) -> None:
        self._names["name"] = name

    def getGroupDesc(self) -> str:
        return self._names["desc"]

    def setGroupDesc(self, desc: str) -> None:
        self._names["desc"] = desc

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])

    def _get_backend(self, device: torch.device) -> ProcessGroup:
        """PyTorch asks a device's backend what it can do; here group and backend are one."""
        return self

    def supports_tensor_alloc(self, device: torch.device) -> bool:
        return False

    def shutdown(self) -> None:
        """What `destroy_process_group` calls. Operations in flight fail."""
        self._close()

    def abort(self) -> None:
        self._close()

    # Help

    def _title(self, operation: str) -> str:
        return f"{operation} (rank {self.rank()} of group {self._names['name']})"

    def _work(self, title: str, outcomes: list[Outcome], tensors: Sequence[Tensor], results: Results) -> Work:
        work = Work(title, outcomes, tensors, results.finish, self._callbacks)
        if torch.autograd._profiler_enabled():
            with torch.profiler.record_function(f"manyhands:{title.split(' ')[0]}") as span:
                span._call_end_callbacks_on_future(work.get_future())
        if self._coalesced is not None:
            self._coalesced.append(work)
        return work

    def _root(self, title: str, opts: Any) -> int:
        root = getattr(opts, "rootRank", opts)
        if not 0 <= root < self.size():
            raise ArgumentError(f"{title}: invalid root rank {root}: ranks of the group are 0 to {self.size() - 1}.")
        return root

    def _check_fit(self, title: str, whole: Tensor, part: Tensor) -> None:
        check_dense(title, [whole, part])
        check_same_dtype(title, [whole, part])
        if whole.numel() != self.size() * part.numel():
            raise ArgumentError(
                f"{title}: the larger tensor must have {self.size()} times (the group's size) the elements of the "
                f"smaller one; they have {whole.numel()} and {part.numel()}."
            )

    def _check_parts(self, title: str, parts: Sequence[Tensor], own: Tensor) -> None:
        check_dense(title, [*parts, own])
        check_same_dtype(title, [*parts, own])
        if len(parts) != self.size():
            raise ArgumentError(f"{title}: needs one tensor for each of {self.size()} ranks, was given {len(parts)}.")
        if parts[self.rank()].numel() != own.numel():
            raise ArgumentError(
                f"{title}: this rank's entry in the list has {parts[self.rank()].numel()} elements, "
                f"its own tensor {own.numel()}. They must be of one size."
            )


def close(group: Group, callbacks: ThreadPoolExecutor) -> None:
    group.close()
    callbacks.shutdown(wait=False)


def several(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def nested(tensors: Sequence[Any]) -> list[list[Tensor]]:
    """PyTorch has a list for each of a process's devices; a plain list is meant for one."""
    if not tensors or isinstance(tensors[0], Tensor):
        return [list(tensors)]
    return [list(inner) for inner in tensors]


def same_size(tensors: Sequence[Tensor]) -> bool:
    return len({tensor.numel() for tensor in tensors}) == 1


def rows(title: str, tensor: Tensor, buffer: Tensor, sizes: Sequence[int], world: int) -> list[Tensor]:
    """The buffer cut into one part for each rank; sizes count the tensor's rows, none means equal parts."""
    length = tensor.size(0) if tensor.dim() else 1
    if not sizes:
        if length % world:
            raise ArgumentError(f"{title}: {length} rows do not divide among {world} ranks. Give the split sizes.")
        sizes = [length // world] * world
    if len(sizes) != world or sum(sizes) != length:
        raise ArgumentError(
            f"{title}: split sizes {list(sizes)} must be one for each of {world} ranks and add up to {length} rows."
        )
    row = buffer.numel() // length if length else 0
    return list(buffer.split([size * row for size in sizes]))
