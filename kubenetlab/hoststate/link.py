"""Links: loopback, bridges, veth pairs, bridge ports and dummies.

Source: include/uapi/linux/if_link.h, net/core/rtnetlink.c, drivers/net/veth.c (6.12);
iproute2 ip/iplink.c.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from kubenetlab.hoststate.link_kinds import change_link, new_link
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.link_messages import (
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
from kubenetlab.hoststate.netlink.wire import (
    Links,
    attribute,
    mac_bytes,
    message,
    nested,
    number,
    string,
)
from kubenetlab.hoststate.object import Key, Object, ShellName

LOOPBACK = "lo"


class LinkUp(Object, frozen=True):
    """An existing link that is set up: loopback, or a link created outside the lab."""

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

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        yield f"ip -n {shell_name(self.netns)} link set {self.name} up"


class Bridge(Object, frozen=True):
    """A Linux bridge."""

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
        suffix = f"{_alias(self.alias)}{_down(self.is_up)}"
        return f"bridge {self.name} mac {self.mac} mtu {self.mtu}{suffix}"

    def create(self, links: Links) -> bytes:
        index = links.new_index(self.netns, self.name)
        body = ifinfo(index, IFF_UP) + string(IFLA_IFNAME, self.name) + self._settings()
        link_info = nested(
            IFLA_LINKINFO,
            string(IFLA_INFO_KIND, "bridge"),
            nested(IFLA_INFO_DATA, attribute(IFLA_BR_MCAST_SNOOPING, b"\0")),
        )
        created = message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body + link_info)
        # The kernel ignores an alias in the message that creates a link.
        return created + (
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

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        settings = f"address {self.mac} mtu {self.mtu} type bridge mcast_snooping 0"
        yield f"ip -n {netns} link add {self.name} {settings}"
        yield f"ip -n {netns} link set {self.name}{_alias_option(self.alias)} up"

    def _settings(self) -> bytes:
        return attribute(IFLA_ADDRESS, mac_bytes(self.mac)) + number(IFLA_MTU, self.mtu)


class Dummy(Object, frozen=True):
    """A dummy link that is down. Its addresses are local addresses of the machine all the same."""

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
        mac = ("IFLA_ADDRESS", self.mac)
        created = new_link("dummy", self.name, mac, index=index)
        alias = ("IFLA_IFALIAS", self.alias)
        return created + (change_link(index, alias) if self.alias else b"")

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        return change_link(index, ("IFLA_ADDRESS", self.mac), ("IFLA_IFALIAS", self.alias))

    def delete(self, links: Links) -> bytes:
        return delete_link(links, self.netns, self.name)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        yield f"ip -n {netns} link add {self.name} address {self.mac} type dummy"
        if self.alias:
            yield f"ip -n {netns} link set {self.name}{_alias_option(self.alias)}"


class Veth(Object, frozen=True):
    """One end of a veth pair; creating it creates the peer in `peer_netns`, too.

    The peer end is configured by its own `Port` object. Both ends get interface indexes that are
    unique in the lab, so that a dump of one end identifies the other.
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
        suffix = f"{_alias(self.alias)}{_down(self.is_up)}"
        peer = f"{self.peer} in {self.peer_netns}"
        return f"veth {self.name} mac {self.mac} mtu {self.mtu} ↔ {peer}{suffix}"

    def create(self, links: Links) -> bytes:
        """Return the requests that create the pair and set this end up.

        The peer is the main device of the first message, because only that one can be created up:
        the kernel would open this end before the peer exists (ENOTCONN).
        """
        queues = number(IFLA_NUM_TX_QUEUES, 1) + number(IFLA_NUM_RX_QUEUES, 1)
        peer_index, index = (
            links.new_index(self.peer_netns, self.peer),
            links.new_index(self.netns, self.name),
        )
        own_end = (
            ifinfo(index)
            + string(IFLA_IFNAME, self.name)
            + attribute(IFLA_ADDRESS, mac_bytes(self.mac))
            + number(IFLA_MTU, self.mtu)
            + queues
        )
        peer_end = (
            ifinfo(peer_index, IFF_UP)
            + string(IFLA_IFNAME, self.peer)
            + number(IFLA_NET_NS_FD, links.namespace_fd(self.peer_netns))
            + number(IFLA_MTU, self.mtu)
            + queues
        )
        link_info = nested(
            IFLA_LINKINFO,
            string(IFLA_INFO_KIND, "veth"),
            nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, own_end)),
        )
        set_up = message(
            wire.RTM_NEWLINK,
            0,
            ifinfo(index, IFF_UP) + (string(IFLA_IFALIAS, self.alias) if self.alias else b""),
        )
        return (
            message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, peer_end + link_info)
            + set_up
        )

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

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield the commands that create the pair; the peer's `Port` yields those for the peer."""
        netns, peer_netns, settings = (
            shell_name(self.netns),
            shell_name(self.peer_netns),
            f"mtu {self.mtu} numtxqueues 1 numrxqueues 1",
        )
        peer_end = f"type veth peer name {self.peer} netns {peer_netns} {settings}"
        yield f"ip -n {netns} link add {self.name} address {self.mac} {settings} \\\n    {peer_end}"
        yield f"ip -n {netns} link set {self.name}{_alias_option(self.alias)} up"


class Port(Object, frozen=True):
    """The peer end of a `Veth`, as a port of a bridge.

    Hairpin mode allows the bridge to send a frame back to the port it came from, for a pod that
    reaches itself by its Service.
    """

    rank = 50

    name: str
    master: str
    """Name of the bridge; empty for an observed link without one."""
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
        suffix = f"{hairpin}{_alias(self.alias)}{_down(self.is_up)}"
        bridge = self.master or "no bridge"
        return f"port {self.name} of {bridge} mac {self.mac} mtu {self.mtu}{suffix}"

    def create(self, links: Links) -> bytes:
        """Return the requests that make the link a bridge port.

        The link exists: its veth created it, with its MTU. Hairpin mode needs a message of its own,
        because only a link that is a port already has it.
        """
        index = links.index(self.netns, self.name)
        set_master = message(wire.RTM_NEWLINK, 0, self._settings(links, index))
        return set_master + (
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
        """Return the request that isolates the port; the link itself is deleted with its veth.

        The kernel destroys the namespace of a deleted pod after some delay. Until then it would
        still receive, and reject, packets for another pod that got the same address. The port's
        state cannot be set to disabled instead: the kernel enables it again at the next event of
        the link (net/bridge/br_if.c br_port_carrier_check()).
        """
        disabled = (
            IFLA_BRPORT_LEARNING,
            IFLA_BRPORT_UNICAST_FLOOD,
            IFLA_BRPORT_MCAST_FLOOD,
            IFLA_BRPORT_BCAST_FLOOD,
        )
        settings = b"".join(attribute(type_, bytes([False])) for type_ in disabled) + attribute(
            IFLA_BRPORT_FLUSH, b""
        )
        return message(
            wire.RTM_NEWLINK,
            0,
            ifinfo(links.index(self.netns, self.name)) + port_settings(settings),
        )

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        settings = f"master {self.master} address {self.mac}{_alias_option(self.alias)}"
        yield f"ip -n {netns} link set {self.name} {settings} up"
        if self.is_hairpin:
            yield f"bridge -n {netns} link set dev {self.name} hairpin on"

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


def _alias_option(alias: str) -> str:
    return f" alias {shlex.quote(alias)}" if alias else ""
