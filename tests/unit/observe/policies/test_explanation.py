"""Explanations of verdicts: destinations without name servers, and rules in listings."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from kubenetlab.errors import UsageError
from kubenetlab.observe.destination_lookup import look_up
from kubenetlab.observe.policies.explanation import explain
from kubenetlab.observe.policies.kernel_rules import kernel_rules
from kubenetlab.observe.policies.model import DirectionVerdict, Party, RuleReference, Traffic
from tests.unit.observe.policies.worlds import DENY, PODS, service, world

LAB = world(DENY, PODS + service("heads", "clusterIP: None"))
CLIENT = LAB.places["client"]
WEB = LAB.places["web"].address


@pytest.mark.parametrize(
    ("text", "title", "port", "protocol"),
    [
        ("web", "default/web", 0, "ICMP"),
        ("default/web/icmp", "default/web", 0, "ICMP"),
        ("default/web:8080", "default/web:8080/TCP", 8080, "TCP"),
        ("default/web:53/UDP", "default/web:53/UDP", 53, "UDP"),
        ("svc:web", "svc:default/web:80/TCP", 80, "TCP"),
        ("svc:web:80/tcp", "svc:default/web:80/TCP", 80, "TCP"),
        ("svc:web/TCP", "svc:default/web:80/TCP", 80, "TCP"),
        ("open", "svc:default/open:80/TCP", 80, "TCP"),
        ("open.default.svc", "svc:default/open:80/TCP", 80, "TCP"),
        ("lb:open", "lb:default/open:80/TCP", 80, "TCP"),
        ("svc:heads", "svc:default/heads:8080/TCP", 8080, "TCP"),
        ("node:worker", "node:worker", 0, "ICMP"),
        ("198.51.100.10:443/tcp", "198.51.100.10:443/TCP", 443, "TCP"),
        ("198.51.100.10/ICMP", "198.51.100.10", 0, "ICMP"),
    ],
)
def test_destinations_are_found_without_name_servers(
    text: str, title: str, port: int, protocol: str
) -> None:
    """`PORT` and `PROTOCOL` may be omitted."""
    (found,) = look_up(text, LAB.seen, CLIENT)
    assert (found.title, found.port, found.protocol) == (title, port, protocol)


DUAL = world(
    "---\napiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: dual}\n"
    "external: [{name: api.example.com, address: 198.51.100.20}]\n---\n",
    PODS + service("both", "ipFamilyPolicy: PreferDualStack"),
)


@pytest.mark.parametrize(
    ("text", "title", "version"),
    [
        ("default/web:8080/TCP IPv6", "default/web:8080/TCP IPv6", 6),
        ("default/web:8080/TCP IPv4", "default/web:8080/TCP IPv4", 4),
        ("default/web IPv6", "default/web IPv6", 6),
        ("default/web/ICMP IPv6", "default/web IPv6", 6),
        ("svc:both:80/TCP IPv6", "svc:default/both:80/TCP IPv6", 6),
        ("svc:both/TCP IPv6", "svc:default/both:80/TCP IPv6", 6),
        ("svc:both", "svc:default/both:80/TCP IPv4", 4),
    ],
)
def test_the_family_of_a_target_selects_the_address(text: str, title: str, version: int) -> None:
    """Tables and matrices print destinations with it."""
    (found,) = look_up(text, DUAL.seen, DUAL.places["client"])
    assert (found.title, ip_address(found.address).version) == (title, version)


@pytest.mark.parametrize(
    ("text", "version", "message"),
    [
        ("default/web IPv6", 4, "-4 and IPv6 of default/web IPv6 are mutually exclusive"),
        ("10.244.1.2:80 IPv6", None, "10.244.1.2 is no IPv6 address"),
        ("default/web:80/XXX IPv6", None, 'unknown protocol "XXX"'),
    ],
)
def test_contradictory_families_are_refused(text: str, version: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        look_up(text, DUAL.seen, DUAL.places["client"], version=version)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("api.example.com:443", "ext:api.example.com:443/TCP"),
        ("API.example.com./ICMP", "ext:api.example.com"),
        ("client2", "ext:client2"),
        ("http://api.example.com/health", "ext:api.example.com:80/TCP"),
    ],
)
def test_names_of_external_hosts_are_destinations(text: str, title: str) -> None:
    """The DNS servers of the lab answer for them, and `ping` accepts the names."""
    hosts: Any = [*DUAL.seen["external"], {**DUAL.seen["external"][0], "name": "client2"}]
    seen: Any = {**DUAL.seen, "external": hosts}
    (found,) = look_up(text, seen, DUAL.places["client"])
    assert (found.title, found.address) == (title, "198.51.100.20")


def test_a_namespace_of_digits_is_no_port() -> None:
    """The name behind it is no protocol."""
    seen: Any = {
        **LAB.seen,
        "services": [{**each, "namespace": "80"} for each in LAB.seen["services"]],
    }
    (found,) = look_up("svc:80/web", seen, CLIENT)
    assert found.title == "svc:80/web:80/TCP"


def test_a_node_port_is_found_at_the_address_of_its_node() -> None:
    (found,) = look_up("nodeport:worker2/default/open", LAB.seen, CLIENT)
    assert found.address == LAB.places["node:worker2"].address
    assert 30000 <= found.port <= 32767


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope", "nope: there is no pod, Service or workload of this name"),
        ("example.com", "names outside the lab are not looked up"),
        ("default/web/tcp", "TCP needs a port, such as default/web:80/TCP"),
        ("default/web:80/XXX", 'unknown protocol "XXX"\n  known protocols: ICMP, TCP, UDP, SCTP'),
        ("svc:web:80/tpc", 'unknown protocol "tpc"; did you mean TCP.'),
        ("default/web:80/icmp", "ICMP has no ports; omit :80"),
        ("default/web:http", 'expected a port from 1 to 65535 after the last colon, found "http"'),
        ("default/web:http/tcp", 'after the last colon, found "http"'),
        ("svc:web:81", "the Service has no port 81/TCP; it has 80/TCP"),
        ("svc:web/udp", "the Service has no port 80/UDP; it has 80/TCP"),
        ("svc:heads/udp", "no ready endpoint for the request"),
        ("node:nope", "there is no node:nope"),
    ],
)
def test_destinations_that_do_not_exist(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        look_up(text, LAB.seen, CLIENT)


def test_sources_with_the_same_verdict_are_explained_at_once() -> None:
    """The load balancer's packets may arrive at the pod's own node, or at two other ones."""
    lab = world("from outside")
    port = lab.services["lb:open"]
    (endpoint,) = explain(lab.policies, lab.places["ext:client"], port.address, 80, "TCP")
    assert endpoint.decision == "either"
    assert [path.is_allowed for path in endpoint.paths] == [True, False]
    assert {party.node for party in endpoint.paths[1].sources} == {"control-plane", "worker2"}


def test_a_service_without_endpoints_is_explained_by_its_own_address() -> None:
    lab = world("no egress of client")
    port = lab.services["svc:none"]
    (endpoint,) = explain(lab.policies, lab.places["client"], port.address, 80, "TCP")
    assert (endpoint.address, endpoint.decision) == (port.address, "denied")


NFTABLES = """
table ip network-policy {
	map ingress-pods {
		type ipv4_addr : verdict
		elements = { 10.244.1.2 comment "default/web" : goto isolated-ingress-1,
		10.244.1.20 comment "default/other" : goto isolated-ingress-2 }
	}
	map egress-pods {
		type ipv4_addr : verdict
		elements = { 10.244.1.2 comment "default/web" : goto isolated-egress-1 }
	}
	chain isolated-ingress-1 {
		jump policy-ingress-1-default/p
		counter packets 3 bytes 180 drop comment "isolated by network policies"
	}
	chain isolated-ingress-2 {
		counter packets 9 bytes 180 drop comment "isolated by network policies"
	}
	chain isolated-egress-1 {
		counter packets 5 bytes 180 drop comment "isolated by network policies"
	}
	chain policy-ingress-1-default/p {
		ip saddr @pods-1 accept comment "default/p Ingress rule 0"
		ip saddr @pods-2 accept comment "default/p Ingress rule 10"
		ip saddr @pods-3 accept comment "ClusterNetworkPolicy p Ingress rule 0"
	}
}
table ip6 network-policy {
	chain policy-ingress-1-default/p {
		ip6 saddr @pods-1 accept comment "default/p Ingress rule 0"
	}
}
"""
IPTABLES = """
*filter
:cali-tw-cali1 - [0:0]
-A cali-from-wl-dispatch -s 10.244.1.2/32 -g cali-fw-cali1
-A cali-to-wl-dispatch -d 10.244.1.2/32 -g cali-tw-cali1
-A cali-to-wl-dispatch -d 10.244.1.20/32 -g cali-tw-cali2
-A cali-fw-cali1 -m comment --comment "isolated by network policies" -j DROP
-A cali-fw-cali1 -d 10.244.1.2/32 -m comment --comment "a pod to itself" -j RETURN
-A cali-tw-cali1 -s 10.244.1.2/32 -m comment --comment "a pod to itself" -j RETURN
-A cali-tw-cali1 -m comment --comment "isolated by network policies" -j DROP
-A cali-tw-cali2 -m comment --comment "isolated by network policies" -j DROP
-A cali-pi-1 -m set --match-set cali40s:1 src -m comment --comment "default/p Ingress rule 0" -j X
-A cali-pi-1 -m set --match-set cali40s:2 src -m comment --comment "default/p Ingress rule 1" -j X
COMMIT
"""
SUBJECT = Party("10.244.1.2", "default/web", "worker")
PEER = Party("10.244.1.3", "default/client", "worker")
HTTP, DNS, PING = Traffic("TCP", 80), Traffic("UDP", 53), Traffic("ICMP")
DENIED = DirectionVerdict("Ingress", ("default/p",))
DENIED_EGRESS = DirectionVerdict("Egress", ("default/p",))
ALLOWED = DirectionVerdict("Ingress", ("default/p",), (RuleReference("default/p", 0),))
IN_TIER = DirectionVerdict(
    "Ingress", admin=RuleReference("p", 0, "ClusterNetworkPolicy", action="Deny")
)


@pytest.mark.parametrize(
    ("backend", "verdict", "chains"),
    [
        ("nftables", DENIED, ["ingress-pods", "isolated-ingress-1"]),
        ("nftables", ALLOWED, ["policy-ingress-1-default/p"]),
        ("nftables", IN_TIER, ["policy-ingress-1-default/p"]),
        ("nftables", DirectionVerdict("Ingress"), []),
        ("iptables", DENIED, ["cali-to-wl-dispatch", "cali-tw-cali1"]),
        ("iptables", DENIED_EGRESS, ["cali-from-wl-dispatch", "cali-fw-cali1"]),
        ("iptables", ALLOWED, ["cali-pi-1"]),
    ],
)
def test_rules_are_found_by_comments(
    backend: str, verdict: DirectionVerdict, chains: list[str]
) -> None:
    """The element that leads to a chain, and the chain's last rule; or the rule that allows."""
    listings = {backend: {"nftables": NFTABLES, "iptables": IPTABLES}[backend]}
    found = kernel_rules(listings, "worker", verdict, SUBJECT, HTTP)
    table = {"nftables": "ip network-policy", "iptables": "iptables filter"}[backend]
    assert [rule.chain for rule in found] == [f"{table} {chain}" for chain in chains]
    assert {rule.node for rule in found} <= {"worker"}


