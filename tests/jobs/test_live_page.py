"""The page of a live controller, in a real browser."""

import re
import shutil

import pytest
from deadlines import DEADLINE
from support import Brake

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytest.importorskip("starlette", reason="starlette is not installed")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_follows_the_jobs(home, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    brake = Brake(tmp_path / "brake", 40, 0.01)
    url = re.search(r"page: (\S+)", home.up("--slots", 3))[1]
    first = home.submit("--workers", 2, "--name", "<b>first</b>", job=("--steps=44", *brake.job))
    home.until_job(first, "running", step=2)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 1400})
        complaints, hosts = [], set()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(url)
        assert "token" not in page.url, "it does not stay in the history"
        row = page.locator(f"tr[data-job='{first}']")
        row.get_by_text("running").wait_for()
        assert "<b>first</b>" in row.inner_text(), "a name is text"
        assert page.locator(".slot.free").count() == 1
        assert page.locator(".slot:not(.free)").count() == 2
        second = home.submit("--workers", 2, job=("--steps=4",))
        page.locator(f"tr[data-job='{second}']").get_by_text("waiting").wait_for()
        page.locator("#chart").hover(position={"x": 400, "y": 30})
        brake.release()
        page.locator(f"tr[data-job='{second}']").get_by_text("finished").wait_for(timeout=1000 * DEADLINE)
        page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        assert "1 <b>first</b>" in _hover_everywhere(page), "the chart knows who held a slot"
        page.get_by_label("also those that are over").uncheck()
        assert page.locator("tbody tr[data-job]").count() == 0
        home.do("down")
        page.get_by_text("the controller is gone").wait_for()
        assert hosts == {url.split("/")[2]}
        browser.close()
    assert [text for text in complaints if not re.search("ERR_CONNECTION_REFUSED|Failed to load", text)] == []


def _hover_everywhere(page) -> str:
    box = page.locator("#chart").bounding_box()
    for part in range(1, 20):
        page.locator("#chart").hover(position={"x": 60 + part * (box["width"] - 70) / 20, "y": 20})
        if page.text_content("#who").strip():
            return page.text_content("#who")
    return ""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_who_does_not_know_the_token_sees_nothing(home):
    import json
    import urllib.error
    import urllib.request

    home.up("--slots", 1)
    port = json.loads((home.path / "controller.json").read_text())["port"]
    for path, method in (("cluster", "GET"), ("history", "GET"), ("jobs", "POST"), ("jobs/1/cancel", "POST")):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", method=method)
        request.add_header("Authorization", "Bearer guess")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=DEADLINE)
        assert refused.value.code == 401
        refused.value.close()
    assert (home.path / "controller.token").stat().st_mode & 0o077 == 0
