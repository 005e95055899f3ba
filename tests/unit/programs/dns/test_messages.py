"""DNS: the records that CoreDNS serves, and its messages, without a socket."""

from __future__ import annotations

from typing import Literal

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.core import SERVICE_NAME_LABEL, Namespace, Service, ServicePort, ServiceSpec
from kubenetlab.api.discovery import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.programs.dns.messages import answer, is_foreign
from kubenetlab.programs.dns.resolver import first_address
from kubenetlab.programs.dns.zone import Zone


def zone_with_addresses(count: int) -> Zone:
    """Return a zone in which one name has `count` addresses."""
    return Zone(
        "cluster.local",
        [],
        [],
        [],
        {"many.cluster.local": [f"10.0.{number >> 8}.{number & 255}" for number in range(count)]},
    )


def encoded_question(name: str, type_: str = "A", edns: dnslib.EDNS0 | None = None) -> bytes:
    question = dnslib.DNSRecord.question(name, type_)
    if edns is not None:
        question.add_ar(edns)
    return bytes(question.pack())


def reply_to(zone_: Zone, question: bytes, *, is_udp: bool = True) -> dnslib.DNSRecord:
    packed = answer(zone_, question, is_udp=is_udp)
    assert packed is not None
    return dnslib.DNSRecord.parse(packed)


@given(
    count=st.integers(0, 120),
    size=st.one_of(st.none(), st.integers(0, 4096)),
    is_udp=st.booleans(),
    wants_dnssec=st.booleans(),
)
def test_an_answer_has_as_many_records_as_fit(
    count: int, size: int | None, is_udp: bool, wants_dnssec: bool
) -> None:
    """They are in order, and TC is set if records are missing. EDNS is answered by EDNS."""
    edns = dnslib.EDNS0(udp_len=size, flags="do" * wants_dnssec) if size is not None else None
    question = encoded_question("many.cluster.local", edns=edns)
    packed = answer(zone_with_addresses(count), question, is_udp=is_udp)
    assert packed is not None
    reply = dnslib.DNSRecord.parse(packed)
    limit = 65_535 if not is_udp else max(512, size or 0)
    addresses = [str(record.rdata) for record in reply.rr]
    assert addresses == [f"10.0.{number >> 8}.{number & 255}" for number in range(len(addresses))]
    assert len(packed) <= limit
    assert bool(reply.header.tc) == (len(addresses) < count)
    if reply.header.tc:
        assert len(packed) + 16 > limit  # size of an A record with a compressed name
    assert [str(question_.qname) for question_ in reply.questions] == ["many.cluster.local."]
    assert [(record.edns_len, record.edns_do) for record in reply.ar] == (
        [(size, wants_dnssec)] if edns else []
    )


def test_an_unknown_version_of_edns_is_rejected() -> None:
    """BADVERS is split between the message's header and the OPT record (RFC 6891)."""
    reply = reply_to(
        zone_with_addresses(1),
        encoded_question("many.cluster.local", edns=dnslib.EDNS0(udp_len=1232, version=1)),
    )
    (opt,) = reply.ar
    assert (opt.edns_rcode << 4 | reply.header.rcode, opt.edns_ver, reply.rr) == (16, 0, [])


def endpoint_slice(
    name: str, addresses: list[str], *ports: EndpointPort, hostname: str = ""
) -> EndpointSlice:
    endpoints = tuple(
        Endpoint(
            (address,),
            EndpointConditions(ready=True),
            hostname=f"{hostname}{index}" if hostname else "",
        )
        for index, address in enumerate(addresses)
    )
    family: Literal["IPv4", "IPv6"] = "IPv6" if ":" in addresses[0] else "IPv4"
    return EndpointSlice(
        ObjectMeta(f"{name}-{family.lower()}", "n", {SERVICE_NAME_LABEL: name}),
        family,
        endpoints,
        ports,
    )


