"""Addresses of links.

Source: include/uapi/linux/if_addr.h, net/ipv4/devinet.c, net/ipv6/addrconf.c (6.12); iproute2 ip/ipaddress.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.ip import (
    AF_INET6,
    OUR_PROTOCOL,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    as_address,
    packed_prefix,
)
from kubenetlab.hoststate.object import Key, Object, Word
from kubenetlab.hoststate.wire import Links, as_number, attribute, attributes, message, number

IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS, IFA_PROTO = 1, 2, 6, 8, 11
IFA_F_NODAD, IFA_F_DEPRECATED, IFA_F_NOPREFIXROUTE = 0x02, 0x20, 0x200

_IFADDRMSG = struct.Struct("=BBBBi")
"""family, prefix length, flags, scope, interface index"""
_DEPRECATED = struct.pack("=IIII", 0, 0xFFFFFFFF, 0, 0)
"""ifa_cacheinfo: preferred for no time, valid for ever"""


class Address(Object, frozen=True):
    """An address of a link, with its prefix length: `10.244.1.5/24`.

    With `has_route` the kernel adds the route to the prefix by itself. What is no source is not chosen for what the machine sends or
    masquerades: IPv4 says so by the scope `link`, IPv6 by a preferred lifetime of 0. Duplicates are not looked for.
    """

    rank = 60

    link: str
    address: str
    is_source: bool = True
    has_route: bool = True

    @property
    def key(self) -> Key:
        return ("Address", self.link, self.address)

    @property
    def depends_on(self) -> Key | None:
        return ("Link", self.link)

    def __str__(self) -> str:
        return f"address {self._words}"

    def create(self, links: Links) -> bytes:
        return message(wire.RTM_NEWADDR, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, self._body(links))

    change = create

    def delete(self, links: Links) -> bytes:
        return message(wire.RTM_DELADDR, 0, self._body(links))

    def commands(self, word: Word) -> Iterator[str]:
        """Without our mark, which iproute2 cannot set on addresses before 6.3. An IPv6 address does not wait for who might have it too."""
        nodad = " nodad" if ":" in self.address else ""
        yield f"ip -n {word(self.netns)} address add {self._words}{nodad}"

    @property
    def _words(self) -> str:
        """As iproute2 says it."""
        no_source = (
            "" if self.is_source else " preferred_lft 0" if ":" in self.address else " scope link"
        )
        return (
            f"{self.address} dev {self.link}{no_source}{'' if self.has_route else ' noprefixroute'}"
        )

    def _body(self, links: Links) -> bytes:
        family, address, length = packed_prefix(self.address)
        is_ipv6 = family == AF_INET6
        scope = RT_SCOPE_UNIVERSE if self.is_source or is_ipv6 else RT_SCOPE_LINK
        index = links.index(self.netns, self.link)
        header = _IFADDRMSG.pack(family, length, 0, scope, index)
        wanted = (IFA_F_NODAD if is_ipv6 else 0) | (0 if self.has_route else IFA_F_NOPREFIXROUTE)
        flags = number(IFA_FLAGS, wanted) if wanted else b""
        lifetime = attribute(IFA_CACHEINFO, _DEPRECATED) if is_ipv6 and not self.is_source else b""
        mark = attribute(IFA_PROTO, bytes([OUR_PROTOCOL]))  # Linux 5.18 and later keep it
        return (
            header
            + attribute(IFA_LOCAL, address)
            + attribute(IFA_ADDRESS, address)
            + flags
            + lifetime
            + mark
        )


def decode_address(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Address, bool] | None:
    """One RTM_NEWADDR message, and whether we made it; None for loopback's own addresses.

    message: ifaddrmsg (8 bytes) | attributes; names: index → link.
    """
    family, prefix, _, scope, index = _IFADDRMSG.unpack_from(body)
    found = attributes(body[_IFADDRMSG.size :])
    address = as_address(found.get(IFA_LOCAL, found[IFA_ADDRESS]))
    if address.is_loopback:
        return None
    flags = as_number(found[IFA_FLAGS]) if IFA_FLAGS in found else 0
    is_source = not flags & IFA_F_DEPRECATED if family == AF_INET6 else scope == RT_SCOPE_UNIVERSE
    seen = Address(
        netns, names[index], f"{address}/{prefix}", is_source, not flags & IFA_F_NOPREFIXROUTE
    )
    return seen, IFA_PROTO in found and as_number(found[IFA_PROTO]) == OUR_PROTOCOL


def dump_addresses() -> bytes:
    """The request for all addresses of a namespace."""
    return message(wire.RTM_GETADDR, wire.NLM_F_DUMP, _IFADDRMSG.pack(0, 0, 0, 0, 0))


def address_in(body: memoryview) -> str:
    """The address alone that a message of the dump tells."""
    found = attributes(body[_IFADDRMSG.size :])
    return str(as_address(found.get(IFA_LOCAL, found[IFA_ADDRESS])))
