"""Quantities as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.cluster import format_bandwidth, format_latency, parse_bandwidth, parse_latency
from manyhands.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25 MB/s", 25_000_000),
        ("25MB", 25_000_000),
        ("200 Mbit/s", 25_000_000),
        ("200Mb/s", 25_000_000),
        ("200Mbps", 25_000_000),
        ("1.5 GB/s", 1_500_000_000),
        ("100GBps", 100_000_000_000),
        ("1 MiB/s", 1_048_576),
        ("64 Kibit/s", 8192),
        (7, 7),
        ("1e6", 1_000_000),
        ("12 B/s", 12),
    ],
)
def test_bandwidths(text, value):
    assert parse_bandwidth(text) == value


@pytest.mark.parametrize("text", ["", "fast", "25 MX/s", "-3", "0", "1 bit/s", "0.5", True, "3 us", "1 mB/s"])
def test_what_is_no_bandwidth(text):
    with pytest.raises(UserError, match=r"bandwidth|bytes/s"):
        parse_bandwidth(text)


@pytest.mark.parametrize(
    ("text", "value"), [("10 us", 1e-5), ("10µs", 1e-5), ("0.5ms", 5e-4), ("2 s", 2.0), (0.25, 0.25), ("7ns", 7e-9)]
)
def test_latencies(text, value):
    assert parse_latency(text) == value


@pytest.mark.parametrize("text", ["soon", "3 MB/s", "-1", False, "1 h"])
def test_what_is_no_latency(text):
    with pytest.raises(UserError, match="latency"):
        parse_latency(text)


@given(st.integers(1, 10**15))
def test_bandwidths_are_read_back_exactly(value):
    assert parse_bandwidth(format_bandwidth(value)) == value


@given(st.floats(0, 1e4, allow_nan=False))
def test_latencies_are_read_back_exactly(value):
    assert parse_latency(format_latency(value)) == value


@given(st.integers(1, 10**15))
def test_rounded_for_reading(value):
    assert parse_bandwidth(format_bandwidth(value, digits=3)) == pytest.approx(value, rel=5e-3, abs=1)


def test_how_they_look():
    assert format_bandwidth(25_000_000) == "25 MB/s"
    assert format_bandwidth(78_857_142_857, digits=3) == "78.9 GB/s"
    assert format_bandwidth(999) == "999 B/s"
    assert format_latency(5e-05) == "50 us"
    assert format_latency(0.0) == "0 s"