def zone_with_long_names(count: int) -> Zone:
    """Return a headless Service of `count` pods with hostnames and dual-stack addresses."""
    ports = (EndpointPort(name="http", port=8080),)
    slices = [
        endpoint_slice(
            "h",
            [
                f"{prefix}{number + 1:x}" if ":" in prefix else f"{prefix}{number + 1}"
                for number in range(count)
            ],
            *ports,
            hostname="a-long-hostname-",
        )
        for prefix in ("10.0.0.", "fd00::")
    ]
    headless = Service(ObjectMeta("h", "n"), ServiceSpec(cluster_ip="None", cluster_ips=("None",)))
    return Zone("cluster.local", [Namespace(ObjectMeta(name="n"))], [headless], slices, {})


def test_names_beyond_the_reach_of_pointers_are_written_out() -> None:
    """A compression pointer reaches 16,383 bytes."""
    reply = reply_to(
        zone_with_long_names(200), encoded_question("h.n.svc.cluster.local", "SRV"), is_udp=False
    )
    hosts = [f"a-long-hostname-{number}.h.n.svc.cluster.local." for number in range(200)]
    assert [str(record.rdata.target) for record in reply.rr] == hosts
    assert sorted(str(record.rname) for record in reply.ar) == sorted(hosts * 2)


KUBE_DNS = Service(
    ObjectMeta("kube-dns", "n"),
    ServiceSpec(
        cluster_ip="10.96.0.10",
        cluster_ips=("10.96.0.10", "fd00:10:96::a"),
        ports=(
            ServicePort(name="dns", port=53, protocol="UDP"),
            ServicePort(name="dns-tcp", port=53),
            ServicePort(name="metrics", port=9153),
        ),
    ),
)
NAMELESS = Service(
    ObjectMeta("plain", "n"),
    ServiceSpec(
        cluster_ip="10.96.0.11", cluster_ips=("10.96.0.11",), ports=(ServicePort(port=80),)
    ),
)
OTHER = Service(ObjectMeta("dns-pods", "n"), ServiceSpec(cluster_ip="None", cluster_ips=("None",)))


def served(*, own: tuple[str, ...], services: tuple[Service, ...] = (KUBE_DNS, NAMELESS)) -> Zone:
    """Return a zone as seen by a server in the pod with the addresses `own`."""
    slices = [
        endpoint_slice(
            service.name, ["10.244.0.2", "10.244.0.3"], EndpointPort(name="metrics", port=9153)
        )
        for service in services
    ]
    return Zone("cluster.local", [Namespace(ObjectMeta(name="n"))], services, slices, {}, own)


def glue(reply: dnslib.DNSRecord) -> list[str]:
    return [f"{record.rname} {record.rdata}" for record in reply.ar]


def test_the_apex_has_an_soa_record() -> None:
    """It is in the answer section, unlike in an empty answer, and has the zone's serial number."""
    zone_ = served(own=())
    zone_.serial = 4711
    reply = reply_to(zone_, encoded_question("Cluster.Local", "SOA"))
    assert [str(record.rdata) for record in reply.rr] == [
        "ns.dns.cluster.local. hostmaster.cluster.local. 4711 7200 1800 86400 30"
    ]
    assert reply.auth == []
    below = reply_to(zone_, encoded_question("kube-dns.n.svc.cluster.local", "SOA"))
    assert (below.rr, len(below.auth)) == ([], 1)


