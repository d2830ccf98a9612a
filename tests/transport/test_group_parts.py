"""Parts of a group: they work as any group, beside the whole, and nothing listens for them that need not."""

import socket

import pytest
import torch
from groups import joined, no_unix, together

from manyhands.cluster import preset
from manyhands.transport import PeerLostError, part, parts

ROWS, COLUMNS = [(0, 1), (2, 3)], [(0, 2), (1, 3)]


def divide(groups, cells, name="row"):
    """Each rank's group of those that are in a cell with it."""
    mine = [next(cell for cell in cells if rank in cell) for rank in range(len(groups))]
    found = together(*(lambda r=r: part(groups[r], mine[r], name) for r in range(len(groups))))
    for group in found:
        if isinstance(group, Exception):
            raise group
    return found


def sums(groups):
    """What each rank has after all have added up their numbers in the whole."""
    tensors = [torch.tensor([10.0**rank]) for rank in range(4)]
    for result in [group.all_reduce(tensor) for group, tensor in zip(groups, tensors, strict=True)]:
        result.result(60)
    return [int(tensor) for tensor in tensors]


@pytest.mark.parametrize("network", ["memory", "TCP"])
def test_parts_are_groups_of_their_own(network, monkeypatch):
    if network == "TCP":
        no_unix(monkeypatch)
    with joined(4) as whole:
        rows, columns = divide(whole, ROWS), divide(whole, COLUMNS, "column")
        assert sums(rows) == [11, 11, 1100, 1100]
        assert sums(columns) == [101, 1010, 101, 1010]
        assert [group.rank for group in columns] == [0, 0, 1, 1] and {group.world for group in columns} == {2}
        together(*(group.close for group in rows))
        assert sums(columns) == [101, 1010, 101, 1010]
        assert sums(whole) == [1111] * 4
        together(*(group.close for group in columns))


def test_parts_may_be_of_any_size():
    with joined(4) as whole:
        groups = divide(whole, [(0,), (1, 2, 3)])
        assert sums(groups) == [1, 1110, 1110, 1110]
        together(*(group.close for group in groups))


def test_nothing_listens_to_other_hosts_for_parts_of_one_host(monkeypatch):
    opened, create = [], socket.create_server
    monkeypatch.setattr(socket, "create_server", lambda *a, **k: opened.append(a) or create(*a, **k))
    with joined(4) as whole:
        assert opened  # how many ranks are here was not known before
        opened.clear()
        together(*(group.close for group in divide(whole, ROWS)))
        assert not opened


def test_the_links_of_a_part_are_known():
    with joined(4, cluster=preset("mesh-4")) as whole:
        groups = divide(whole, COLUMNS)
        assert [group.cluster.ranks for group in groups[:2]] == [("h0", "h2"), ("h1", "h3")]
        together(*(group.close for group in groups))


def test_a_rank_that_does_not_connect_is_a_loss(monkeypatch):
    monkeypatch.setattr(parts, "_JOIN_SECONDS", 0.5)
    with joined(2) as whole:

        def only_says_where():
            whole[1].all_gather_bytes(b"{}")

        lost, _ = together(lambda: part(whole[0], (0, 1), "row"), only_says_where)
        assert isinstance(lost, PeerLostError) and "joining row" in str(lost) and "rank(s) 1" in str(lost)


def test_a_rail_that_does_not_lead_on_is_a_loss(monkeypatch):
    with joined(2) as whole:
        rails = whole[0].rails
        monkeypatch.setattr(whole[0], "rails", lambda peer: rails(peer) | {"10.0.7.0/24"})
        first, second = together(*(lambda r=r: part(whole[r], (0, 1), "row") for r in range(2)))
        assert isinstance(first, PeerLostError) and first.rank == 1 and "10.0.7.0/24" in str(first)
        assert isinstance(second, PeerLostError) or second.close() is None  # it may have been done before


def test_whoever_is_not_of_a_part_cannot_make_it():
    with joined(2) as whole, pytest.raises(ValueError, match="rank 0 is not among the ranks 1 of row"):
        part(whole[0], (1,), "row")
