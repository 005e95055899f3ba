"""Entries of the maps of kubenetlab/bpf/maps.h: keys and values as bytes, and as lines to read.

An address has 16 bytes, an IPv4 address as ::ffff:a.b.c.d; prefix lengths are those of IPv6. Ports are in network order, all else in
the machine's.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

PROTOCOLS: Final[Mapping[str, int]] = {"TCP": 6, "UDP": 17}
FRONT_KEY = struct.Struct("=16s2sBB")
FRONT = struct.Struct("=8s8s8sIIII")
SLOT = struct.Struct("=8sII")
ENDPOINT = struct.Struct("=16s2s6x")
SOURCE_KEY = struct.Struct("=I8s16s")
HOME_KEY = struct.Struct("=I16s")
AT_ADDRESS, AT_NODE = 0, 1
IS_OUTSIDE, IS_LOCAL, IS_FENCED, IS_HIDING, IS_DIRECT = 1, 2, 4, 8, 16
UNSPECIFIED: Final = {4: "0.0.0.0", 6: "::"}


def readable(name: str, key: bytes, value: bytes) -> str:
    """An entry of a map as one line."""
    match name:
        case "fronts":
            address, port, protocol, kind = FRONT_KEY.unpack(key)
            all_of_them, near, _, everywhere, here, affinity_s, flags = FRONT.unpack(value)
            where = f"{as_address(address)} {int.from_bytes(port, 'big')}/{protocol_name(protocol)}"
            policy = f"Cluster, {everywhere} in {all_of_them.hex()}"
            if flags & IS_LOCAL:
                policy = f"Local, {here} in {near.hex()}, of {everywhere} in {all_of_them.hex()}"
            more = (
                f", ClientIP {affinity_s}s" * bool(affinity_s)
                + ", fenced" * bool(flags & IS_FENCED)
                + ", masqueraded" * bool(flags & IS_HIDING)
                + ", direct" * bool(flags & IS_DIRECT)
            )
            if not protocol:
                return f"front {as_address(address)}: a cluster IP"
            return f"front {'node port ' if kind == AT_NODE else ''}{where}: {policy}{more}"
        case "doors":
            return f"node ports at {as_address(key)}"
        case "homes":
            length, address = HOME_KEY.unpack(key)
            return f"home of {as_cidr(address, length)}: {as_address(value)}"
        case "endpoints":
            own, index, _ = SLOT.unpack(key)
            address, port = ENDPOINT.unpack(value)
            return (
                f"endpoint {own.hex()} {index}: {as_address(address)} {int.from_bytes(port, 'big')}"
            )
        case "sources":
            length, own, address = SOURCE_KEY.unpack(key)
            return f"source {own.hex()}: {as_cidr(address, length - 64)}"
    return f"{name} {key.hex()} {value.hex()}"


def packed_id(name: str) -> bytes:
    """What stands for a name; zeros for none."""
    return hashlib.sha256(name.encode()).digest()[:8] if name else bytes(8)


def packed_port(number: int) -> bytes:
    """In network order."""
    return number.to_bytes(2, "big")


def packed_address(text: str) -> bytes:
    """Of either family, in 16 bytes."""
    address = ip_address(text)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def packed_prefix(cidr: str) -> tuple[int, bytes]:
    """Length and address, both as of IPv6."""
    network = ip_network(cidr)
    return network.prefixlen + (96 if network.version == 4 else 0), packed_address(
        str(network.network_address)
    )


IS_DETECTING: Final = struct.Struct("=I")
"""Last part of the settings: whether there is a detector for local traffic."""


def packed_range(cidr: str) -> bytes:
    """First address and mask; of nothing, a mask of zeros."""
    if not cidr:
        return bytes(32)
    network = ip_network(cidr)
    mask = network.netmask.packed
    return packed_address(str(network.network_address)) + (
        mask if network.version == 6 else b"\xff" * 12 + mask
    )


def as_address(packed: bytes) -> IPv4Address | IPv6Address:
    """Unpack an address; an IPv4-mapped one is an IPv4 address."""
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def as_cidr(packed: bytes, length: int) -> str:
    """Unpack an address and the length of its prefix, as of IPv6."""
    address = as_address(packed)
    return f"{address}/{length - (96 if address.version == 4 else 0)}"


def protocol_name(number: int) -> str:
    """Return the name of a protocol number, or the number."""
    return next((name for name, known in PROTOCOLS.items() if known == number), str(number))
