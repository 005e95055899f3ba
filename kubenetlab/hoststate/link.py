"""Links: loopback, bridges, veth pairs, a bridge's ports, and dummies.

Source: include/uapi/linux/if_link.h, net/core/rtnetlink.c, drivers/net/veth.c (6.12); iproute2 ip/iplink.c.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Iterator

from msgspec import Struct

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.object import Key, Object, Word
from kubenetlab.hoststate.wire import (
    Links,
    as_mac,
    as_number,
    as_string,
    attribute,
    attributes,
    mac_bytes,
    message,
    nested,
    number,
    string,
)

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_NET_NS_FD = 10, 18, 20, 28
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 4, 8, 9
IFLA_BRPORT_FLUSH, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD = 24, 27, 30
IFLA_BR_MCAST_SNOOPING = 23
VETH_INFO_PEER = 1
IFF_UP = 1
AF_BRIDGE = 7

_IFINFOMSG = struct.Struct("=BxHiII")
"""family, device type, index, flags, change mask"""

LOOPBACK = "lo"


class LinkUp(Object, frozen=True):
    """A link that exists anyway, in the state up: loopback, and what somebody outside the lab has put there."""

    rank = 20

    name: str
    is_up: bool = True

    @property
    def key(self) -> Key:
        return ("Link", self.name)

    def __str__(self) -> str:
        return f"link {self.name} {'up' if self.is_up else 'down'}"

    def create(self, links: Links) -> bytes:
        return message(wire.RTM_NEWLINK, 0, _ifinfo(links.index(self.netns, self.name), IFF_UP))

    change = create

    def commands(self, word: Word) -> Iterator[str]:
        yield f"ip -n {word(self.netns)} link set {self.name} up"


class Bridge(Object, frozen=True):
    """A switch inside a namespace."""

    rank = 30

    name: str
    mac: str
    mtu: int = 1500
    alias: str = ""
    is_up: bool = True

    @property
    def key(self) -> Key:
        return ("Link", self.name)

    def __str__(self) -> str:
        return f"bridge {self.name} mac {self.mac} mtu {self.mtu}{_alias(self.alias)}{_down(self.is_up)}"

    def create(self, links: Links) -> bytes:
        index = links.new_index(self.netns, self.name)
        body = _ifinfo(index, IFF_UP) + string(IFLA_IFNAME, self.name) + self._settings()
        info = nested(
            IFLA_LINKINFO,
            string(IFLA_INFO_KIND, "bridge"),
            nested(IFLA_INFO_DATA, attribute(IFLA_BR_MCAST_SNOOPING, b"\0")),
        )
        made = message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body + info)
        # An alias cannot be set in the message that makes a link.
        return made + (
            message(wire.RTM_NEWLINK, 0, _ifinfo(index) + string(IFLA_IFALIAS, self.alias))
            if self.alias
            else b""
        )

    def change(self, links: Links) -> bytes:
        body = (
            _ifinfo(links.index(self.netns, self.name), IFF_UP)
            + self._settings()
            + string(IFLA_IFALIAS, self.alias)
        )
        return message(wire.RTM_NEWLINK, 0, body)

    def delete(self, links: Links) -> bytes:
        return _delete(links, self.netns, self.name)

    def commands(self, word: Word) -> Iterator[str]:
        here = word(self.netns)
        yield f"ip -n {here} link add {self.name} address {self.mac} mtu {self.mtu} type bridge mcast_snooping 0"
        yield f"ip -n {here} link set {self.name}{_alias_words(self.alias)} up"

    def _settings(self) -> bytes:
        return attribute(IFLA_ADDRESS, mac_bytes(self.mac)) + number(IFLA_MTU, self.mtu)


class Dummy(Object, frozen=True):
    """A link that leads nowhere and is down: it holds addresses, which are the machine's own all the same."""

    rank = 30

    name: str
    mac: str
    alias: str = ""

    @property
    def key(self) -> Key:
        return ("Link", self.name)

    def __str__(self) -> str:
        return f"dummy {self.name} mac {self.mac}{_alias(self.alias)}"

    def create(self, links: Links) -> bytes:
        index = links.new_index(self.netns, self.name)
        body = (
            _ifinfo(index)
            + string(IFLA_IFNAME, self.name)
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
        )
        body += nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, "dummy"))
        made = message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body)
        return made + (
            message(wire.RTM_NEWLINK, 0, _ifinfo(index) + string(IFLA_IFALIAS, self.alias))
            if self.alias
            else b""
        )

    def change(self, links: Links) -> bytes:
        body = _ifinfo(links.index(self.netns, self.name)) + attribute(
            IFLA_ADDRESS, mac_bytes(self.mac)
        )
        return message(wire.RTM_NEWLINK, 0, body + string(IFLA_IFALIAS, self.alias))

    def delete(self, links: Links) -> bytes:
        return _delete(links, self.netns, self.name)

    def commands(self, word: Word) -> Iterator[str]:
        here = word(self.netns)
        yield f"ip -n {here} link add {self.name} address {self.mac} type dummy"
        if self.alias:
            yield f"ip -n {here} link set {self.name}{_alias_words(self.alias)}"


