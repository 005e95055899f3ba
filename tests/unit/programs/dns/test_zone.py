"""The DNS zone of a cluster: its records, and their changes."""

from __future__ import annotations

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.core import SERVICE_NAME_LABEL, Namespace, Service, ServicePort, ServiceSpec
from kubenetlab.api.discovery import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.programs.dns.messages import answer
from kubenetlab.programs.dns.zone import Zone
from tests.clusters import ONE_NODE, deployment, running, service, store


def zone() -> Zone:
    text = (
        deployment(replicas=2, hostname="a")
        + service(clusterIP="10.96.7.7").replace("{port: 80", "{name: http, port: 80")
        + service("headless", clusterIP="None")
        .replace("app: headless", "app: web")
        .replace("{port: 80", "{name: http, port: 80")
    )
    cluster = running(
        store(
            ONE_NODE
            + text
            + (
                "apiVersion: v1\nkind: Service\nmetadata: {name: alias}\n"
                "spec: {type: ExternalName, externalName: "
                "web.default.svc.cluster.local}\n---\n"
            )
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
        (
            "_http._tcp.web.default.svc.cluster.local",
            "SRV",
            "NOERROR",
            ["0 100 80 web.default.svc.cluster.local."],
        ),
        (
            "_http._tcp.headless.default.svc.cluster.local",
            "SRV",
            "NOERROR",
            [
                "0 50 8080 10-244-0-4.headless.default.svc.cluster.local.",
                "0 50 8080 10-244-0-5.headless.default.svc.cluster.local.",
            ],
        ),
        (
            "headless.default.svc.cluster.local",
            "SRV",
            "NOERROR",
            [
                "0 50 8080 10-244-0-4.headless.default.svc.cluster.local.",
                "0 50 8080 10-244-0-5.headless.default.svc.cluster.local.",
            ],
        ),
        (
            "web.default.svc.cluster.local",
            "SRV",
            "NOERROR",
            ["0 100 80 web.default.svc.cluster.local."],
        ),
        ("alias.default.svc.cluster.local", "SRV", "NOERROR", []),
        ("alias.default.svc.cluster.local", "CNAME", "NOERROR", ["web.default.svc.cluster.local."]),
        ("cluster.local", "A", "NOERROR", []),
        ("_http._udp.web.default.svc.cluster.local", "SRV", "NXDOMAIN", []),
        ("7.7.96.10.in-addr.arpa", "PTR", "NOERROR", ["web.default.svc.cluster.local."]),
        (
            "4.0.244.10.in-addr.arpa",
            "PTR",
            "NOERROR",
            ["10-244-0-4.headless.default.svc.cluster.local."],
        ),
        (
            "alias.default.svc.cluster.local",
            "A",
            "NOERROR",
            ["web.default.svc.cluster.local.", "10.96.7.7"],
        ),
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
)
def test_the_zone_follows_the_schema(name: str, type_: str, rcode: str, answers: list[str]) -> None:
    """kubernetes/dns schema 1.1.0: answers, empty answers with SOA, and NXDOMAIN."""
    packed = answer(zone(), bytes(dnslib.DNSRecord.question(name, type_).pack()))
    assert packed is not None
    reply = dnslib.DNSRecord.parse(packed)
    assert dnslib.RCODE[reply.header.rcode] == rcode
    assert sorted(str(record.rdata) for record in reply.rr) == sorted(answers)
    if not answers and name.lower().endswith("cluster.local"):
        assert [dnslib.QTYPE[record.rtype] for record in reply.auth] == ["SOA"]


ZONE_EDITS = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from(("", "None", "10.96.7.7")),
    st.lists(st.sampled_from(("1", "2")), unique=True),
)


@given(st.lists(ZONE_EDITS, min_size=1, max_size=6))
def test_an_incrementally_updated_zone_equals_a_new_one(
    edits: list[tuple[str, str, list[str]]],
) -> None:
    """After each change and all together, values are equal and unused names are gone."""
    updated = Zone("cluster.local", [Namespace(ObjectMeta(name="n"))], [], [], {})
    current: dict[tuple[str, str], tuple[Service, EndpointSlice]] = {}
    names = {
        "n.svc.cluster.local",
        "7.7.96.10.in-addr.arpa",
        "1.0.0.10.in-addr.arpa",
        "2.0.0.10.in-addr.arpa",
    }
    for name, address, hosts in edits:
        key = ("n", name)
        names |= {
            f"{below}{name}.n.svc.cluster.local"
            for below in ("", "_http._tcp.", "_tcp.", "10-0-0-1.", "10-0-0-2.")
        }
        if not address:
            current.pop(key, None)
            updated.change(key, None, ())
            continue
        spec = ServiceSpec(
            ports=(ServicePort(port=80, name="http"),), cluster_ips=(address,), cluster_ip=address
        )
        endpoints = tuple(
            Endpoint((f"10.0.0.{host}",), EndpointConditions(ready=True)) for host in hosts
        )
        labels = {SERVICE_NAME_LABEL: name}
        slice_ = EndpointSlice(
            ObjectMeta(name, "n", labels),
            "IPv4",
            endpoints,
            (EndpointPort(name="http", port=8080),),
        )
        current[key] = Service(ObjectMeta(name, "n"), spec), slice_
        updated.change(key, current[key][0], [slice_])
    services, slices = ([pair[side] for pair in current.values()] for side in (0, 1))
    rebuilt = Zone("cluster.local", [Namespace(ObjectMeta(name="n"))], services, slices, {})  # type: ignore[arg-type]
    for name in names:
        for type_ in ("A", "SRV", "PTR"):
            actual, expected = updated.lookup(name, type_), rebuilt.lookup(name, type_)
            assert (actual if actual is None else sorted(actual)) == (
                expected if expected is None else sorted(expected)
            )


def test_fqdn_slices_have_no_dns_records() -> None:
    """FQDN slices have no records."""
    text = (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        "metadata: {name: s, labels: {kubernetes.io/service-name: h}}\n"
        "addressType: FQDN\nendpoints: [{addresses: [www.example.com]}]\n"
        "ports: []\n---\napiVersion: v1\nkind: Service\nmetadata: {name: h}\n"
        "spec: {clusterIP: None}\n"
    )
    cluster = store(text)
    zone = Zone(
        "cluster.local",
        cluster.all(Namespace),
        cluster.all(Service),
        cluster.all(EndpointSlice),
        {},
    )
    assert zone.lookup("h.default.svc.cluster.local", "A") in (None, [])
