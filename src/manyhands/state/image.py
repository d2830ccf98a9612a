"""A nested state as one run of bytes in the safetensors format.

The same image is a snapshot in shared memory, what a new worker is handed, and, written to a file, a durable
checkpoint that any safetensors reader opens. Tensors are named by their path (`model.blocks.0.weight`,
`optimizer.state.3.exp_avg`); everything that is not a tensor travels as JSON in the metadata entry `tree`, so
nothing is ever unpickled.

Format: github.com/huggingface/safetensors, "Format": u64 header length, JSON header, tensor bytes without
gaps. The header is padded so that the data begins at a multiple of 64 bytes; wide dtypes come first, so
every tensor is aligned to its own element.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from manyhands.errors import UserError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}
_ALIGNMENT = 64
_PLAIN = (bool, int, float, str, type(None))


class Image:
    """A state laid out as bytes, ready to be written anywhere.

    Args:
        tree: nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.
        metadata: strings to keep beside it.

    Raises:
        UserError: the tree holds something else; names where.
    """

    def __init__(self, tree: Any, metadata: Mapping[str, str] | None = None) -> None:
        tensors: dict[str, Tensor] = {}
        skeleton = _strip(tree, "", tensors)
        self._tensors = sorted(tensors.items(), key=lambda named: -named[1].dtype.itemsize)
        entries: dict[str, Any] = {"__metadata__": {**(metadata or {}), "tree": json.dumps(skeleton)}}
        offset = 0
        for name, tensor in self._tensors:
            end = offset + tensor.numel() * tensor.dtype.itemsize
            entries[name] = {
                "dtype": DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [offset, end],
            }
            offset = end
        header = json.dumps(entries, separators=(",", ":")).encode()
        padded = -(-(8 + len(header)) // _ALIGNMENT) * _ALIGNMENT - 8
        self._header = struct.pack("<Q", padded) + header.ljust(padded)
        self.length = len(self._header) + offset
        """Bytes of the whole image."""

    def write_part(self, target: Tensor, start: int) -> None:
        """Fill `target` (uint8, on the CPU) with the bytes of the image from `start` on."""
        end = start + len(target)
        if start < len(self._header):
            part = self._header[start:end]
            target[: len(part)] = torch.frombuffer(bytearray(part), dtype=torch.uint8)
        first = len(self._header)
        for _, tensor in self._tensors:
            last = first + tensor.numel() * tensor.dtype.itemsize
            if first < end and start < last:
                begin, stop = max(first, start), min(last, end)
                whole = tensor.detach().reshape(-1).view(torch.uint8)
                target[begin - start : stop - start] = whole[begin - first : stop - first]
            first = last

    def write(self, target: memoryview) -> None:
        """Write the image into `length` bytes."""
        target[: len(self._header)] = self._header
        if self.length == len(self._header):
            return
        data = torch.frombuffer(target[len(self._header) :], dtype=torch.uint8)
        views, offset = [], 0
        for _, tensor in self._tensors:
            end = offset + tensor.numel() * tensor.dtype.itemsize
            views.append(data[offset:end].view(tensor.dtype).view(tensor.shape))
            offset = end
        with torch.no_grad():
            torch._foreach_copy_(views, [tensor for _, tensor in self._tensors])


def read_image(source: memoryview) -> tuple[Any, dict[str, str]]:
    """The tree and the metadata of an image. The tensors look into `source`: copy them before it changes.

    Raises:
        ValueError: the bytes are not such an image.
    """
    try:
        (length,) = struct.unpack_from("<Q", source)
        if length > len(source) - 8:
            raise ValueError(f"the header claims {length} bytes, the image has {len(source)}")
        entries: dict[str, Any] = json.loads(bytes(source[8 : 8 + length]))
        metadata: dict[str, str] = entries.pop("__metadata__")
        tensors = _tensors(entries, source[8 + length :])
        return _fill(json.loads(metadata.pop("tree")), tensors), metadata
    except (struct.error, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"this is not the image of a state: {type(error).__name__}: {error}") from error


def _tensors(entries: Mapping[str, Any], body: memoryview) -> dict[str, Tensor]:
    """The tensors that the header describes, as views."""
    data = torch.frombuffer(body, dtype=torch.uint8) if len(body) else torch.empty(0, dtype=torch.uint8)
    tensors = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= len(body):
            raise ValueError(f"tensor {name} lies outside the image")
        tensors[name] = data[start:end].view(_BY_NAME[entry["dtype"]]).view(entry["shape"])
    return tensors


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The tree as JSON, with tensors taken out into `tensors` under their paths."""
    if isinstance(value, Tensor):
        if value.dtype not in DTYPES or value.layout != torch.strided:
            raise UserError(f"the state at {path} is a {value.dtype} {value.layout} tensor, which cannot be saved.")
        name = path
        while name in tensors or name == "__metadata__":  # the format keeps that name for itself
            name += "_"
        tensors[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, _PLAIN):
                raise UserError(f"the state at {path} has a key of type {type(key).__name__}, which cannot be saved.")
        return {
            "dict": [[key, _strip(item, f"{path}.{key}" if path else str(key), tensors)] for key, item in value.items()]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_strip(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]}
    if isinstance(value, _PLAIN):
        return value
    raise UserError(
        f"the state at {path} is a {type(value).__name__}, which cannot be saved: states may hold tensors, numbers, "
        "strings, None, and dicts, lists and tuples of them."
    )


def _fill(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _fill(item, tensors) for key, item in content}
    items = [_fill(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)
