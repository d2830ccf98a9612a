"""Traces that other programs read, whole or not at all."""

import gzip
import json

import pytest

from manyhands.timeline import Event, chrome_trace, read_chrome_trace, write_chrome_trace

EVENTS = [
    Event(0, "worker", "forward", 5_000, 7_500, 0, 3, 1),
    Event(1, "worker", "exchange", 6_000, 9_000, 4096, 3),
    Event(0, "network", "exchange", 7_500, 8_000, 12, 3),
]


def spans(records):
    return [record for record in records if record["ph"] == "X"]


def test_events_become_complete_events_in_microseconds():
    first, second, third = spans(chrome_trace(EVENTS, origin=5_000))
    assert (first["name"], first["ts"], first["dur"], first["pid"]) == ("forward", 0.0, 2.5, 0)
    assert first["args"] == {"step": 3, "micro_batch": 1}
    assert (second["ts"], second["dur"], second["pid"]) == (1.0, 3.0, 1)
    assert second["args"] == {"step": 3, "bytes": 4096}
    assert third["pid"] == 0 and third["tid"] != first["tid"]


def test_every_lane_has_a_name():
    records = chrome_trace(EVENTS)
    names = {(r["pid"], r["tid"]): r["args"]["name"] for r in records if r["name"] == "thread_name"}
    assert {key: names[key] for key in {(s["pid"], s["tid"]) for s in spans(records)}} == names
    assert sorted(names.values()) == ["network", "worker", "worker"]
    assert {r["args"]["name"] for r in records if r["name"] == "process_name"} == {"worker 0", "worker 1"}


def test_the_first_micro_batch_is_named_like_the_others():
    records = chrome_trace([Event(0, "worker", "forward", 0, 1, 0, 0, index) for index in range(3)])
    assert [span["args"].get("micro_batch") for span in spans(records)] == [0, 1, 2]


def test_what_was_written_is_read_and_earlier_records_come_first(tmp_path):
    path = tmp_path / "timeline.json.gz"
    write_chrome_trace(path, EVENTS)
    earlier = read_chrome_trace(path)
    write_chrome_trace(path, EVENTS, 0, earlier)
    both = json.loads(gzip.decompress(path.read_bytes()))
    assert both[: len(earlier)] == earlier and len(spans(both)) == 6
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_trace(tmp_path):
    path = tmp_path / "timeline.json.gz"
    write_chrome_trace(path, EVENTS)
    before = path.read_bytes()

    def breaks():
        yield EVENTS[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_chrome_trace(path, breaks())
    assert path.read_bytes() == before


def test_a_missing_or_damaged_trace_is_empty(tmp_path):
    path = tmp_path / "timeline.json.gz"
    assert read_chrome_trace(path) == []
    write_chrome_trace(path, EVENTS * 20)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 3):
        path.write_bytes(whole[:cut])
        assert read_chrome_trace(path) == []
    for position in range(len(whole) - 8):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        assert isinstance(read_chrome_trace(path), list)
