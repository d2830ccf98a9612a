"""The page of a simulation, in a real browser; and the command that writes it."""

import json
import shutil

import pytest
from support import cli

from manyhands.jobs.history import history_page
from manyhands.jobs.policies import policy_of
from manyhands.jobs.simulator import World, figures, generate, simulate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTS = [4, 4]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    trace = generate(60, sum(HOSTS), seed=2, load=1.5)
    world = World(hosts=HOSTS)
    outcomes = {name: simulate(trace, world, policy_of(name)) for name in ("fifo", "las:100:1000")}
    path = tmp_path_factory.mktemp("page") / "page.html"
    rows = {name: figures(outcome) for name, outcome in outcomes.items()}
    path.write_text(history_page("</script><b>jobs", "about them", HOSTS, outcomes, rows))
    return path, outcomes


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_shows_who_held_which_slot(written):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path, outcomes = written
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 1300})
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        assert page.text_content("h1") == "</script><b>jobs"
        box = page.locator("#chart").bounding_box()
        for name, outcome in outcomes.items():
            page.select_option("#policy", name)
            end = max(stay.ended for stay in outcome.stays)
            stay = max(outcome.stays, key=lambda s: s.ended - s.began)
            middle = (stay.began + stay.ended) / 2
            x = 52 + middle / end * (box["width"] - 52)
            y = (stay.slots[0] + 0.5) * (box["height"] - 26) / sum(HOSTS)
            page.hover("#chart", position={"x": x, "y": y})
            count = len(stay.slots)
            said = page.text_content("#who")
            assert f"job-{stay.job}: {count} slot{'s' if count > 1 else ''}, from " in said, said
            page.locator("#chart").press("+")
            page.locator("#chart").press("ArrowRight")
            page.locator("#chart").press("Home")
        browser.close()
    assert complaints == []
    assert requests == [path.as_uri()], "nothing is fetched"


def test_the_command(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("submitted,workers,seconds,user\n0,2,10,a\n1,1,5,b\n2,9,1,b\n3,0,1,b\n")
    flags = ["--cluster", "2x2", "--policies", "fifo,las:5+consolidate", "--output", tmp_path / "out.html"]
    done = cli("simulate", trace, *flags)
    assert done.returncode == 0, done.stderr
    assert "1 that ask for no worker, or never ran, are left out" in done.stdout
    assert "1 that ask for more than 4 workers are refused" in done.stdout
    found = json.loads(cli("simulate", trace, *flags, "--json").stdout)
    assert found["policies"]["fifo"]["completion"]["mean"] == 7.5
    assert found["policies"]["fifo"]["makespan"] == 10
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")


WRONG = {
    "--policies fif": "--policies fif: there is no 'fif'",
    "--cluster 0x4": "no slot",
    "--cluster nowhere": "nowhere",
    "--jobs 0": "--jobs must be at least 1",
    "--load -1": "--load",
    "nowhere.csv": "columns submitted, workers, seconds",
    "--output jobs.json": "must end in .html",
}


@pytest.mark.parametrize("flags", WRONG)
def test_what_makes_no_sense_is_refused(flags):
    done = cli("simulate", *flags.split())
    assert done.returncode == 2, done.stderr
    assert WRONG[flags] in done.stderr
