"""Data types of keys and values: how a value is written in nft syntax and encoded for the kernel.

Source: nftables src/datatype.c and include/datatype.h (1.0.6) for the numbers, which `nft list`
reads back from the kernel; include/uapi/linux/netfilter/nf_conntrack_common.h and
include/uapi/linux/rtnetlink.h (6.12) for the values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_network
from typing import Final

from msgspec import Struct

from kubenetlab.hoststate import ip

INTERFACE_BYTES: Final = 16
"""IFNAMSIZ"""
WORD: Final = 4
"""Bytes of a 32-bit register; each component of a concatenation is padded to whole registers."""

BYTEORDER_NONE: Final = 0
BYTEORDER_HOST: Final = 1
BYTEORDER_BIG: Final = 2

_PROTOCOLS: Final = {"icmp": 1, "ipencap": 4, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_CT_STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_CT_STATUSES: Final = {
    "expected": 1,
    "seen-reply": 2,
    "assured": 4,
    "confirmed": 8,
    "snat": 16,
    "dnat": 32,
    "dying": 512,
}
_ADDRESS_TYPES: Final = {"unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5}
_ICMP_CODES: Final = {"frag-needed": 4}
_ICMPV6_TYPES: Final = {"packet-too-big": 2}
_HOST_NUMBER: Final = struct.Struct("=I")
_PORT: Final = struct.Struct(">H")


class DataType(Struct, frozen=True, gc=False):
    """A data type of nft."""

    number: int
    """`enum datatypes`"""
    size: int
    """Bytes of a value."""
    byteorder: int
    encode: Callable[[str], bytes]
    """Encode a value in nft syntax. Raises ValueError, KeyError or struct.error."""
    is_bitmask: bool = False
    """True if a value is a list of flags, of which a packet has to have one."""

    @property
    def words(self) -> int:
        """Number of 32-bit registers that a value takes."""
        return -(-self.size // WORD)


def _address(family: int) -> Callable[[str], bytes]:
    def encode(text: str) -> bytes:
        address_family, data = ip.packed(text)
        if address_family != family or len(data) != (4 if family == ip.AF_INET else 16):
            raise ValueError(f"{text} is not an address of the family")
        return data

    return encode


def _flags(bits: Mapping[str, int]) -> Callable[[str], bytes]:
    return lambda text: _HOST_NUMBER.pack(sum(bits[name] for name in text.split(",")))


def _byte(numbers: Mapping[str, int]) -> Callable[[str], bytes]:
    """Return the encoder of values of one byte, given by name or by number."""
    return lambda text: bytes((int(text) if text.isdigit() else numbers[text],))


def _interface(text: str) -> bytes:
    """Encode an interface name with its padding, or the prefix before a final `*`."""
    name = text.encode()
    value = name[:-1] if name.endswith(b"*") else name.ljust(INTERFACE_BYTES, b"\0")
    if not name or b"*" in value or len(value) > INTERFACE_BYTES:
        raise ValueError(f"{text} is not the name of an interface")
    return value


DATA_TYPES: Final[Mapping[str, DataType]] = {
    "verdict": DataType(1, 0, BYTEORDER_NONE, str.encode),
    "integer": DataType(4, 4, BYTEORDER_HOST, lambda text: _HOST_NUMBER.pack(int(text, 0))),
    "ipv4_addr": DataType(7, 4, BYTEORDER_BIG, _address(ip.AF_INET)),
    "ipv6_addr": DataType(8, 16, BYTEORDER_BIG, _address(ip.AF_INET6)),
    "inet_proto": DataType(12, 1, BYTEORDER_NONE, _byte(_PROTOCOLS)),
    "inet_service": DataType(13, 2, BYTEORDER_BIG, lambda text: _PORT.pack(int(text))),
    "mark": DataType(19, 4, BYTEORDER_HOST, lambda text: _HOST_NUMBER.pack(int(text, 0))),
    "ct_state": DataType(26, 4, BYTEORDER_HOST, _flags(_CT_STATES), is_bitmask=True),
    "ct_status": DataType(28, 4, BYTEORDER_HOST, _flags(_CT_STATUSES), is_bitmask=True),
    "icmpv6_type": DataType(29, 1, BYTEORDER_BIG, _byte(_ICMPV6_TYPES)),
    "icmp_type": DataType(14, 1, BYTEORDER_BIG, _byte({})),
    "icmpv6_code": DataType(33, 1, BYTEORDER_BIG, _byte({})),
    "icmp_code": DataType(32, 1, BYTEORDER_BIG, _byte(_ICMP_CODES)),
    "fib_addrtype": DataType(
        38, 4, BYTEORDER_HOST, lambda text: _HOST_NUMBER.pack(_ADDRESS_TYPES[text])
    ),
    "ifname": DataType(41, INTERFACE_BYTES, BYTEORDER_HOST, _interface),
}


class SetType(Struct, frozen=True, gc=False, array_like=True):
    """Types of the key and of the value of a set or a map."""

    key: tuple[str, ...]
    """Data types; with `is_typeof` expressions of packets: `ip daddr`, `numgen random mod 3`."""
    value: tuple[str, ...] = ()
    """Data types or expressions of the value; empty for a set."""
    is_typeof: bool = False
    """True if types are given by expressions."""
    is_interval: bool = False
    """True if keys may be ranges: `10.0.0.0/8`, `80-90`."""

    @property
    def has_verdicts(self) -> bool:
        return self.value == VERDICT

    def __str__(self) -> str:
        """Return the type in nft syntax: `ipv4_addr . inet_proto : verdict`."""
        key = " . ".join(self.key)
        return f"{key} : {' . '.join(self.value)}" if self.value else key


VERDICT: Final = ("verdict",)
"""Value type of a verdict map."""


def concatenated_number(types: Sequence[DataType]) -> int:
    """Return the number of a concatenation of types (TYPE_BITS is 6)."""
    result = 0
    for type_ in types:
        result = result << 6 | type_.number
    return result


def encoded_size(types: Sequence[DataType]) -> int:
    """Return the bytes of a value: those of a single type, or whole registers for each of many."""
    return types[0].size if len(types) == 1 else sum(type_.words for type_ in types) * WORD


def encode_value(types: Sequence[DataType], components: Sequence[str]) -> bytes:
    """Encode a value of one component or of a concatenation.

    Raises ValueError, KeyError or struct.error for components that do not have these types.
    """
    if len(types) == 1 and len(components) == 1:
        return types[0].encode(components[0])
    return b"".join(
        [
            type_.encode(component).ljust(type_.words * WORD, b"\0")
            for type_, component in zip(types, components, strict=True)
        ]
    )


def encode_range(types: Sequence[DataType], components: Sequence[str]) -> tuple[bytes, bytes]:
    """Encode the first and the last value of a range; both are equal for a single value.

    Raises ValueError for numbers in host order, whose ranges are in network order in the kernel.
    """
    if any(type_.byteorder == BYTEORDER_HOST for type_ in types):
        raise ValueError("ranges of numbers in host order cannot be encoded")
    limits = [_limits(component) for component in components]
    first, last = ([limit[side] for limit in limits] for side in (0, 1))
    return encode_value(types, first), encode_value(types, last)


@lru_cache(1024)
def _limits(text: str) -> tuple[str, str]:
    """Return the first and the last value of `10.0.0.0/8`, `80-90` or a single value."""
    if "/" in text:
        network = ip_network(text)
        return str(network[0]), str(network[-1])
    first, dash, last = text.partition("-")
    return (first, last) if dash and first[:1].isalnum() and last else (text, text)