@pytest.mark.parametrize(
    ("own", "services", "names", "addresses"),
    [
        (
            ("10.244.0.3",),
            (KUBE_DNS, NAMELESS),
            ["kube-dns.n.svc.cluster.local.", "plain.n.svc.cluster.local."],
            [
                "kube-dns.n.svc.cluster.local. 10.96.0.10",
                "kube-dns.n.svc.cluster.local. fd00:10:96::a",
                "plain.n.svc.cluster.local. 10.96.0.11",
            ],
        ),
        (
            ("10.244.0.2",),
            (OTHER,),
            [
                "10-244-0-2.dns-pods.n.svc.cluster.local.",
                "10-244-0-3.dns-pods.n.svc.cluster.local.",
            ],
            [
                "10-244-0-2.dns-pods.n.svc.cluster.local. 10.244.0.2",
                "10-244-0-3.dns-pods.n.svc.cluster.local. 10.244.0.3",
            ],
        ),
        (
            ("10.9.9.9", "fd00::9"),
            (KUBE_DNS,),
            ["ns.dns.cluster.local."],
            ["ns.dns.cluster.local. 10.9.9.9", "ns.dns.cluster.local. fd00::9"],
        ),
    ],
    ids=["by-services", "by-a-headless-service", "by-no-service"],
)
def test_the_apex_names_its_servers(
    own: tuple[str, ...], services: tuple[Service, ...], names: list[str], addresses: list[str]
) -> None:
    """The Services that lead to the server's pod, or the pod; with addresses, as ns.dns has."""
    zone_ = served(own=own, services=services)
    reply = reply_to(zone_, encoded_question("cluster.local", "NS"))
    assert ([str(record.rdata) for record in reply.rr], glue(reply)) == (names, addresses)
    addresses_ = [
        str(record.rdata)
        for type_ in ("A", "AAAA")
        for record in reply_to(zone_, encoded_question("ns.dns.cluster.local", type_)).rr
    ]
    assert sorted(addresses_) == sorted(line.split()[1] for line in addresses)


def test_name_servers_follow_the_services() -> None:
    """A deleted or redirected Service is no longer a name server."""
    zone_ = served(own=("10.244.0.2",), services=(KUBE_DNS,))
    zone_.change(("n", "kube-dns"), KUBE_DNS, [endpoint_slice("kube-dns", ["10.244.0.3"])])
    assert zone_.lookup("cluster.local", "NS") == ["ns.dns.cluster.local"]
    zone_.change(("n", "kube-dns"), KUBE_DNS, [endpoint_slice("kube-dns", ["10.244.0.2"])])
    assert zone_.lookup("cluster.local", "NS") == ["kube-dns.n.svc.cluster.local"]
    zone_.change(("n", "kube-dns"), None, ())
    assert zone_.lookup("cluster.local", "NS") == ["ns.dns.cluster.local"]


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("plain.n.svc", ["0 100 80 plain.n.svc.cluster.local."]),
        (
            "kube-dns.n.svc",
            ["0 16 53 kube-dns.n.svc.cluster.local.", "0 16 9153 kube-dns.n.svc.cluster.local."],
        ),
        ("_dns._udp.kube-dns.n.svc", ["0 50 53 kube-dns.n.svc.cluster.local."]),
        ("10-244-0-2.kube-dns.n.svc", ["0 100 9153 10-244-0-2.kube-dns.n.svc.cluster.local."]),
        ("ns.dns", []),
    ],
)
def test_srv_records_share_the_weight(name: str, records: list[str]) -> None:
    """Each port counts once per address, as in CoreDNS; a name without labels has all ports."""
    reply = reply_to(served(own=()), encoded_question(f"{name}.cluster.local", "SRV"))
    assert [str(record.rdata) for record in reply.rr] == records
    assert dnslib.RCODE[reply.header.rcode] == "NOERROR"
    assert len(glue(reply)) == len(set(glue(reply)))


def test_zone_transfers_are_refused() -> None:
    """As by CoreDNS without its plugin `transfer`."""
    assert (
        dnslib.RCODE[
            reply_to(
                served(own=()), encoded_question("cluster.local", "AXFR"), is_udp=False
            ).header.rcode
        ]
        == "REFUSED"
    )


def test_a_zone_ends_at_a_label() -> None:
    """A name that ends in the same letters but not the same labels is outside the zone."""
    question = encoded_question("web.mycluster.local")
    assert is_foreign(served(own=()), question)
    assert reply_to(served(own=()), question).auth == []


@given(st.binary(max_size=80))
def test_malformed_questions_do_not_crash(data: bytes) -> None:
    """Any client may send anything to port 53."""
    answer(Zone("cluster.local", [], [], [], {}), data)
    try:
        first_address(data, 4, 1)
    except OSError:
        pass
