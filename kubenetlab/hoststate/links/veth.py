"""Veth pairs: the end that creates the pair, and its peer, which may be a bridge port.

Source: include/uapi/linux/if_link.h, net/core/rtnetlink.c, drivers/net/veth.c (6.12);
iproute2 ip/iplink.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

from msgspec import structs

from kubenetlab.hoststate.links.link import (
    Link,
    OtherLinks,
    alias_option,
    alias_words,
    arp_option,
    arp_word,
    down_word,
)
from kubenetlab.hoststate.links.messages import (
    IFF_UP,
    IFLA_ADDRESS,
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
    ObservedLink,
    configuration,
    hairpin_mode,
    ifinfo,
    immediate_proxy_arp,
    ipv4_settings,
    link_flags,
    port_settings,
)
from kubenetlab.hoststate.netlink import wire
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


class Veth(Link, frozen=True):
    """One end of a veth pair; creating it creates the peer in `peer_netns`, too.

    The peer end is configured by an object of its own, a `VethPeer` or a `Port`. Both ends get
    interface indexes that are unique in the lab, so that a dump of one end identifies the other.
    """

    kind = "veth"
    event_fields = (*Link.event_fields, "has_arp")
    rank = 40

    mac: str
    peer_netns: str
    peer: str
    mtu: int = 1500
    alias: str = ""
    is_up: bool = True
    has_arp: bool = True
    """False for a link that has no neighbours to resolve."""

    @property
    def peer_end(self) -> tuple[str, Key] | None:
        if self.peer_netns == self.netns:
            return None  # nothing has to wait for another namespace
        return self.peer_netns, ("Link", self.peer)

    def __str__(self) -> str:
        suffix = f"{arp_word(self.has_arp)}{alias_words(self.alias)}{down_word(self.is_up)}"
        peer = f"{self.peer} in {self.peer_netns}"
        return f"veth {self.name} mac {self.mac} mtu {self.mtu} ↔ {peer}{suffix}"

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        """Return this end; a peer that was not found is called `?`."""
        peer_netns, peer = others.veths.get(link.peer_index, ("?", None))
        is_pair = peer is not None and peer.peer_index == link.index
        peer_end = (peer_netns, peer.name) if is_pair and peer is not None else ("?", "?")
        flags = (link.is_up, link.has_arp)
        return cls(netns, link.name, link.mac, *peer_end, link.mtu, link.alias, *flags)

    def can_become(self, desired: Object) -> bool:
        """Return True if the pair is the same; its other end cannot be moved."""
        return isinstance(desired, Veth) and (self.peer_netns, self.peer) == (
            desired.peer_netns,
            desired.peer,
        )

    def closed(self) -> Self | None:
        return structs.replace(self, is_up=False) if self.is_up else None

    def create(self, links: Links) -> bytes:
        """Return the requests that create the pair and set this end up, unless it is created down.

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
            + self._peer_namespace(links)
            + number(IFLA_MTU, self.mtu)
            + queues
        )
        link_info = nested(
            IFLA_LINKINFO,
            string(IFLA_INFO_KIND, "veth"),
            nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, own_end)),
        )
        flags, _ = link_flags(has_arp=self.has_arp)
        configured = message(
            wire.RTM_NEWLINK,
            0,
            ifinfo(index, flags if self.is_up else flags & ~IFF_UP)
            + (string(IFLA_IFALIAS, self.alias) if self.alias else b""),
        )
        return (
            message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, peer_end + link_info)
            + configured
        )

    def _peer_namespace(self, links: Links) -> bytes:
        """Return the attribute with the peer's namespace; nothing if that is this one."""
        if self.peer_netns == self.netns:
            return b""
        return number(IFLA_NET_NS_FD, links.namespace_fd(self.peer_netns))

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        return configuration(index, self.mac, self.mtu, self.alias, has_arp=self.has_arp)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield the commands that create the pair; the peer's `Port` yields those for the peer."""
        netns, peer_netns, settings = (
            shell_name(self.netns),
            shell_name(self.peer_netns),
            f"mtu {self.mtu} numtxqueues 1 numrxqueues 1",
        )
        peer_end = f"type veth peer name {self.peer} netns {peer_netns} {settings}"
        yield f"ip -n {netns} link add {self.name} address {self.mac} {settings} \\\n    {peer_end}"
        settings = f"{alias_option(self.alias)}{arp_option(self.has_arp)}"
        yield f"ip -n {netns} link set {self.name}{settings} up"


