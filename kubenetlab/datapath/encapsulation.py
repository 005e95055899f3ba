"""Encapsulation: the outer headers of packets in tunnels between nodes.

Source: RFC 7348 (VXLAN), RFC 2003 (IP in IP).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Encapsulation(Struct, frozen=True):
    """The outer header of the packets of tunnels between nodes."""

    protocol: Literal["udp", "ipencap"]
    """Protocol in the outer IP header; ipencap is IPv4 itself."""
    port: int = 0
    """UDP port to which the packets are sent."""


def encapsulations(vxlan_port: int = 0, *, has_ipip: bool = False) -> tuple[Encapsulation, ...]:
    """Return the outer headers of a mode that has VXLAN (with a port) or IPIP, or both."""
    vxlan = (Encapsulation("udp", vxlan_port),) if vxlan_port else ()
    return (*vxlan, Encapsulation("ipencap")) if has_ipip else vxlan
