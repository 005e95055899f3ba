"""DNS messages: the encoded answer to an encoded question, from a `Zone`.

Messages are encoded and decoded by dnslib. An answer over UDP has at most 512 bytes, or as many as
the client's EDNS option allows. Records that do not fit are left out and the bit TC is set; the
client then asks again over TCP.

Source: RFC 1035, RFC 6891; CoreDNS 1.12: plugin/kubernetes, plugin/backend_lookup.go,
request/request.go (Scrub), and miekg/dns msg_truncate.go (Truncate).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import dnslib
from dnslib import QTYPE, RCODE, RR
from msgspec import Struct

from kubenetlab.programs.dns.zone import TTL_S, Zone

MIN_UDP_BYTES: Final = 512
MAX_UDP_BYTES: Final = 65_507
"""Largest payload of a datagram over IPv4."""
MAX_TCP_BYTES: Final = 65_535
MAX_CHASE: Final = 8
"""Maximum number of aliases that are followed for one question."""
_CHASED: Final = ("A", "AAAA")
"""Types for which aliases are followed.

For other types CoreDNS answers that an ExternalName Service has no such record.
"""
_TRANSFERS: Final = (QTYPE.AXFR, QTYPE.IXFR)
_BADVERS: Final = 16
"""Response code for an unknown version of EDNS (RFC 6891 section 9)."""
_HEADER_BYTES: Final = 12
_OPT_BYTES: Final = 11
"""Size of an OPT record without options."""
_MAX_POINTER: Final = 0x3FFF
"""Largest offset to which a compressed name can point (RFC 1035 section 4.1.4)."""


class Edns(Struct, frozen=True):
    """The client's OPT record."""

    udp_bytes: int
    version: int
    wants_dnssec: bool
    """Flag DO, which the answer repeats."""

    def record(self, extended_rcode: int = 0) -> RR:
        """Return the OPT record of the answer."""
        return dnslib.EDNS0(
            udp_len=self.udp_bytes, flags="do" * self.wants_dnssec, ext_rcode=extended_rcode
        )


def answer(zone: Zone, data: bytes, *, is_udp: bool = True) -> bytes | None:
    """Return the encoded answer to an encoded question; None when `data` is not a question."""
    try:
        query = dnslib.DNSRecord.parse(data)
    except (dnslib.DNSError, ValueError):
        return None
    if query.header.qr or not query.questions:
        return None
    edns = edns_of(query)
    reply = query.reply(ra=1, aa=1)
    if edns is not None and edns.version:
        # The lower four bits of the code are in the header, the others in the OPT record.
        reply.header.rcode = _BADVERS & 0xF
        return _encoded(reply, edns.record(_BADVERS >> 4), MAX_TCP_BYTES)
    if (
        query.header.opcode != dnslib.OPCODE.QUERY
        or len(query.questions) != 1
        or query.q.qclass != dnslib.CLASS.IN
    ):
        reply.header.rcode = RCODE.NOTIMP
    elif query.q.qtype in _TRANSFERS:
        reply.header.rcode = RCODE.REFUSED
    else:
        _fill(zone, reply, str(query.q.qname), QTYPE[query.q.qtype])
    limit = udp_limit(edns) if is_udp else MAX_TCP_BYTES
    return _encoded(reply, edns.record() if edns is not None else None, limit)


def edns_of(query: dnslib.DNSRecord) -> Edns | None:
    """Return the EDNS parameters of a question; None when the client does not use EDNS."""
    for record in query.ar:
        if record.rtype == QTYPE.OPT:
            return Edns(record.rclass, record.ttl >> 16 & 0xFF, bool(record.ttl & 0x8000))
    return None


def udp_limit(edns: Edns | None) -> int:
    """Return the size in bytes of the largest datagram that the client accepts.

    It is at least 512 (RFC 6891).
    """
    return MIN_UDP_BYTES if edns is None else min(max(edns.udp_bytes, MIN_UDP_BYTES), MAX_UDP_BYTES)


def is_foreign(zone: Zone, data: bytes) -> bool:
    """Return True for a question about a name that is neither in the cluster's zone nor known here.

    The server may forward such a question.
    """
    try:
        query = dnslib.DNSRecord.parse(data)
    except (dnslib.DNSError, ValueError):
        return False
    if query.header.qr or len(query.questions) != 1:
        return False
    name = str(query.q.qname).lower().removesuffix(".")
    return not zone.is_inside(name) and zone.lookup(name, QTYPE.get(query.q.qtype)) is None


