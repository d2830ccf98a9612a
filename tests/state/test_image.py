"""The byte image: what the safetensors library reads, what comes back, and what is refused."""

import json
import math
import random
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as library_load
from safetensors.torch import save as library_save

from manyhands.errors import UserError
from manyhands.state import Image, read_image

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def written(tree, metadata=None) -> bytearray:
    image = Image(tree, metadata)
    target = bytearray(image.length)
    image.write(memoryview(target))
    return target


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(shape, dtype, seed) -> torch.Tensor:
    """Random bytes of a dtype: NaNs, denormals and all."""
    count = math.prod(shape) * dtype.itemsize
    content = bytearray(random.Random(seed).randbytes(count))
    if dtype is torch.bool:
        content = bytearray(byte & 1 for byte in content)
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=torch.uint8).view(dtype).view(shape)


def same(a, b) -> bool:
    """Equal in type, structure and every bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and (a.dtype, a.shape, raw(a)) == (b.dtype, b.shape, raw(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


tensors = st.builds(
    random_tensor, st.lists(st.integers(0, 4), max_size=3).map(tuple), st.sampled_from(DTYPES), st.integers(0, 99)
)
leaves = tensors | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.text(max_size=5) | st.integers(-3, 3) | st.sampled_from(["a", "a.b", "b", "tree", "dict", "tensor"])
trees = st.recursive(
    leaves,
    lambda t: st.lists(t, max_size=4) | st.lists(t, max_size=3).map(tuple) | st.dictionaries(keys, t, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(trees, st.dictionaries(st.text(min_size=1, max_size=5).filter(lambda s: s != "tree"), st.text(max_size=9)))
def test_a_tree_comes_back_bit_for_bit(tree, metadata):
    back, notes = read_image(memoryview(written(tree, metadata)))
    assert same(back, tree)
    assert notes == metadata


@settings(max_examples=60)
@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=6), tensors, max_size=8))
def test_the_library_reads_every_tensor(tree):
    loaded = library_load(bytes(written(tree)))
    assert loaded.keys() == tree.keys()
    for name, tensor in tree.items():
        assert same(loaded[name], tensor), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_library_reads_every_dtype_empty_scalar_and_strided(dtype):
    whole = random_tensor((6, 4), dtype, 1)
    tree = {
        "plain": whole,
        "scalar": whole[0, 0],
        "empty": whole[:0],
        "transposed": whole.t(),
        "strided": whole[::2, 1::2],
        "odd": random_tensor((3,), torch.uint8, 2),
    }
    loaded = library_load(bytes(written(tree)))
    assert all(same(loaded[name], tree[name]) for name in tree)


def test_nested_tensors_are_named_by_their_path():
    tree = {"model": {"w": torch.ones(2)}, "optimizer": {"state": {3: {"m": torch.zeros(1)}}, "list": [torch.ones(1)]}}
    assert set(library_load(bytes(written(tree)))) == {"model.w", "optimizer.state.3.m", "optimizer.list.0"}


def test_paths_that_fall_together_stay_apart():
    tree = {"a.b": torch.zeros(2), "a": {"b": torch.ones(3)}, "a.b_": torch.full((1,), 2.0)}
    data = written(tree)
    assert same(read_image(memoryview(data))[0], tree)
    assert len(library_load(bytes(data))) == 3


def test_a_tensor_may_have_any_name():
    tree = {"__metadata__": torch.ones(2), "": torch.zeros(1)}
    assert same(read_image(memoryview(written(tree)))[0], tree)


def test_what_the_format_says():
    """Header length, JSON, tensors without gaps in the order of their offsets, data at a multiple of 64."""
    tree = {"bytes": torch.ones(3, dtype=torch.uint8), "wide": torch.ones(2, dtype=torch.float64), "b": torch.ones(1)}
    data = bytes(written(tree, {"step": "7"}))
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 64 == 0 and data[8:9] == b"{"
    assert header.pop("__metadata__")["step"] == "7"
    position = 0
    for entry in sorted(header.values(), key=lambda e: e["data_offsets"]):
        begin, position_after = entry["data_offsets"]
        assert begin == position
        position = position_after
    assert 8 + length + position == len(data)
    assert all(e["data_offsets"][0] % {"F64": 8, "F32": 4, "U8": 1}[e["dtype"]] == 0 for e in header.values())


def test_tensors_that_need_gradients_are_written_as_they_are():
    weight = torch.nn.Parameter(torch.randn(4, 3))
    assert same(read_image(memoryview(written({"w": weight})))[0], {"w": weight.detach()})


def test_the_tensors_look_into_the_bytes():
    data = written({"w": torch.zeros(4)})
    tree, _ = read_image(memoryview(data))
    data[-16:] = struct.pack("<4f", 1, 2, 3, 4)
    assert tree["w"].tolist() == [1, 2, 3, 4]


class Custom:
    pass


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"optimizer": {"state": [1, {"f": Custom()}]}}, ["optimizer.state.1.f", "Custom", "cannot be saved"]),
        ({"a": {1, 2}}, ["at a is a set"]),
        ({"a": b"raw"}, ["at a is a bytes"]),
        ({"s": torch.ones(2, 2).to_sparse()}, ["at s", "sparse", "cannot be saved"]),
        ({"z": [torch.ones(1, dtype=torch.complex128)]}, ["at z.0", "complex128", "cannot be saved"]),
        ({"state": {(1, 2): 3}}, ["state", "tuple"]),
        ({"state": {Custom: 3}}, ["state", "type"]),
    ],
)
def test_what_cannot_be_saved_is_named(tree, words):
    with pytest.raises(UserError) as error:
        Image(tree)
    for word in words:
        assert word in str(error.value)


STATE = {"step": 3, "model": {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(5)}, "names": ["a", None]}


def test_every_truncation_is_rejected():
    data = bytes(written(STATE))
    for length in range(len(data)):
        with pytest.raises(ValueError):
            read_image(memoryview(bytearray(data[:length])))


def test_a_damaged_header_is_rejected_or_reads_as_some_tree():
    """No damage to the header raises anything but ValueError, and none reads outside the image."""
    data = bytes(written(STATE))
    (length,) = struct.unpack_from("<Q", data)
    chance = random.Random(0)
    rejected = 0
    for position in range(8 + length):
        damaged = bytearray(data)
        damaged[position] ^= 1 << chance.randrange(8)
        try:
            read_image(memoryview(damaged))
        except ValueError:
            rejected += 1
    assert rejected > length // 2


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b'{"__metadata__":{}}',
        b'{"__metadata__":{"tree":"5"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,64]}}',
        b'{"__metadata__":{"tree":"5"},"w":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}',
        b'{"__metadata__":{"tree":"5"},"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}',
        b'{"__metadata__":{"tree":"5"},"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}',
        b'{"__metadata__":{"tree":"5"},"w":{"dtype":"F32","shape":[2]}}',
        b'{"__metadata__":{"tree":"{\\"tensor\\":\\"w\\"}"}}',
    ],
)
def test_headers_that_make_no_sense_are_rejected(header):
    data = struct.pack("<Q", len(header)) + header + bytes(8)
    with pytest.raises(ValueError):
        read_image(memoryview(bytearray(data)))


def test_a_file_of_the_library_alone_is_not_a_state():
    with pytest.raises(ValueError):
        read_image(memoryview(bytearray(library_save({"w": torch.ones(3)}))))
