"""`manyhands cluster`."""

import json

import pytest

from manyhands.cli.main import main
from manyhands.cluster import parse_toml, preset


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """In this process, which saves a second's start each."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_show_as_a_table(capsys):
    code, out, _ = run(capsys, "cluster", "show", "star-2+1:25MB,5MB")
    assert code == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()]
    assert "star-2+1:25MB,5MB: 2 hosts, 1 helper, 1 switch" in out
    assert ["h0 <-> switch", "25 MB/s", "50 us", "ethernet", ""] in rows
    assert ["h1 <-> switch", "5 MB/s", "50 us", "ethernet", ""] in rows
    assert ["switch", "switch", "", "forwards"] in rows
    assert ["helper0", "helper", "", "adds, copies"] in rows


def test_links_that_differ_by_direction_have_a_line_each(capsys, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(
        'nodes = [{name="a", kind="host"}, {name="b", kind="host"}]\n'
        'links = [{from="a", to="b", bandwidth=1000}, {from="b", to="a", bandwidth="2 kB/s", latency="1 ms"}]\n'
    )
    _, out, _ = run(capsys, "cluster", "show", str(path))
    assert "a --> b" in out
    assert "b --> a" in out
    assert "<->" not in out


def test_show_as_json_and_toml(capsys):
    _, out, _ = run(capsys, "cluster", "show", "dgx1v", "--json")
    told = json.loads(out)
    assert told["name"] == "dgx1v"
    assert len(told["nodes"]) == 14
    assert {
        "source": "gpu0",
        "target": "gpu3",
        "bandwidth": 46 * 10**9,
        "latency": 2e-6,
        "kind": "nvlink",
        "rail": "",
    } in (told["links"])
    _, out, _ = run(capsys, "cluster", "show", "dgx1v", "--toml")
    assert parse_toml(out) == preset("dgx1v")


def test_presets(capsys):
    code, out, _ = run(capsys, "cluster", "presets")
    assert code == 0
    assert "two-rail-N" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cluster", "show", "office"), "office is neither a preset nor a file"),
        (("cluster", "show", "mesh-0"), "at least 1 host"),
        (("cluster", "show", "mesh-2", "--json", "--toml"), "exclude each other"),
        (("lab", "mesh-2"), "give the command to run behind --"),
        (("lab", "mesh-2", "--scale", "0", "--", "true"), "--scale must be positive"),
        (("lab", "nowhere", "--", "true"), "neither a preset nor a file"),
    ],
)
def test_wrong_usage(capsys, arguments, words):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
