"""Notices: which of the kernel's words contradict what is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import Dummy, LinkUp, Port, Veth
from kubenetlab.hoststate.link_messages import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
)
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.netlink_events import RTM_NEWNETCONF, NetlinkEvent, contradict
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.peers import Peers
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.state import contents_of
from kubenetlab.hoststate.wire import HEADER, attribute, mac_bytes, nested, number, string
from tests.unit.hoststate.test_messages import Indexes

HERE = "node/worker"
INDEXES = {"eth0": 7, "cbr0": 8, "veth0": 9}
ROUTE = Route(HERE, "10.244.2.0/24", "eth0", "172.18.0.4")
ADDRESS = Address(HERE, "eth0", "172.18.0.3/16")
NEIGHBOR = Neighbor(HERE, "cbr0", "10.244.1.2", "0a:58:0a:f4:01:02")
UPLINK = Veth(HERE, "eth0", "0a:58:ac:12:00:03", "wire", "worker")
PORT = Port(HERE, "veth0", "cbr0", "0a:58:00:00:00:01")
KNOWN = contents_of([ROUTE, ADDRESS, NEIGHBOR, UPLINK, PORT, LinkUp(HERE, "lo")])


def told(type_: int, obj: Route | Address | Neighbor) -> NetlinkEvent:
    """What the kernel says of an object: the request that makes it has the same body."""
    return NetlinkEvent(type_, obj.create(Indexes())[HEADER.size :])


def of_link(
    type_: int,
    index: int,
    name: str,
    mac: str,
    *,
    flags: int = IFF_UP,
    mtu: int = 1500,
    master: int = 0,
    family: int = 0,
) -> NetlinkEvent:
    """What the kernel says of a link."""
    header = (
        bytes([family, 0, 1, 0])
        + index.to_bytes(4, "little")
        + flags.to_bytes(4, "little")
        + bytes(4)
    )
    tail = number(IFLA_MASTER, master) if master else b""
    return NetlinkEvent(
        type_,
        header
        + string(IFLA_IFNAME, name)
        + attribute(IFLA_ADDRESS, mac_bytes(mac))
        + number(IFLA_MTU, mtu)
        + tail,
    )


def contradicts(*notices: NetlinkEvent) -> bool:
    return contradict(HERE, notices, KNOWN, INDEXES)


@pytest.mark.parametrize(
    ("obj", "made", "gone"),
    [
        (ROUTE, wire.RTM_NEWROUTE, wire.RTM_DELROUTE),
        (ADDRESS, wire.RTM_NEWADDR, wire.RTM_DELADDR),
        (NEIGHBOR, wire.RTM_NEWNEIGH, wire.RTM_DELNEIGH),
    ],
)
def test_the_last_word_counts(obj: Route | Address | Neighbor, made: int, gone: int) -> None:
    """What was taken away and put back is as it was; what was put and taken away is not."""
    assert not contradicts(told(made, obj))
    assert contradicts(told(gone, obj))
    assert not contradicts(told(gone, obj), told(made, obj))
    assert contradicts(told(made, obj), told(gone, obj))


def test_another_in_its_place_contradicts() -> None:
    """The same destination by another way, the same address with another MAC."""
    assert contradicts(told(wire.RTM_NEWROUTE, structs.replace(ROUTE, via="172.18.0.9")))
    assert contradicts(told(wire.RTM_NEWNEIGH, structs.replace(NEIGHBOR, mac="0a:58:00:00:00:99")))


def test_peers_are_told_one_by_one() -> None:
    """One of them gone, or with another MAC; others do not matter."""
    peers = Peers(
        HERE,
        "eth0",
        (("10.244.1.7", "0a:58:0a:f4:01:07"), ("10.244.1.8", "0a:58:0a:f4:01:08")),
        "10.244.1.8",
    )
    one = Neighbor(HERE, "eth0", "10.244.1.7", "0a:58:0a:f4:01:07")

    def is_contradiction(type_: int, neighbor: Neighbor) -> bool:
        return contradict(HERE, [told(type_, neighbor)], contents_of([peers]), INDEXES)

    assert not is_contradiction(wire.RTM_NEWNEIGH, one)
    assert is_contradiction(wire.RTM_DELNEIGH, one)
    assert is_contradiction(wire.RTM_NEWNEIGH, structs.replace(one, mac="0a:58:00:00:00:99"))
    for other in ("10.244.1.8", "10.244.1.9"):
        assert not is_contradiction(wire.RTM_DELNEIGH, structs.replace(one, address=other))


def test_what_is_beside_ours_does_not_matter() -> None:
    """Other routes, addresses and links, also of links that are not ours, come and go."""
    assert not contradicts(
        told(wire.RTM_NEWROUTE, structs.replace(ROUTE, destination="192.0.2.0/24"))
    )
    assert not contradicts(told(wire.RTM_DELADDR, structs.replace(ADDRESS, address="192.0.2.1/32")))
    assert not contradicts(of_link(wire.RTM_DELLINK, 77, "veth0", PORT.mac))
    assert not contradict(HERE, [told(wire.RTM_DELROUTE, ROUTE)], KNOWN, {})


@pytest.mark.parametrize(
    ("notice", "is_contradiction"),
    [
        (of_link(wire.RTM_NEWLINK, 7, "eth0", UPLINK.mac), False),
        (of_link(wire.RTM_NEWLINK, 7, "eth0", UPLINK.mac, flags=0), True),
        (of_link(wire.RTM_NEWLINK, 7, "eth0", UPLINK.mac, mtu=1400), True),
        (of_link(wire.RTM_NEWLINK, 7, "eth0", "0a:58:00:00:00:99"), True),
        (of_link(wire.RTM_NEWLINK, 7, "renamed", UPLINK.mac), True),
        (of_link(wire.RTM_DELLINK, 7, "eth0", UPLINK.mac), True),
        (of_link(wire.RTM_NEWLINK, 9, "veth0", PORT.mac, master=8), False),
        (of_link(wire.RTM_NEWLINK, 9, "veth0", PORT.mac), True),
        (of_link(wire.RTM_DELLINK, 9, "veth0", PORT.mac, family=7), False),
        (of_link(wire.RTM_NEWLINK, 1, "lo", "00:00:00:00:00:00", mtu=65536), False),
        (of_link(wire.RTM_NEWLINK, 1, "lo", "00:00:00:00:00:00", mtu=65536, flags=0), True),
        (
            NetlinkEvent(
                RTM_NEWNETCONF,
                bytes([2, 0, 0, 0]) + attribute(1, (7).to_bytes(4, "little", signed=True)),
            ),
            False,
        ),
        (
            NetlinkEvent(
                RTM_NEWNETCONF,
                bytes([2, 0, 0, 0]) + attribute(1, (-1).to_bytes(4, "little", signed=True)),
            ),
            True,
        ),
    ],
)
def test_links_and_settings(notice: NetlinkEvent, is_contradiction: bool) -> None:
    """Up or down, renamed, out of its bridge, gone; what a bridge says of its port, and a new link's settings, say nothing."""
    assert contradicts(notice) == is_contradiction


@given(st.permutations([ROUTE, ADDRESS, NEIGHBOR]))
def test_what_we_make_ourselves_never_contradicts(objects: list[Object]) -> None:
    """In whatever order it is told."""
    types = {Route: wire.RTM_NEWROUTE, Address: wire.RTM_NEWADDR, Neighbor: wire.RTM_NEWNEIGH}
    assert not contradicts(
        *(
            told(types[type(obj)], obj)
            for obj in objects
            if isinstance(obj, (Route, Address, Neighbor))
        )
    )


def test_a_dummy_is_known_by_its_kind() -> None:
    """And by its MAC; it is down."""
    known = contents_of([Dummy(HERE, "kube-ipvs0", "0a:00:00:00:00:01")])

    def says(kind: str) -> bool:
        drawn = of_link(wire.RTM_NEWLINK, 10, "kube-ipvs0", "0a:00:00:00:00:01", flags=0)
        notice = NetlinkEvent(
            drawn.type, drawn.body + nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, kind))
        )
        return contradict(HERE, [notice], known, {"kube-ipvs0": 10})

    assert not says("dummy")
    assert says("bridge")
