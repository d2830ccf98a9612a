"""Writes a forest as Chakra execution traces, one per rank, for ASTRA-sim and other simulators.

Problem: check a schedule's predicted time with somebody else's simulator.
Idea: every edge of a tree becomes a `COMM_SEND_NODE` at its source and a `COMM_RECV_NODE` at its target, joined by a
tag; an addition is a `COMP_NODE` behind its receive. A node depends on what wrote the data that it needs. The file is a
row of protobuf messages, each after its length: one `GlobalMetadata`, then `Node`s. Few field types occur, so they are
encoded here and no protobuf library is needed.
Source: Sridharan et al., "Chakra", arXiv 2305.14516; mlcommons/chakra, schema/protobuf/et_def.proto, version 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable

from manyhands.collective.forest import Forest
from manyhands.collective.formats.transfers import transfers

VERSION = "0.0.4"
COMP_NODE, COMM_SEND_NODE, COMM_RECV_NODE = 4, 5, 6

# Field numbers of et_def.proto.
_NODE_ID, _NODE_NAME, _NODE_TYPE, _NODE_DATA_DEPS, _NODE_ATTRIBUTE = 1, 2, 3, 5, 10
_ATTRIBUTE_NAME = 1
_VALUES = {"int32": 7, "int64": 9, "uint64": 13, "bool": 27}


def chakra_traces(forest: Forest, size: int, *, element_bytes: int = 4) -> list[bytes]:
    """The content of each rank's `.et` file; helpers follow the members.

    Args:
        size: bytes of the data.
        element_bytes: of one element, which is one addition.
    """
    traces = [_Trace() for _ in forest.rank]
    bounds = _bounds(forest, size, element_bytes)
    for transfer in transfers(forest):
        count = bounds[transfer.tree + 1] - bounds[transfer.tree]
        if not count:
            continue
        tree, source, target = transfer.tree, transfer.source, transfer.target
        # A rank pair meets at most twice in a tree: adding up, and handing out.
        tag = 2 * tree + (not transfer.adds)
        common = {"comm_size": ("int64", count), "comm_tag": ("int32", tag)}
        common |= {"comm_src": ("int32", source), "comm_dst": ("int32", target)}
        name = f"tree {tree}, {source} to {target}"
        # A helper has nothing of its own: what comes first is not added to anything.
        first = target >= len(forest.members) and tree not in traces[target].written
        traces[source].append(f"send: {name}", COMM_SEND_NODE, tree, common, writes=False)
        received = traces[target].append(f"receive: {name}", COMM_RECV_NODE, tree, common, writes=True)
        if transfer.adds and not first:
            work = {"num_ops": ("int64", count // element_bytes), "tensor_size": ("uint64", 2 * count)}
            traces[target].append(f"add: {name}", COMP_NODE, tree, work, writes=True, after=[received])
    return [trace.encode() for trace in traces]


def _bounds(forest: Forest, size: int, element_bytes: int) -> list[int]:
    """Where each tree's bytes begin, at whole elements."""
    elements, bounds, total = size // element_bytes, [0], 0
    for tree in forest.trees:
        total += tree.share
        bounds.append(round(total * elements) * element_bytes)
    return bounds


class _Trace:
    """The nodes of one rank."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.written: dict[int, int] = {}
        """The last node that wrote each tree's data on this rank."""

    def append(
        self,
        name: str,
        kind: int,
        tree: int,
        attributes: dict[str, tuple[str, int]],
        *,
        writes: bool,
        after: Iterable[int] = (),
    ) -> int:
        """Add a node that needs what is there of the tree's data; its id."""
        number = len(self.nodes)
        needs = sorted({*after, *([self.written[tree]] if tree in self.written else [])})
        node = _integer(_NODE_ID, number) + _text(_NODE_NAME, name) + _integer(_NODE_TYPE, kind)
        if needs:
            node += _bytes(_NODE_DATA_DEPS, b"".join(map(_varint, needs)))
        for key, (type_, value) in {"is_cpu_op": ("bool", 0), **attributes}.items():
            node += _bytes(_NODE_ATTRIBUTE, _text(_ATTRIBUTE_NAME, key) + _integer(_VALUES[type_], value))
        self.nodes.append(node)
        if writes:
            self.written[tree] = number
        return number

    def encode(self) -> bytes:
        messages = [_text(1, VERSION), *self.nodes]
        return b"".join(_varint(len(message)) + message for message in messages)


# Protobuf's wire format: a key (field number and wire type), then the value.


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the high bit says that more follow."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
