"""Names: the records that CoreDNS serves, and its messages, without a socket."""

from __future__ import annotations

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.core import SERVICE_NAME_LABEL, Namespace, Service, ServicePort, ServiceSpec
from kubenetlab.api.discovery import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.programs.dns import answer
from kubenetlab.programs.resolver import first_address
from kubenetlab.programs.zone import Zone
from tests.clusters import ONE_NODE, deployment, running, service, store


def zone() -> Zone:
    text = (
        deployment(replicas=2, hostname="a")
        + service(clusterIP="10.96.7.7").replace("{port: 80", "{name: http, port: 80")
        + service("headless", clusterIP="None").replace("app: headless", "app: web").replace("{port: 80", "{name: http, port: 80")
    )
    cluster = running(
        store(
            ONE_NODE
            + text
            + "apiVersion: v1\nkind: Service\nmetadata: {name: alias}\nspec: {type: ExternalName, externalName: web.default.svc.cluster.local}\n---\n"
        )
    )
    return Zone(
        "cluster.local",
        cluster.all(Namespace),
        cluster.all(Service),
        cluster.all(EndpointSlice),
        {"api.example.com": ("198.51.100.20", "2001:db8:51:100::20")},
    )


@pytest.mark.parametrize(
    ("name", "type_", "rcode", "answers"),
    [
        ("web.default.svc.cluster.local", "A", "NOERROR", ["10.96.7.7"]),
        ("WEB.Default.svc.cluster.LOCAL", "A", "NOERROR", ["10.96.7.7"]),
        ("web.default.svc.cluster.local", "AAAA", "NOERROR", []),
        ("headless.default.svc.cluster.local", "A", "NOERROR", ["10.244.0.4", "10.244.0.5"]),
        ("10-244-0-4.headless.default.svc.cluster.local", "A", "NOERROR", ["10.244.0.4"]),
        ("_http._tcp.web.default.svc.cluster.local", "SRV", "NOERROR", ["0 100 80 web.default.svc.cluster.local."]),
        ("_http._tcp.headless.default.svc.cluster.local", "SRV", "NOERROR", ["0 100 8080 10-244-0-4.headless.default.svc.cluster.local.", "0 100 8080 10-244-0-5.headless.default.svc.cluster.local."]),
        ("_http._udp.web.default.svc.cluster.local", "SRV", "NXDOMAIN", []),
        ("7.7.96.10.in-addr.arpa", "PTR", "NOERROR", ["web.default.svc.cluster.local."]),
        ("4.0.244.10.in-addr.arpa", "PTR", "NOERROR", ["10-244-0-4.headless.default.svc.cluster.local."]),
        ("alias.default.svc.cluster.local", "A", "NOERROR", ["web.default.svc.cluster.local.", "10.96.7.7"]),
        ("dns-version.cluster.local", "TXT", "NOERROR", ['"1.1.0"']),
        ("10-9-8-7.default.pod.cluster.local", "A", "NOERROR", ["10.9.8.7"]),
        ("10-9-8-7.nowhere.pod.cluster.local", "A", "NXDOMAIN", []),
        ("default.svc.cluster.local", "A", "NOERROR", []),
        ("svc.cluster.local", "A", "NOERROR", []),
        ("_tcp.web.default.svc.cluster.local", "A", "NOERROR", []),
        ("nosuch.default.svc.cluster.local", "A", "NXDOMAIN", []),
        ("web.nowhere.svc.cluster.local", "A", "NXDOMAIN", []),
        ("api.example.com", "A", "NOERROR", ["198.51.100.20"]),
        ("api.example.com", "AAAA", "NOERROR", ["2001:db8:51:100::20"]),
        ("nowhere.example.com", "A", "NXDOMAIN", []),
    ],
)  # fmt: skip
def test_the_zone_follows_the_schema(name: str, type_: str, rcode: str, answers: list[str]) -> None:
    """kubernetes/dns schema 1.1.0: answers, empty answers with SOA, names that do not exist."""
    packed = answer(zone(), bytes(dnslib.DNSRecord.question(name, type_).pack()))
    assert packed is not None
    reply = dnslib.DNSRecord.parse(packed)
    assert dnslib.RCODE[reply.header.rcode] == rcode
    assert sorted(str(record.rdata) for record in reply.rr) == sorted(answers)
    if not answers and name.lower().endswith("cluster.local"):
        assert [dnslib.QTYPE[record.rtype] for record in reply.auth] == ["SOA"]


ZONE_EDITS = st.tuples(
    st.sampled_from("ab"), st.sampled_from(("", "None", "10.96.7.7")), st.lists(st.sampled_from(("1", "2")), unique=True)
)


