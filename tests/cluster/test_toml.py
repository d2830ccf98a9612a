"""TOML: what is written is read back; what is wrong is named with file, table and key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.cluster import (
    Cluster,
    Link,
    Node,
    format_toml,
    parse_toml,
    preset,
    read_cluster,
    read_toml,
    write_toml,
)
from manyhands.errors import UserError

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)


@st.composite
def clusters(draw) -> Cluster:
    names = draw(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), unique=True, max_size=5))
    choice = st.sampled_from([None, True, False])
    nodes = [
        Node(
            name=name,
            kind=draw(st.sampled_from(["device", "host", "switch", "helper"])),
            host=draw(TEXT),
            adds=draw(choice),
            copies=draw(choice),
        )
        for name in names
    ]
    links: dict[tuple, Link] = {}
    for _ in range(draw(st.integers(0, 8)) if len(names) > 1 else 0):
        source, target = draw(st.permutations(names))[:2]
        link = Link(
            source=source,
            target=target,
            bandwidth=draw(st.integers(1, 10**13)),
            latency=draw(st.floats(0, 10)),
            kind=draw(TEXT),
            rail=draw(st.sampled_from(["", "x", '"'])),
        )
        links[source, target, link.rail] = link
        if draw(st.booleans()):
            mirror = Link(**{**vars(link), "source": target, "target": source})
            links.setdefault((target, source, link.rail), mirror)
    return Cluster(name=draw(TEXT), nodes=tuple(nodes), links=tuple(links.values()))


@given(clusters())
def test_round_trip(cluster):
    text = format_toml(cluster)
    assert parse_toml(text) == cluster
    assert format_toml(parse_toml(text)) == text


@pytest.mark.parametrize("name", ["dgx1v", "3x-dgx-a100", "mesh-4", "star-3+2:9MB", "two-rail-4:25MB,10MB"])
def test_presets_survive_a_file(name, tmp_path):
    write_toml(preset(name), tmp_path / "cluster.toml")
    assert read_toml(tmp_path / "cluster.toml") == preset(name)


def test_a_file_as_people_write_it(tmp_path):
    path = tmp_path / "office.toml"
    path.write_text(
        """
        [[nodes]]
        name = "ann"
        kind = "host"
        [[nodes]]
        name = "bob"
        kind = "host"
        adds = false
        [[links]]
        between = ["ann", "bob"]
        bandwidth = "200 Mbit/s"
        latency = "10 us"
        kind = "ethernet"
        [[links]]
        from = "ann"
        to = "bob"
        rail = "wifi"
        bandwidth = 1_000_000
        """
    )
    cluster = read_cluster(path)
    assert cluster.name == "office"
    assert cluster.by_name["bob"].can_add is False
    assert cluster.links == (
        Link(source="ann", target="bob", bandwidth=25_000_000, latency=1e-5, kind="ethernet"),
        Link(source="bob", target="ann", bandwidth=25_000_000, latency=1e-5, kind="ethernet"),
        Link(source="ann", target="bob", bandwidth=1_000_000, rail="wifi"),
    )


def test_how_a_file_looks():
    assert format_toml(preset("two-rail-2:25MB,10MB,1ms").subset(["h0", "h1"])) == (
        'name = "two-rail-2:25MB,10MB,1ms"\n'
        "nodes = [\n"
        '  { name = "h0", kind = "host" },\n'
        '  { name = "h1", kind = "host" },\n'
        '  { name = "switch0", kind = "switch" },\n'
        '  { name = "switch1", kind = "switch" },\n'
        "]\n"
        "links = [\n"
        '  { between = ["h0", "switch0"], bandwidth = "25 MB/s", '
        'latency = "1 ms", kind = "ethernet" },\n'
        '  { between = ["h1", "switch0"], bandwidth = "25 MB/s", '
        'latency = "1 ms", kind = "ethernet" },\n'
        '  { between = ["h0", "switch1"], bandwidth = "10 MB/s", '
        'latency = "1 ms", kind = "ethernet" },\n'
        '  { between = ["h1", "switch1"], bandwidth = "10 MB/s", '
        'latency = "1 ms", kind = "ethernet" },\n'
        "]\n"
    )


NODES = 'nodes = [{name="a", kind="host"}, {name="b", kind="host"}]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("= 3", ["is not TOML", "line 1"]),
        ("", ["nodes is missing"]),
        ("nodes = 3", ["nodes = 3 must be of type array"]),
        ("nodes = [3]", ["nodes[0] is 3", "must be a table"]),
        ('nodes = [{name="a"}]', ["nodes[0]", "kind is missing", "helper"]),
        ('nodes = [{kind="host"}]', ["nodes[0]", "name is missing"]),
        ('nodes = [{name="a", kind="toaster"}]', ["nodes[0]", "no kind 'toaster'", "switch"]),
        ('nodes = [{name="a", kind="host", speed=3}]', ["nodes[0]", "no key speed", "copies"]),
        ('nodes = [{name="a", kind="host", adds="no"}]', ["nodes[0]", "adds = 'no'", "true or false"]),
        (NODES + "extra = 1", ["no key extra"]),
        (NODES + 'links = [{from="a", to="b"}]', ["links[0]", "bandwidth is missing", "25 MB/s"]),
        (NODES + 'links = [{from="a", bandwidth=1}]', ["links[0]", "to is missing", "between"]),
        (NODES + 'links = [{between=["a"], bandwidth=1}]', ["links[0]", "two names"]),
        (NODES + 'links = [{between=["a","b"], from="a", bandwidth=1}]', ["links[0]", "excludes from and to"]),
        (NODES + 'links = [{from="a", to="b", bandwidth="big"}]', ["links[0]", "'big' is not a bandwidth"]),
        (NODES + 'links = [{from="a", to="b", bandwidth=1, latency="x"}]', ["links[0]", "'x' is not a latency"]),
        (NODES + 'links = [{from="a", to="c", bandwidth=1}]', ["there is no node c"]),
    ],
)
def test_wrong_files(text, words, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_toml(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.toml"):
        read_toml(tmp_path / "nowhere.toml")
    with pytest.raises(UserError, match="neither a preset nor a file"):
        read_cluster(tmp_path / "nowhere.toml")
    with pytest.raises(UserError, match="cannot read"):
        read_cluster(tmp_path)
