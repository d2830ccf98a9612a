"""A group of some of the ranks of another group.

The idea: the whole's ranks trust each other and are connected already, so they hand each other their cards and the
part's secret through it, and then connect as the ranks of any group do (rendezvous.py). Ranks of one host open no port
for that. A part has connections and threads of its own: its operations and the whole's do not wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from manyhands.cluster import Cluster
from manyhands.transport.errors import GroupError, PeerLostError
from manyhands.transport.group import Group
from manyhands.transport.link import Link
from manyhands.transport.rendezvous import Card, join, new_secret

_JOIN_SECONDS = 30.0
"""Seconds for ranks to connect that have just told each other where they are."""


def part(whole: Group, ranks: Sequence[int], name: str) -> Group:
    """A group of these ranks of the whole; rank i of the part is rank `ranks[i]` of the whole.

    All ranks of the whole must call it at the same time, each with the ranks of its own part: as in a mesh, where each
    row becomes a group.

    Args:
        ranks: with this one.
        name: of the part, for messages.

    Raises:
        ValueError: this rank is not among them.
        GroupError: the whole is broken.
        PeerLostError: one of the part is gone, or is not reached as it was in the whole.
    """
    if whole.rank not in ranks:
        raise ValueError(f"rank {whole.rank} is not among the ranks {', '.join(map(str, ranks))} of {name}")
    links = _connect(whole, list(ranks), name)
    rank, cluster = list(ranks).index(whole.rank), _cluster_of(whole, ranks)
    try:
        _check_rails(whole, ranks, links, name)
        return Group(rank, links, name=name, timeout=whole.timeout, cluster=cluster, portable=whole.portable)
    except PeerLostError as lost:
        for link in filter(None, links):
            link.close()
        raise PeerLostError(ranks[lost.rank], f"joining {name}", lost.reason) from None


def _connect(whole: Group, ranks: list[int], name: str) -> list[Link | None]:
    def meet(card: Card) -> tuple[bytes, Callable[[int], Card]]:
        said = whole.all_gather_bytes(json.dumps({**card, "secret": new_secret()}).encode())
        cards = [json.loads(said[peer]) for peer in ranks]
        return bytes.fromhex(cards[0]["secret"]), cards.__getitem__

    alone = all(whole.is_local(peer) for peer in ranks)
    try:
        return join(meet, ranks.index(whole.rank), len(ranks), _JOIN_SECONDS, alone=alone)
    except PeerLostError:
        raise
    except GroupError as error:
        whole.check()  # it may know better who is gone
        raise PeerLostError(-1, f"joining {name}", f"did not come ({error})") from None


def _check_rails(whole: Group, ranks: Sequence[int], links: Sequence[Link | None], name: str) -> None:
    """What is known of the whole's links goes for the part's only if they are the same ones.

    Raises:
        PeerLostError: a rail that leads to a rank in the whole does not any more.
    """
    for link in filter(None, links):
        if missing := whole.rails(ranks[link.peer]) - set(link.data):
            rails = ", ".join(sorted(missing))
            raise PeerLostError(link.peer, f"joining {name}", f"is not to be reached over {rails} any more")


def _cluster_of(whole: Group, ranks: Sequence[int]) -> Cluster | None:
    """The links of the part, as far as those of the whole are known."""
    if whole.cluster is None:
        return None
    return whole.cluster.subset(whole.cluster.ranks[rank] for rank in ranks)
