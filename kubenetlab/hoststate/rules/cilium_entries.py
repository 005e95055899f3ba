"""Keys and values of the maps in kubenetlab/bpf/cilium_maps.h, as bytes and as readable text.

Addresses have 16 bytes; an IPv4 address is ::ffff:a.b.c.d, and prefix lengths are those of IPv6.
Ports are in network order, all other numbers in host order.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Self

from kubenetlab.hoststate.rules.bpf_entries import as_address, as_cidr, protocol_name

CONFIG: Final = struct.Struct("=16s16s16s6sBBB3x")
"""IPv4 and IPv6 address of cilium_host, own end of tunnels, MAC address of the pods' links on the
node, legacy routing, aggregation of events, encryption of tunnels"""
LINK_KEY: Final = struct.Struct("=II")
"""Endpoint, and kind of link"""
POD_LINK, TUNNEL_LINK = 0, 1
ENDPOINT: Final = struct.Struct("=I6s2x")
"""Endpoint, MAC address"""
IPCACHE_KEY: Final = struct.Struct("=I16s")
"""Prefix length, address"""
IPCACHE_INFO: Final = struct.Struct("=II16s")
"""Identity, zero, node to which packets are tunnelled"""
POLICED_KEY: Final = struct.Struct("=II")
"""Endpoint, or identity with BY_IDENTITY; direction and flag"""
POLICED: Final = struct.Struct("=QI4x")
"""Set of policies, flags"""
POLICY_KEY: Final = struct.Struct("=IIQBB2s4x")
"""Prefix length, identity, set of policies, scope, protocol, port"""
POLICY_ENTRY: Final = struct.Struct("=QI4x")
"""Rule, 1 if the traffic is denied"""
CIDR_IDENTITY: Final = struct.Struct("=I")
RULE: Final = struct.Struct("=Q")
RULE_TEXT: Final = struct.Struct("=128s")
EVENT: Final = struct.Struct("=QQ16s16s2s2sBBBBIIIII2s2s")
"""struct event: time, rule, source, destination, ports, protocol, type, point, detail, identities
of source and destination, link, length, TCP flags, identifier and number of an echo"""
DROPS: Final = struct.Struct("=Q")
"""Number of packets that a rule has dropped"""

LOST: Final = struct.Struct("=Q")
"""Number of lost events"""
TRANSLATED_KEY: Final = struct.Struct("=16s16s2s2sBBxx")
"""struct tuple: source, destination, their ports, protocol, stage"""
TRANSLATED: Final = struct.Struct("=16s16s2s2sIQ")
"""struct flow: source, destination, their ports, flags, time of the last packet"""
IS_SERVICE: Final = 1
"""Flag of a flow from a client to an endpoint of a Service."""

DIRECTIONS: Final = ("ingress", "egress")
INGRESS, EGRESS, IS_IPV6, IS_EXEMPT, TO_OWN_NODE = 0, 1, 2, 4, 8
"""Scope of a policy entry: direction, IP version, and whether NetworkPolicies do not apply."""
BY_IDENTITY: Final = 0x10
HAS_TIERS: Final = 1
KNOWS_OWN_NODE: Final = 2
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
POLICY_DENIED: Final = "Policy denied"
REASONS: Final = (
    "",
    "Invalid source ip",
    POLICY_DENIED,
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
    rule: int = 0
    """Number of the rule of a policy that denied the packet; 0: none."""
    echo: tuple[int, int] = (0, 0)
    """Identifier and sequence number of an ICMP echo message."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode one struct event."""
        (
            at_ns,
            rule,
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
            echo_id,
            echo_number,
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
            rule,
            (int.from_bytes(echo_id, "big"), int.from_bytes(echo_number, "big")),
        )


def describe_entry(
    name: str, key: bytes, value: bytes, ids: Mapping[bytes, str] = MappingProxyType({})
) -> str:
    """Return a map entry as one line of text.

    ids: names of endpoints and texts of rules; see `rule_id`.
    """
    try:
        return f"{name} {DESCRIBERS[name](key, value, ids)}"
    except (KeyError, ValueError, struct.error):
        return f"{name} {key.hex()} {value.hex()}"


