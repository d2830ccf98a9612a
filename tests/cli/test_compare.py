"""`manyhands compare`, as a user has it: one comparison of real runs, and what is refused."""

from types import SimpleNamespace

import pytest
from support import ROOT, cli

from manyhands.cli.compare import exit_code
from manyhands.compare import Links, predict
from manyhands.compare.measured import Trial, links_of, measured, profile_of
from manyhands.compare.weights import difference
from manyhands.plan import Layout
from manyhands.run import RunDirectory, read_json

SLEEPING = ROOT / "tests" / "compare" / "sleeping.py"
LAYOUTS = ("dp=1", "dp=2", "pp=2,schedule=zb-h1")
REFUSED = "dp=8"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    text = ";".join([*LAYOUTS[1:], REFUSED])
    return folder, cli("compare", SLEEPING, "--layouts", text, "--steps", 4, "--run-dir", folder / "all")


@pytest.fixture(scope="module")
def trials(runs):
    names = ["0-one-worker", *(f"{number}-{text}" for number, text in enumerate(LAYOUTS) if number)]
    found = []
    for text, name in zip(LAYOUTS, names, strict=True):
        directory = RunDirectory(runs[0] / "all" / name)
        found.append(Trial(Layout.parse(text), directory, read_json(directory.result)))
    return found


def test_every_layout_is_in_the_table_and_on_the_page(runs):
    folder, done = runs
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "compare.html" in done.stderr
    page = (folder / "all" / "compare.html").read_text()
    for text in (*LAYOUTS[1:], REFUSED):
        assert text in done.stdout and text in page
    reason = "8 replicas cannot share 4 micro-batches"
    assert reason in page.replace("workers", "replicas") and reason in done.stdout.replace("workers", "replicas")
    assert "All layouts end with one worker's weights, bit for bit." in done.stdout
    assert "predicted" in page and "measured" in page


def test_what_is_counted_was_foreseen(trials):
    """Actions exactly, bytes but for the control messages; what depends on the machine is merely there."""
    alone = trials[0]
    settings = read_json(alone.directory.run)
    links = links_of(trials)
    assert isinstance(links, Links) and min(vars(links).values()) > 0
    for trial in trials[1:]:
        profile = profile_of(alone, settings, trial.layout.stages)
        seen = measured(trial)
        foreseen = predict(trial.layout, trial.figures[0]["cuts"] or (0,), profile, links)
        assert seen.actions == foreseen.actions
        for sent, expected in zip(seen.sent, foreseen.sent, strict=True):
            assert expected <= sent <= expected + 2000
        for calls, expected in zip(seen.operators, foreseen.operators, strict=True):
            assert abs(calls - expected) <= 0.3 * calls
        assert len(seen.idle) == len(seen.memory) == 2 and all(0 <= share < 1 for share in seen.idle)
        assert {event.rank for event in seen.events} == {0, 1} and seen.seconds > 0
        assert difference(alone, trial) == (0.0, True)


def test_a_short_run_is_a_run(trials):
    """It can be looked at like any other, and stands at the step that it was given."""
    for trial in trials:
        assert (trial.result["status"], trial.result["steps"], trial.result["durable_step"]) == ("finished", 4, 4)
        assert trial.directory.report.exists()


def test_exit_codes():
    def ran(*which):
        entries = [SimpleNamespace(measured=object() if done else None) for done in (True, *which)]
        return exit_code(SimpleNamespace(entries=entries))

    assert (ran(True), ran(False, True), ran(False, False), ran()) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--layouts", "dp=2;pp=0"), ["pp=0", "at least 1"]),
        (("--layouts", "dp=2", "--steps", "3"), ["--steps", "at least 4"]),
    ],
)
def test_wrong_flags_are_refused_before_anything_runs(flags, words, tmp_path):
    done = cli("compare", SLEEPING, *flags, "--run-dir", tmp_path / "no")
    assert done.returncode == 2 and not (tmp_path / "no").exists()
    for word in words:
        assert word in done.stderr
