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

from msgspec import Struct

from kubenetlab.api import ip
from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.proxy.services import PRIMARY, EndpointAddress, PortView, node_port_addresses, port_views
from kubenetlab.datapath.view import NodeView, Place, ServiceView
from kubenetlab.hoststate.nftables import MAX_NAME, NFT_FAMILIES, Chain, Collection, Element, InTable, Rule, Table
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules import Rules
from kubenetlab.names import KUBE_PROXY_TABLE

TABLE = KUBE_PROXY_TABLE
MASQUERADE_MARK = "0x4000"
NODE_PORT_IPS = "nodeport-ips"

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
    ("cluster-ips", "ADDR", "Active ClusterIPs"),
    (NODE_PORT_IPS, "ADDR", "IPs that accept NodePort traffic"),
    ("service-ips", "ADDR . inet_proto . inet_service : verdict", "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
    ("service-nodeports", "inet_proto . inet_service : verdict", "NodePort traffic"),
    ("firewall-ips", "ADDR . inet_proto . inet_service : verdict", "destinations that are subject to LoadBalancerSourceRanges"),
    (
        "no-endpoint-services",
        "ADDR . inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to services with no endpoints",
    ),
    (
        "no-endpoint-nodeports",
        "inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to service nodeports with no endpoints",
    ),
)
"""(name, type, comment); ADDR is the family's type of addresses."""


class Mode(ModeOptions, frozen=True):
    """Options as kube-proxy's own configuration names them."""

    needs = Needs(programs=("nft",), features=("nft nat", "nft numgen", "nft vmap"))

    masquerade_all: bool = False
    """Whatever is for a cluster IP is masqueraded."""
    node_port_addresses: tuple[str, ...] = (PRIMARY,)
    """Ranges of the nodes' addresses at which node ports answer, or `primary`; without any they answer at all local ones."""

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        for index, family in enumerate(node.families):
            addresses = node_port_addresses(self.node_port_addresses, node, family.version)
            yield from _table(_Words(NFT_FAMILIES[family.version], node.netns), addresses, node.service_cidrs[index])

    def service(self, service: ServiceView, place: Place, network: PodNetwork) -> tuple[Rules, ...]:
        found = []
        for cluster_cidr in network.cluster_cidrs:
            version = ip.version_of(cluster_cidr)
            words = _Words(NFT_FAMILIES[version])
            ports = port_views(place, service, version)
            if objects := tuple(obj for port in ports for obj in _service_port(words, port, cluster_cidr, is_all=self.masquerade_all)):
                ips = (words.element("cluster-ips", cluster_ip) for cluster_ip in dict.fromkeys(port.cluster_ip for port in ports))
                found.append(Rules("nftables", words.family, service.service.full_name, (*ips, *objects)))
        return tuple(found)


class _Words(Struct, frozen=True):
    """What differs between the tables of a node, one per address family."""

    family: str
    """nft's: also its word for the packet's header."""
    netns: str = ""

    @property
    def address_type(self) -> str:
        return {"ip": "ipv4_addr", "ip6": "ipv6_addr"}[self.family]

    @property
    def any_local(self) -> str:
        """Matches what is for the node itself, but for its loopback."""
        return f"fib daddr type local {self.family} daddr != {'127.0.0.0/8' if self.family == 'ip' else '::1'}"

    def element(self, collection: str, item: str, value: str = "", comment: str = "") -> Element:
        return Element(self.netns, self.family, TABLE, collection, item, value, comment)

    def chain(self, name: str, rules: tuple[Rule, ...], hook: str = "", comment: str = "") -> Chain:
        return Chain(self.netns, self.family, TABLE, name, rules, hook, comment)

    def collection(self, name: str, type_: str, comment: str = "", timeout_s: int = 0) -> Collection:
        return Collection(self.netns, self.family, TABLE, name, type_.replace("ADDR", self.address_type), comment, timeout_s)


def _table(words: _Words, addresses: Sequence[str] | None, service_cidr: str) -> Iterator[Object]:
    """One table, as it is without any Service. `addresses` are those at which node ports answer; None: all local ones."""
    yield Table(words.netns, words.family, TABLE, "rules for kube-proxy")
    for name, type_, comment in _COLLECTIONS:
        if name != NODE_PORT_IPS or addresses is not None:
            yield words.collection(name, type_, comment)
    yield from _fixed_chains(words, service_cidr, words.any_local if addresses is None else f"{words.family} daddr @{NODE_PORT_IPS}")
    for address in addresses or ():
        yield words.element(NODE_PORT_IPS, address)


