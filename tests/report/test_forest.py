"""The drawing of a forest: everything on it is what the forest does."""

import re
import shutil
from fractions import Fraction
from xml.etree import ElementTree

import pytest
from clusters import BANDWIDTH, clusters, mesh_cluster, star_cluster
from hypothesis import given, settings

from manyhands.cluster import preset
from manyhands.collective.algorithms import ring, star
from manyhands.collective.loads import loads, rate
from manyhands.collective.packing import packed
from manyhands.report.forest import forest_page, forest_svg
from manyhands.report.topology import SIDE, place_nodes, strands

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@settings(max_examples=40)
@given(cluster=clusters(least=2))
def test_nodes_stand_apart_and_inside(cluster):
    places = place_nodes(cluster, cluster.ranks)
    assert set(places) == {node.name for node in cluster.nodes}
    assert all(0 < point.x < SIDE and 0 < point.y < SIDE for point in places.values())
    assert len({(round(p.x), round(p.y)) for p in places.values()}) == len(places)


@settings(max_examples=40)
@given(cluster=clusters(least=2))
def test_strands_are_the_loads(cluster):
    """At a forest's rate no link is more than full, some link is full, and the strands sum to the loads."""
    forest = star(cluster)
    flow = rate(forest, cluster)
    carried = strands(forest, cluster, flow)
    width = {(link.source, link.target, link.rail): link.bandwidth for link in cluster.links}
    exact = loads(forest, cluster)
    assert set(carried) == set(exact)
    for wire, parts in carried.items():
        assert sum(strand.part for strand in parts) == pytest.approx(float(exact[wire] * flow / width[wire]))
    assert max(sum(strand.part for strand in parts) for parts in carried.values()) == pytest.approx(1)


def test_idle_links_are_dashed():
    mesh = mesh_cluster(4)
    drawing = forest_svg(mesh, [star(mesh), ring(mesh)])
    root = ElementTree.fromstring(drawing)
    kinds = [line.get("class", "").split()[0] for line in root.iter("{http://www.w3.org/2000/svg}line")]
    # The star uses all 12 links, the ring 4 of them; each tree of the ring lies on 3 of 4 links, twice.
    assert kinds.count("idle") == 8 and kinds.count("track") == 12 + 4
    assert kinds.count("strand") == 2 * 12 + 2 * 4 * 3
    text = "".join(root.itertext())
    assert "all 12 links at work" in text and "8 of 12 links idle" in text
    assert "2 MB/s" in text and "666.7 kB/s" in text


def test_page_says_what_binds():
    cluster = preset("dgx1v").subset([f"gpu{i}" for i in (0, 1, 2, 4, 5)], kinds=["nvlink"])
    plan = packed(cluster)
    page = forest_page(cluster, [plan.forest, ring(cluster)], bound=plan.certificate.bound, cut=plan.certificate.cut)
    assert "No schedule moves more than 51.75 GB/s; packed reaches it." in page
    assert "Packed, 3.6 times the ring" in page and "7 of 12 links idle" in page
    assert page.count('<figure class="tree"') == min(12, len(plan.forest.trees))
    assert "://" not in re.sub(r"xmlns=\S+", "", page)


def test_names_cannot_break_out():
    cluster = star_cluster(2)
    evil = "<script>alert(1)</script>"
    renamed = type(cluster)(name=evil, nodes=cluster.nodes, links=cluster.links)
    assert evil not in forest_page(renamed, [star(renamed)], bound=Fraction(BANDWIDTH), cut=evil)
    ElementTree.fromstring(forest_svg(renamed, [star(renamed)]))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 420)])
def test_in_a_browser(browser, tmp_path, scheme, width):
    cluster = preset("dgx1v").subset([f"gpu{i}" for i in (0, 1, 2, 4, 5)], kinds=["nvlink"])
    file = tmp_path / "plan.html"
    file.write_text(forest_page(cluster, [packed(cluster).forest, ring(cluster)]))
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for drawing in page.locator("svg.topology").all():
        box = drawing.bounding_box()
        assert drawing.is_visible() and box["width"] > 100 and box["height"] > 60
    page.locator("figure.tree").nth(1).hover()
    lit = page.evaluate(
        "[...document.querySelectorAll('.panels figure:first-child g[data-tree].on')].map(g => g.dataset.tree)"
    )
    assert lit and set(lit) == {"1"}
    page.locator("h1").hover()
    assert page.evaluate("document.querySelectorAll('.lit').length") == 0
    page.close()
    assert requests == [file.as_uri()] and complaints == []
