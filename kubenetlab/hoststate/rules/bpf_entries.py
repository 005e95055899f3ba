"""Keys and values of the maps in kubenetlab/bpf/maps.h, as bytes and as readable text.

Addresses have 16 bytes; an IPv4 address is ::ffff:a.b.c.d, and prefix lengths are those of IPv6.
Ports are in network order, all other numbers in host order.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from types import MappingProxyType
from typing import Final

PROTOCOLS: Final[Mapping[str, int]] = {"TCP": 6, "UDP": 17}
"""Protocols of Services."""
PROTOCOL_NUMBERS: Final[Mapping[str, int]] = {**PROTOCOLS, "SCTP": 132}
_ICMP_NAMES: Final[Mapping[int, str]] = {1: "ICMP", 58: "ICMPv6"}
FRONT_KEY = struct.Struct("=16s2sBB")
FRONT = struct.Struct("=8s8s8sIIII")
SLOT = struct.Struct("=8sII")
ENDPOINT = struct.Struct("=16s2s6x")
SOURCE_KEY = struct.Struct("=I8s16s")
HOME_KEY = struct.Struct("=I16s")
OVERLAY_KEY = struct.Struct("=I")
OVERLAY = struct.Struct("=16s16s")
AT_ADDRESS, AT_NODE = 0, 1
IS_OUTSIDE, IS_LOCAL, IS_FENCED, IS_HIDING, IS_DIRECT = 1, 2, 4, 8, 16
UNSPECIFIED: Final = {4: "0.0.0.0", 6: "::"}


def describe_entry(
    name: str, key: bytes, value: bytes, names: Mapping[bytes, str] = MappingProxyType({})
) -> str:
    """Return a map entry as one line of text."""
    match name:
        case "fronts":
            address, port, protocol, kind = FRONT_KEY.unpack(key)
            cluster_list, local_list, _, cluster_count, local_count, affinity_s, flags = (
                FRONT.unpack(value)
            )
            place = f"{as_address(address)} {int.from_bytes(port, 'big')}/{protocol_name(protocol)}"
            policy = f"Cluster, {cluster_count} in {cluster_list.hex()}"
            if flags & IS_LOCAL:
                policy = (
                    f"Local, {local_count} in {local_list.hex()}, "
                    f"of {cluster_count} in {cluster_list.hex()}"
                )
            suffix = (
                f", ClientIP {affinity_s}s" * bool(affinity_s)
                + ", fenced" * bool(flags & IS_FENCED)
                + ", masqueraded" * bool(flags & IS_HIDING)
                + ", direct" * bool(flags & IS_DIRECT)
            )
            if not protocol:
                return f"front {as_address(address)}: a cluster IP"
            return f"front {'node port ' if kind == AT_NODE else ''}{place}: {policy}{suffix}"
        case "doors":
            return f"node ports at {as_address(key)}"
        case "homes":
            length, address = HOME_KEY.unpack(key)
            return f"home of {as_cidr(address, length)}: {as_address(value)}"
        case "overlays":
            return f"overlay link {OVERLAY_KEY.unpack(key)[0]}: {describe_own_addresses(value)}"
        case "endpoints":
            list_id, index, _ = SLOT.unpack(key)
            address, port = ENDPOINT.unpack(value)
            endpoint = f"{as_address(address)} {int.from_bytes(port, 'big')}"
            return f"endpoint {list_id.hex()} {index}: {endpoint}"
        case "sources":
            length, list_id, address = SOURCE_KEY.unpack(key)
            return f"source {list_id.hex()}: {as_cidr(address, length - 64)}"
    return f"{name} {key.hex()} {value.hex()}"


def describe_own_addresses(value: bytes) -> str:
    """Return the node's addresses on an overlay link as text."""
    own = [str(as_address(address)) for address in OVERLAY.unpack(value) if any(address)]
    return f"own {', '.join(own)}" if own else "without own address"


def packed_id(name: str) -> bytes:
    """Return the eight-byte id of a name; zeros for an empty name."""
    return hashlib.sha256(name.encode()).digest()[:8] if name else bytes(8)


def packed_port(number: int) -> bytes:
    """Encode a port in network order."""
    return number.to_bytes(2, "big")


@lru_cache(maxsize=16_384)  # called for the address of every pod, for every node
def packed_address(text: str) -> bytes:
    """Encode an IPv4 or IPv6 address in 16 bytes."""
    address = ip_address(text)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def packed_prefix(cidr: str) -> tuple[int, bytes]:
    """Encode a CIDR block as prefix length and address, both as for IPv6."""
    network = ip_network(cidr)
    return network.prefixlen + (96 if network.version == 4 else 0), packed_address(
        str(network.network_address)
    )


SETTINGS_COUNTS: Final = struct.Struct("=III")
"""Last fields of the settings: 1 if local traffic is detected, else 0; number of overlay links, and
of those without Ethernet headers."""


def packed_range(cidr: str) -> bytes:
    """Encode a CIDR block as first address and mask; an empty one has only zeros."""
    if not cidr:
        return bytes(32)
    network = ip_network(cidr)
    mask = network.netmask.packed
    return packed_address(str(network.network_address)) + (
        mask if network.version == 6 else b"\xff" * 12 + mask
    )


def as_address(packed: bytes) -> IPv4Address | IPv6Address:
    """Decode an address; an IPv4-mapped address becomes an IPv4 address."""
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def as_cidr(packed: bytes, length: int) -> str:
    """Decode a CIDR block from its address and its prefix length as for IPv6."""
    address = as_address(packed)
    return f"{address}/{length - (96 if address.version == 4 else 0)}"


def protocol_name(number: int) -> str:
    """Return the name of a protocol number, or the number."""
    known_names = {**_ICMP_NAMES, **{known: name for name, known in PROTOCOL_NUMBERS.items()}}
    return known_names.get(number, str(number))
