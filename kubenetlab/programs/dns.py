"""Messages of a Kubernetes DNS: the encoded answer to an encoded question. Coded by dnslib.

Source: RFC 1035; CoreDNS plugin/kubernetes and plugin/backend_lookup.go (1.12).
"""

from __future__ import annotations

import dnslib
from dnslib import QTYPE, RCODE, RR

from kubenetlab.programs.zone import TTL_S, Zone

MAX_UDP_BYTES = 512
MAX_CHASE = 8


def answer(zone: Zone, data: bytes, *, is_udp: bool = True) -> bytes | None:
    """The encoded answer to an encoded question; None for what is no question at all."""
    try:
        query = dnslib.DNSRecord.parse(data)
    except (dnslib.DNSError, ValueError):
        return None
    if query.header.qr or not query.questions:
        return None
    reply = query.reply(ra=1, aa=1)
    if query.header.opcode != dnslib.OPCODE.QUERY or len(query.questions) != 1 or query.q.qclass != dnslib.CLASS.IN:
        reply.header.rcode = RCODE.NOTIMP
        return bytes(reply.pack())
    _fill(zone, reply, str(query.q.qname), QTYPE[query.q.qtype])
    limit = MAX_UDP_BYTES
    for extra in query.ar:
        if extra.rtype == QTYPE.OPT:
            limit = max(MAX_UDP_BYTES, extra.rclass)
            reply.add_ar(dnslib.EDNS0(udp_len=1232))
    packed = bytes(reply.pack())
    return packed if not is_udp or len(packed) <= limit else bytes(reply.truncate().pack())


def is_foreign(zone: Zone, data: bytes) -> bool:
    """True for a question about a name that is neither the cluster's nor known here: somebody else may know it."""
    try:
        query = dnslib.DNSRecord.parse(data)
    except (dnslib.DNSError, ValueError):
        return False
    if query.header.qr or len(query.questions) != 1:
        return False
    name = str(query.q.qname).lower().removesuffix(".")
    return not name.endswith(zone.domain) and zone.lookup(name, QTYPE.get(query.q.qtype)) is None


def failed(data: bytes) -> bytes:
    """The answer that there is none to be had: SERVFAIL."""
    reply = dnslib.DNSRecord.parse(data).reply(ra=1, aa=0)
    reply.header.rcode = RCODE.SERVFAIL
    return bytes(reply.pack())


def question(data: bytes) -> tuple[str, str]:
    """(name, type) of an encoded message's first question."""
    query = dnslib.DNSRecord.parse(data)
    return str(query.q.qname), QTYPE.get(query.q.qtype)


def _fill(zone: Zone, reply: dnslib.DNSRecord, asked: str, type_: str) -> None:
    """Puts the records for a name into the reply, following aliases as far as they are known here."""
    name = asked
    for _ in range(MAX_CHASE):
        alias = zone.lookup(name, "CNAME")
        if not alias or type_ == "CNAME":
            break
        reply.add_answer(_record(name, "CNAME", alias[0]))
        name = alias[0]
    values = zone.lookup(name, type_)
    for value in values or ():
        reply.add_answer(_record(name, type_, value))
        if type_ == "SRV":
            target = value.split()[-1]
            for address_type in ("A", "AAAA"):
                for address in zone.lookup(target, address_type) or ():
                    reply.add_ar(_record(target, address_type, address))
    is_ours = name.lower().removesuffix(".").endswith(zone.domain)
    if values is None and (is_ours or name == asked):
        reply.header.rcode = RCODE.NXDOMAIN
    if not values and is_ours:
        reply.add_auth(_soa(zone))


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
        case _:
            data = dnslib.PTR(value)
    return RR(name, getattr(QTYPE, type_), ttl=TTL_S, rdata=data)


def _soa(zone: Zone) -> RR:
    return RR(
        zone.domain,
        QTYPE.SOA,
        ttl=TTL_S,
        rdata=dnslib.SOA(f"ns.dns.{zone.domain}", f"hostmaster.{zone.domain}", (1, 7200, 1800, 86400, TTL_S)),
    )