@pytest.mark.parametrize(
    ("listings", "start"),
    [({"nftables": NFTABLES}, "ip6 "), ({"iptables": IPTABLES + IPTABLES}, "ip6tables filter ")],
)
def test_rules_of_the_other_family_are_left_out(listings: dict[str, str], start: str) -> None:
    """In a listing of iptables, the tables of ip6tables follow."""
    party = Party("fd00:10:244:1::2", "default/web", "worker")
    (rule,) = kernel_rules(listings, "worker", ALLOWED, party, HTTP)
    assert rule.chain.startswith(start)


@pytest.mark.parametrize(
    ("rule", "matched"),
    [
        ("ip saddr @pods-1 accept", [HTTP, DNS, PING]),
        ("tcp dport 80 accept", [HTTP]),
        ("tcp dport { 53, 79-81 } accept", [HTTP]),
        ("tcp dport 443 accept", []),
        ("meta l4proto udp accept", [DNS]),
        ("meta l4proto != udp drop", [HTTP, PING]),
        ("meta l4proto 47 accept", []),
        ("meta l4proto ipv6-icmp accept", [PING]),
        ("icmp type echo-request accept", [PING]),
        ("udp sport . udp dport { 5 . 53 } accept", [DNS]),
        ("ip daddr . meta l4proto . th dport @port-http-udp drop", [DNS]),
        ("ip daddr . meta l4proto . th dport != @port-http-udp drop", [HTTP, DNS, PING]),
        ("-A x -p tcp -m multiport --dports 53,79:81 -j DROP", [HTTP]),
        ("-A x -p tcp -m multiport ! --dports 80 -j DROP", [HTTP]),
        ("-A x ! -p udp -j DROP", [HTTP, PING]),
        ("-A x -p icmp -m icmp --icmp-type 8 -j DROP", [PING]),
        ("-A x -m set --match-set cali40n:udp-dns dst,dst -j DROP", [DNS]),
        ("-A x -m set ! --match-set cali40n:udp-dns dst,dst -j DROP", [HTTP, DNS, PING]),
    ],
)
def test_rules_of_other_protocols_and_ports_are_left_out(rule: str, matched: list[Traffic]) -> None:
    """The comment of a rule is no match, whatever the name of the policy."""
    comment = '"default/p Ingress rule 0"'
    backend, text = (
        "nftables",
        f"table ip x {{\n\tchain c {{\n\t\t{rule} comment {comment}\n\t}}\n}}",
    )
    if rule.startswith("-A"):
        backend, text = "iptables", f"*filter\n{rule} -m comment --comment {comment}\nCOMMIT"
    found = [
        traffic
        for traffic in (HTTP, DNS, PING)
        if kernel_rules({backend: text}, "worker", ALLOWED, SUBJECT, traffic)
    ]
    assert found == matched


