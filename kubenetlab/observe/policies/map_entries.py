"""Entries of the maps of the policy engine ebpf that carry out a verdict, found in a listing.

A packet is decided as the programs do it: the address of the pod leads to its endpoint and its
policies, and the address of the peer to an identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from kubenetlab.observe.policies.model import DirectionVerdict, Party, Traffic
from kubenetlab.observe.policies.rule_matches import entry_can_match, entry_width

_ENDPOINT: Final = re.compile(r"cilium_lxc (\S+): endpoint (\w+) ")
_POLICED: Final = re.compile(r"cilium_policed (\w+) (\w+): policies (\w+)")
_IDENTITY: Final = re.compile(r"(cilium_cidr|cilium_ipcache) (\S+): identity (\d+)")
_EVERY_OTHER: Final = "every other identity"


class MapEntry(NamedTuple):
    """An entry of a map."""

    map: str
    text: str


def map_entries(
    listing: str,
    verdict: DirectionVerdict,
    subject: Party,
    traffic: Traffic,
    peers: Sequence[Party],
    rules: set[str],
) -> Iterator[MapEntry]:
    """Yield the entries of the pod's policies with the verdict.

    The entry of the pod comes first if no rule allows the connection.

    subject: the pod at this end. peers: addresses of the other end.
    rules: texts of the rules that decide; empty if none allows the connection.
    """
    lines = listing.splitlines()
    policed, policies = _policies(lines, verdict, subject.address)
    if not policies:
        return
    version = "IPv6" if ":" in subject.address else "IPv4"
    start = f"cilium_policy {policies} {version} {verdict.direction.lower()} "
    entries = [line for line in lines if line.startswith(start)]
    chosen: dict[str, None] = {}
    for peer in peers:
        identity = _identity(lines, peer.address)
        of_peer = _matching(entries, f"{start}identity {identity}", traffic)
        chosen |= dict.fromkeys(of_peer or _matching(entries, f"{start}{_EVERY_OTHER}", traffic))
    verdicts = (
        [line for line in chosen if any(f'"{text}"' in line for text in rules)]
        if rules
        else [line for line in chosen if ": denied" in line]
    )
    for line in verdicts if rules else (policed, *verdicts):
        name, _, text = line.partition(" ")
        yield MapEntry(name, text)


def _matching(entries: Sequence[str], start: str, traffic: Traffic) -> list[str]:
    """Return the entry of a peer for the protocol and port of packets, if there is one.

    Of several that match, the kernel takes the one with the longest prefix.
    """
    matching = {
        line: ports
        for line in entries
        if line.startswith((f"{start} ", f"{start}:"))
        and entry_can_match(ports := line[len(start) :].partition(":")[0].strip(), traffic)
    }
    return sorted(matching, key=lambda line: entry_width(matching[line]))[:1]


def _policies(lines: Sequence[str], verdict: DirectionVerdict, address: str) -> tuple[str, str]:
    """Return the entry of a pod with its policies in one direction, and their number."""
    endpoint = next(
        (match[2] for match in map(_ENDPOINT.match, lines) if match and match[1] == address), ""
    )
    for match in map(_POLICED.match, lines):
        if match and (match[1], match[2]) == (endpoint, verdict.direction.lower()):
            return match.string, match[3]
    return "", ""


def _identity(lines: Sequence[str], address: str) -> str:
    """Return the identity of an address; entries of cilium_cidr other than 0 come first."""
    found: dict[str, tuple[int, str]] = {}
    for match in map(_IDENTITY.match, lines):
        if match is None:
            continue
        network = ip_network(match[2])
        if ip_address(address) in network and network.prefixlen >= found.get(match[1], (-1, ""))[0]:
            found[match[1]] = network.prefixlen, match[3]
    own = found.get("cilium_cidr", (0, "0"))[1]
    return own if own != "0" else found.get("cilium_ipcache", (0, "0"))[1]
