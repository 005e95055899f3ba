"""Links: loopback, bridges, veth pairs, a bridge's ports, and dummies.

Source: include/uapi/linux/if_link.h, net/core/rtnetlink.c, drivers/net/veth.c (6.12); iproute2 ip/iplink.c.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.link_messages import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_BR_MCAST_SNOOPING,
    IFLA_BRPORT_BCAST_FLOOD,
    IFLA_BRPORT_FLUSH,
    IFLA_BRPORT_LEARNING,
    IFLA_BRPORT_MCAST_FLOOD,
    IFLA_BRPORT_UNICAST_FLOOD,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_NUM_RX_QUEUES,
    IFLA_NUM_TX_QUEUES,
    VETH_INFO_PEER,
    delete_link,
    hairpin_mode,
    ifinfo,
    port_settings,
)
from kubenetlab.hoststate.object import Key, Object, Word
from kubenetlab.hoststate.wire import (
    Links,
    attribute,
    mac_bytes,
    message,
    nested,
    number,
    string,
)

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
        return message(wire.RTM_NEWLINK, 0, ifinfo(links.index(self.netns, self.name), IFF_UP))

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
        body = ifinfo(index, IFF_UP) + string(IFLA_IFNAME, self.name) + self._settings()
        info = nested(
            IFLA_LINKINFO,
            string(IFLA_INFO_KIND, "bridge"),
            nested(IFLA_INFO_DATA, attribute(IFLA_BR_MCAST_SNOOPING, b"\0")),
        )
        made = message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body + info)
        # An alias cannot be set in the message that makes a link.
        return made + (
            message(wire.RTM_NEWLINK, 0, ifinfo(index) + string(IFLA_IFALIAS, self.alias))
            if self.alias
            else b""
        )

    def change(self, links: Links) -> bytes:
        body = (
            ifinfo(links.index(self.netns, self.name), IFF_UP)
            + self._settings()
            + string(IFLA_IFALIAS, self.alias)
        )
        return message(wire.RTM_NEWLINK, 0, body)

    def delete(self, links: Links) -> bytes:
        return delete_link(links, self.netns, self.name)

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
            ifinfo(index)
            + string(IFLA_IFNAME, self.name)
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
        )
        body += nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, "dummy"))
        made = message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body)
        return made + (
            message(wire.RTM_NEWLINK, 0, ifinfo(index) + string(IFLA_IFALIAS, self.alias))
            if self.alias
            else b""
        )

    def change(self, links: Links) -> bytes:
        body = ifinfo(links.index(self.netns, self.name)) + attribute(
            IFLA_ADDRESS, mac_bytes(self.mac)
        )
        return message(wire.RTM_NEWLINK, 0, body + string(IFLA_IFALIAS, self.alias))

    def delete(self, links: Links) -> bytes:
        return delete_link(links, self.netns, self.name)

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
            ifinfo(index)
            + string(IFLA_IFNAME, self.name)
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
            + number(IFLA_MTU, self.mtu)
            + queues
        )
        there = (
            ifinfo(peer_index, IFF_UP)
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
            ifinfo(index, IFF_UP) + (string(IFLA_IFALIAS, self.alias) if self.alias else b""),
        )
        return message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, there + info) + up

    def change(self, links: Links) -> bytes:
        body = (
            ifinfo(links.index(self.netns, self.name), IFF_UP)
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
            + number(IFLA_MTU, self.mtu)
            + string(IFLA_IFALIAS, self.alias)
        )
        return message(wire.RTM_NEWLINK, 0, body)

    def delete(self, links: Links) -> bytes:
        return delete_link(links, self.netns, self.name)

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
            message(wire.RTM_NEWLINK, 0, ifinfo(index) + hairpin_mode(True))
            if self.is_hairpin
            else b""
        )

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        body = self._settings(links, index) + number(IFLA_MTU, self.mtu)
        return message(wire.RTM_NEWLINK, 0, body) + message(
            wire.RTM_NEWLINK, 0, ifinfo(index) + hairpin_mode(self.is_hairpin)
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
            ifinfo(links.index(self.netns, self.name)) + port_settings(settings),
        )

    def commands(self, word: Word) -> Iterator[str]:
        here = word(self.netns)
        yield f"ip -n {here} link set {self.name} master {self.master} address {self.mac}{_alias_words(self.alias)} up"
        if self.is_hairpin:
            yield f"bridge -n {here} link set dev {self.name} hairpin on"

    def _settings(self, links: Links, index: int) -> bytes:
        return (
            ifinfo(index, IFF_UP)
            + number(IFLA_MASTER, links.index(self.netns, self.master))
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
            + string(IFLA_IFALIAS, self.alias)
        )


def _down(is_up: bool) -> str:
    return "" if is_up else " down"


def _alias(alias: str) -> str:
    return f" alias “{alias}”" if alias else ""


def _alias_words(alias: str) -> str:
    return f" alias {shlex.quote(alias)}" if alias else ""
