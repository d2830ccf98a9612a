"""The drawing of a pipeline step: a box for each action, where and as long as it was, and the pages that show it."""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from manyhands.pipeline import SCHEDULES, Costs, Transfer, even_costs, make_table, simulate
from manyhands.report.pipeline import WIDTH, draw
from manyhands.timeline import Event

DOCS = Path(__file__).parents[2] / "docs"
SVG = "{http://www.w3.org/2000/svg}"


def lanes(drawing):
    """(label, idle share as written, [(class, left, width, tooltip)]) of each rank."""
    found = []
    for group in ElementTree.fromstring(drawing).iter(f"{SVG}g"):
        texts = {text.get("class"): text.text for text in group.iter(f"{SVG}text")}
        boxes = [
            (rect.get("class"), float(rect.get("x")), float(rect.get("width")), rect.findtext(f"{SVG}title"))
            for rect in group.iter(f"{SVG}rect")
        ]
        found.append((texts["pd-side"], texts["pd-share"], boxes))
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_action_is_a_box_in_its_place(name):
    table = make_table(name, 3, 5)
    simulation = simulate(table, even_costs(table.stages))
    drawn = lanes(draw(simulation.events, table))
    assert [label for label, _, _ in drawn] == ["rank 0", "rank 1", "rank 2"]
    unit = None
    for rank, (_, share, boxes) in enumerate(drawn):
        idle, *actions = boxes
        assert idle[0] == "pd-idle" and share == f"{100 * simulation.idle[rank]:.0f} % idle"
        unit = idle[2] / simulation.seconds
        mine = [event for event in simulation.events if event.rank == rank]
        assert len(actions) == len(mine) == len(table.ranks[rank])
        for (kind, left, width, words), event, action in zip(actions, mine, table.ranks[rank], strict=True):
            assert left == pytest.approx(idle[1] + unit * event.start / 1e9, abs=0.11)
            assert width == pytest.approx(unit * (event.end - event.start) / 1e9, abs=0.11)
            assert words.startswith(f"{action}, ")
            chunk = table.stages_of(rank).index(action.stage)
            assert kind == f"pd-{action.kind.lower()}" + (f" pd-c{chunk}" if chunk else "")
    assert unit is not None


def test_idle_is_what_no_work_covers():
    events = [
        Event(0, "worker", "forward", 100, 200, micro_batch=0),
        Event(0, "other", "backward", 150, 300, micro_batch=0),
        Event(0, "worker", "idle", 300, 500),
        Event(0, "send", "forward", 300, 500, 7, micro_batch=0),
        Event(3, "worker", "optimizer", 450, 500),
    ]
    drawn = draw(events, title="a <step>")
    assert [(label, share) for label, share, _ in lanes(drawn)] == [("rank 0", "50 % idle"), ("rank 3", "88 % idle")]
    assert [kind for kind, *_ in lanes(drawn)[0][2]] == ["pd-idle", "pd-f", "pd-b", "pd-s"]
    assert [kind for kind, *_ in lanes(drawn)[1][2]] == ["pd-idle", "pd-o"]
    assert lanes(drawn)[0][2][3][3] == "sends values of micro-batch 0, 7 bytes"
    assert "a &lt;step&gt;: " in drawn and "69 % idle" in drawn


def test_drawings_can_share_a_scale():
    table = make_table("1f1b", 2, 2)
    simulation = simulate(table, even_costs(2))
    alone, half = (lanes(draw(simulation.events, table, seconds=s)) for s in (None, 2 * simulation.seconds))
    assert alone[0][2][0][2] == pytest.approx(2 * half[0][2][0][2], abs=0.1)


def test_events_of_another_table_are_drawn_without_its_stages():
    events = simulate(make_table("1f1b", 2, 3), even_costs(2)).events
    other = lanes(draw(events, make_table("gpipe", 2, 3)))
    assert other[0][2][1][3].startswith("forward, micro-batch 0: 1 s from 0")
    assert not any("F" in words for _, _, boxes in other for *_, words in boxes if words)


def test_numbers_stand_where_they_fit_and_the_legend_names_what_is_there():
    table = make_table("zb-h1", 2, 12)
    costs = Costs(forward=(1, 1), input=(1, 1), weight=(0.01, 0.01), send_forward=(Transfer(0.5, 0, 8),))
    drawn = draw(simulate(table, costs).events, table)
    root = ElementTree.fromstring(drawn)
    numbers = [text.text for text in root.iter(f"{SVG}text") if "pd-number" in text.get("class")]
    assert sorted(map(int, numbers)) == sorted([*range(12)] * 4)  # F and I of two ranks; W is too narrow
    keys = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "pd-key"]
    assert keys == ["forward", "input gradient", "weight gradient", "sending", "idle"]
    for rect in root.iter(f"{SVG}rect"):
        left, width = float(rect.get("x")), float(rect.get("width"))
        assert left >= 0 and left + width <= WIDTH


def test_nothing_cannot_be_drawn():
    with pytest.raises(ValueError, match="no events to draw"):
        draw([Event(0, "worker", "idle", 0, 5)])


def test_colours_are_defined_for_light_and_dark():
    drawn = draw([Event(0, "compute", "forward", 0, 5, micro_batch=1)])
    light, dark = re.search(r"(.*)@media \(prefers-color-scheme:dark\)(.*?)}}", drawn).groups()
    names = set(re.findall(r"var\((--pd-[a-z]+)\)", drawn))
    assert names and all(f"{name}:#" in light for name in names) and all(f"{name}:#" in dark for name in names)


def test_the_page_about_schedules_shows_them_as_they_are():
    spec = importlib.util.spec_from_file_location("draw_pipelines", DOCS / "pipelines" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "pipelines.md").read_text(encoding="utf-8")
    assert page == module.filled(page)
    for name in SCHEDULES:
        assert (DOCS / "pipelines" / f"{name}.svg").read_text(encoding="utf-8") == module.drawing(name)
        assert f"(pipelines/{name}.svg)" in page
