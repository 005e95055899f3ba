"""Encapsulation: the outer headers of packets in tunnels between nodes.

Source: RFC 7348 (VXLAN), RFC 2003 (IP in IP), RFC 4303 (ESP), wireguard.com/protocol.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from kubenetlab.hoststate.encryption import xfrm
from kubenetlab.hoststate.links import ipip, vxlan, wireguard


class Encapsulation(Struct, frozen=True):
    """The outer header of the packets of tunnels between nodes."""

    protocol: Literal["udp", "ipencap"]
    """Protocol in the outer IP header before encryption by ESP; ipencap is IPv4 itself."""
    port: int = 0
    """UDP port to which the packets are sent."""
    encryption: Literal["", "esp", "wireguard"] = ""
    """Encryption of the packets: `esp` of the outer packet, `wireguard` of the inner one."""
    has_vxlan: bool = False
    """True if the encrypted packet is itself a VXLAN packet."""

    def overhead_bytes(self, version: int) -> int:
        """Return the number of bytes that a packet as large as the MTU grows, at most.

        version: IP version of the outer header.
        """
        if self.encryption == "wireguard":
            inside = vxlan.OVERHEAD_BYTES[version] if self.has_vxlan else 0
            return wireguard.OVERHEAD_BYTES[version] + inside
        if not self.port:
            return ipip.OVERHEAD_BYTES
        esp = xfrm.OVERHEAD_BYTES if self.encryption == "esp" else 0
        return vxlan.OVERHEAD_BYTES[version] + esp


def encapsulations(vxlan_port: int = 0, *, has_ipip: bool = False) -> tuple[Encapsulation, ...]:
    """Return the outer headers of a mode that has VXLAN (with a port) or IPIP, or both."""
    by_udp = (Encapsulation("udp", vxlan_port),) if vxlan_port else ()
    return (*by_udp, Encapsulation("ipencap")) if has_ipip else by_udp


def by_wireguard(ports: Iterable[int]) -> tuple[Encapsulation, ...]:
    """Return the outer headers of WireGuard links with these UDP ports."""
    return tuple(Encapsulation("udp", port, "wireguard") for port in ports)