class Veth(Object, frozen=True):
    """One end of a veth pair, from which both ends are made: this one here, the other in `peer_netns`.

    What becomes of the other end says its own `Port`. Both get indexes that are unique in the lab, so that the ends of a pair can be told.
    """

    rank = 40

    name: str
    mac: str
    peer_netns: str
    peer: str
    mtu: int = 1500
    alias: str = ""
    is_up: bool = True

    @property
    def key(self) -> Key:
        return ("Link", self.name)

    @property
    def peer_end(self) -> tuple[str, Key] | None:
        return self.peer_netns, ("Link", self.peer)

    def __str__(self) -> str:
        return f"veth {self.name} mac {self.mac} mtu {self.mtu} ↔ {self.peer} in {self.peer_netns}{_alias(self.alias)}{_down(self.is_up)}"

    def create(self, links: Links) -> bytes:
        """Makes the pair with the other end as the main device: that one can be up at once, this one cannot (the kernel would open it
        before its other end exists: ENOTCONN)."""
        queues = number(IFLA_NUM_TX_QUEUES, 1) + number(IFLA_NUM_RX_QUEUES, 1)
        peer_index, index = (
            links.new_index(self.peer_netns, self.peer),
            links.new_index(self.netns, self.name),
        )
        here = (
            _ifinfo(index)
            + string(IFLA_IFNAME, self.name)
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
            + number(IFLA_MTU, self.mtu)
            + queues
        )
        there = (
            _ifinfo(peer_index, IFF_UP)
            + string(IFLA_IFNAME, self.peer)
            + number(IFLA_NET_NS_FD, links.namespace_fd(self.peer_netns))
            + number(IFLA_MTU, self.mtu)
            + queues
        )
        info = nested(
            IFLA_LINKINFO,
            string(IFLA_INFO_KIND, "veth"),
            nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, here)),
        )
        up = message(
            wire.RTM_NEWLINK,
            0,
            _ifinfo(index, IFF_UP) + (string(IFLA_IFALIAS, self.alias) if self.alias else b""),
        )
        return message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, there + info) + up

    def change(self, links: Links) -> bytes:
        body = (
            _ifinfo(links.index(self.netns, self.name), IFF_UP)
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
            + number(IFLA_MTU, self.mtu)
            + string(IFLA_IFALIAS, self.alias)
        )
        return message(wire.RTM_NEWLINK, 0, body)

    def delete(self, links: Links) -> bytes:
        return _delete(links, self.netns, self.name)

    def commands(self, word: Word) -> Iterator[str]:
        """The other end is made with it; its `Port` says what becomes of it."""
        here, there, both = (
            word(self.netns),
            word(self.peer_netns),
            f"mtu {self.mtu} numtxqueues 1 numrxqueues 1",
        )
        peer = f"type veth peer name {self.peer} netns {there} {both}"
        yield f"ip -n {here} link add {self.name} address {self.mac} {both} \\\n    {peer}"
        yield f"ip -n {here} link set {self.name}{_alias_words(self.alias)} up"


