"""Ethernet frames with one IP packet, built and parsed independently of the programs under test.

Checksums are computed when building and verified when parsing.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import NamedTuple

TCP, UDP, ICMP, ICMPV6, FRAGMENT = 6, 17, 1, 58, 44
SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04
HEADER = 14
_MACS = bytes.fromhex("0a5800000001") + bytes.fromhex("0a5800000002")


class Packet(NamedTuple):
    """An IP packet; `data` is the payload after the IP headers."""

    source: str
    destination: str
    protocol: int
    data: bytes
    id: int = 0
    offset: int = 0
    """Offset of a fragment, in bytes."""
    has_more: bool = False

    @property
    def ports(self) -> tuple[int, int]:
        return struct.unpack_from("!HH", self.data)

    @property
    def four_tuple(self) -> tuple[str, int, str, int]:
        return (self.source, self.ports[0], self.destination, self.ports[1])

    @property
    def flags(self) -> int:
        return self.data[13]

    @property
    def quoted(self) -> Packet:
        """Return the packet quoted by an ICMP error."""
        return parse_frame(
            bytes(HEADER - 2)
            + (b"\x86\xdd" if ":" in self.source else b"\x08\x00")
            + self.data[8:],
            is_whole=False,
        )


def tcp(
    source: tuple[str, int], destination: tuple[str, int], flags: int = SYN, number: int = 1000
) -> Packet:
    header = struct.pack(
        "!HHIIBBHHH", source[1], destination[1], number, 0, 5 << 4, flags, 1024, 0, 0
    )
    return _with_checksum(Packet(source[0], destination[0], TCP, header), 16)


def udp(source: tuple[str, int], destination: tuple[str, int], payload: bytes = b"hello") -> Packet:
    header = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0)
    return _with_checksum(Packet(source[0], destination[0], UDP, header + payload), 6)


def unreachable(source: str, rejected: Packet) -> Packet:
    """Return the ICMP error "port unreachable" by which `source` rejects a packet."""
    is_ipv6 = ":" in source
    quoted = frame(rejected)[HEADER:][: (40 if is_ipv6 else 20) + 8]
    header = struct.pack("!BBHI", 1 if is_ipv6 else 3, 4 if is_ipv6 else 3, 0, 0)
    return _with_checksum(
        Packet(source, rejected.source, ICMPV6 if is_ipv6 else ICMP, header + quoted), 2
    )


def fragments(whole: Packet, at: int) -> tuple[Packet, Packet]:
    """Return a packet as two fragments, cut at a multiple of eight bytes."""
    return (
        whole._replace(data=whole.data[:at], id=4711, has_more=True),
        whole._replace(data=whole.data[at:], id=4711, offset=at),
    )


def reassemble(first: Packet, later: Packet) -> Packet:
    """Return two fragments as one packet, with the checksum of the first."""
    assert (first.source, first.destination, first.id) == (
        later.source,
        later.destination,
        later.id,
    )
    return Packet(first.source, first.destination, first.protocol, first.data + later.data)


def frame(packet: Packet) -> bytes:
    source, destination = ip_address(packet.source), ip_address(packet.destination)
    data, protocol = packet.data, packet.protocol
    if source.version == 6:
        if packet.id:
            data = (
                struct.pack("!BBHI", protocol, 0, packet.offset | packet.has_more, packet.id) + data
            )
            protocol = FRAGMENT
        header = (
            struct.pack("!IHBB", 6 << 28, len(data), protocol, 64)
            + source.packed
            + destination.packed
        )
        return _MACS + b"\x86\xdd" + header + data
    offset_field = packet.offset // 8 | packet.has_more << 13
    header = (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), packet.id, offset_field, 64, protocol, 0)
        + source.packed
        + destination.packed
    )
    return (
        _MACS + b"\x08\x00" + header[:10] + struct.pack("!H", checksum(header)) + header[12:] + data
    )


def parse_frame(data: bytes, *, is_whole: bool = True) -> Packet:
    """Return the packet in a frame; raise AssertionError for wrong checksums.

    is_whole: verify the payload's checksum, unless the packet is a fragment.
    """
    position, is_ipv6 = HEADER, data[12:14] == b"\x86\xdd"
    identity = offset = has_more = 0
    if is_ipv6:
        length, protocol = struct.unpack_from("!HB", data, position + 4)
        source, destination = (
            data[position + 8 : position + 24],
            data[position + 24 : position + 40],
        )
        position += 40
        end = position + length
        if protocol == FRAGMENT:
            protocol, _, word, identity = struct.unpack_from("!BBHI", data, position)
            offset, has_more = word & 0xFFF8, word & 1
            position += 8
    else:
        length, identity, word, _, protocol = struct.unpack_from("!HHHBB", data, position + 2)
        assert checksum(data[position : position + 20]) == 0, "checksum of the IPv4 header"
        source, destination = (
            data[position + 12 : position + 16],
            data[position + 16 : position + 20],
        )
        offset, has_more = (word & 0x1FFF) * 8, word >> 13 & 1
        end, position = position + length, position + 20
    packet = Packet(
        str(ip_address(source)),
        str(ip_address(destination)),
        protocol,
        data[position:end],
        identity,
        offset,
        bool(has_more),
    )
    if is_whole and not offset and not has_more:
        assert has_valid_checksum(packet), f"checksum of {packet}"
    return packet


def has_valid_checksum(packet: Packet) -> bool:
    """Return True if the checksum of the transport header is right."""
    return checksum(_pseudo(packet) + packet.data) == 0


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(packet: Packet) -> bytes:
    if packet.protocol == ICMP:
        return b""
    return (
        ip_address(packet.source).packed
        + ip_address(packet.destination).packed
        + struct.pack("!II", len(packet.data), packet.protocol)
    )


def _with_checksum(packet: Packet, at: int) -> Packet:
    number = checksum(_pseudo(packet) + packet.data)
    return packet._replace(
        data=packet.data[:at] + struct.pack("!H", number) + packet.data[at + 2 :]
    )
