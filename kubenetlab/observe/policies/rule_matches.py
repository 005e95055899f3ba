"""Protocols and ports that rules in the kernel match, read from their text.

A rule whose text states no protocol, or none that is known here, matches every packet.
"""

from __future__ import annotations

import re
from typing import Final

from kubenetlab.api.containers import MAX_PORT
from kubenetlab.observe.policies.model import Traffic

_QUOTED: Final = re.compile(r'"[^"]*"')
_PROTOCOLS: Final = tuple(
    map(
        re.compile,
        (
            r"\bmeta l4proto (?P<negation>!= )?(?P<name>\w[\w-]*)",
            r"(?P<negation>)\b(?P<name>tcp|udp|sctp|icmp|icmpv6) (?:sport|dport|type)\b",
            r"(?P<negation>)(?<!= )@port-\S+-(?P<name>tcp|udp|sctp)\b",
            r"(?<!\S)(?P<negation>! )?-p (?P<name>\S+)",
            r"(?P<negation>)-m set --match-set cali\d+n:(?P<name>\w+)-",
        ),
    )
)
"""Matches of protocols in nftables, then in iptables. Sets of ports are those of one protocol."""
_PORTS: Final = (
    re.compile(r"(?<!\. )\b(?:tcp|udp|sctp|th) dport (?P<ports>\{[^}]*\}|[\d-]+)"),
    re.compile(r"-m multiport --dports (?P<ports>\S+)"),
)
"""Matches of the destination's port in nftables and in iptables, unless they are negated."""
_RANGE: Final = re.compile(r"(?P<first>\d+)(?:[-:](?P<last>\d+))?")
_ENTRY: Final = re.compile(r"(?:(?P<ports>[\d-]+)/)?(?P<name>\w+)")
"""Protocol and ports of an entry of the map cilium_policy: `443/TCP`, `80-87/UDP` or `ICMP`."""
_ALL_PORTS: Final = MAX_PORT + 1
_ICMP: Final = frozenset(("icmp", "icmpv6", "ipv6-icmp"))
_ECHO_REQUESTS: Final = {"ICMP": 8, "ICMPv6": 128}
"""Types of the ICMP messages that open a connection."""


def can_match(rule: str, traffic: Traffic) -> bool:
    """Return False if a rule of nftables or iptables is for other protocols or ports."""
    text = _QUOTED.sub("", rule)
    for pattern in _PROTOCOLS:
        for match in pattern.finditer(text):
            if _is_of(match["name"], traffic) == bool(match["negation"]):
                return False
    matches = (match for pattern in _PORTS for match in pattern.finditer(text))
    return all(_has_port(match["ports"], traffic.port) for match in matches)


def entry_can_match(ports: str, traffic: Traffic) -> bool:
    """Return False if an entry of the map cilium_policy is for other protocols or ports.

    ports: text of the entry between the peer and the verdict.
    """
    match = _ENTRY.fullmatch(ports)
    if match is None:
        return True
    port = _ECHO_REQUESTS.get(match["name"], traffic.port)
    return _is_of(match["name"], traffic) and _has_port(match["ports"] or f"{port}", port)


def entry_width(ports: str) -> int:
    """Return the number of ports for which an entry of the map cilium_policy is.

    ports: text of the entry between the peer and the verdict.
    """
    match = _ENTRY.fullmatch(ports)
    if match is None:
        return 2 * _ALL_PORTS  # of all protocols
    if match["ports"] is None:
        return _ALL_PORTS
    first, _, last = match["ports"].partition("-")
    return int(last or first) - int(first) + 1


def _is_of(name: str, traffic: Traffic) -> bool:
    """Return True if the packets are of the protocol with a name in rules."""
    lower = name.lower()
    return lower in _ICMP if traffic.protocol == "ICMP" else lower == traffic.protocol.lower()


def _has_port(ports: str, port: int) -> bool:
    """Return True if a list of ports and ranges of nftables or iptables has a port."""
    ranges = _RANGE.finditer(ports)
    return any(int(each["first"]) <= port <= int(each["last"] or each["first"]) for each in ranges)