def servfail(data: bytes) -> bytes:
    """Return the encoded answer SERVFAIL to an encoded question."""
    reply = dnslib.DNSRecord.parse(data).reply(ra=1, aa=0)
    reply.header.rcode = RCODE.SERVFAIL
    return bytes(reply.pack())


class DnsQuestion(Struct, frozen=True):
    """First question of a message, as CoreDNS logs it."""

    name: str
    type: str
    edns: Edns | None


def parse_question(data: bytes) -> DnsQuestion:
    """Return the first question of an encoded message."""
    query = dnslib.DNSRecord.parse(data)
    return DnsQuestion(str(query.q.qname), QTYPE.get(query.q.qtype), edns_of(query))


def _fill(zone: Zone, reply: dnslib.DNSRecord, queried_name: str, type_: str) -> None:
    """Add the records of a name to the reply, following aliases as far as the zone knows them."""
    name = queried_name
    for _ in range(MAX_CHASE if type_ in _CHASED else 0):
        alias = zone.lookup(name, "CNAME")
        if not alias:
            break
        reply.add_answer(_record(name, "CNAME", alias[0]))
        name = alias[0]
    values = zone.lookup(name, type_)
    for value in values or ():
        reply.add_answer(_record(name, type_, value))
    for target in _targets(type_, values or ()):
        for address_type in ("A", "AAAA"):
            for address in zone.lookup(target, address_type) or ():
                reply.add_ar(_record(target, address_type, address))
    is_authoritative = zone.is_inside(name)
    if type_ == "SOA" and name.lower().removesuffix(".") == zone.domain:
        reply.add_answer(_soa(zone))
        return
    if values is None and (is_authoritative or name == queried_name):
        reply.header.rcode = RCODE.NXDOMAIN
    if not values and is_authoritative:
        reply.add_auth(_soa(zone))


def _targets(type_: str, values: Sequence[str]) -> list[str]:
    """Return the hosts that NS and SRV records name, each once.

    Their addresses belong in the additional section.
    """
    if type_ not in ("NS", "SRV"):
        return []
    return list(dict.fromkeys(value.split()[-1] for value in values))


def _record(name: str, type_: str, value: str) -> RR:
    match type_:
        case "SRV":
            priority, weight, port, target = value.split()
            data = dnslib.SRV(int(priority), int(weight), int(port), target)
        case "TXT":
            data = dnslib.TXT(value)
        case "A":
            data = dnslib.A(value)
        case "AAAA":
            data = dnslib.AAAA(value)
        case "CNAME":
            data = dnslib.CNAME(value)
        case "NS":
            data = dnslib.NS(value)
        case _:
            data = dnslib.PTR(value)
    return RR(name, getattr(QTYPE, type_), ttl=TTL_S, rdata=data)


def _soa(zone: Zone) -> RR:
    names = (f"ns.dns.{zone.domain}", f"hostmaster.{zone.domain}")
    return RR(
        zone.domain,
        QTYPE.SOA,
        ttl=TTL_S,
        rdata=dnslib.SOA(*names, (zone.serial, 7200, 1800, 86400, TTL_S)),
    )


class _Offsets(dict[object, int]):
    """Offsets of names in a message, without names that no pointer can reach."""

    def __setitem__(self, name: object, offset: int) -> None:
        if offset <= _MAX_POINTER:
            super().__setitem__(name, offset)


def _encoded(reply: dnslib.DNSRecord, opt: RR | None, limit: int) -> bytes:
    """Return the reply encoded in at most `limit` bytes.

    Records are added in order until one does not fit; then TC is set. The question and the OPT
    record are always kept.
    """
    buffer = dnslib.DNSBuffer(bytes(_HEADER_BYTES))
    buffer.offset = _HEADER_BYTES
    buffer.names = _Offsets()
    for question in reply.questions:
        question.pack(buffer)
    capacity = limit - (_OPT_BYTES if opt is not None else 0)
    counts: list[int] = []
    is_full = False
    for section in (reply.rr, reply.auth, reply.ar):
        count = 0
        for record in section:
            end = buffer.offset
            record.pack(buffer)
            if buffer.offset > capacity:
                del buffer.data[end:]
                buffer.offset = end
                is_full = True
                break
            count += 1
        counts.append(count)
        if is_full:
            break
    counts += [0] * (3 - len(counts))
    if opt is not None:
        opt.pack(buffer)
        counts[2] += 1
    reply.header.tc = int(is_full)
    header = dnslib.DNSBuffer()
    header.pack("!HHHHHH", reply.header.id, reply.header.bitmap, len(reply.questions), *counts)
    return bytes(header.data) + bytes(buffer.data[_HEADER_BYTES:])
