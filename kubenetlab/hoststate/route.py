"""Routes.

Source: include/uapi/linux/rtnetlink.h, net/ipv4/fib_frontend.c (6.12); iproute2 ip/iproute.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from kubenetlab.hoststate.ip import (
    AF_INET,
    AF_INET6,
    OUR_PROTOCOL,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    address_text,
    packed,
    packed_prefix,
)
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import (
    Links,
    as_number,
    attribute,
    attributes,
    message,
    nested,
    number,
)
from kubenetlab.hoststate.object import Key, NetlinkObject, Object, ObjectMessages, ShellName

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE, RTA_NH_ID = 1, 4, 5, 7, 15, 30
RTA_METRICS, RTAX_MTU = 8, 2
RT_TABLE_UNSPEC, RT_TABLE_MAIN = 0, 254
_MAX_SHORT_TABLE = 255
"""Largest table number that fits into rtmsg; others need an attribute."""
RTPROT_KERNEL = 2
RTNH_F_ONLINK = 4
RouteType = Literal["unicast", "local", "blackhole", "unreachable", "throw"]
_TYPES: Final[Mapping[RouteType, int]] = {
    "unicast": 1,
    "local": 2,
    "blackhole": 6,
    "unreachable": 7,
    "throw": 9,
}
_TYPE_NAMES: Final = {number: name for name, number in _TYPES.items()}
_WITHOUT_LINK: Final = ("blackhole", "unreachable", "throw")

_RTMSG = struct.Struct("=BBBBBBBBI")
"""family, destination length, source length, tos, table, protocol, scope, type, flags"""

_ANY = {AF_INET: "0.0.0.0/0", AF_INET6: "::/0"}
_FAMILIES: Final = {4: AF_INET, 6: AF_INET6}
_LINK_LOCAL_BYTE: Final = 0xFE
"""First byte of fe80::/10; that of ff00::/8 is larger."""


class Route(NetlinkObject, frozen=True):
    """A route: by a gateway, to a directly connected network, by a next hop group, or to nowhere.

    The default routes are `0.0.0.0/0` and `::/0`. An IPv4 route without a gateway has scope
    `link`; IPv6 routes have no scopes.
    """

    rank = 80
    needs_open_link = True

    destination: str
    link: str
    """Empty for a route by a group, and for types that drop packets."""
    via: str = ""
    source: str = ""
    """Preferred source address of packets sent by this machine; empty: selected by the kernel."""
    group: int = 0
    """Id of a `NexthopGroup`, with empty `link` and `via`; 0: no group."""
    type: RouteType = "unicast"
    """local: packets are for this machine; blackhole: they are dropped; unreachable: they are
    answered with an ICMP error; throw: the next policy rule applies."""
    table: int = RT_TABLE_MAIN
    is_onlink: bool = False
    """True if the gateway is on the link although no address of the link says so."""
    mtu: int = 0
    """Largest packet in bytes that this machine sends by the route; 0: the MTU of the link."""

    @property
    def key(self) -> Key:
        if self.table == RT_TABLE_MAIN:
            return ("Route", self.destination)
        return ("Route", self.destination, str(self.table))

    @property
    def depends_on(self) -> Key | None:
        if self.group:
            return ("Nexthop", str(self.group))
        return ("Link", self.link) if self.link else None

    def __str__(self) -> str:
        return f"route {self._words}"

    def create(self, links: Links) -> bytes:
        return message(
            wire.RTM_NEWROUTE,
            wire.NLM_F_CREATE | wire.NLM_F_REPLACE,
            self._body(links, OUR_PROTOCOL, self._scope),
        )

    change = create

    def can_become(self, desired: Object) -> bool:
        """Return True for a route of the same type, for IPv6 has no message that changes it.

        The kernel refuses an onlink gateway to which another link has a route, as this one may be.
        """
        if not isinstance(desired, Route) or self.type != desired.type:
            return False
        return self.link == desired.link or not desired.is_onlink

    def delete(self, links: Links) -> bytes:
        return message(wire.RTM_DELROUTE, 0, self._body(links, 0, RT_SCOPE_NOWHERE))

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        family = " -6" if ":" in self.destination else ""
        yield f"ip{family} -n {shell_name(self.netns)} route add {self._words} proto static"

    @property
    def _scope(self) -> int:
        if ":" in self.destination or self.via or self.group or self.type in _WITHOUT_LINK:
            return RT_SCOPE_UNIVERSE
        return RT_SCOPE_HOST if self.type == "local" else RT_SCOPE_LINK

    @property
    def _words(self) -> str:
        """Arguments of `ip route add`."""
        parts: list[str] = [] if self.type == "unicast" else [self.type]
        parts += ["default" if self.destination in _ANY.values() else self.destination]
        if self.group:
            parts += ["nhid", str(self.group)]
        else:
            parts += ["via", self.via] if self.via else []
            parts += ["dev", self.link] if self.link else []
            parts += ["scope", "link"] if self._scope == RT_SCOPE_LINK else []
            parts += ["src", self.source] if self.source else []
        parts += ["table", str(self.table)] if self.table != RT_TABLE_MAIN else []
        parts += ["onlink"] if self.is_onlink else []
        parts += ["mtu", str(self.mtu)] if self.mtu else []
        return " ".join(parts)

    def _body(self, links: Links, protocol: int, scope: int) -> bytes:
        family, network, length = packed_prefix(self.destination)
        table = self.table if self.table <= _MAX_SHORT_TABLE else RT_TABLE_UNSPEC
        flags = RTNH_F_ONLINK if self.is_onlink else 0
        header = _RTMSG.pack(family, length, 0, 0, table, protocol, scope, _TYPES[self.type], flags)
        body = header + (attribute(RTA_DST, network) if length else b"")
        if table != self.table:
            body += number(RTA_TABLE, self.table)
        if self.group:
            return body + number(RTA_NH_ID, self.group)
        if self.via:
            body += attribute(RTA_GATEWAY, packed(self.via)[1])
        if self.source:
            body += attribute(RTA_PREFSRC, packed(self.source)[1])
        if self.mtu:
            body += nested(RTA_METRICS, number(RTAX_MTU, self.mtu))
        return body + (number(RTA_OIF, links.index(self.netns, self.link)) if self.link else b"")


def decode_route(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Route, bool] | None:
    """Decode one RTM_NEWROUTE message; return None for routes that the lab never creates.

    These are the kernel's own routes, routes of other types, and routes of other programs in tables
    other than the main one. Return the route and True if the lab created it.
    body: rtmsg (12 bytes) | attributes.
    names: link names by interface index; a missing index raises KeyError.
    """
    family, length, _, _, table, protocol, _, type_number, flags = _RTMSG.unpack_from(body)
    is_ours = protocol == OUR_PROTOCOL
    type_ = _TYPE_NAMES.get(type_number)
    attrs = attributes(body[_RTMSG.size :])
    table = as_number(attrs[RTA_TABLE]) if RTA_TABLE in attrs else table
    if type_ is None or protocol == RTPROT_KERNEL or not (is_ours or table == RT_TABLE_MAIN):
        return None
    destination = f"{address_text(attrs[RTA_DST])}/{length}" if RTA_DST in attrs else _ANY[family]
    if RTA_NH_ID in attrs:
        group = as_number(attrs[RTA_NH_ID])
        return Route(netns, destination, "", group=group, type=type_, table=table), is_ours
    if type_ in _WITHOUT_LINK:
        return Route(netns, destination, "", type=type_, table=table), is_ours
    if RTA_OIF not in attrs:
        return None
    route = Route(
        netns,
        destination,
        names[as_number(attrs[RTA_OIF])],
        address_text(attrs[RTA_GATEWAY]) if RTA_GATEWAY in attrs else "",
        address_text(attrs[RTA_PREFSRC]) if RTA_PREFSRC in attrs else "",
        type=type_,
        table=table,
        is_onlink=bool(flags & RTNH_F_ONLINK),
        mtu=_decode_mtu(attrs[RTA_METRICS]) if RTA_METRICS in attrs else 0,
    )
    return route, is_ours


def _decode_mtu(metrics: memoryview) -> int:
    """Return the MTU among the metrics of a route; 0 if there is none."""
    values = attributes(metrics)
    return as_number(values[RTAX_MTU]) if RTAX_MTU in values else 0


def decode_destination(body: memoryview) -> str | None:
    """Return the destination of a unicast route in the main table; None for other routes.

    It does not matter which component added the route.
    body: as for `decode_route`.
    """
    family, length, _, _, table, _, _, type_number, _ = _RTMSG.unpack_from(body)
    if table != RT_TABLE_MAIN or _TYPE_NAMES.get(type_number) != "unicast":
        return None
    attrs = attributes(body[_RTMSG.size :])
    return f"{address_text(attrs[RTA_DST])}/{length}" if RTA_DST in attrs else _ANY[family]


def is_in_main_table(body: memoryview, version: int) -> bool:
    """Return True for a route of an IP version in the main table.

    It does not matter which component added the route.
    Link-local and multicast routes of IPv6 do not count: the kernel adds them to every link.
    body: as for `decode_route`.
    """
    family, length, _, _, table, _, _, _, _ = _RTMSG.unpack_from(body)
    if table != RT_TABLE_MAIN or family != _FAMILIES[version]:
        return False
    destination = attributes(body[_RTMSG.size :]).get(RTA_DST, b"")
    return not (version == 6 and length and destination[0] >= _LINK_LOCAL_BYTE)


ROUTE_MESSAGES: Final = ObjectMessages(
    wire.RTM_NEWROUTE,
    wire.RTM_DELROUTE,
    message(wire.RTM_GETROUTE, wire.NLM_F_DUMP, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)),
    decode_route,
)
