"""Routes of the main table.

Source: include/uapi/linux/rtnetlink.h, net/ipv4/fib_frontend.c (6.12); iproute2 ip/iproute.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.hoststate.ip import (
    AF_INET,
    AF_INET6,
    OUR_PROTOCOL,
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
    number,
)
from kubenetlab.hoststate.object import Key, NetlinkObject, ObjectMessages, ShellName

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE, RTA_NH_ID = 1, 4, 5, 7, 15, 30
RT_TABLE_MAIN = 254
RTPROT_KERNEL = 2
RTN_UNICAST = 1

_RTMSG = struct.Struct("=BBBBBBBBI")
"""family, destination length, source length, tos, table, protocol, scope, type, flags"""

_ANY = {AF_INET: "0.0.0.0/0", AF_INET6: "::/0"}


class Route(NetlinkObject, frozen=True):
    """A route: by a gateway, to a directly connected network, or by a next hop group.

    The default routes are `0.0.0.0/0` and `::/0`. An IPv4 route without a gateway has scope
    `link`; IPv6 routes have no scopes.
    """

    rank = 80

    destination: str
    link: str
    via: str = ""
    source: str = ""
    """Preferred source address of packets sent by this machine; empty: selected by the kernel."""
    group: int = 0
    """Id of a `NexthopGroup`, with empty `link` and `via`; 0: no group."""

    @property
    def key(self) -> Key:
        return ("Route", self.destination)

    @property
    def depends_on(self) -> Key | None:
        return ("Nexthop", str(self.group)) if self.group else ("Link", self.link)

    def __str__(self) -> str:
        return f"route {self._words}"

    def create(self, links: Links) -> bytes:
        scope = (
            RT_SCOPE_UNIVERSE
            if self.via or self.group or ":" in self.destination
            else RT_SCOPE_LINK
        )
        return message(
            wire.RTM_NEWROUTE,
            wire.NLM_F_CREATE | wire.NLM_F_REPLACE,
            self._body(links, OUR_PROTOCOL, scope),
        )

    change = create

    def delete(self, links: Links) -> bytes:
        return message(wire.RTM_DELROUTE, 0, self._body(links, 0, RT_SCOPE_NOWHERE))

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        family = " -6" if ":" in self.destination else ""
        yield f"ip{family} -n {shell_name(self.netns)} route add {self._words} proto static"

    @property
    def _words(self) -> str:
        """Arguments of `ip route add`."""
        parts = ["default" if self.destination in _ANY.values() else self.destination]
        if self.group:
            return " ".join([*parts, "nhid", str(self.group)])
        parts += ["via", self.via] if self.via else []
        parts += ["dev", self.link]
        parts += ["scope", "link"] if not self.via and ":" not in self.destination else []
        parts += ["src", self.source] if self.source else []
        return " ".join(parts)

    def _body(self, links: Links, protocol: int, scope: int) -> bytes:
        family, network, length = packed_prefix(self.destination)
        header = _RTMSG.pack(family, length, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST, 0)
        destination = attribute(RTA_DST, network) if length else b""
        if self.group:
            return header + destination + number(RTA_NH_ID, self.group)
        gateway = attribute(RTA_GATEWAY, packed(self.via)[1]) if self.via else b""
        source = attribute(RTA_PREFSRC, packed(self.source)[1]) if self.source else b""
        return (
            header
            + destination
            + gateway
            + source
            + number(RTA_OIF, links.index(self.netns, self.link))
        )


def decode_route(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Route, bool] | None:
    """Decode one RTM_NEWROUTE message; return None for routes that the lab never creates.

    These are the kernel's own routes, routes of other tables, and all that are not plain unicast.
    Return the route and True if the lab created it.
    body: rtmsg (12 bytes) | attributes.
    names: link names by interface index; a missing index raises KeyError.
    """
    family, length, _, _, table, protocol, _, type_, _ = _RTMSG.unpack_from(body)
    attrs = attributes(body[_RTMSG.size :])
    table = as_number(attrs[RTA_TABLE]) if RTA_TABLE in attrs else table
    if table != RT_TABLE_MAIN or protocol == RTPROT_KERNEL or type_ != RTN_UNICAST:
        return None
    destination = f"{address_text(attrs[RTA_DST])}/{length}" if RTA_DST in attrs else _ANY[family]
    if RTA_NH_ID in attrs:
        return Route(
            netns, destination, "", group=as_number(attrs[RTA_NH_ID])
        ), protocol == OUR_PROTOCOL
    if RTA_OIF not in attrs:
        return None
    via = address_text(attrs[RTA_GATEWAY]) if RTA_GATEWAY in attrs else ""
    source = address_text(attrs[RTA_PREFSRC]) if RTA_PREFSRC in attrs else ""
    route = Route(netns, destination, names[as_number(attrs[RTA_OIF])], via, source)
    return route, protocol == OUR_PROTOCOL


ROUTE_MESSAGES: Final = ObjectMessages(
    wire.RTM_NEWROUTE,
    wire.RTM_DELROUTE,
    message(wire.RTM_GETROUTE, wire.NLM_F_DUMP, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)),
    decode_route,
)
