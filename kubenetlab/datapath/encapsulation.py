"""Encapsulation: the outer headers of packets in tunnels between nodes.

Source: RFC 7348 (VXLAN), RFC 2003 (IP in IP).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from kubenetlab.hoststate.links import ipip, vxlan


class Encapsulation(Struct, frozen=True):
    """The outer header of the packets of tunnels between nodes."""

    protocol: Literal["udp", "ipencap"]
    """Protocol in the outer IP header; ipencap is IPv4 itself."""
    port: int = 0
    """UDP port to which the packets are sent."""

    def overhead_bytes(self, version: int) -> int:
        """Return the number of bytes that a packet grows.

        version: IP version of the outer header.
        """
        return vxlan.OVERHEAD_BYTES[version] if self.port else ipip.OVERHEAD_BYTES


def encapsulations(vxlan_port: int = 0, *, has_ipip: bool = False) -> tuple[Encapsulation, ...]:
    """Return the outer headers of a mode that has VXLAN (with a port) or IPIP, or both."""
    by_udp = (Encapsulation("udp", vxlan_port),) if vxlan_port else ()
    return (*by_udp, Encapsulation("ipencap")) if has_ipip else by_udp
