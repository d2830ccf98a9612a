"""`manyhands collective` as a user meets it."""

import json
import re

import pytest

from manyhands.cli.main import main
from manyhands.collective.formats import read_msccl


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """The command in this process: its exit code and what it printed."""
    with pytest.raises(SystemExit) as ended:
        main(["collective", *map(str, arguments)])
    out = capsys.readouterr()
    return int(ended.value.code or 0), out.out, out.err


def planned(capsys, *arguments: object) -> dict:
    code, out, err = run(capsys, "plan", "--json", *arguments)
    assert code == 0, err
    return json.loads(out)


def test_plan_of_the_published_triangle(capsys):
    facts = planned(capsys, "--cluster", "dgx1v", "--devices", "0,1,2")
    assert facts["rate"] == facts["bound"] == 46e9
    assert facts["members"] == ["gpu0", "gpu1", "gpu2"] and facts["idle_links"] == 0
    assert sum(tree["share"] for tree in facts["trees"]) == pytest.approx(1)
    assert [row["bytes"] for row in facts["predicted"]] == [4096 * 16**i for i in range(5)]
    assert facts["predicted"][-1]["seconds"] == pytest.approx(2**28 / 46e9, rel=0.2)
    assert facts["predicted"][-1]["ring_seconds"] > 1.5 * facts["predicted"][-1]["seconds"]


def test_plan_in_words(capsys):
    code, out, _ = run(capsys, "plan", "--cluster", "mesh-4", "--algorithm", "ring")
    assert code == 0
    assert "all_reduce on mesh-4: ring, 4 trees" in out
    assert "rate   16.67 MB/s" in out and "bound  50 MB/s, of which this is 33.3%" in out
    assert "hosts {h0} | {h1} | {h2} | {h3}: 150 MB/s between them" in out
    assert "links  8 of 12 idle" in out
    assert re.search(r"16,777,216 +1.01 s +1.01 s", out)


def test_links_and_names(capsys):
    nvlink = planned(capsys, "--cluster", "dgx1v", "--devices", "gpu5,gpu1", "--algorithm", "star")
    every = planned(capsys, "--cluster", "dgx1v", "--devices", "5,1", "--links", "pcie,qpi", "--algorithm", "star")
    assert nvlink["members"] == every["members"] == ["gpu5", "gpu1"]
    assert nvlink["rate"] > 3 * every["rate"]


def test_auto_says_why(capsys):
    facts = planned(capsys, "--cluster", "mesh-4", "--algorithm", "auto")
    assert "ring leaves 8 of 12 links idle" in facts["reason"]
    code, out, _ = run(capsys, "plan", "--cluster", "star-8", "--algorithm", "auto", "--size", 64)
    assert code == 0 and "latency decides" in out


def test_canonical_has_a_price(capsys):
    free = planned(capsys, "--cluster", "star-8", "--algorithm", "ring")
    bound = planned(capsys, "--cluster", "star-8", "--algorithm", "ring", "--canonical")
    assert bound["rate"] < free["rate"] and bound["predicted"][-1]["seconds"] > free["predicted"][-1]["seconds"]


@pytest.mark.parametrize("operation", ["reduce_scatter", "all_gather", "broadcast", "reduce"])
def test_other_operations(capsys, operation):
    facts = planned(capsys, "--cluster", "star-4", "--operation", operation)
    assert facts["operation"] == operation and facts["rate"] == pytest.approx(facts["bound"])


def test_helpers_take_part(capsys):
    facts = planned(capsys, "--cluster", "star-4+2", "--algorithm", "helpers")
    assert facts["helpers"] == ["helper0", "helper1"] and facts["rate"] == pytest.approx(25e6 / 1.2)


def test_broadcast_from_another_root(capsys):
    facts = planned(capsys, "--cluster", "mesh-4", "--operation", "broadcast", "--root", "2")
    assert {tree["root"] for tree in facts["trees"]} == {"h2"} and facts["rate"] == 75e6


def test_files_are_written_and_verified(capsys, tmp_path):
    xml, traces = tmp_path / "deep" / "plan.xml", tmp_path / "traces"
    code, _, err = run(capsys, "plan", "--cluster", "dgx1v", "--max-trees", 8, "--msccl", xml, "--chakra", traces)
    assert code == 0, err
    assert sorted(path.name for path in traces.iterdir()) == [f"packed.{rank}.et" for rank in range(8)]
    code, out, _ = run(capsys, "verify", xml)
    assert code == 0 and "packed is a correct all_reduce of 8 ranks" in out
    text = xml.read_text()
    first = re.search(r'type="rrc"', text)
    wrong = tmp_path / "wrong.xml"
    wrong.write_text(text[: first.start()] + 'type="r"' + text[first.end() :])
    read_msccl(wrong.read_text())
    code, out, err = run(capsys, "verify", wrong)
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "wrong.xml is not a correct all_reduce: rank " in err


@pytest.mark.parametrize("suffix", ["html", "svg"])
def test_drawings_are_written(capsys, tmp_path, suffix):
    out = tmp_path / f"plan.{suffix}"
    code, printed, err = run(capsys, "draw", "--cluster", "dgx1v", "--devices", "0,1,2,4,5", "--output", out)
    assert (code, printed) == (0, f"{out}\n"), err
    assert "7 of 12 links idle" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("plan", "--cluster", "nowhere"), 2, "neither a preset nor a file"),
        (("plan", "--cluster", "dgx1v", "--devices", "0,8"), 2, "--devices 8: dgx1v has gpu0"),
        (("plan", "--cluster", "dgx1v", "--devices", "0,gpu0"), 2, "names a device twice"),
        (
            ("plan", "--cluster", "dgx1v", "--links", "string"),
            2,
            "--links string: dgx1v has links of kind nvlink, pcie",
        ),
        (("plan", "--cluster", "dgx1v", "--devices", "0,5"), 1, "gpu"),
        (("plan", "--cluster", "mesh-4", "--root", "1"), 2, "all_reduce has no root"),
        (("plan", "--cluster", "mesh-4", "--algorithm", "butterfly"), 1, "no algorithm butterfly. Algorithms: ring"),
        (("plan", "--cluster", "star-3+1", "--algorithm", "helpers", "--msccl", "x.xml"), 1, "MSCCL has no helpers"),
        (("draw", "--cluster", "mesh-4", "--output", "x.png"), 2, "must end in .html or .svg"),
        (("draw", "--cluster", "mesh-1"), 2, "1 ranks cannot be drawn"),
        (("draw", "--cluster", "mesh-4", "-o", "/proc/x.html"), 1, "cannot write /proc/x.html"),
        (("verify", "/nowhere.xml"), 2, "cannot read /nowhere.xml"),
        (("verify", "/bin/sh"), 1, "/bin/sh is not text"),
    ],
)
def test_wrong_usage(capsys, arguments, code, words):
    ended, out, err = run(capsys, *arguments)
    assert ended == code and words in err, err
