"""rtnetlink messages: pyroute2 and the lab's own decoders read what the encoders write."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from kubenetlab.hoststate.address import Address, decode_address
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.messages import decode_link
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor, decode_neighbor
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.peers import Peers, observed_peers
from kubenetlab.hoststate.route import Route, decode_route

NAMES = {1: "lo", 7: "eth0", 8: "cbr0"}
OF_VERSION = {
    4: st.ip_addresses(v=4).filter(lambda address: not address.is_loopback),
    6: st.sampled_from(["fd00::/8", "fe80::/64", "2000::/3"]).flatmap(
        lambda network: st.ip_addresses(network=network)
    ),
}
addresses = st.one_of(*OF_VERSION.values())


class Indexes:
    """Indexes for encoders: eth0 is 7, cbr0 is 8, new links get 1000 and up."""

    def __init__(self) -> None:
        self._next = 1000

    def index(self, netns: str, link: str) -> int:
        return {"lo": 1, "eth0": 7, "cbr0": 8}[link]

    def new_index(self, netns: str, link: str) -> int:
        self._next += 1
        return self._next - 1

    def adopt(self, netns: str, link: str) -> None:
        raise KeyError(link)

    def namespace_fd(self, netns: str) -> int:
        return 42


def split(data: bytes) -> list[bytes]:
    parts, offset = [], 0
    while offset < len(data):
        (size,) = struct.unpack_from("=I", data, offset)
        parts.append(data[offset : offset + size])
        offset += size
    return parts


def decoded(type_: Any, data: bytes) -> Any:
    message = type_(data)
    message.decode()
    return message


@given(addresses, st.integers(0, 32), st.booleans(), st.booleans())
def test_addresses_are_read_back(
    address: Any, prefix: int, is_source: bool, has_route: bool
) -> None:
    """pyroute2 and the lab decode the encoded address and whether it may be a source address."""
    encoded_address = Address("n", "eth0", f"{address}/{prefix}", is_source, has_route)
    data = encoded_address.create(Indexes())
    seen = decoded(ifaddrmsg, data)
    is_ipv6 = address.version == 6
    assert (seen["family"], seen["prefixlen"], seen["index"]) == (10 if is_ipv6 else 2, prefix, 7)
    assert seen["scope"] == (0 if is_ipv6 or is_source else 253)
    assert seen.get_attr("IFA_LOCAL") == seen.get_attr("IFA_ADDRESS") == str(address)
    flags = seen.get_attr("IFA_FLAGS") or 0
    assert (bool(flags & 0x200), bool(flags & 0x02)) == (not has_route, is_ipv6)
    lifetimes = seen.get_attr("IFA_CACHEINFO")
    assert (
        lifetimes is not None
        and (lifetimes["ifa_preferred"], lifetimes["ifa_valid"]) == (0, 0xFFFFFFFF)
    ) == (is_ipv6 and not is_source)
    if (
        is_source or not is_ipv6
    ):  # the kernel says it by a flag, not by the lifetimes that were asked for
        assert decode_address("n", memoryview(data)[16:], NAMES) == (encoded_address, True)


@st.composite
def ways(draw: Any) -> tuple[Any, int, Any, Any]:
    """Draw a destination, prefix length, gateway and source of one family."""
    version = draw(st.sampled_from([4, 6]))
    some = OF_VERSION[version]
    return (
        draw(some),
        draw(st.integers(0, 32 if version == 4 else 128)),
        draw(st.none() | some),
        draw(st.none() | some),
    )


@given(ways())
def test_routes_are_read_back(way: tuple[Any, int, Any, Any]) -> None:
    """pyroute2 and the lab decode the encoded route; IPv4 without gateway has scope link."""
    import ipaddress

    address, prefix, via, source = way
    network = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    route = Route("n", str(network), "cbr0", str(via or ""), str(source or ""))
    data = route.create(Indexes())
    seen = decoded(rtmsg, data)
    assert (seen["dst_len"], seen["table"], seen["proto"], seen["scope"]) == (
        prefix,
        254,
        4,
        253 if address.version == 4 and not via else 0,
    )
    assert seen.get_attr("RTA_DST") == (str(network.network_address) if prefix else None)
    assert seen.get_attr("RTA_GATEWAY") == (str(via) if via else None)
    assert seen.get_attr("RTA_PREFSRC") == (str(source) if source else None)
    assert seen.get_attr("RTA_OIF") == 8
    assert decode_route("n", memoryview(data)[16:], NAMES) == (route, True)


@given(addresses, st.binary(min_size=6, max_size=6))
def test_neighbors_are_read_back(address: Any, mac: bytes) -> None:
    """pyroute2 and the lab decode the encoded neighbor, which is permanent."""
    neighbor = Neighbor("n", "eth0", str(address), mac.hex(":"))
    data = neighbor.create(Indexes())
    seen = decoded(ndmsg, data)
    assert (
        seen["ifindex"],
        seen["state"],
        seen.get_attr("NDA_DST"),
        seen.get_attr("NDA_LLADDR"),
    ) == (7, 0x80, str(address), mac.hex(":"))
    assert decode_neighbor("n", memoryview(data)[16:], NAMES) == (neighbor, True)


TABLE = tuple((f"10.244.0.{number}", f"0a:58:0a:f4:00:{number:02x}") for number in range(2, 9))


@pytest.mark.parametrize("own", ["", TABLE[0][0], TABLE[3][0], TABLE[-1][0]])
def test_peers_have_the_messages_of_their_neighbors(own: str) -> None:
    """The messages of a Peers object equal those of single neighbors, byte by byte."""
    peers = Peers("n", "cbr0", TABLE, own)
    singly = [Neighbor("n", "cbr0", address, mac) for address, mac in TABLE if address != own]
    assert split(peers.create(Indexes())) == [neighbor.create(Indexes()) for neighbor in singly]
    assert split(peers.delete(Indexes())) == [neighbor.delete(Indexes()) for neighbor in singly]
    assert observed_peers("n", singly, peers) is peers


@given(
    st.sets(st.sampled_from(TABLE), min_size=1),
    st.sets(st.sampled_from(TABLE), min_size=1),
    st.sampled_from(["", *dict(TABLE)]),
)
def test_only_changed_peers_are_sent(
    before: set[tuple[str, str]], after: set[tuple[str, str]], own: str
) -> None:
    """Removed entries are deleted, new entries are added, and no other entry is sent."""
    old, new = (
        Peers("n", "cbr0", tuple(sorted(before)), own),
        Peers("n", "cbr0", tuple(sorted(after)), own),
    )
    flagged = [
        (part, is_removal)
        for request, is_removal in new.changes_from(old, Indexes())
        for part in split(request)
    ]
    requests = [part for part, _ in flagged]
    sent = [
        (struct.unpack_from("=H", part, 4)[0], decoded(ndmsg, part).get_attr("NDA_DST"))
        for part in requests
    ]
    removed = sorted(
        {address for address, _ in old.entries} - {address for address, _ in new.entries}
    )
    added = sorted(
        {address for address, _ in new.entries} - {address for address, _ in old.entries}
    )
    assert sent == [
        *((wire.RTM_DELNEIGH, address) for address in removed),
        *((wire.RTM_NEWNEIGH, address) for address in added),
    ]
    assert [is_removal for _, is_removal in flagged] == [
        *[True] * len(removed),
        *[False] * len(added),
    ]


def test_one_message_creates_both_ends_of_a_veth() -> None:
    """The first message creates the peer up; the second sets this end up and adds its alias."""
    veth = Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth3", 1400, "a pod")
    create, set_up = split(veth.create(Indexes()))
    peer_end = decoded(ifinfmsg, create)
    own_end = (
        peer_end.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    )
    assert (peer_end["index"], peer_end["flags"], peer_end.get_attr("IFLA_IFNAME")) == (
        1000,
        1,
        "veth3",
    )
    assert (peer_end.get_attr("IFLA_NET_NS_FD"), peer_end.get_attr("IFLA_MTU")) == (42, 1400)
    assert (
        own_end["index"],
        own_end["flags"],
        own_end.get_attr("IFLA_IFNAME"),
        own_end.get_attr("IFLA_ADDRESS"),
    ) == (
        1001,
        0,
        "eth0",
        "0a:58:00:00:00:02",
    )
    assert (decoded(ifinfmsg, set_up)["index"], decoded(ifinfmsg, set_up)["flags"]) == (1001, 1)
    assert decoded(ifinfmsg, set_up).get_attr("IFLA_IFALIAS") == "a pod"


def test_bridges_and_ports_are_read_back() -> None:
    """A bridge with its MAC and no multicast snooping; a port with its alias and hairpin."""
    bridge = decoded(ifinfmsg, Bridge("n", "br0", "0a:58:00:00:00:01").create(Indexes()))
    assert bridge.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "bridge"
    assert (
        bridge.get_attr("IFLA_LINKINFO")
        .get_attr("IFLA_INFO_DATA")
        .get_attr("IFLA_BR_MCAST_SNOOPING")
        == 0
    )
    data = Port(
        "n", "eth0", "cbr0", "0a:59:00:00:00:02", alias="pod default/web", is_hairpin=True
    ).create(Indexes())
    on_bridge, as_port = split(data)
    port = decoded(ifinfmsg, on_bridge)
    assert (port["index"], port.get_attr("IFLA_IFALIAS")) == (7, "pod default/web")
    assert (port.get_attr("IFLA_MASTER"), port.get_attr("IFLA_ADDRESS")) == (8, "0a:59:00:00:00:02")
    assert (
        decoded(ifinfmsg, as_port).get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_SLAVE_KIND")
        == "bridge"
    )
    assert (b"\x05\x00\x04\x00\x01") in data  # IFLA_BRPORT_MODE = 1


@given(st.binary(max_size=60))
def test_malformed_messages_raise_wire_errors(data: bytes) -> None:
    """Messages that are cut short raise WireError for any content."""
    try:
        for _, _, _, body in wire.messages(data):
            wire.attributes(body)
    except wire.WireError:
        pass
    header = struct.pack("=IHHII", 16 + len(data), 16, 0, 0, 0)
    try:
        decode_link(memoryview(header + data)[16:])
    except (wire.WireError, KeyError, struct.error, UnicodeDecodeError):
        pass
