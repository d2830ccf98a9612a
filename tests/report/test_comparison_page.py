"""The page that compares layouts, from figures made by hand."""

import re
from dataclasses import replace

import pytest

from manyhands.pipeline import even_costs, make_table, simulate
from manyhands.report.compare import comparison_page, crowded, findings, write_comparison
from manyhands.report.comparison import Comparison, Entry, Figures, idle_shares
from manyhands.report.figures import COLUMNS, error, shortened
from manyhands.timeline import Event


def figures(seconds, ranks=1, memory=4_000_000, sent=0):
    table = make_table("1f1b", ranks, 4) if ranks > 1 else make_table("vanilla", 1, 4)
    events = simulate(table, even_costs(ranks, seconds, seconds, seconds)).events
    values = {"idle": 0.25, "sent": sent, "operators": 100, "actions": 16, "memory": memory}
    each = {name: (value,) * ranks for name, value in values.items()}
    return Figures(seconds=seconds, events=events, **each)


def comparison(*entries):
    alone = Entry(layout="dp=1", directory="0-one-worker", measured=figures(0.4), same_bits=True)
    return Comparison(
        job_file="gpt.py",
        arguments="--text <mine>",
        steps=8,
        batch="32 in 8 micro-batches",
        machine="host, 2 cores",
        versions="torch 2",
        uncut="",
        busy_cores=1.0,
        cores=2,
        entries=(alone, *entries),
    )


RAN = Entry(
    layout="pp=2",
    directory="1-pp=2",
    measured=figures(0.2, 2, memory=2_000_000, sent=1000),
    predicted=figures(0.19, 2, memory=3_000_000, sent=1000),
    same_bits=True,
    stages=("token", "blocks.<2>"),
    table=make_table("1f1b", 2, 4),
)
ROUNDED = Entry(layout="tp=2", directory="2-tp=2", measured=figures(0.5, 2), predicted=figures(0.5, 2), difference=3e-7)
REFUSED = Entry(layout="pp=9", directory="3-pp=9", refusal="layout pp=9 is refused: <9> stages")


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S)))


def test_measured_and_predicted_stand_side_by_side():
    page = comparison_page(comparison(RAN, ROUNDED, REFUSED))
    text = text_of(page)
    assert "pp=2 200 ms 0.50x 190 ms -5 %" in text
    assert "1 kB 1 kB exact" in text and "2 MB 0.50x 3 MB +50 %" in text
    assert "same bits" in text and "3.0e-07" in text and "the reference" in text
    assert "pp=9 did not run. layout pp=9 is refused: &lt;9&gt; stages" in text
    assert "<mine>" not in page and "blocks.<2>" not in page
    assert page.count('class="pipeline-drawing"') == 1 + 2 + 2
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_findings_say_what_is_best():
    said = list(findings(comparison(RAN, ROUNDED, REFUSED)))
    assert said[0] == "pp=2 is the fastest: 200 ms a step, 2 times one worker's speed."
    assert said[1] == "pp=2 needs the least memory per worker: 2 MB, 50% of one worker's."
    assert said[2].startswith("1 of 2 end with one worker's weights") and "3.0e-07 at most (tp=2)" in said[2]
    assert said[3] == "Step times were predicted within 3% on average, 5% at worst."
    assert next(findings(comparison(ROUNDED))).startswith("One worker is the fastest")
    assert list(findings(comparison(REFUSED))) == ["No layout but one worker ran."]


def test_a_machine_that_was_busy_is_named():
    """Only where every worker could have had a core."""
    assert not crowded(comparison(replace(RAN, core_wait=0.05)))
    said = crowded(comparison(replace(RAN, core_wait=0.4)))
    assert "up to 40% of the time" in said and said in text_of(comparison_page(comparison(replace(RAN, core_wait=0.4))))
    many = replace(RAN, core_wait=0.4, measured=figures(0.2, 4))
    assert not crowded(comparison(many))


def test_the_page_is_written_whole(tmp_path):
    write_comparison(comparison(RAN), tmp_path / "compare.html")
    assert (tmp_path / "compare.html").read_text().endswith("</html>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["compare.html"]


def test_errors_are_ratios_but_for_shares():
    step, idle = COLUMNS[0], COLUMNS[1]
    assert (error(step, 0.9, 1.0), error(step, 1.0, 1.0), error(step, 1, 0)) == ("-10 %", "exact", "none measured")
    assert error(idle, 0.5, 0.25) == "+25 pts"


def test_idle_is_what_is_not_covered():
    spans = [(0, "forward", 0, 40), (0, "idle", 40, 100), (1, "backward", 20, 70), (1, "data", 60, 100)]
    events = [Event(rank, "worker", kind, start, end) for rank, kind, start, end in spans]
    assert idle_shares(events, 3) == (pytest.approx(0.6), pytest.approx(0.2), 1.0)
    assert idle_shares([], 1) == (0.0,)


def test_long_reasons_keep_their_ends():
    text = "what is wrong. " + "x" * 1000 + " what to do."
    assert shortened(text).startswith("what is wrong.") and shortened(text).endswith("what to do.")
    assert len(shortened(text)) < 450 and shortened("short") == "short"
