"""`manyhands collective bench` as a user meets it."""

import re

import pytest
from support import cli

from manyhands.cli.collective_bench import bound, format_size, parse_size
from manyhands.cluster import preset
from manyhands.errors import UsageError


def test_times_two_ranks_beside_gloo():
    done = cli("collective", "bench", "--ranks", "2", "--sizes", "64KiB", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    heading, row = done.stdout.splitlines()[1:3]
    assert heading.split() == ["operation", "bytes", "least", "median", "MB/s", "gloo", "as", "fast"]
    assert row.startswith("all_reduce  64 KiB")
    rate, ratio = float(row.split()[-4].replace(",", "")), float(row.split()[-1].removesuffix("x"))
    assert rate >= 0  # in whole MB/s; a machine may stall
    assert ratio >= 0
    assert len(re.findall(r"[\d.]+ (?:µs|ms|s)\b", row)) == 3


@pytest.mark.parametrize("flags", [("--sizes", "much"), ("--operations", "sort"), ("--sizes", ""), ("--cluster", "no")])
def test_says_what_is_wrong(flags):
    done = cli("collective", "bench", *flags)
    assert done.returncode == 2
    assert flags[1] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64KiB", 65536), ("16MB", 16 * 10**6), ("2 GiB", 2 << 30), ("1k", 1000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "1.5", "-1", "0", "3 apples"])
def test_wrong_sizes(text):
    with pytest.raises(UsageError, match="--sizes"):
        parse_size(text)


def test_sizes_are_printed_in_whole_units():
    assert [format_size(n) for n in (65536, 16 << 20, 1000, 3 << 30)] == ["64 KiB", "16 MiB", "1,000 B", "3 GiB"]


def test_bound_of_a_mesh_is_known_in_closed_form():
    size, mesh = 10**6, preset("mesh-4")  # 6 cables, 3 cuts between 4 ranks: twice a cable's rate
    assert bound(mesh, "all_reduce", size) == pytest.approx(size / 50e6)
    assert bound(mesh, "broadcast", size) == pytest.approx(size / 75e6)
    assert bound(None, "all_reduce", size) is None