def _describe_pod(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    return f"{as_address(key)}: {_describe_endpoint(value, ids)}"


def _describe_range(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    length, address = IPCACHE_KEY.unpack(key)
    return f"{as_cidr(address, length)}: {_describe_info(value)}"


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
    number, mac = ENDPOINT.unpack(value)
    return f"endpoint {_endpoint_name(number, ids)} mac {mac.hex(':')}"


def _endpoint_name(number: int, ids: Mapping[bytes, str]) -> str:
    name = ids.get(number.to_bytes(4, "big"))
    return f"{number:08x} ({name})" if name else f"{number:08x}"


def _describe_info(value: bytes) -> str:
    identity, _, tunnel = IPCACHE_INFO.unpack(value)
    word = RESERVED_IDENTITIES.get(identity)
    name = f"{identity} ({word})" if word else str(identity)
    return f"identity {name}" + (f" tunnel {as_address(tunnel)}" if any(tunnel) else "")


def _describe_policed(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    subject, kind = POLICED_KEY.unpack(key)
    policies, flags = POLICED.unpack(value)
    name = f"identity {subject}" if kind & BY_IDENTITY else _endpoint_name(subject, ids)
    tiers = ", with tiers" if flags & HAS_TIERS else ""
    return f"{name} {DIRECTIONS[kind & EGRESS]}: policies {policies:016x}{tiers}"


def exemption_name(scope: int) -> str:
    """Return a text for verdicts that NetworkPolicies have no part in; empty for others."""
    if scope & TO_OWN_NODE:
        return " own node"
    return " exempt" if scope & IS_EXEMPT else ""


def _describe_policy(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    length, identity, policies, scope, protocol, port = POLICY_KEY.unpack(key)
    rule, is_denied = POLICY_ENTRY.unpack(value)
    peer = f"identity {identity}" if identity else "every other identity"
    version = "IPv6" if scope & IS_IPV6 else "IPv4"
    exempt = exemption_name(scope)
    verdict = "denied" if is_denied else "allowed"
    text = ids.get(rule_id(rule), "")
    reason = f' "{text}"' if text else f" rule {rule:016x}" if rule else ""
    return (
        f"{policies:016x} {version} {DIRECTIONS[scope & EGRESS]}{exempt} {peer}"
        f"{_describe_ports(length, protocol, port)}: {verdict}{reason}"
    )


def _describe_ports(length: int, protocol: int, port: bytes) -> str:
    """Return the ports that the prefix of a policy key covers."""
    if length < ANY_PORT_PREFIX:
        return ""
    name, number = protocol_name(protocol), int.from_bytes(port, "big")
    if length == ANY_PORT_PREFIX:
        return f" {name}"
    last = number + (1 << (POLICY_PREFIX - length)) - 1
    return f" {number}/{name}" if last == number else f" {number}-{last}/{name}"


def _describe_cidr(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    length, address = IPCACHE_KEY.unpack(key)
    return f"{as_cidr(address, length)}: identity {CIDR_IDENTITY.unpack(value)[0]}"


def _describe_rule(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    return f"{RULE.unpack(key)[0]:016x}: {rule_text(value)}"


def describe_drops(key: bytes, value: bytes, ids: Mapping[bytes, str]) -> str:
    """Return the number of packets that a rule has dropped, as text."""
    number, packets = RULE.unpack(key)[0], DROPS.unpack(value)[0]
    return f"{packets} packets dropped: {ids.get(rule_id(number)) or f'rule {number:016x}'}"


def rule_id(number: int) -> bytes:
    """Return the key of a rule in the names for `describe_entry`."""
    return b"rule" + RULE.pack(number)


def rule_text(value: bytes) -> str:
    """Return the text of an entry of cilium_rules."""
    return value.rstrip(b"\0").decode(errors="replace")


def rule_names(rules: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """Return the names of rules for `describe_entry`, from the entries of cilium_rules."""
    return {rule_id(RULE.unpack(key)[0]): rule_text(value) for key, value in rules.items()}


ANY_PREFIX: Final = 104
"""Prefix length of a policy key for every protocol and port."""
ANY_PORT_PREFIX: Final = 112
"""Prefix length of a policy key with a protocol, for every port."""
POLICY_PREFIX: Final = 128
"""Prefix length of a policy key with protocol and port."""

DESCRIBERS: Final = {
    "cilium_config": _describe_config,
    "cilium_lxc": _describe_pod,
    "cilium_ipcache": _describe_range,
    "cilium_policy": _describe_policy,
    "cilium_policed": _describe_policed,
    "cilium_cidr": _describe_cidr,
    "cilium_rules": _describe_rule,
}
"""Functions that return an entry as text, by map."""