class Port(Object, frozen=True):
    """The far end of a `Veth`: a port of a bridge. Hairpin lets a frame out where it came in: a pod that reaches itself by its Service."""

    rank = 50

    name: str
    master: str
    """The bridge; empty for an observed link that is a port of none."""
    mac: str
    mtu: int = 1500
    alias: str = ""
    is_hairpin: bool = False
    is_up: bool = True

    @property
    def key(self) -> Key:
        return ("Link", self.name)

    def __str__(self) -> str:
        hairpin = " hairpin" if self.is_hairpin else ""
        return f"port {self.name} of {self.master or 'no bridge'} mac {self.mac} mtu {self.mtu}{hairpin}{_alias(self.alias)}{_down(self.is_up)}"

    def create(self, links: Links) -> bytes:
        """The link itself came with its veth, with its MTU and without hairpin. That can be set only on what is a port already."""
        index = links.index(self.netns, self.name)
        on_bridge = message(wire.RTM_NEWLINK, 0, self._settings(links, index))
        return on_bridge + (
            message(wire.RTM_NEWLINK, 0, _ifinfo(index) + _hairpin(True))
            if self.is_hairpin
            else b""
        )

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        body = self._settings(links, index) + number(IFLA_MTU, self.mtu)
        return message(wire.RTM_NEWLINK, 0, body) + message(
            wire.RTM_NEWLINK, 0, _ifinfo(index) + _hairpin(self.is_hairpin)
        )

    def delete(self, links: Links) -> bytes:
        """Send nothing more to the port; the link itself goes with its veth.

        The kernel takes a dead pod's namespace apart some time after its end. Until then it would still get, and refuse,
        packets for another pod that has been given the same address. (The port's state cannot be set to disabled: the
        kernel enables it again with the next event of the link, net/bridge/br_if.c br_port_carrier_check().)
        """
        off = (
            IFLA_BRPORT_LEARNING,
            IFLA_BRPORT_UNICAST_FLOOD,
            IFLA_BRPORT_MCAST_FLOOD,
            IFLA_BRPORT_BCAST_FLOOD,
        )
        settings = b"".join(attribute(name, bytes([False])) for name in off) + attribute(
            IFLA_BRPORT_FLUSH, b""
        )
        return message(
            wire.RTM_NEWLINK,
            0,
            _ifinfo(links.index(self.netns, self.name)) + _port_settings(settings),
        )

    def commands(self, word: Word) -> Iterator[str]:
        here = word(self.netns)
        yield f"ip -n {here} link set {self.name} master {self.master} address {self.mac}{_alias_words(self.alias)} up"
        if self.is_hairpin:
            yield f"bridge -n {here} link set dev {self.name} hairpin on"

    def _settings(self, links: Links, index: int) -> bytes:
        return (
            _ifinfo(index, IFF_UP)
            + number(IFLA_MASTER, links.index(self.netns, self.master))
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
            + string(IFLA_IFALIAS, self.alias)
        )


class SeenLink(Struct, frozen=True):
    """One link as a dump shows it, before the ends of veth pairs are put together."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    is_up: bool
    peer_index: int
    master_index: int
    alias: str
    is_hairpin: bool


def decode_link(body: memoryview) -> SeenLink:
    """One RTM_NEWLINK message: ifinfomsg (16 bytes) | attributes."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    found = attributes(body[_IFINFOMSG.size :])
    info = attributes(found[IFLA_LINKINFO]) if IFLA_LINKINFO in found else {}
    port = attributes(info[IFLA_INFO_SLAVE_DATA]) if IFLA_INFO_SLAVE_DATA in info else {}
    return SeenLink(
        index=index,
        name=as_string(found[IFLA_IFNAME]),
        kind=as_string(info[IFLA_INFO_KIND]) if IFLA_INFO_KIND in info else "",
        mac=as_mac(found[IFLA_ADDRESS]) if IFLA_ADDRESS in found else "",
        mtu=as_number(found[IFLA_MTU]),
        is_up=bool(flags & IFF_UP),
        peer_index=as_number(found[IFLA_LINK]) if IFLA_LINK in found else 0,
        master_index=as_number(found[IFLA_MASTER]) if IFLA_MASTER in found else 0,
        alias=as_string(found[IFLA_IFALIAS]) if IFLA_IFALIAS in found else "",
        is_hairpin=IFLA_BRPORT_MODE in port and bool(as_number(port[IFLA_BRPORT_MODE])),
    )


def is_bridges_own(body: memoryview) -> bool:
    """True for what a bridge says of its port, beside what the kernel says of the link: it has a few attributes only."""
    return body[0] == AF_BRIDGE


def dump_links() -> bytes:
    """The request for all links of a namespace."""
    return message(wire.RTM_GETLINK, wire.NLM_F_DUMP, _ifinfo(0))


def _ifinfo(index: int, flags: int = 0) -> bytes:
    return _IFINFOMSG.pack(0, 0, index, flags, flags)


def _down(is_up: bool) -> str:
    return "" if is_up else " down"


def _alias(alias: str) -> str:
    return f" alias “{alias}”" if alias else ""


def _alias_words(alias: str) -> str:
    return f" alias {shlex.quote(alias)}" if alias else ""


def _hairpin(is_on: bool) -> bytes:
    return _port_settings(attribute(IFLA_BRPORT_MODE, bytes([is_on])))


def _port_settings(settings: bytes) -> bytes:
    """Encode attributes of a bridge port for a message about its link."""
    return nested(
        IFLA_LINKINFO,
        string(IFLA_INFO_SLAVE_KIND, "bridge"),
        nested(IFLA_INFO_SLAVE_DATA, settings),
    )


def _delete(links: Links, netns: str, name: str) -> bytes:
    return message(wire.RTM_DELLINK, 0, _ifinfo(links.index(netns, name)))