ENTRIES = """\
cilium_lxc 10.244.1.2: endpoint 0000002a (default/web) mac 02:00:00:00:00:01
cilium_policed 0000002a ingress: policies 00000000000000b1
cilium_ipcache 10.244.1.3/32: identity 300
cilium_policy 00000000000000b1 IPv4 ingress identity 300 80/TCP: denied "default/p Ingress"
cilium_policy 00000000000000b1 IPv4 ingress identity 300 80-87/SCTP: denied "default/p Ingress"
cilium_policy 00000000000000b1 IPv4 ingress identity 300 UDP: denied "default/p Ingress"
cilium_policy 00000000000000b1 IPv4 ingress identity 300 8/ICMP: denied "default/p Ingress"
cilium_policy 00000000000000b1 IPv4 ingress identity 300 3/ICMP: denied "default/p Ingress"
cilium_policy 00000000000000b1 IPv4 ingress identity 300 53/UDP: denied "default/q Ingress"
cilium_policy 00000000000000b1 IPv4 ingress identity 300 84/SCTP: denied "default/q Ingress"
cilium_policy 00000000000000b1 IPv4 ingress every other identity: denied "default/p Ingress"
"""


@pytest.mark.parametrize(
    ("traffic", "shown"),
    [
        (HTTP, ["80/TCP"]),
        (DNS, ["53/UDP"]),
        (Traffic("UDP", 54), ["UDP"]),
        (PING, ["8/ICMP"]),
        (Traffic("SCTP", 84), ["84/SCTP"]),
        (Traffic("SCTP", 85), ["80-87/SCTP"]),
        (Traffic("TCP", 443), ["identity"]),
    ],
)
def test_map_entries_of_other_protocols_and_ports_are_left_out(
    traffic: Traffic, shown: list[str]
) -> None:
    """The longest prefix counts. Without an entry of the peer, that of every other one applies."""
    _, *found = kernel_rules({"cilium": ENTRIES}, "worker", DENIED, SUBJECT, traffic, [PEER])
    assert [each.rule.partition(": ")[0].split()[-1] for each in found] == shown
