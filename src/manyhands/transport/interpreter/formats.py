"""The lossy wire formats in numpy: what machine.c does, bit for bit. See collective/lossy.py."""

from __future__ import annotations

import numpy as np

from manyhands.collective.lossy import BLOCK

Floats = np.ndarray
Bytes = np.ndarray


def encode_bf16(target: Bytes, left: Floats, right: Floats | None) -> None:
    """`target` = bf16 of `left` (+ `right`, which becomes what is lost)."""
    value = left if right is None else left + right
    bits = value.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(value)] = 0x7FC0
    target[: 2 * len(value)].view(np.uint16)[:] = rounded
    if right is not None:
        _keep(right, value, (rounded.astype(np.uint32) << 16).view(np.float32))


def decode_bf16(count: int, right: Bytes) -> Floats:
    """The numbers that `right` stands for."""
    return (right[: 2 * count].view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def encode_int8(target: Bytes, left: Floats, right: Floats | None) -> None:
    """`target` = blocks of an exponent and bytes, of `left` (+ `right`, which becomes what is lost)."""
    value = left if right is None else left + right
    at = 0
    for start in range(0, len(value), BLOCK):
        block = value[start : start + BLOCK]
        exponent = _exponent(np.max(np.abs(block)))
        scaled = np.rint(np.ldexp(block, -exponent)) if exponent < 127 else np.zeros_like(block)
        target[at] = np.int8(exponent).view(np.uint8)
        target[at + 1 : at + 1 + len(block)] = np.clip(scaled, -127, 127).astype(np.int8).view(np.uint8)
        at += 1 + len(block)
    if right is not None:
        _keep(right, value, decode_int8(len(value), target))


def decode_int8(count: int, right: Bytes) -> Floats:
    """The numbers that `right` stands for."""
    values = np.empty(count, np.float32)
    at = 0
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        exponent = int(right[at : at + 1].view(np.int8)[0])
        quanta = right[at + 1 : at + 1 + size].view(np.int8).astype(np.float32)
        values[start : start + size] = np.ldexp(quanta, exponent) if exponent < 127 else np.nan
        at += 1 + size
    return values


def _exponent(largest: np.float32) -> int:
    """The least e with largest <= 127 * 2**e; 127 for what is not finite, or would not be when decoded."""
    if not np.isfinite(largest):
        return 127
    fraction, exponent = np.frexp(np.float32(largest) / np.float32(127))
    if fraction == 0:
        return -126
    exponent = max(-126, int(exponent) - (fraction == 0.5))
    return exponent if exponent <= 121 else 127


def _keep(right: Floats, value: Floats, decoded: Floats) -> None:
    """What is lost; nothing where something is not finite, or it would never be finite again."""
    with np.errstate(invalid="ignore"):
        lost = value - decoded
    right[:] = np.where(np.isfinite(lost), lost, np.float32(0))
