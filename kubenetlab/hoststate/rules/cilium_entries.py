"""Keys and values of the maps in kubenetlab/bpf/cilium_maps.h, as bytes and as readable text.

Addresses have 16 bytes; an IPv4 address is ::ffff:a.b.c.d, and prefix lengths are those of IPv6.
Ports are in network order, all other numbers in host order.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple, Self

from kubenetlab.hoststate.rules.bpf_entries import as_address, as_cidr, protocol_name

CONFIG: Final = struct.Struct("=16s16s16s6sBBB3x")
"""IPv4 and IPv6 address of cilium_host, own end of tunnels, MAC address of the pods' links on the
node, legacy routing, aggregation of events, encryption of tunnels"""
LINK_KEY: Final = struct.Struct("=II")
"""Endpoint, and kind of link"""
POD_LINK, TUNNEL_LINK = 0, 1
ENDPOINT: Final = struct.Struct("=I6sH")
"""Endpoint, MAC address, flags"""
IPCACHE_KEY: Final = struct.Struct("=I16s")
"""Prefix length, address"""
IPCACHE_INFO: Final = struct.Struct("=II16s")
"""Identity, zero, node to which packets are tunnelled"""
POLICY_KEY: Final = struct.Struct("=IIIBB2s")
"""Prefix length, endpoint, identity, direction, protocol, port"""
POLICY_ENTRY: Final = struct.Struct("=I")
"""1 if the traffic is denied"""
EVENT: Final = struct.Struct("=Q16s16s2s2sBBBBIIIIIxxxx")
"""struct event: time, source, destination, ports, protocol, type, point, detail, identities of
source and destination, link, length, TCP flags"""

LOST: Final = struct.Struct("=Q")
"""Number of lost events"""
TRANSLATED_KEY: Final = struct.Struct("=16s16s2s2sBBxx")
"""struct tuple: source, destination, their ports, protocol, stage"""
TRANSLATED: Final = struct.Struct("=16s16s2s2sIQ")
"""struct flow: source, destination, their ports, flags, time of the last packet"""
IS_SERVICE: Final = 1
"""Flag of a flow from a client to an endpoint of a Service."""

DIRECTIONS: Final = ("ingress", "egress")
DROP, TRACE = 1, 4
POINTS: Final = (
    "from-endpoint",
    "from-overlay",
    "from-host",
    "from-network",
    "to-endpoint",
    "to-overlay",
    "to-stack",
    "to-network",
)
"""Names of the points in events, as in `cilium monitor`."""
STATES: Final = ("new", "established", "reply", "unknown")
REASONS: Final = (
    "",
    "Invalid source ip",
    "Policy denied",
    "No local endpoint",
    "No tunnel",
)
"""Reasons of dropped packets."""
RESERVED_IDENTITIES: Final[Mapping[int, str]] = {
    1: "host",
    2: "world",
    3: "unmanaged",
    4: "health",
    6: "remote-node",
}
"""Identities that do not depend on labels. No endpoint of a lab has `health`.

Source: cilium/cilium pkg/identity/numericidentity.go.
"""
HOST, WORLD, UNMANAGED, REMOTE_NODE = 1, 2, 3, 6
FIRST_LABEL_IDENTITY: Final = 256
"""Smallest identity of a set of labels."""


class FlowEvent(NamedTuple):
    """One event of the ring buffer cilium_events."""

    at_ns: int
    """Time, by CLOCK_MONOTONIC."""
    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: str
    is_dropped: bool
    point: str
    """Name of the place, one of POINTS."""
    detail: str
    """State of the connection, or the reason of the drop."""
    source_identity: int
    destination_identity: int
    link: int
    """Index of the link whose program reports."""
    length: int
    """Length of the frame in bytes."""
    tcp_flags: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode one struct event."""
        (
            at_ns,
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            type_,
            point,
            detail,
            source_identity,
            destination_identity,
            link,
            length,
            tcp_flags,
        ) = EVENT.unpack_from(data)
        is_dropped = type_ == DROP
        return cls(
            at_ns,
            str(as_address(source)),
            str(as_address(destination)),
            int.from_bytes(source_port, "big"),
            int.from_bytes(destination_port, "big"),
            protocol_name(protocol),
            is_dropped,
            POINTS[point],
            (REASONS if is_dropped else STATES)[detail],
            source_identity,
            destination_identity,
            link,
            length,
            tcp_flags,
        )


def describe_entry(name: str, key: bytes, value: bytes) -> str:
    """Return a map entry as one line of text."""
    try:
        return f"{name} {DESCRIBERS[name](key, value, {})}"
    except (KeyError, ValueError, struct.error):
        return f"{name} {key.hex()} {value.hex()}"


def _describe_pod(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    return f"{as_address(key)}: {_describe_endpoint(value, ids)}"


def _describe_range(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    length, address = IPCACHE_KEY.unpack(key)
    return f"{as_cidr(address, length)}: {_describe_info(value)}"


def _describe_policy(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    return f"{_describe_rule(key, ids)}: {_describe_verdict(value)}"


def _describe_config(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    *addresses, mac, is_legacy, is_aggregating, is_encrypted = CONFIG.unpack(value)
    router4, router6, underlay = (
        str(as_address(address)) if any(address) else "" for address in addresses
    )
    facts = [
        f"router {', '.join(filter(None, (router4, router6)))}",
        f"mac {mac.hex(':')}",
        *([f"tunnels of {underlay}"] if underlay else ["no tunnels"]),
        *(["encrypted"] if is_encrypted else []),
        *(["legacy routing"] if is_legacy else []),
        *(["events aggregated"] if is_aggregating else []),
    ]
    return ", ".join(facts)


def _describe_endpoint(value: bytes, ids: Mapping[bytes, str]) -> str:
    number, mac, flags = ENDPOINT.unpack(value)
    enforced = "".join(
        f" policy-{direction}" for bit, direction in enumerate(DIRECTIONS) if flags >> bit & 1
    )
    return f"endpoint {_endpoint_name(number, ids)} mac {mac.hex(':')}{enforced}"


def _endpoint_name(number: int, ids: Mapping[bytes, str]) -> str:
    name = ids.get(number.to_bytes(4, "big"))
    return f"{number:08x} ({name})" if name else f"{number:08x}"


def _describe_info(value: bytes) -> str:
    identity, _, tunnel = IPCACHE_INFO.unpack(value)
    word = RESERVED_IDENTITIES.get(identity)
    name = f"{identity} ({word})" if word else str(identity)
    return f"identity {name}" + (f" tunnel {as_address(tunnel)}" if any(tunnel) else "")


def _describe_rule(key: bytes, ids: Mapping[bytes, str]) -> str:
    length, endpoint, identity, direction, protocol, port = POLICY_KEY.unpack(key)
    peer = f"identity {identity}" if identity else "every identity"
    number = int.from_bytes(port, "big")
    service = f" {number}/{protocol_name(protocol)}" if length == POLICY_PREFIX else ""
    return f"{_endpoint_name(endpoint, ids)} {DIRECTIONS[direction]} {peer}{service}"


def _describe_verdict(value: bytes) -> str:
    (is_denied,) = POLICY_ENTRY.unpack(value)
    return "denied" if is_denied else "allowed"


POLICY_PREFIX: Final = 96
"""Prefix length of a policy key with protocol and port."""

DESCRIBERS: Final = {
    "cilium_config": _describe_config,
    "cilium_lxc": _describe_pod,
    "cilium_ipcache": _describe_range,
    "cilium_policy": _describe_policy,
}
"""Functions that return an entry as text, by map."""
