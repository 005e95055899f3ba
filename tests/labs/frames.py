"""Frames on the link of a node to the fabric."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import NamedTuple

from tests.labs.lab import Lab

ETHERNET_BYTES = 14
UDP = 17
_UDP_BYTES, _VXLAN_BYTES = 8, 8
_IPV6_TYPE = b"\x86\xdd"
_ANY_TYPE = 3
"""ETH_P_ALL."""
_BUFFER_BYTES = 1 << 24


class Frame(NamedTuple):
    """An Ethernet frame."""

    is_sent: bool
    """True if the node has sent it."""
    data: bytes

    @property
    def version(self) -> int:
        """IP version; 0 for other protocols."""
        return {b"\x08\x00": 4, _IPV6_TYPE: 6}.get(self.data[12:14], 0)

    @property
    def protocol(self) -> int:
        """Protocol in the IP header, such as 17 for UDP; 0 without one."""
        return {0: 0, 4: self.data[23], 6: self.data[20]}[self.version]

    @property
    def source(self) -> str:
        """Source address; of an IP packet only."""
        address = self.data[26:30] if self.version == 4 else self.data[22:38]
        return str(ip_address(address))

    @property
    def port(self) -> int:
        """Destination port; of TCP and UDP only."""
        return int.from_bytes(self._payload[2:4], "big")

    @property
    def size(self) -> int:
        """Size without padding, by the length in the IP header."""
        if self.version == 4:
            return ETHERNET_BYTES + int.from_bytes(self.data[16:18], "big")
        return 54 + int.from_bytes(self.data[18:20], "big") if self.version else len(self.data)

    @property
    def vni(self) -> int:
        """Network identifier of a VXLAN packet."""
        return int.from_bytes(self._payload[_UDP_BYTES + 4 : _UDP_BYTES + 7], "big")

    @property
    def inner(self) -> Frame:
        """Frame inside a VXLAN packet."""
        return Frame(self.is_sent, self._payload[_UDP_BYTES + _VXLAN_BYTES :])

    @property
    def _payload(self) -> bytes:
        """Bytes after the IP header, which has no options."""
        return self.data[34:] if self.version == 4 else self.data[54:]


@contextmanager
def captured_frames(lab: Lab, node: str) -> Iterator[list[Frame]]:
    """Yield a list that contains the frames sent and received once the block has ended."""
    frames: list[Frame] = []
    with lab.network(lab.place("nodes", node)):
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ANY_TYPE))
    with link:
        link.bind(("eth0", _ANY_TYPE))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        link.setblocking(False)
        yield frames
        while True:
            try:
                data, (_, _, direction, _, _) = link.recvfrom(65536)
            except BlockingIOError:
                return
            frames.append(Frame(direction == socket.PACKET_OUTGOING, data))


def tunnelled(frames: list[Frame], port: int) -> list[Frame]:
    """Return the VXLAN packets among frames."""
    return [frame for frame in frames if frame.protocol == UDP and frame.port == port]
