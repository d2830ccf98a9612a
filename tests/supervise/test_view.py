"""What a run says when nobody is there to read it."""

import io
import sys

from manyhands.supervise.view import View


class Gone(io.StringIO):
    """A terminal that went away."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


def test_a_reader_that_has_gone_ends_nothing(tmp_path, monkeypatch):
    for number, error in enumerate((BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error"))):
        monkeypatch.setattr(sys, "stderr", Gone(error))
        view = View(tmp_path / f"log{number}")
        view.note("the first")
        view.printed("worker 0", "a line")
        view.step(1, 2, 0.5, 8, 1, last=True)
        view.note("the last")
        view.close()
        text = (tmp_path / f"log{number}").read_text()
        assert "the first" in text and "[worker 0] a line" in text and "the last" in text


def test_the_log_takes_any_letter_in_any_locale(tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    view = View(tmp_path / "log")
    view.printed("worker 0", "épôque \udc80")
    view.close()
    assert "épôque \\udc80" in (tmp_path / "log").read_text(encoding="utf-8")


def test_a_flood_of_lines_is_in_the_log_and_not_on_the_terminal(tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    view = View(tmp_path / "log")
    for number in range(20_000):
        view.printed("worker 0", f"line {number} [bold]")
    view.note("something else")
    view.close()
    logged, shown = (tmp_path / "log").read_text().splitlines(), terminal.getvalue().splitlines()
    assert len(logged) == 20_001 and logged[19_999].endswith("[worker 0] line 19999 [bold]")
    assert shown[0] == "[worker 0] line 0 [bold]" and len(shown) < 2000
    left_out = [int(line.split()[1].replace(",", "")) for line in shown if "are left out here" in line]
    assert sum(left_out) + sum("[worker 0]" in line for line in shown) == 20_000
    assert any("something else" in line for line in shown)


def test_a_terminal_that_knows_few_letters(tmp_path, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    view = View(tmp_path / "log")
    view.printed("worker 0", "épôque")
    view.close()
    assert raw.getvalue() == b"[worker 0] \\xe9p\\xf4que\n"