def _fixed_chains(words: _Words, service_cidr: str, node_ports: str) -> Iterator[Object]:
    """The chains that are there whatever Services exist. `node_ports` matches the addresses at which node ports answer."""
    ip = words.family
    reject = (f"{ip} daddr @cluster-ips reject", "Reject traffic to invalid ports of ClusterIPs")
    drop = (f"{ip} daddr {{ {service_cidr} }} drop", "Drop traffic to unallocated ClusterIPs")
    regular: dict[str, tuple[Rule, ...]] = {
        "firewall-check": (Rule(f"{ip} daddr . meta l4proto . th dport vmap @firewall-ips"),),
        "service-endpoints-check": (Rule(f"{ip} daddr . meta l4proto . th dport vmap @no-endpoint-services"),),
        "nodeport-endpoints-check": (Rule(f"{node_ports} meta l4proto . th dport vmap @no-endpoint-nodeports"),),
        "cluster-ips-check": (Rule(*reject), Rule(*drop)),
        "services": (
            Rule(f"{ip} daddr . meta l4proto . th dport vmap @service-ips"),
            Rule(f"{node_ports} meta l4proto . th dport vmap @service-nodeports"),
        ),
        "mark-for-masquerade": (Rule(f"mark set mark or {MASQUERADE_MARK}"),),
        "masquerading": (
            Rule(f"mark and {MASQUERADE_MARK} == 0 return"),
            Rule(f"mark set mark xor {MASQUERADE_MARK}"),
            Rule("masquerade fully-random"),
        ),
    }
    for name, rules in regular.items():
        yield words.chain(name, rules)
    yield words.chain("reject-chain", (Rule("reject"),), comment="helper for @no-endpoint-services / @no-endpoint-nodeports")
    for name, hook, texts in _BASE_CHAINS:
        yield words.chain(name, tuple(Rule(text) for text in texts), hook)


def _service_port(words: _Words, port: PortView, cluster_cidr: str, *, is_all: bool) -> Iterator[InTable]:
    """The chains of one port, and where it is found: its cluster IP, its addresses outside, its port on every node.

    With `is_all` whatever is for the cluster IP is masqueraded.
    """
    yield from _firewall(words, port)
    yield from _without_endpoints(words, port)
    if not port.everywhere:
        return
    internal = local_chain(port) if port.is_internal_local else service_chain(port)
    whose = "" if is_all else f" {words.family} saddr != {cluster_cidr}"
    outsiders = Rule(f"{words.family} daddr {port.cluster_ip}{whose} jump mark-for-masquerade")
    policies = (
        (service_chain(port), port.uses_cluster_policy, port.everywhere),
        (local_chain(port), port.uses_local_policy, port.here),
    )
    for name, is_used, endpoints in policies:
        if is_used and endpoints:
            first = (outsiders,) if name == internal else ()
            yield words.chain(name, (*first, *_choice(words, port, endpoints)), comment=port.title)
    if port.internal:
        yield words.element("service-ips", _destination(port, port.cluster_ip), f"goto {internal}", port.title)
    if port.is_reached_from_outside:
        yield words.chain(external_chain(port), tuple(_from_outside(words, port, cluster_cidr)), comment=port.title)
        for address in port.outside_ips:
            yield words.element("service-ips", _destination(port, address), f"goto {external_chain(port)}", port.title)
        if port.node_port:
            yield words.element("service-nodeports", _node_port(port), f"goto {external_chain(port)}", port.title)
    yield from _endpoints(words, port)


def _firewall(words: _Words, port: PortView) -> Iterator[InTable]:
    """Who may not come in by the load balancer's address."""
    if port.balanced_ips and port.sources:
        refuse = Rule(f"{words.family} saddr != {{ {', '.join(port.sources)} }} drop")
        yield words.chain(firewall_chain(port), (refuse,), comment=port.title)
        for address in port.balanced_ips:
            yield words.element("firewall-ips", _destination(port, address), f"goto {firewall_chain(port)}", port.title)


def _without_endpoints(words: _Words, port: PortView) -> Iterator[InTable]:
    """Refused where nobody serves; silence where a policy leads to nobody although somebody does."""
    verdict = "drop" if port.everywhere else "goto reject-chain"
    if not port.internal:
        yield words.element("no-endpoint-services", _destination(port, port.cluster_ip), verdict, port.title)
    if not port.external:
        for address in port.outside_ips:
            yield words.element("no-endpoint-services", _destination(port, address), verdict, port.title)
        if port.node_port:
            yield words.element("no-endpoint-nodeports", _node_port(port), verdict, port.title)


