"""nftables: kube-proxy's mode of that name, with its own table, chains, maps and sets.

    prerouting, output  →  services  →  map service-ips  →  chain service-…  →  chain endpoint-…: dnat
    forward, output     →  map no-endpoint-services (reject)  →  set cluster-ips (reject), Service range (drop)
    postrouting         →  masquerading, for what was marked 0x4000 on the way

A packet to 10.96.12.7:80 finds `goto service-…` in the map; there one endpoint is drawn, and its chain rewrites the destination.
Source: k8s.io/kubernetes pkg/proxy/nftables/{README.md,proxier.go,proxier_test.go} (1.33).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence

from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.proxy.services import EndpointAddress, PortView, port_views
from kubenetlab.datapath.view import NodeView, ServiceView
from kubenetlab.hoststate.nftables import MAX_NAME, Chain, Collection, Element, Rule, Table
from kubenetlab.hoststate.object import Object
from kubenetlab.names import KUBE_PROXY_TABLE

FAMILY = "ip"
TABLE = KUBE_PROXY_TABLE
MASQUERADE_MARK = "0x4000"

_BASE_CHAINS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("filter-prerouting-pre-dnat", "type filter hook prerouting priority -110", ("ct state new jump firewall-check",)),
    ("filter-output-pre-dnat", "type filter hook output priority -110", ("ct state new jump firewall-check",)),
    (
        "filter-input",
        "type filter hook input priority 0",
        ("ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"),
    ),
    (
        "filter-forward",
        "type filter hook forward priority 0",
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    (
        "filter-output",
        "type filter hook output priority 0",
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    ("nat-prerouting", "type nat hook prerouting priority -100", ("jump services",)),
    ("nat-output", "type nat hook output priority -100", ("jump services",)),
    ("nat-postrouting", "type nat hook postrouting priority 100", ("jump masquerading",)),
)
"""(name, hook, rules)"""

_COLLECTIONS: tuple[tuple[str, str, str], ...] = (
    ("cluster-ips", "ipv4_addr", "Active ClusterIPs"),
    ("nodeport-ips", "ipv4_addr", "IPs that accept NodePort traffic"),
    ("service-ips", "ipv4_addr . inet_proto . inet_service : verdict", "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
    ("service-nodeports", "inet_proto . inet_service : verdict", "NodePort traffic"),
    ("firewall-ips", "ipv4_addr . inet_proto . inet_service : verdict", "destinations that are subject to LoadBalancerSourceRanges"),
    (
        "no-endpoint-services",
        "ipv4_addr . inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to services with no endpoints",
    ),
    (
        "no-endpoint-nodeports",
        "inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to service nodeports with no endpoints",
    ),
)
"""(name, type, comment)"""


class Mode(ModeOptions, frozen=True):
    """No options yet."""

    needs = Needs(programs=("nft",), features=("nft nat", "nft numgen", "nft vmap"))

    def rules(self, node: NodeView, services: Sequence[ServiceView], network: PodNetwork) -> Iterator[Object]:
        yield Table(node.netns, FAMILY, TABLE, "rules for kube-proxy")
        for name, type_, comment in _COLLECTIONS:
            yield Collection(node.netns, FAMILY, TABLE, name, type_, comment)
        yield from _fixed_chains(node)
        for address in node.addresses:
            yield _element(node, "nodeport-ips", address)
        seen: set[str] = set()
        for port in port_views(node, services):
            if port.cluster_ip not in seen:
                yield _element(node, "cluster-ips", port.cluster_ip)
                seen.add(port.cluster_ip)
            yield from _service_port(node, port, network)


def _fixed_chains(node: NodeView) -> Iterator[Object]:
    """The chains that are there whatever Services exist."""
    reject = ("ip daddr @cluster-ips reject", "Reject traffic to invalid ports of ClusterIPs")
    ranges = ", ".join(node.service_cidrs)
    drop = (f"ip daddr {{ {ranges} }} drop", "Drop traffic to unallocated ClusterIPs")
    regular: dict[str, tuple[Rule, ...]] = {
        "firewall-check": (Rule("ip daddr . meta l4proto . th dport vmap @firewall-ips"),),
        "service-endpoints-check": (Rule("ip daddr . meta l4proto . th dport vmap @no-endpoint-services"),),
        "nodeport-endpoints-check": (Rule("ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"),),
        "cluster-ips-check": (Rule(*reject), Rule(*drop)),
        "services": (
            Rule("ip daddr . meta l4proto . th dport vmap @service-ips"),
            Rule("ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
        ),
        "mark-for-masquerade": (Rule(f"mark set mark or {MASQUERADE_MARK}"),),
        "masquerading": (
            Rule(f"mark and {MASQUERADE_MARK} == 0 return"),
            Rule(f"mark set mark xor {MASQUERADE_MARK}"),
            Rule("masquerade fully-random"),
        ),
    }
    for name, rules in regular.items():
        yield Chain(node.netns, FAMILY, TABLE, name, rules)
    yield Chain(
        node.netns, FAMILY, TABLE, "reject-chain", (Rule("reject"),), comment="helper for @no-endpoint-services / @no-endpoint-nodeports"
    )
    for name, hook, texts in _BASE_CHAINS:
        yield Chain(node.netns, FAMILY, TABLE, name, tuple(Rule(text) for text in texts), hook)


def _service_port(node: NodeView, port: PortView, network: PodNetwork) -> Iterator[Object]:
    destination = f"{port.cluster_ip} . {port.protocol} . {port.port}"
    if not port.endpoints:
        verdict = "drop" if port.has_endpoints_elsewhere else "goto reject-chain"
        yield _element(node, "no-endpoint-services", destination, verdict, port.title)
        return
    chain = service_chain(port)
    choices = ", ".join(f"{index} : goto {endpoint_chain(port, endpoint)}" for index, endpoint in enumerate(port.endpoints))
    affinities = port.endpoints if port.affinity_s else ()
    rules = (
        Rule(f"ip daddr {port.cluster_ip} ip saddr != {network.cluster_cidrs[0]} jump mark-for-masquerade"),
        *(Rule(f"ip saddr @{affinity_set(port, endpoint)} goto {endpoint_chain(port, endpoint)}") for endpoint in affinities),
        Rule(f"numgen random mod {len(port.endpoints)} vmap {{ {choices} }}"),
    )
    yield Chain(node.netns, FAMILY, TABLE, chain, rules, comment=port.title)
    for endpoint in affinities:
        yield Collection(node.netns, FAMILY, TABLE, affinity_set(port, endpoint), "ipv4_addr", timeout_s=port.affinity_s)
    for endpoint in port.endpoints:
        hairpin = Rule(f"ip saddr {endpoint.address} jump mark-for-masquerade")
        remember = (Rule(f"update @{affinity_set(port, endpoint)} {{ ip saddr }}"),) if port.affinity_s else ()
        rewrite = Rule(f"meta l4proto {port.protocol} dnat to {endpoint.address}:{endpoint.port}")
        yield Chain(node.netns, FAMILY, TABLE, endpoint_chain(port, endpoint), (hairpin, *remember, rewrite), comment=port.title)
    yield _element(node, "service-ips", destination, f"goto {chain}", port.title)


def service_chain(port: PortView) -> str:
    """kube-proxy's name for a Service port: `service-ULMVA6XW-ns1/svc1/tcp/p80`."""
    return _chain_name("service", _base(port))


def endpoint_chain(port: PortView, endpoint: EndpointAddress) -> str:
    """kube-proxy's name for an endpoint of a Service port: `endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80`."""
    return _chain_name("endpoint", f"{_base(port)}__{endpoint.address}/{endpoint.port}")


def affinity_set(port: PortView, endpoint: EndpointAddress) -> str:
    """kube-proxy's name for the set of an endpoint's faithful clients: `affinity-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80`."""
    return _chain_name("affinity", f"{_base(port)}__{endpoint.address}/{endpoint.port}")


def _base(port: PortView) -> str:
    return f"{port.namespace}/{port.service}/{port.protocol}/{port.port_name}"


def _chain_name(prefix: str, base: str) -> str:
    digest = base64.b32encode(hashlib.sha256(base.encode()).digest()).decode()[:8]
    name = f"{prefix}-{digest}-{base}"
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."


def _element(node: NodeView, collection: str, item: str, value: str = "", comment: str = "") -> Element:
    return Element(node.netns, FAMILY, TABLE, collection, item, value, comment)