@given(st.lists(ZONE_EDITS, min_size=1, max_size=6))
def test_a_zone_that_came_about_by_changes_is_the_zone(edits: list[tuple[str, str, list[str]]]) -> None:
    """One by one, or all that is left of them at once: every name has the same values, and what is above nothing any more is gone."""
    told = Zone("cluster.local", [Namespace(ObjectMeta(name="n"))], [], [], {})
    left: dict[tuple[str, str], tuple[Service, EndpointSlice]] = {}
    names = {"n.svc.cluster.local", "7.7.96.10.in-addr.arpa", "1.0.0.10.in-addr.arpa", "2.0.0.10.in-addr.arpa"}
    for name, address, hosts in edits:
        key = ("n", name)
        names |= {f"{below}{name}.n.svc.cluster.local" for below in ("", "_http._tcp.", "_tcp.", "10-0-0-1.", "10-0-0-2.")}
        if not address:
            left.pop(key, None)
            told.change(key, None, ())
            continue
        spec = ServiceSpec(ports=(ServicePort(port=80, name="http"),), cluster_ips=(address,), cluster_ip=address)
        endpoints = tuple(Endpoint((f"10.0.0.{host}",), EndpointConditions(ready=True)) for host in hosts)
        labels = {SERVICE_NAME_LABEL: name}
        piece = EndpointSlice(ObjectMeta(name, "n", labels), "IPv4", endpoints, (EndpointPort(name="http", port=8080),))
        left[key] = Service(ObjectMeta(name, "n"), spec), piece
        told.change(key, left[key][0], [piece])
    services, slices = ([pair[side] for pair in left.values()] for side in (0, 1))
    afresh = Zone("cluster.local", [Namespace(ObjectMeta(name="n"))], services, slices, {})  # type: ignore[arg-type]
    for name in names:
        for type_ in ("A", "SRV", "PTR"):
            found, expected = told.lookup(name, type_), afresh.lookup(name, type_)
            assert (found if found is None else sorted(found)) == (expected if expected is None else sorted(expected))


def many(count: int) -> Zone:
    """A zone in which one name has `count` addresses."""
    return Zone("cluster.local", [], [], [], {"many.cluster.local": [f"10.0.{number >> 8}.{number & 255}" for number in range(count)]})


def asked(name: str, type_: str = "A", edns: dnslib.EDNS0 | None = None) -> bytes:
    question = dnslib.DNSRecord.question(name, type_)
    if edns is not None:
        question.add_ar(edns)
    return bytes(question.pack())


def reply_to(zone_: Zone, question: bytes, *, is_udp: bool = True) -> dnslib.DNSRecord:
    packed = answer(zone_, question, is_udp=is_udp)
    assert packed is not None
    return dnslib.DNSRecord.parse(packed)


@given(count=st.integers(0, 120), size=st.one_of(st.none(), st.integers(0, 4096)), is_udp=st.booleans(), wants_dnssec=st.booleans())
def test_an_answer_has_as_many_records_as_fit(count: int, size: int | None, is_udp: bool, wants_dnssec: bool) -> None:
    """In order, behind the question, and TC is set if and only if some are missing. EDNS is answered by EDNS, with the client's size."""
    edns = dnslib.EDNS0(udp_len=size, flags="do" * wants_dnssec) if size is not None else None
    question = asked("many.cluster.local", edns=edns)
    packed = answer(many(count), question, is_udp=is_udp)
    assert packed is not None
    reply = dnslib.DNSRecord.parse(packed)
    limit = 65_535 if not is_udp else max(512, size or 0)
    found = [str(record.rdata) for record in reply.rr]
    assert found == [f"10.0.{number >> 8}.{number & 255}" for number in range(len(found))]
    assert len(packed) <= limit
    assert bool(reply.header.tc) == (len(found) < count)
    if reply.header.tc:
        assert len(packed) + 16 > limit  # an A record behind a pointer to the question has 16 bytes
    assert [str(one.qname) for one in reply.questions] == ["many.cluster.local."]
    assert [(record.edns_len, record.edns_do) for record in reply.ar] == ([(size, wants_dnssec)] if edns else [])


def test_an_unknown_version_of_edns_is_refused() -> None:
    """BADVERS, in two parts: the message's header and the OPT record (RFC 6891)."""
    reply = reply_to(many(1), asked("many.cluster.local", edns=dnslib.EDNS0(udp_len=1232, version=1)))
    (opt,) = reply.ar
    assert (opt.edns_rcode << 4 | reply.header.rcode, opt.edns_ver, reply.rr) == (16, 0, [])


@given(st.binary(max_size=80))
def test_broken_questions_get_no_crash(data: bytes) -> None:
    """Anybody may send anything to port 53."""
    answer(Zone("cluster.local", [], [], [], {}), data)
    try:
        first_address(data, 4, 1)
    except OSError:
        pass


def test_a_slice_of_names_does_no_harm_to_dns() -> None:
    """FQDN slices have no records."""
    text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: h}}\naddressType: FQDN\nendpoints: [{addresses: [www.example.com]}]\nports: []\n---\napiVersion: v1\nkind: Service\nmetadata: {name: h}\nspec: {clusterIP: None}\n"
    cluster = store(text)
    zone = Zone("cluster.local", cluster.all(Namespace), cluster.all(Service), cluster.all(EndpointSlice), {})
    assert zone.lookup("h.default.svc.cluster.local", "A") in (None, [])
