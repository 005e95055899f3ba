"""rtnetlink's format: messages and attributes ↔ bytes. The only place where names become interface indexes.

message   := nlmsghdr (16 bytes) | family header | attributes
nlmsghdr  := u32 length | u16 type | u16 flags | u32 sequence | u32 port
attribute := u16 length (with this header) | u16 type | value | padding to 4 bytes
All integers are in host order. Source: include/uapi/linux/{netlink,rtnetlink}.h (6.12); RFC 3549.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import Protocol, Self

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_PADDING = b"", bytes(3), bytes(2), bytes(1)
"""By what is over of a length divided by four."""

Attributes = dict[int, memoryview]


class Links(Protocol):
    """What an encoder must know of the namespaces: interface indexes and file descriptors."""

    def index(self, netns: str, link: str) -> int:
        """The interface index of a link; KeyError when there is none."""

    def new_index(self, netns: str, link: str) -> int:
        """A fresh index, unique in the whole lab, for a link about to be made."""

    def namespace_fd(self, netns: str) -> int:
        """A descriptor of a network namespace, open until the batch is sent."""


class NetlinkObject(Protocol):
    """An object that is told the kernel by messages. What comes and goes with something else has no `delete`."""

    def create(self, links: Links) -> bytes: ...

    def change(self, links: Links) -> bytes: ...

    def delete(self, links: Links) -> bytes: ...


class WireError(ValueError):
    """Bytes that are no rtnetlink message."""


class UniformRequests(bytes):
    """Requests that are all of one length, one behind the other: thousands can be numbered at once."""

    size: int

    def __new__(cls, data: bytes, size: int) -> Self:
        found = super().__new__(cls, data)
        found.size = size
        return found


def message(type_: int, flags: int, body: bytes) -> bytes:
    """A request without sequence number; whoever sends it puts that in."""
    return HEADER.pack(HEADER.size + len(body), type_, NLM_F_REQUEST | flags, 0, 0) + body


def attribute(type_: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, type_) + value + _PADDING[size & 3]


def number(type_: int, value: int) -> bytes:
    """An attribute with a u32."""
    return attribute(type_, struct.pack("=I", value))


def string(type_: int, value: str) -> bytes:
    """An attribute with a string and its final zero."""
    return attribute(type_, value.encode() + b"\0")


def nested(type_: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(type_ | NLA_F_NESTED, b"".join(parts))


def messages(data: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """(type, flags, sequence number, body) of each message in a datagram. Raises WireError when one is cut short."""
    view, at = memoryview(data), 0
    while at < len(view):
        if at + HEADER.size > len(view):
            raise WireError("cut short in a message header")
        size, type_, flags, sequence, _ = HEADER.unpack_from(view, at)
        if size < HEADER.size or at + size > len(view):
            raise WireError("cut short in a message")
        yield type_, flags, sequence, view[at + HEADER.size : at + size]
        at += (size + 3) & ~3


def attributes(data: memoryview) -> Attributes:
    """Attribute type → value; the last one counts. Raises WireError when one is cut short."""
    found: Attributes = {}
    at = 0
    while at < len(data):
        if at + _ATTRIBUTE.size > len(data):
            raise WireError("cut short in an attribute header")
        size, type_ = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > len(data):
            raise WireError("cut short in an attribute")
        found[type_ & NLA_TYPE_MASK] = data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return found


def as_number(value: memoryview) -> int:
    """An unsigned integer of any width."""
    return int.from_bytes(value, sys.byteorder)


def as_string(value: memoryview) -> str:
    """A string without its final zero."""
    return bytes(value).rstrip(b"\0").decode()


def mac_bytes(mac: str) -> bytes:
    """`0a:58:…` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def as_mac(value: memoryview) -> str:
    """Six bytes as `0a:58:…`."""
    return value.hex(":")
