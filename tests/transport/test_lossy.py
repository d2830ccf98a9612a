"""bf16 and int8 on the wire: the same bits on every rank, in both interpreters; nothing is lost over many rounds."""

import numpy as np
import pytest
import torch
from groups import joined, outcomes
from hypothesis import given
from hypothesis import strategies as st

from manyhands.collective.lossy import BLOCK
from manyhands.transport.interpreter.formats import decode_bf16, decode_int8, encode_bf16, encode_int8

SIZES = [1, 2, 255, 256, 257, 5001, 300_000]
FORMATS = {"bf16": (encode_bf16, decode_bf16), "int8": (encode_int8, decode_int8)}
LARGEST = 127 * 2.0**121
floats = st.lists(st.floats(-LARGEST, LARGEST, width=32), min_size=1, max_size=600)


def through(wire: str, value: np.ndarray, lost: np.ndarray | None = None) -> np.ndarray:
    encode, decode = FORMATS[wire]
    room = np.zeros(2 * len(value) + len(value) // BLOCK + 4, np.uint8)
    encode(room, value, lost)
    return decode(len(value), room)


@pytest.mark.parametrize("wire", FORMATS)
@given(floats)
def test_what_was_once_encoded_is_encoded_again_without_loss(wire, numbers):
    once = through(wire, np.array(numbers, np.float32))
    assert np.array_equal(through(wire, once), once, equal_nan=True)


@given(floats)
def test_int8_is_off_by_half_a_quantum_of_its_block_at_most(numbers):
    value = np.array(numbers, np.float32)
    decoded = through("int8", value)
    for start in range(0, len(value), BLOCK):
        block = value[start : start + BLOCK].astype(np.float64)
        quantum = 2 * max(np.abs(block).max() / 127, 2.0**-126)  # the next power of two
        assert (np.abs(decoded[start : start + BLOCK] - block) <= quantum / 2 * (1 + 1e-6)).all()


def test_bf16_is_torchs():
    value = torch.randn(10_000) * torch.logspace(-30, 30, 10_000)
    assert torch.equal(torch.from_numpy(through("bf16", value.numpy())), value.bfloat16().float())


@pytest.mark.parametrize("wire", FORMATS)
def test_what_is_not_finite_is_not_hidden(wire):
    for bad in (float("nan"), float("inf"), -float("inf")):
        value = np.ones(300, np.float32)
        value[270] = bad
        lost = np.zeros(300, np.float32)
        decoded = through(wire, value, lost)
        assert not np.isfinite(decoded[270]) and np.isfinite(decoded[:256]).all() and np.isfinite(lost).all()


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_rank_and_both_interpreters_have_the_same_bits(world, wire):
    results = {}
    for portable in (False, True):
        with joined(world, portable=range(world) if portable else ()) as groups:
            for size in SIZES[:-1] if portable else SIZES:
                rows = [torch.randn(size, generator=torch.Generator().manual_seed(r)) for r in range(world)]
                lost = [torch.zeros(size) for _ in rows]
                tensors = [row.clone() for row in rows]
                for g, t, m in zip(groups, tensors, lost, strict=True):
                    g.all_reduce(t, wire=wire, lost=m)
                outcomes([g.barrier() for g in groups])
                assert all(torch.equal(t, tensors[0]) for t in tensors)
                exact = torch.stack(rows).sum(0)
                assert (tensors[0] - exact).abs().max() <= (world + 1) * exact.abs().max().clamp(min=4) / (
                    127 if wire == "int8" else 200
                )
                now = [tensors[0], *lost]
                before = results.setdefault(size, now)
                assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True)), size


@pytest.mark.parametrize("wire", FORMATS)
def test_over_many_rounds_nothing_is_lost(wire):
    world, size, rounds = 3, 1000, 40
    with joined(world) as groups:
        rows = [torch.randn(size, generator=torch.Generator().manual_seed(r)) for r in range(world)]
        lost = [torch.zeros(size) for _ in rows]
        with_feedback, without = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        for _ in range(rounds):
            for keep, total in ((lost, with_feedback), ([None] * world, without)):
                tensors = [row.clone() for row in rows]
                futures = [g.all_reduce(t, wire=wire, lost=m) for g, t, m in zip(groups, tensors, keep, strict=True)]
                outcomes(futures)
                total += tensors[0]
        exact = torch.stack(rows).double().sum(0) * rounds
        assert (with_feedback - exact).abs().max() < 0.15 * (without - exact).abs().max()


def test_averages_and_what_is_refused():
    with joined(2) as groups:
        tensors = [torch.full((300,), float(r)) for r in range(2)]
        outcomes([g.all_reduce(t, "avg", wire="bf16") for g, t in zip(groups, tensors, strict=True)])
        assert all(torch.equal(t, torch.full((300,), 0.5)) for t in tensors)
        with pytest.raises(ValueError, match="only sums and averages of float32"):
            groups[0].all_reduce(torch.zeros(3), "max", wire="bf16")
        with pytest.raises(ValueError, match="only sums and averages of float32"):
            groups[0].all_reduce(torch.zeros(3, dtype=torch.float64), wire="int8")
        with pytest.raises(ValueError, match="`lost` must be another float32 tensor"):
            groups[0].all_reduce(torch.zeros(3), wire="int8", lost=torch.zeros(4))
