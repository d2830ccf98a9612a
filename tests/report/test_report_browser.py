"""The report in a real browser: nothing is fetched, everything is seen, and the controls work."""

import shutil

import pytest
from test_report import make_run

from manyhands.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = make_run(tmp_path_factory.mktemp("report") / "run", steps=900)
    write_report(directory)
    return directory.report.as_uri()


@pytest.fixture(params=[("light", 1200), ("dark", 500)], ids=["light-wide", "dark-narrow"])
def page(request, browser, report):
    """The opened report; fails if it asked for anything or complained."""
    scheme, width = request.param
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report)
    yield page
    page.close()
    assert requests == [report]
    assert complaints == []


def shown(page, selector):
    """Whether a line is drawn; to Playwright what has no width is never visible."""
    return page.locator(selector).first.evaluate("element => getComputedStyle(element).visibility") == "visible"


def test_every_drawing_is_seen(page):
    drawings = page.locator("svg").all()
    assert len(drawings) > 10
    for drawing in drawings:
        box = drawing.bounding_box()
        assert drawing.is_visible() and box["width"] > 0 and box["height"] > 0


def test_nothing_sticks_out_of_the_page(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_readout_follows_the_pointer(page):
    drawing, readout = page.locator("#loss .drawing").first, page.locator("#loss .readout").first
    at_rest = readout.inner_text()
    box = drawing.bounding_box()
    drawing.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert readout.inner_text().startswith(("steps 44", "steps 45"))
    assert shown(page, "#loss .cross")
    page.locator("h1").hover()
    assert readout.inner_text() == at_rest and not shown(page, "#loss .cross")


def test_the_readout_follows_the_arrow_keys(page):
    drawing, readout = page.locator("#loss .drawing").first, page.locator("#loss .readout").first
    drawing.focus()
    page.keyboard.press("Home")
    assert readout.inner_text().startswith("steps 1 to 2: 1.5")
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("steps 3 to 4:")


def test_another_step_can_be_chosen(page):
    stage, select = page.locator("#stage"), page.locator(".chooser select")
    first = stage.inner_html()
    select.select_option(index=0)
    assert stage.inner_html() != first and page.get_by_role("button", name="Previous").is_disabled()
    before = stage.inner_html()
    page.get_by_role("button", name="Next").click()
    assert stage.inner_html() != before and select.evaluate("select => select.selectedIndex") == 1
    page.get_by_role("button", name="Previous").click()
    assert stage.inner_html() == before


def test_a_span_tells_what_it_is(page):
    page.locator("#stage .lane rect.p1").first.hover()
    assert page.locator("#span").inner_text().startswith("worker 0, forward of micro-batch 1:")
