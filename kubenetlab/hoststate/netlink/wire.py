"""Encoding and decoding of rtnetlink messages and attributes.

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
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_PADDING = b"", bytes(3), bytes(2), bytes(1)
"""Padding bytes, indexed by length modulo 4."""

Attributes = dict[int, memoryview]


class LinkIndexes(Protocol):
    """Interface indexes of existing links."""

    def index(self, netns: str, link: str) -> int:
        """Return the interface index of a link; raise KeyError if the link does not exist."""


class Links(LinkIndexes, Protocol):
    """Interface indexes and namespace descriptors that encoders need."""

    def new_index(self, netns: str, link: str) -> int:
        """Return an unused index, unique in the whole lab, for a link about to be created."""

    def adopt(self, netns: str, link: str) -> None:
        """Learn the index of a link of the current namespace that exists without a request.

        Raises OSError if there is no such link.
        """

    def namespace_fd(self, netns: str) -> int:
        """Return a descriptor of a network namespace that stays open until the batch is sent."""


class WireError(ValueError):
    """Raised for bytes that are not an rtnetlink message."""


class UniformRequests(bytes):
    """Concatenated requests of equal length, so that all sequence numbers are set at once."""

    size: int
    """Length of one request in bytes."""

    def __new__(cls, data: bytes, size: int) -> Self:
        requests = super().__new__(cls, data)
        requests.size = size
        return requests


def message(type_: int, flags: int, body: bytes) -> bytes:
    """Return a request; the sender fills in the sequence number."""
    return HEADER.pack(HEADER.size + len(body), type_, NLM_F_REQUEST | flags, 0, 0) + body


def attribute(type_: int, value: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, type_) + value + _PADDING[size & 3]


def number(type_: int, value: int) -> bytes:
    """Encode a u32 attribute."""
    return attribute(type_, struct.pack("=I", value))


def string(type_: int, value: str) -> bytes:
    """Encode a string attribute, with its terminating zero."""
    return attribute(type_, value.encode() + b"\0")


def nested(type_: int, *parts: bytes) -> bytes:
    """Encode an attribute that contains attributes."""
    return attribute(type_ | NLA_F_NESTED, b"".join(parts))


def messages(data: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """Yield type, flags, sequence number and body of each message in a datagram.

    Raises WireError when a message is cut short.
    """
    view, offset = memoryview(data), 0
    while offset < len(view):
        if offset + HEADER.size > len(view):
            raise WireError("cut short in a message header")
        size, type_, flags, sequence, _ = HEADER.unpack_from(view, offset)
        if size < HEADER.size or offset + size > len(view):
            raise WireError("cut short in a message")
        yield type_, flags, sequence, view[offset + HEADER.size : offset + size]
        offset += (size + 3) & ~3


def attributes(data: memoryview) -> Attributes:
    """Decode attributes to values by type; the last attribute of a type counts.

    Raises WireError when an attribute is cut short.
    """
    return dict(each_attribute(data))


def each_attribute(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield type and value of each attribute; a list has many of one type.

    Raises WireError when an attribute is cut short.
    """
    offset = 0
    while offset < len(data):
        if offset + _ATTRIBUTE.size > len(data):
            raise WireError("cut short in an attribute header")
        size, type_ = _ATTRIBUTE.unpack_from(data, offset)
        if size < _ATTRIBUTE.size or offset + size > len(data):
            raise WireError("cut short in an attribute")
        yield type_ & NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3


def as_number(value: memoryview) -> int:
    """Decode an unsigned integer of any width."""
    return int.from_bytes(value, sys.byteorder)


def as_string(value: memoryview) -> str:
    """Decode a string without its terminating zero."""
    return bytes(value).rstrip(b"\0").decode()


def mac_bytes(mac: str) -> bytes:
    """Encode `0a:58:…` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def as_mac(value: memoryview) -> str:
    """Decode six bytes to `0a:58:…`."""
    return value.hex(":")
