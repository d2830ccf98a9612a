"""Strangers at the door: pages of other ports, other names for this machine, and whoever has no token."""

import http.client
import http.server
import json
import re
import shutil
import threading

import pytest
from deadlines import DEADLINE

from manyhands.jobs.controller import Home
from manyhands.jobs.controller.web.door import refusal

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "t" * 32
OURS = {"host": "127.0.0.1:7420", "authorization": f"Bearer {TOKEN}", "content-type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json; charset=utf-8", "authorization": f"bearer {TOKEN}"},
        {"origin": "http://127.0.0.1:7420", "sec-fetch-site": "same-origin"},
        {"host": "localhost:9000", "origin": "http://localhost:9000", "sec-fetch-site": "same-origin"},
        {"host": "[::1]:9000"},
    ],
)
def test_who_is_let_in(headers):
    assert refusal("POST", OURS | headers, TOKEN) is None


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {"authorization": ""}),
        (401, {"authorization": "Bearer"}),
        (401, {"authorization": f"Basic {TOKEN}"}),
        (401, {"authorization": TOKEN}),
        (401, {"authorization": f"Bearer {TOKEN[1:]}"}),
        (401, {"authorization": "", "cookie": f"manyhands={TOKEN}"}),
        (401, {"authorization": "Bearer \xff"}),
        (403, {"host": ""}),
        (403, {"host": "[::1"}),
        (403, {"host": "attacker.example:7420"}),
        (403, {"host": "127.0.0.1.attacker.example"}),
        (403, {"host": "attacker.example", "origin": "http://attacker.example", "sec-fetch-site": "same-origin"}),
        (403, {"origin": "http://127.0.0.1:9977"}),
        (403, {"origin": "http://localhost:7420"}),
        (403, {"origin": "null"}),
        (403, {"sec-fetch-site": "same-site"}),
        (403, {"sec-fetch-site": "cross-site"}),
        (415, {"content-type": ""}),
        (415, {"content-type": "text/plain"}),
        (415, {"content-type": "text/plain; application/json"}),
    ],
)
def test_who_is_not(status, headers):
    found = refusal("POST", OURS | headers, TOKEN)
    assert found is not None and found.status == status


def test_what_changes_something_says_that_it_is_json():
    reads = {name: OURS[name] for name in ("host", "authorization")}
    assert refusal("GET", reads, TOKEN) is None
    assert refusal("POST", reads, TOKEN).status == 415


def test_other_names_for_this_machine_get_nothing(home):
    """A stranger's name that was made to lead here, by a page with the right token even."""
    home.up("--slots", 1)
    token = Home(home.path).read_secret()
    for path in ("/", "/api/cluster"):
        link = http.client.HTTPConnection("127.0.0.1", Home(home.path).published()["port"], timeout=DEADLINE)
        link.request("GET", path, headers={"Host": "attacker.example", "Authorization": f"Bearer {token}"})
        answer = link.getresponse()
        assert answer.status == 403 and b"attacker.example" in answer.read()
        link.close()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_page_of_another_port_gets_no_token_and_no_job(home, tmp_path):
    """The owner has the controller's page open, and then one of somebody else's server on this machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    url = re.search(r"page: (\S+)", home.up("--slots", 1))[1]
    victim = tmp_path / "victim.py"
    victim.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with Attacker(url.split("/")[2], victim) as attacker, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.get_by_text("live").wait_for()
        assert context.cookies() == []
        other = context.new_page()
        other.goto(attacker.url)
        other.locator("#done").wait_for(timeout=1000 * DEADLINE)
        found = json.loads(other.text_content("#done"))
        page.reload()
        page.get_by_text("live").wait_for()
        browser.close()
    assert attacker.cookies and set(attacker.cookies) == {None}
    assert found["tried"] == 9 and found["read"] == []
    assert home.show()["jobs"] == [] and not (tmp_path / "ran").exists()


class Attacker:
    """A server of another user, whose page tries what a page can: to submit a job, to read, and to get the token."""

    def __init__(self, target: str, file) -> None:
        body = {"file": str(file), "arguments": [], "cwd": "/tmp", "name": "x", "user": "mallory"}
        body |= {"least": 1, "most": 1}
        cookies = self.cookies = []
        html = _PAGE.replace("TARGET", json.dumps(f"http://{target}")).replace("JOB", json.dumps(body)).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                cookies.append(self.headers.get("Cookie"))
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(html)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


_PAGE = """<!doctype html><title>a notebook</title><body><script>
const target = TARGET, job = JOB, read = [];
let tried = 0;
const submission = () => JSON.stringify({...job, key: 'case' + ++tried});
async function attempt(path, options) {
  try {
    const answer = await fetch(target + path, {credentials: 'include', ...options});
    if (answer.type !== 'opaque') read.push(await answer.text());
  } catch (error) { /* the browser keeps the answer from us */ }
}
async function framed(path) {
  const frame = document.createElement('iframe');
  const loaded = new Promise(done => frame.onload = done);
  frame.src = target + path;
  document.body.append(frame);
  await loaded;
  tried++;
  try { if (frame.contentDocument) read.push(frame.contentDocument.body.innerText); } catch (error) { }
}
function form() {  // text/plain, whose one field reads as JSON
  const form = document.createElement('form'), field = document.createElement('input');
  const frame = document.createElement('iframe');
  frame.name = 'into'; document.body.append(frame);
  Object.assign(form, {method: 'post', action: target + '/api/jobs', enctype: 'text/plain', target: 'into'});
  field.name = submission().slice(0, -1) + ',"flags":{"x":"'; field.value = '"}}';
  form.append(field); document.body.append(form);
  const loaded = new Promise(done => frame.onload = done);
  form.submit();
  return loaded;
}
(async () => {
  for (const mode of ['no-cors', 'cors']) {
    await attempt('/api/jobs', {method: 'POST', mode, body: submission()});
    const typed = {method: 'POST', mode, body: submission(), headers: {'Content-Type': 'application/json'}};
    await attempt('/api/jobs', typed);
    await attempt('/api/cluster', {mode}); tried++;
  }
  await form();
  await framed('/');
  await framed('/api/cluster');
  const done = document.createElement('p');
  done.id = 'done'; done.textContent = JSON.stringify({tried, read});
  document.body.append(done);
})();
</script>"""
