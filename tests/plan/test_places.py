"""Which host every rank is on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.errors import UsageError
from manyhands.plan import PORT, Plan, parse_address, parse_hosts


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("lab1", ("lab1", PORT)),
        ("lab1:80", ("lab1", 80)),
        ("10.0.0.2", ("10.0.0.2", PORT)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["a:", ":80", "a:x", "a:0", "a:65536", "a:-1", "fe80::1"])
def test_no_address(text):
    with pytest.raises(UsageError, match="NAME:PORT"):
        parse_hosts("--hosts", f"here,{text}")


@given(workers=st.integers(1, 20), hosts=st.integers(1, 6), servers=st.integers(1, 4))
def test_blocks_of_ranks_as_equal_as_can_be(workers, hosts, servers):
    names = [f"h{i}" for i in range(hosts)]
    places = Plan(workers=workers, hosts=",".join(names), sync=f"server,servers={servers}").places
    assert len(places) == workers + servers
    counts = [places[:workers].count(name) for name in names]
    assert list(places[:workers]) == sorted(places[:workers])
    assert sum(counts) == workers
    assert max(counts) - min(counts) <= 1


def test_as_many_workers_as_hosts():
    assert Plan(hosts="here,a,b").workers == 3
    assert Plan.merged({}, {"hosts": "here,a"}).workers == 2
    kept = Plan(workers=4, hosts="a,b").as_dict()
    assert Plan.merged(kept, {"hosts": "here"}).places == ("here",) * 4


def test_servers_leave_hosts_of_their_own():
    plan = Plan(workers=2, sync="server,servers=2", server_hosts="a,b")
    assert plan.places == ("here", "here", "a", "b")
    assert plan.resized(3).places == ("here",) * 3 + ("a", "b")
    assert plan.resized(sync="allreduce").places == ("here",) * 2
    assert plan.resized(sync="server,servers=1").places == ("here",) * 3
    assert plan.resized(sync="server,servers=3", server_hosts="a,b,c").places[2:] == ("a", "b", "c")
    with pytest.raises(UsageError, match=r"1 host\(s\).*2 server\(s\).*--sync server\."):
        plan.resized(server_hosts="a")


def test_hosts_with_numbers_of_workers():
    plan = Plan(hosts="here=3,a=1")
    assert plan.places == ("here",) * 3 + ("a",)
    assert plan.resized(hosts="a=1,b:80=1").places == ("a", "b:80")
    assert plan.resized(3, hosts="a,b").places == ("a", "a", "b")
    assert Plan.merged(plan.as_dict(), {"hosts": "a=2"}).places == ("a", "a")
    assert Plan(workers=2, hosts="here=1,a=1", sync="server,servers=2").places == ("here", "a", "here", "a")


@pytest.mark.parametrize("text", ["here=2,a", "here=x", "here=0,a=1", "here=,a=2", "here=-1"])
def test_no_numbers_of_workers(text):
    with pytest.raises(UsageError, match="every host a number"):
        Plan(hosts=text)


def test_numbers_that_are_not_those_of_the_workers():
    with pytest.raises(UsageError, match=r"has 3 worker\(s\), and there are 2"):
        Plan(workers=2, hosts="here=2,a=1")
    with pytest.raises(UsageError, match=r"has 3 worker\(s\), and there are 4"):
        Plan(hosts="here=2,a=1").resized(4)