def _node_port(port: PortView) -> str:
    return f"{port.protocol} . {port.node_port}"


def _destination(port: PortView, address: str) -> str:
    return f"{address} . {port.protocol} . {port.port}"


def _choice(words: _Words, port: PortView, endpoints: Sequence[EndpointAddress]) -> Iterator[Rule]:
    """Whoever is faithful to an endpoint goes there; for the others one is drawn."""
    if port.affinity_s:
        for endpoint in endpoints:
            yield Rule(f"{words.family} saddr @{affinity_set(port, endpoint)} goto {endpoint_chain(port, endpoint)}")
    choices = ", ".join(f"{index} : goto {endpoint_chain(port, endpoint)}" for index, endpoint in enumerate(endpoints))
    yield Rule(f"numgen random mod {len(endpoints)} vmap {{ {choices} }}")


def _from_outside(words: _Words, port: PortView, cluster_cidr: str) -> Iterator[Rule]:
    """By the policy Cluster all of it is masqueraded; by Local only what the node itself sends, and the cluster's own goes anywhere."""
    cluster = service_chain(port)
    if not port.is_external_local:
        yield Rule("jump mark-for-masquerade")
        yield Rule(f"goto {cluster}")
        return
    yield Rule(f"{words.family} saddr {cluster_cidr} goto {cluster}", "short-circuit pod traffic")
    yield Rule("fib saddr type local jump mark-for-masquerade", "masquerade local traffic")
    yield Rule(f"fib saddr type local goto {cluster}", "short-circuit local traffic")
    if port.here:
        yield Rule(f"goto {local_chain(port)}")


def _endpoints(words: _Words, port: PortView) -> Iterator[InTable]:
    """The chain of each endpoint that some policy leads to."""
    used = (port.everywhere if port.uses_cluster_policy else ()) + (port.here if port.uses_local_policy else ())
    for endpoint in dict.fromkeys(used):
        if port.affinity_s:
            yield words.collection(affinity_set(port, endpoint), "ADDR", timeout_s=port.affinity_s)
        hairpin = Rule(f"{words.family} saddr {endpoint.address} jump mark-for-masquerade")
        remember = (Rule(f"update @{affinity_set(port, endpoint)} {{ {words.family} saddr }}"),) if port.affinity_s else ()
        rewrite = Rule(f"meta l4proto {port.protocol} dnat to {endpoint}")
        yield words.chain(endpoint_chain(port, endpoint), (hairpin, *remember, rewrite), comment=port.title)


def service_chain(port: PortView) -> str:
    """kube-proxy's name for all endpoints of a Service port: `service-ULMVA6XW-ns1/svc1/tcp/p80`."""
    return _chain_name("service", _base(port))


def local_chain(port: PortView) -> str:
    """kube-proxy's name for those on the node: `local-ULMVA6XW-ns1/svc1/tcp/p80`."""
    return _chain_name("local", _base(port))


def external_chain(port: PortView) -> str:
    """kube-proxy's name for what comes for an address outside: `external-ULMVA6XW-ns1/svc1/tcp/p80`."""
    return _chain_name("external", _base(port))


def firewall_chain(port: PortView) -> str:
    """kube-proxy's name for who may come in: `firewall-ULMVA6XW-ns1/svc1/tcp/p80`."""
    return _chain_name("firewall", _base(port))


def endpoint_chain(port: PortView, endpoint: EndpointAddress) -> str:
    """kube-proxy's name for an endpoint of a Service port: `endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80`."""
    return _chain_name("endpoint", _endpoint_base(port, endpoint))


def affinity_set(port: PortView, endpoint: EndpointAddress) -> str:
    """kube-proxy's name for the set of an endpoint's faithful clients: `affinity-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80`."""
    return _chain_name("affinity", _endpoint_base(port, endpoint))


def _base(port: PortView) -> str:
    return f"{port.namespace}/{port.service}/{port.protocol}/{port.port_name}"


def _endpoint_base(port: PortView, endpoint: EndpointAddress) -> str:
    """nft's names have no colons, so an IPv6 address has dots there."""
    return f"{_base(port)}__{endpoint.address.replace(':', '.')}/{endpoint.port}"


def _chain_name(prefix: str, base: str) -> str:
    digest = base64.b32encode(hashlib.sha256(base.encode()).digest()).decode()[:8]
    name = f"{prefix}-{digest}-{base}"
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."
