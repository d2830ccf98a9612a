"""Inputs that every rank can compute for every other, in all dtypes and memory layouts."""

import torch

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
COMPLEX = [torch.complex64, torch.complex128]
FLOATS8 = [torch.float8_e4m3fn, torch.float8_e5m2]
EVERY = [*FLOATS, *INTEGERS, *UNSIGNED, *COMPLEX, *FLOATS8, torch.bool]

GLOO = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int32, torch.int64]
"""What gloo can add."""

LAYOUTS = ["contiguous", "transposed", "strided", "negated"]


def values(dtype, shape, rank, seed=0):
    """The same on every machine: a function of the arguments."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    if dtype.is_complex:
        return torch.randn(shape, dtype=dtype, generator=generator)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 5, shape, generator=generator).to(dtype)


def laid_out(tensor, layout):
    """An equal tensor whose elements lie differently in memory."""
    if layout == "contiguous" or tensor.dim() == 0:
        return tensor.clone()
    if layout == "transposed":
        return tensor.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)
    if layout == "strided":
        roomy = tensor.repeat_interleave(2, dim=-1)
        return roomy[..., ::2]
    if tensor.dtype in (torch.float32, torch.float64):  # a view that reads as the negative of its memory
        return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    return tensor.clone()


def assert_same(actual, expected, exact, context):
    """Bit for bit, or as close as sums in another order are."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, context
    if exact or not (actual.is_floating_point() or actual.is_complex()):
        plain = torch.uint8 if actual.dtype.itemsize == 1 else actual.dtype
        same = torch.equal(actual.resolve_neg().contiguous().view(plain), expected.contiguous().view(plain))
    else:
        tolerance = {torch.float16: 1e-2, torch.bfloat16: 6e-2}.get(actual.dtype, 1e-5)
        same = torch.allclose(actual, expected, rtol=tolerance, atol=tolerance)
    assert same, f"{context}: {actual} is not {expected}"