class VethPeer(Link, frozen=True):
    """The peer end of a `Veth`, as a link with addresses and routes of its own."""

    kind = "veth"
    event_fields = (*Link.event_fields, "has_arp")
    is_created_by_peer = True
    rank = 50

    mac: str
    mtu: int = 1500
    alias: str = ""
    is_up: bool = True
    has_proxy_arp: bool = False
    """True if it answers ARP requests for all addresses to which the node has a route."""
    is_source_checked: bool = False
    """True if it drops IPv4 packets whose source is not routed to it (rp_filter)."""
    has_arp: bool = True
    """False for a link that has no neighbours to resolve."""

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(
            netns,
            link.name,
            link.mac,
            link.mtu,
            link.alias,
            link.is_up,
            link.ipv4_setting("proxy_arp") == 1,
            link.ipv4_setting("rp_filter") == 1,
            link.has_arp,
        )

    @property
    def _settings(self) -> dict[str, int]:
        return {"proxy_arp": int(self.has_proxy_arp), "rp_filter": int(self.is_source_checked)}

    def __str__(self) -> str:
        settings = "".join(f" {name}" for name, value in self._settings.items() if value)
        suffix = (
            f"{settings}{arp_word(self.has_arp)}{alias_words(self.alias)}{down_word(self.is_up)}"
        )
        return f"veth {self.name} mac {self.mac} mtu {self.mtu}{suffix}"

    def create(self, links: Links) -> bytes:
        """Return the request that configures the link, which its veth created with its MTU."""
        return self.change(links)

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        settings = ipv4_settings(self._settings)
        request = configuration(
            index, self.mac, self.mtu, self.alias, settings, has_arp=self.has_arp
        )
        return request + immediate_proxy_arp(index) if self.has_proxy_arp else request

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        words = f"address {self.mac}{alias_option(self.alias)}{arp_option(self.has_arp)}"
        yield f"ip -n {netns} link set {self.name} {words} up"
        paths = {f"conf/{self.name}/{name}": value for name, value in self._settings.items()}
        settings = [f"net/ipv4/{path}={value}" for path, value in paths.items() if value]
        if self.has_proxy_arp:
            settings.append(f"net/ipv4/neigh/{self.name}/proxy_delay=0")
        if settings:
            yield f"ip netns exec {netns} sysctl -qw {' '.join(settings)}"


class LocalVethPeer(VethPeer, frozen=True):
    """The peer end of a `Veth` in the same namespace, which no other namespace has to create."""

    is_created_by_peer = False


class Port(Link, frozen=True):
    """The peer end of a `Veth`, as a port of a bridge.

    Hairpin mode allows the bridge to send a frame back to the port it came from, for a pod that
    reaches itself by its Service.
    """

    kind = "veth"
    is_created_by_peer = True
    rank = 50

    master: str
    """Name of the bridge; empty for an observed link without one."""
    mac: str
    mtu: int = 1500
    alias: str = ""
    is_hairpin: bool = False
    is_up: bool = True

    def __str__(self) -> str:
        hairpin = " hairpin" if self.is_hairpin else ""
        suffix = f"{hairpin}{alias_words(self.alias)}{down_word(self.is_up)}"
        bridge = self.master or "no bridge"
        return f"port {self.name} of {bridge} mac {self.mac} mtu {self.mtu}{suffix}"

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(
            netns,
            link.name,
            others.names.get(link.master_index, ""),
            link.mac,
            link.mtu,
            link.alias,
            link.is_hairpin,
            link.is_up,
        )

    def matches(self, link: ObservedLink, indexes: Mapping[str, int]) -> bool:
        return super().matches(link, indexes) and indexes.get(self.master) == link.master_index

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
        settings = f"master {self.master} address {self.mac}{alias_option(self.alias)}"
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
