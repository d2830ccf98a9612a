"""Chakra traces, decoded independently: by protobuf where it is installed, and by a decoder of the wire format here."""

import struct
from collections import Counter, deque

import pytest
from clusters import star_cluster

from manyhands.collective.algorithms import ALGORITHMS, helper_hosts, ring
from manyhands.collective.formats import chakra_traces

SIZE = 4 * 1000
COMP, SEND, RECEIVE = 4, 5, 6


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def fields(message: bytes) -> list[tuple[int, object]]:
    """(field number, value) of a protobuf message."""
    found, at = [], 0
    while at < len(message):
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = varint(message, at)
        elif kind == 2:
            length, at = varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            assert kind == 5
            value, at = struct.unpack("<f", message[at : at + 4])[0], at + 4
        found.append((number, value))
    return found


def messages(trace: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(trace):
        length, at = varint(trace, at)
        found.append(trace[at : at + length])
        at += length
    assert at == len(trace)
    return found


def decode(trace: bytes) -> list[dict]:
    """The nodes of a trace."""
    head, *rest = messages(trace)
    assert fields(head) == [(1, b"0.0.4")]
    nodes = []
    for message in rest:
        node: dict = {"deps": [], "attr": {}}
        for number, value in fields(message):
            if number == 5:
                at = 0
                while at < len(value):
                    dependency, at = varint(value, at)
                    node["deps"].append(dependency)
            elif number == 10:
                attribute = dict(fields(value))
                name = attribute.pop(1).decode()
                (node["attr"][name],) = attribute.values()
            else:
                node[{1: "id", 2: "name", 3: "type"}[number]] = value
        nodes.append(node)
    return nodes


def simulate(traces: list[list[dict]]) -> None:
    """Carry out every node once all that it depends on is done and, for a receive, its message sent."""
    done = [set() for _ in traces]
    sent: Counter = Counter()
    left = deque((rank, node) for rank, nodes in enumerate(traces) for node in nodes)
    waits = 0
    while left:
        rank, node = left.popleft()
        attr = node["attr"]
        key = (attr.get("comm_src"), attr.get("comm_dst"), attr.get("comm_tag"), attr.get("comm_size"))
        if not set(node["deps"]) <= done[rank] or (node["type"] == RECEIVE and not sent[key]):
            left.append((rank, node))
            waits += 1
            assert waits <= len(left), "stuck"
            continue
        waits = 0
        done[rank].add(node["id"])
        if node["type"] == SEND:
            assert key[0] == rank
            sent[key] += 1
        elif node["type"] == RECEIVE:
            assert key[1] == rank
            sent[key] -= 1
    assert not +sent


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_traces_run_to_their_end(name, n):
    forest = ALGORITHMS[name](star_cluster(n, helpers=2 if name == "helper_hosts" else 0))
    traces = [decode(trace) for trace in chakra_traces(forest, SIZE)]
    assert len(traces) == len(forest.rank)
    for nodes in traces:
        assert [node.get("id", 0) for node in nodes] == list(range(len(nodes)))
    simulate(traces)
    added = sum(node["attr"]["num_ops"] for nodes in traces for node in nodes if node["type"] == COMP)
    assert added == (n - 1) * SIZE / 4


def test_a_ring_in_detail():
    traces = [decode(trace) for trace in chakra_traces(ring(star_cluster(3)), SIZE)]
    for rank, nodes in enumerate(traces):
        assert Counter(node["type"] for node in nodes) == {SEND: 4, RECEIVE: 4, COMP: 2}
        assert all(node["attr"]["is_cpu_op"] == 0 for node in nodes)
        sizes = {node["attr"]["comm_size"] for node in nodes if node["type"] != COMP}
        assert sizes == {1332, 1336}
        for node in nodes:
            if node["type"] == COMP:
                (received,) = (nodes[d] for d in node["deps"] if nodes[d]["type"] == RECEIVE)
                assert received["attr"]["comm_dst"] == rank


def test_protobuf_reads_the_same():
    """The schema's fields that are used, built at run time with the official library."""
    pb = pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    assert pb
    file = descriptor_pb2.FileDescriptorProto(name="et.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    optional, repeated = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    attribute = file.message_type.add(name="AttributeProto")
    for name, number, kind in (
        ("name", 1, kinds.TYPE_STRING),
        ("int32_val", 7, kinds.TYPE_INT32),
        ("int64_val", 9, kinds.TYPE_INT64),
        ("uint64_val", 13, kinds.TYPE_UINT64),
        ("bool_val", 27, kinds.TYPE_BOOL),
    ):
        attribute.field.add(name=name, number=number, type=kind, label=optional)
    node = file.message_type.add(name="Node")
    node.field.add(name="id", number=1, type=kinds.TYPE_UINT64, label=optional)
    node.field.add(name="name", number=2, type=kinds.TYPE_STRING, label=optional)
    node.field.add(name="type", number=3, type=kinds.TYPE_INT32, label=optional)
    node.field.add(name="data_deps", number=5, type=kinds.TYPE_UINT64, label=repeated)
    node.field.add(name="attr", number=10, type=kinds.TYPE_MESSAGE, label=repeated, type_name=".t.AttributeProto")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    read = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Node"))
    for trace in chakra_traces(helper_hosts(star_cluster(4, helpers=2)), 10**9):
        for message, own in zip(messages(trace)[1:], decode(trace), strict=True):
            theirs = read.FromString(message)
            assert (theirs.id, theirs.name, theirs.type) == (own["id"], own["name"].decode(), own["type"])
            assert list(theirs.data_deps) == own["deps"]
            for attr in theirs.attr:
                value = attr.int32_val or attr.int64_val or attr.uint64_val or int(attr.bool_val)
                assert value == own["attr"][attr.name]
