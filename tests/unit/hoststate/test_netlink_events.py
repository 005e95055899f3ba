"""Netlink events that contradict the known objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.dummy import Dummy
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.messages import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
)
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import HEADER, attribute, mac_bytes, nested, number, string
from kubenetlab.hoststate.netlink_events import RTM_NEWNETCONF, NetlinkEvent, is_contradicted
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.peers import Peers
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.state import contents_of
from tests.unit.hoststate.netlink.test_messages import Indexes

NETNS = "node/worker"
INDEXES = {"eth0": 7, "cbr0": 8, "veth0": 9}
ROUTE = Route(NETNS, "10.244.2.0/24", "eth0", "172.18.0.4")
ADDRESS = Address(NETNS, "eth0", "172.18.0.3/16")
NEIGHBOR = Neighbor(NETNS, "cbr0", "10.244.1.2", "0a:58:0a:f4:01:02")
UPLINK = Veth(NETNS, "eth0", "0a:58:ac:12:00:03", "wire", "worker")
PORT = Port(NETNS, "veth0", "cbr0", "0a:58:00:00:00:01")
KNOWN = contents_of([ROUTE, ADDRESS, NEIGHBOR, UPLINK, PORT, LinkUp(NETNS, "lo")])


def event_of(type_: int, obj: Route | Address | Neighbor) -> NetlinkEvent:
    """Return the event about an object, whose body equals that of the request creating it."""
    return NetlinkEvent(type_, obj.create(Indexes())[HEADER.size :])


def link_event(
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
    """Return the event about a link."""
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
        + nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, "veth"))
        + tail,
    )


def contradicts(*events: NetlinkEvent) -> bool:
    return is_contradicted(NETNS, events, KNOWN, INDEXES)


@pytest.mark.parametrize(
    ("obj", "new_type", "delete_type"),
    [
        (ROUTE, wire.RTM_NEWROUTE, wire.RTM_DELROUTE),
        (ADDRESS, wire.RTM_NEWADDR, wire.RTM_DELADDR),
        (NEIGHBOR, wire.RTM_NEWNEIGH, wire.RTM_DELNEIGH),
    ],
)
def test_the_latest_event_counts(
    obj: Route | Address | Neighbor, new_type: int, delete_type: int
) -> None:
    """An object that was deleted and added again is unchanged."""
    assert not contradicts(event_of(new_type, obj))
    assert contradicts(event_of(delete_type, obj))
    assert not contradicts(event_of(delete_type, obj), event_of(new_type, obj))
    assert contradicts(event_of(new_type, obj), event_of(delete_type, obj))


def test_a_replaced_object_is_a_contradiction() -> None:
    """A route with another gateway and a neighbor with another MAC are contradictions."""
    assert contradicts(event_of(wire.RTM_NEWROUTE, structs.replace(ROUTE, via="172.18.0.9")))
    assert contradicts(
        event_of(wire.RTM_NEWNEIGH, structs.replace(NEIGHBOR, mac="0a:58:00:00:00:99"))
    )


def test_neighbor_events_are_compared_with_peers() -> None:
    """A deleted peer, or one with another MAC, is a contradiction; other neighbors are not."""
    peers = Peers(
        NETNS,
        "eth0",
        (("10.244.1.7", "0a:58:0a:f4:01:07"), ("10.244.1.8", "0a:58:0a:f4:01:08")),
        "10.244.1.8",
    )
    peer = Neighbor(NETNS, "eth0", "10.244.1.7", "0a:58:0a:f4:01:07")

    def is_contradiction(type_: int, neighbor: Neighbor) -> bool:
        return is_contradicted(NETNS, [event_of(type_, neighbor)], contents_of([peers]), INDEXES)

    assert not is_contradiction(wire.RTM_NEWNEIGH, peer)
    assert is_contradiction(wire.RTM_DELNEIGH, peer)
    assert is_contradiction(wire.RTM_NEWNEIGH, structs.replace(peer, mac="0a:58:00:00:00:99"))
    for other in ("10.244.1.8", "10.244.1.9"):
        assert not is_contradiction(wire.RTM_DELNEIGH, structs.replace(peer, address=other))


def test_events_about_other_objects_are_ignored() -> None:
    """Events about objects that the lab does not know are no contradiction."""
    assert not contradicts(
        event_of(wire.RTM_NEWROUTE, structs.replace(ROUTE, destination="192.0.2.0/24"))
    )
    assert not contradicts(
        event_of(wire.RTM_DELADDR, structs.replace(ADDRESS, address="192.0.2.1/32"))
    )
    assert not contradicts(link_event(wire.RTM_DELLINK, 77, "veth0", PORT.mac))
    assert not is_contradicted(NETNS, [event_of(wire.RTM_DELROUTE, ROUTE)], KNOWN, {})


@pytest.mark.parametrize(
    ("event", "is_contradiction"),
    [
        (link_event(wire.RTM_NEWLINK, 7, "eth0", UPLINK.mac), False),
        (link_event(wire.RTM_NEWLINK, 7, "eth0", UPLINK.mac, flags=0), True),
        (link_event(wire.RTM_NEWLINK, 7, "eth0", UPLINK.mac, mtu=1400), True),
        (link_event(wire.RTM_NEWLINK, 7, "eth0", "0a:58:00:00:00:99"), True),
        (link_event(wire.RTM_NEWLINK, 7, "renamed", UPLINK.mac), True),
        (link_event(wire.RTM_DELLINK, 7, "eth0", UPLINK.mac), True),
        (link_event(wire.RTM_NEWLINK, 9, "veth0", PORT.mac, master=8), False),
        (link_event(wire.RTM_NEWLINK, 9, "veth0", PORT.mac), True),
        (link_event(wire.RTM_DELLINK, 9, "veth0", PORT.mac, family=7), False),
        (link_event(wire.RTM_NEWLINK, 1, "lo", "00:00:00:00:00:00", mtu=65536), False),
        (link_event(wire.RTM_NEWLINK, 1, "lo", "00:00:00:00:00:00", mtu=65536, flags=0), True),
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
def test_link_and_sysctl_events(event: NetlinkEvent, is_contradiction: bool) -> None:
    """A changed, renamed, detached or deleted link is a contradiction.

    The bridge's own message about a port and the sysctls of a new link are not.
    """
    assert contradicts(event) == is_contradiction


@given(st.permutations([ROUTE, ADDRESS, NEIGHBOR]))
def test_the_labs_own_changes_are_no_contradiction(objects: list[Object]) -> None:
    """Events about known objects match in any order."""
    types = {Route: wire.RTM_NEWROUTE, Address: wire.RTM_NEWADDR, Neighbor: wire.RTM_NEWNEIGH}
    assert not contradicts(
        *(
            event_of(types[type(obj)], obj)
            for obj in objects
            if isinstance(obj, (Route, Address, Neighbor))
        )
    )


def test_a_dummy_is_compared_by_its_kind() -> None:
    """Kind and MAC are compared; a dummy is down."""
    known = contents_of([Dummy(NETNS, "kube-ipvs0", "0a:00:00:00:00:01")])

    def is_contradiction(kind: str) -> bool:
        template = link_event(wire.RTM_NEWLINK, 10, "kube-ipvs0", "0a:00:00:00:00:01", flags=0)
        event = NetlinkEvent(
            template.type, template.body + nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, kind))
        )
        return is_contradicted(NETNS, [event], known, {"kube-ipvs0": 10})

    assert not is_contradiction("dummy")
    assert is_contradiction("bridge")
