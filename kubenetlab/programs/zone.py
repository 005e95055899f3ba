"""The records that a Kubernetes DNS serves, and the answer to a question.

Source: kubernetes/dns docs/specification.md (schema 1.1.0); where that is silent, CoreDNS' plugin `kubernetes` with kubeadm's
Corefile (pods insecure, ttl 30). Messages are coded by dnslib.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

import dnslib
from dnslib import QTYPE, RCODE, RR

from kubenetlab.api.core import Namespace, Service
from kubenetlab.api.discovery import Endpoint, EndpointSlice

TTL_S = 30
SCHEMA_VERSION = "1.1.0"
MAX_UDP_BYTES = 512
MAX_CHASE = 8

Records = dict[str, dict[str, list[str]]]
"""Lower-case name without the last dot → record type → values as text."""

Source = tuple[str, ...]
"""Who has brought records: a Service by its namespace and name, or something else that is there once."""


class Zone:
    """Everything that is known about names: the cluster's own zone, reverse names, and the hosts of the internet."""

    def __init__(
        self,
        domain: str,
        namespaces: Iterable[Namespace],
        services: Iterable[Service],
        slices: Iterable[EndpointSlice],
        hosts: Mapping[str, Sequence[str]],
    ) -> None:
        self.domain = domain.lower()
        self._namespaces = {namespace.name for namespace in namespaces}
        self._reserved = {self.domain, f"svc.{self.domain}", f"pod.{self.domain}"}
        """Names that the schema has whether or not anything is below them."""
        self._reserved |= {f"{namespace}.{part}.{self.domain}" for namespace in self._namespaces for part in ("svc", "pod")}
        self._brought: dict[Source, Records] = {}
        self._known: dict[str, dict[Source, Mapping[str, list[str]]]] = {}
        """Name → who has brought what of it."""
        self._above: Counter[str] = Counter()
        """How many names of the zone are below each."""
        by_service: dict[Source, list[EndpointSlice]] = {}
        for piece in slices:
            by_service.setdefault((piece.namespace, piece.service_name), []).append(piece)
        self._bring((), {f"dns-version.{self.domain}": {"TXT": [SCHEMA_VERSION]}})
        for service in services:
            self.change(service.key, service, by_service.get(service.key, ()))
        found: Records = {}
        for name, addresses in hosts.items():
            for address in addresses:
                _add(found, name.lower(), _address_type(address), address)
        self._bring(("hosts",), found)

    def change(self, key: tuple[str, str], service: Service | None, slices: Iterable[EndpointSlice]) -> None:
        """A Service by its namespace and name is now this one, with these slices, or none."""
        self._bring(key, {} if service is None else _records(self.domain, service, slices))

    def lookup(self, name: str, type_: str) -> list[str] | None:
        """The values of one name and type; empty when the name exists without them, None when it does not exist."""
        name = name.lower().removesuffix(".")
        if name in self._known:
            return list(dict.fromkeys(value for records in self._known[name].values() for value in records.get(type_, ())))
        if name in self._reserved or self._above[name]:
            return []
        return self._pod(name, type_)

    def _bring(self, source: Source, records: Records) -> None:
        """What a source says takes the place of what it said before."""
        for name in self._brought.pop(source, {}):
            del self._known[name][source]
            if not self._known[name]:
                del self._known[name]
                for above in self._ancestors(name):
                    self._above[above] -= 1
                    if not self._above[above]:
                        del self._above[above]
        for name, values in records.items():
            if name not in self._known:
                self._above.update(self._ancestors(name))
            self._known.setdefault(name, {})[source] = values
        if records:
            self._brought[source] = records

    def _ancestors(self, name: str) -> list[str]:
        """The names above one of the zone: they exist because something is below them."""
        if not name.endswith(f".{self.domain}"):
            return []
        labels = name.split(".")
        return [".".join(labels[index:]) for index in range(1, len(labels) - self.domain.count(".") - 1)]

    def _pod(self, name: str, type_: str) -> list[str] | None:
        """`10-244-1-5.default.pod.cluster.local`, for any address in a namespace that exists (`pods insecure`)."""
        first, _, rest = name.partition(".")
        namespace, _, tail = rest.partition(".")
        if tail != f"pod.{self.domain}" or namespace not in self._namespaces:
            return None
        for separator in (".", ":"):
            try:
                address = str(ip_address(first.replace("-", separator)))
            except ValueError:
                continue
            return [address] if _address_type(address) == type_ else []
        return None


def _records(domain: str, service: Service, slices: Iterable[EndpointSlice]) -> Records:
    """What a Service brings."""
    found: Records = {}
    name = f"{service.name}.{service.namespace}.svc.{domain}"
    if service.spec.type == "ExternalName":
        _add(found, name, "CNAME", service.spec.external_name.removesuffix(".").lower())
        return found
    for address in service.cluster_ips:
        _add(found, name, _address_type(address), address)
        _add(found, _reverse(address), "PTR", name)
        for port in service.spec.ports:
            if port.name:
                _add(found, f"_{port.name}._{port.protocol.lower()}.{name}", "SRV", f"0 100 {port.port} {name}")
    for piece in slices:
        for endpoint in piece.endpoints if piece.address_type != "FQDN" else ():
            if endpoint.conditions.is_ready:
                _add_endpoint(found, service, name, piece, endpoint)
    return found


def _add_endpoint(found: Records, service: Service, name: str, piece: EndpointSlice, endpoint: Endpoint) -> None:
    for address in endpoint.addresses:
        host = f"{endpoint.hostname or dashed(address)}.{name}"
        _add(found, host, _address_type(address), address)
        if not service.is_headless:
            continue
        _add(found, name, _address_type(address), address)
        _add(found, _reverse(address), "PTR", host)
        for port in piece.ports:
            if port.name and port.port is not None:
                _add(found, f"_{port.name}._{port.protocol.lower()}.{name}", "SRV", f"0 100 {port.port} {host}")


def _add(found: Records, name: str, type_: str, value: str) -> None:
    values = found.setdefault(name, {}).setdefault(type_, [])
    if value not in values:
        values.append(value)


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


def dashed(address: str) -> str:
    """An address as a label: `10-244-1-5`."""
    return address.replace(".", "-").replace(":", "-")


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


def _address_type(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def _reverse(address: str) -> str:
    return ip_address(address).reverse_pointer
