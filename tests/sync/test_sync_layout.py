"""Tensors in buckets, buckets in a region: nothing overlaps, nothing is left out."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from manyhands.sync import lay_out

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
rows = st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=12)


def tensors_of(row):
    return [torch.zeros(shape, dtype=dtype) for shape, dtype in row]


@given(rows, st.sampled_from([1, 64, 200, 4 << 20]), st.integers(-1, 12))
def test_items_lie_aligned_and_apart(row, bucket_bytes, boundary):
    tensors = tensors_of(row)
    layout = lay_out(tensors, bucket_bytes, boundary)
    assert layout.size % 64 == 0
    used = []
    for bucket in layout.buckets:
        assert bucket.offset % 64 == 0 and bucket.offset + bucket.size <= layout.size
        for item, start in zip(bucket.items, bucket.starts, strict=True):
            assert tensors[item].dtype is bucket.dtype
            begin = bucket.offset + start * bucket.dtype.itemsize
            end = begin + tensors[item].numel() * bucket.dtype.itemsize
            assert begin % 64 == 0 and bucket.offset <= begin and end <= bucket.offset + bucket.size
            used.append((begin, end))
    assert sorted(item for bucket in layout.buckets for item in bucket.items) == list(range(len(row)))
    used.sort()
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(used))
    ends = sorted((bucket.offset, bucket.offset + bucket.size) for bucket in layout.buckets)
    assert [end for _, end in ends] == [start for start, _ in ends[1:]] + [layout.size]


@given(rows, st.integers(0, 12))
def test_no_bucket_crosses_the_boundary(row, boundary):
    for bucket in lay_out(tensors_of(row), 4 << 20, boundary).buckets:
        assert len({item < boundary for item in bucket.items}) == 1


@given(rows, st.sampled_from([64, 500]))
def test_buckets_close_when_full(row, bucket_bytes):
    tensors = tensors_of(row)
    for bucket in lay_out(tensors, bucket_bytes).buckets:
        before_the_last = sum(tensors[item].numel() * bucket.dtype.itemsize for item in bucket.items[:-1])
        assert before_the_last < bucket_bytes
        assert list(bucket.items) == sorted(bucket.items)


@given(rows)
def test_views_write_where_flats_read(row):
    tensors = tensors_of(row)
    layout = lay_out(tensors, 200)
    region = torch.zeros(layout.size, dtype=torch.uint8)
    for item, view in enumerate(layout.views(region)):
        assert view.shape == tensors[item].shape and view.dtype is tensors[item].dtype
        view.fill_(item + 1)
    for bucket, flat in zip(layout.buckets, layout.flats(region), strict=True):
        expected = torch.zeros(bucket.numel, dtype=bucket.dtype)
        for item, start in zip(bucket.items, bucket.starts, strict=True):
            expected[start : start + tensors[item].numel()] = item + 1
        assert torch.equal(flat, expected)
