"""Addresses of links.

Source: include/uapi/linux/if_addr.h, net/ipv4/devinet.c, net/ipv6/addrconf.c (6.12);
iproute2 ip/ipaddress.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.hoststate.ip import (
    AF_INET6,
    OUR_PROTOCOL,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    as_address,
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
from kubenetlab.hoststate.object import Key, LinkedObject, ObjectMessages, ShellName

IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS, IFA_PROTO = 1, 2, 6, 8, 11
IFA_F_NODAD, IFA_F_DEPRECATED, IFA_F_NOPREFIXROUTE = 0x02, 0x20, 0x200

_IFADDRMSG = struct.Struct("=BBBBi")
"""family, prefix length, flags, scope, interface index"""
_DEPRECATED = struct.pack("=IIII", 0, 0xFFFFFFFF, 0, 0)
"""ifa_cacheinfo: preferred lifetime 0, valid forever"""


class Address(LinkedObject, frozen=True):
    """An address of a link, with its prefix length: `10.244.1.5/24`.

    Duplicate address detection is disabled.
    """

    rank = 60

    address: str
    is_source: bool = True
    """False if the kernel must not select the address as source address, or for masquerading. It
    has scope `link` in IPv4, and a preferred lifetime of 0 in IPv6."""
    has_route: bool = True
    """True if the kernel adds the route to the prefix."""

    @property
    def key(self) -> Key:
        return ("Address", self.link, self.address)

    def __str__(self) -> str:
        return f"address {self._words}"

    def create(self, links: Links) -> bytes:
        return message(wire.RTM_NEWADDR, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, self._body(links))

    change = create

    def delete(self, links: Links) -> bytes:
        return message(wire.RTM_DELADDR, 0, self._body(links))

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield the command that adds the address, without the protocol.

        iproute2 before 6.3 cannot set the protocol of an address.
        """
        nodad = " nodad" if ":" in self.address else ""
        yield f"ip -n {shell_name(self.netns)} address add {self._words}{nodad}"

    @property
    def _words(self) -> str:
        """Arguments of `ip address add`."""
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
        flag_bits = (IFA_F_NODAD if is_ipv6 else 0) | (0 if self.has_route else IFA_F_NOPREFIXROUTE)
        flags_attr = number(IFA_FLAGS, flag_bits) if flag_bits else b""
        lifetime = attribute(IFA_CACHEINFO, _DEPRECATED) if is_ipv6 and not self.is_source else b""
        protocol = attribute(IFA_PROTO, bytes([OUR_PROTOCOL]))  # ignored before Linux 5.18
        return (
            header
            + attribute(IFA_LOCAL, address)
            + attribute(IFA_ADDRESS, address)
            + flags_attr
            + lifetime
            + protocol
        )


def decode_address(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Address, bool] | None:
    """Decode one RTM_NEWADDR message; return None for loopback addresses.

    Return the address and True if the lab created it.
    body: ifaddrmsg (8 bytes) | attributes.
    names: link names by interface index; a missing index raises KeyError.
    """
    family, prefix, _, scope, index = _IFADDRMSG.unpack_from(body)
    attrs = attributes(body[_IFADDRMSG.size :])
    address = as_address(attrs.get(IFA_LOCAL, attrs[IFA_ADDRESS]))
    if address.is_loopback:
        return None
    flags = as_number(attrs[IFA_FLAGS]) if IFA_FLAGS in attrs else 0
    is_source = not flags & IFA_F_DEPRECATED if family == AF_INET6 else scope == RT_SCOPE_UNIVERSE
    address_obj = Address(
        netns, names[index], f"{address}/{prefix}", is_source, not flags & IFA_F_NOPREFIXROUTE
    )
    return address_obj, IFA_PROTO in attrs and as_number(attrs[IFA_PROTO]) == OUR_PROTOCOL


def decode_only_address(body: memoryview) -> str:
    """Decode only the address of one RTM_NEWADDR message."""
    attrs = attributes(body[_IFADDRMSG.size :])
    return str(as_address(attrs.get(IFA_LOCAL, attrs[IFA_ADDRESS])))


ADDRESS_MESSAGES: Final = ObjectMessages(
    wire.RTM_NEWADDR,
    wire.RTM_DELADDR,
    message(wire.RTM_GETADDR, wire.NLM_F_DUMP, _IFADDRMSG.pack(0, 0, 0, 0, 0)),
    decode_address,
)
