"""Plugs a wiring together in namespaces, through netlink (pyroute2).

A cable is a veth pair, shaped at both ends by a token bucket (tbf): a burst of 512 KiB at once, then `bandwidth`
bytes/s with up to 0.1 s of queue. The burst has to be large: with 64 KiB a busy machine leaves 1/4 of a link unused.
A switch is a bridge. Latencies are not emulated: they are the machine's own, about 0.05 ms.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from manyhands.errors import UserError
from manyhands.lab.inside import NEW_NET, enter_namespace
from manyhands.lab.wiring import HOST_DEVICE, End, Wiring

Result = TypeVar("Result")
MTU = 9000
"""Bytes of a jumbo frame: headers take 1 % of a link instead of 4."""
BURST = 512 * 1024
QUEUE = "100ms"
MAX_BANDWIDTH = 2**32 - 1
"""Bytes/s at most of a tbf without its 64-bit extension; no one machine emulates more anyway."""
BRIDGE = "bridge"
_NEAR = 1000
"""The number of the first cable's first interface; Linux itself begins at 2."""


def in_network(holder: int, work: Callable[[], Result]) -> Result:
    """Call `work` in the network namespace of a process, on a thread that then ends.

    Only that thread enters the namespace, so the caller need not leave it, nor keep an event loop free.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            enter_namespace(f"/proc/{holder}/ns/net", NEW_NET)
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name="lab-network")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _netlink(holder: int, work: Callable[[Any], Result]) -> Result:
    """Call `work` with a netlink socket in the network namespace of a process."""
    from pyroute2 import IPRoute

    def body() -> Result:
        with IPRoute(groups=0) as netlink:
            return work(netlink)

    return in_network(holder, body)


def plug(wiring: Wiring, holders: Mapping[str, int]) -> None:
    """Make and configure all interfaces of a lab."""
    for cable in wiring.cables:
        for end in cable.ends:
            if end.bandwidth > MAX_BANDWIDTH:
                other = cable.ends[0] if end is cable.ends[1] else cable.ends[1]
                raise UserError(
                    f"link {end.node} -> {other.node}: the lab emulates at most 4 GB/s, not {end.bandwidth / 1e9:g}. "
                    "Scale the cluster down: Cluster.scaled(0.001), manyhands lab --scale 0.001."
                )
    for place in wiring.places:
        pairs = [(number, cable.ends) for number, cable in enumerate(wiring.cables) if cable.ends[0].place == place]
        if pairs:
            _netlink(holders[place], lambda netlink, pairs=pairs: [_veth(netlink, holders, *pair) for pair in pairs])
    for place in wiring.switches:
        _netlink(holders[place], lambda netlink, place=place: _set_up_switch(netlink, wiring, place))
    for place in wiring.hosts:
        _netlink(holders[place], lambda netlink, place=place: _set_up_host(netlink, wiring, place))


def _veth(netlink: Any, holders: Mapping[str, int], number: int, ends: tuple[End, End]) -> None:
    """The number given to one end keeps the two from having the same: then Linux would take a while to notice that the
    cable is plugged in or cut, as it would take the interfaces for no pair."""
    near, far = ends
    peer = {"ifname": far.interface, "net_ns_pid": holders[far.place]}
    netlink.link("add", ifname=near.interface, index=_NEAR + number, kind="veth", peer=peer)


def _numbers(netlink: Any) -> dict[str, int]:
    return {link.get_attr("IFLA_IFNAME"): link["index"] for link in netlink.get_links()}


def _set_up_switch(netlink: Any, wiring: Wiring, place: str) -> None:
    netlink.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_mcast_snooping=0, mtu=MTU)
    number = _numbers(netlink)
    netlink.link("set", index=number[BRIDGE], state="up")
    for _, end in wiring.ends_at(place):
        _shape(netlink, "add", number[end.interface], end.bandwidth)
        netlink.link("set", index=number[end.interface], master=number[BRIDGE], mtu=MTU, state="up")


def _set_up_host(netlink: Any, wiring: Wiring, place: str) -> None:
    """Addresses, shaping and routes; the machine's own address is on a bridge without ports, as not every kernel has
    the dummy device."""
    netlink.link("add", ifname=HOST_DEVICE, kind="bridge")
    number = _numbers(netlink)
    for name in ("lo", HOST_DEVICE):
        netlink.link("set", index=number[name], state="up")
    netlink.addr("add", index=number[HOST_DEVICE], address=wiring.hosts[place], prefixlen=32)
    for _, end in wiring.ends_at(place):
        _shape(netlink, "add", number[end.interface], end.bandwidth)
        netlink.addr("add", index=number[end.interface], address=end.address, prefixlen=24)
        netlink.link("set", index=number[end.interface], mtu=MTU, state="up")
    _add_routes(netlink, wiring, place, number)


def _add_routes(netlink: Any, wiring: Wiring, place: str, number: Mapping[str, int], only: str = "") -> None:
    for route in wiring.routes.get(place, ()):
        if not only or route.interface == only:
            netlink.route(
                "replace",
                dst=f"{route.destination}/32",
                gateway=route.via,
                oif=number[route.interface],
                prefsrc=wiring.hosts[place],
                flags=4,  # RTNH_F_ONLINK: also when the other end is not up yet
            )


def _shape(netlink: Any, command: str, number: int, bandwidth: int) -> None:
    netlink.tc(command, "tbf", number, rate=bandwidth, burst=BURST, latency=QUEUE)


def shape(holders: Mapping[str, int], end: End, bandwidth: int) -> None:
    """Change how much leaves at an end."""
    _netlink(holders[end.place], lambda n: _shape(n, "change", _numbers(n)[end.interface], bandwidth))


def cut(holders: Mapping[str, int], end: End) -> None:
    """Take an interface down; the other end loses its carrier."""
    _netlink(holders[end.place], lambda n: n.link("set", index=_numbers(n)[end.interface], state="down"))


def restore(holders: Mapping[str, int], wiring: Wiring, end: End) -> None:
    """Bring an interface up again, and the routes over it, which went with it."""

    def up(netlink: Any) -> None:
        number = _numbers(netlink)
        netlink.link("set", index=number[end.interface], state="up")
        _add_routes(netlink, wiring, end.place, number, only=end.interface)

    _netlink(holders[end.place], up)


def bytes_sent(holders: Mapping[str, int], wiring: Wiring) -> dict[tuple[str, str, str], int]:
    """Bytes that left over every link, by (source, target, rail)."""
    by_place = {place: _netlink(holders[place], _sent) for place in wiring.places}
    return {
        (near.node, far.node, cable.rail): by_place[near.place][near.interface]
        for cable in wiring.cables
        for near, far in cable.directions()
    }


def _sent(netlink: Any) -> dict[str, int]:
    return {link.get_attr("IFLA_IFNAME"): link.get_attr("IFLA_STATS64")["tx_bytes"] for link in netlink.get_links()}
