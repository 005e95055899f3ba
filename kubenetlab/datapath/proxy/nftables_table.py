"""kube-proxy's nftables table without any Service: chains that always exist, maps and sets.

Source: k8s.io/kubernetes pkg/proxy/nftables/proxier.go (setupNFTables, 1.33).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab.datapath.proxy.services import PortView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import Chain, Collection, Element, Rule, Table
from kubenetlab.names import KUBE_PROXY_TABLE

TABLE = KUBE_PROXY_TABLE
MASQUERADE_MARK = "0x4000"
NODE_PORT_IPS = "nodeport-ips"

_BASE_CHAINS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "filter-prerouting-pre-dnat",
        "type filter hook prerouting priority -110",
        ("ct state new jump firewall-check",),
    ),
    (
        "filter-output-pre-dnat",
        "type filter hook output priority -110",
        ("ct state new jump firewall-check",),
    ),
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
    (
        "service-ips",
        "ADDR . inet_proto . inet_service : verdict",
        "ClusterIP, ExternalIP and LoadBalancer IP traffic",
    ),
    ("service-nodeports", "inet_proto . inet_service : verdict", "NodePort traffic"),
    (
        "firewall-ips",
        "ADDR . inet_proto . inet_service : verdict",
        "destinations that are subject to LoadBalancerSourceRanges",
    ),
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
"""(name, type, comment); ADDR stands for the family's type of addresses."""


class FamilyTable(Struct, frozen=True):
    """kube-proxy's table of one address family on a node; creates objects of that table."""

    family: str
    """nft's name of the family and of its packet header."""
    netns: str = ""

    @property
    def address_type(self) -> str:
        return {"ip": "ipv4_addr", "ip6": "ipv6_addr"}[self.family]

    @property
    def any_local(self) -> str:
        """Match of the node's own addresses except loopback."""
        loopback = "127.0.0.0/8" if self.family == "ip" else "::1"
        return f"fib daddr type local {self.family} daddr != {loopback}"

    def element(self, collection: str, item: str, value: str = "", comment: str = "") -> Element:
        return Element(self.netns, self.family, TABLE, collection, item, value, comment)

    def chain(self, name: str, rules: tuple[Rule, ...], hook: str = "", comment: str = "") -> Chain:
        return Chain(self.netns, self.family, TABLE, name, rules, hook, comment)

    def collection(
        self, name: str, type_: str, comment: str = "", timeout_s: int = 0
    ) -> Collection:
        return Collection(
            self.netns,
            self.family,
            TABLE,
            name,
            type_.replace("ADDR", self.address_type),
            comment,
            timeout_s,
        )

    def typeof(self, name: str, expressions: str, comment: str) -> Collection:
        """Return a set or map whose type is that of nft expressions."""
        return Collection(
            self.netns, self.family, TABLE, name, expressions, comment, is_typeof=True
        )


def table(
    family_table: FamilyTable,
    addresses: Sequence[str] | None,
    service_cidr: str,
    masquerading: Sequence[Rule] = (),
) -> Iterator[Object]:
    """Yield one table without any Service.

    addresses: local addresses at which node ports answer; None for all.
    masquerading: rules before the rule that masquerades marked packets.
    """
    yield Table(family_table.netns, family_table.family, TABLE, "rules for kube-proxy")
    for name, type_, comment in _COLLECTIONS:
        if name != NODE_PORT_IPS or addresses is not None:
            yield family_table.collection(name, type_, comment)
    node_ports = (
        family_table.any_local
        if addresses is None
        else f"{family_table.family} daddr @{NODE_PORT_IPS}"
    )
    yield from _fixed_chains(family_table, service_cidr, node_ports, masquerading)
    for address in addresses or ():
        yield family_table.element(NODE_PORT_IPS, address)


def _fixed_chains(
    family_table: FamilyTable, service_cidr: str, node_ports: str, masquerading: Sequence[Rule]
) -> Iterator[Object]:
    """Yield the chains that always exist.

    node_ports: match of the addresses at which node ports answer.
    """
    ip = family_table.family
    reject = (f"{ip} daddr @cluster-ips reject", "Reject traffic to invalid ports of ClusterIPs")
    drop = (f"{ip} daddr {{ {service_cidr} }} drop", "Drop traffic to unallocated ClusterIPs")
    regular: dict[str, tuple[Rule, ...]] = {
        "firewall-check": (Rule(f"{ip} daddr . meta l4proto . th dport vmap @firewall-ips"),),
        "service-endpoints-check": (
            Rule(f"{ip} daddr . meta l4proto . th dport vmap @no-endpoint-services"),
        ),
        "nodeport-endpoints-check": (
            Rule(f"{node_ports} meta l4proto . th dport vmap @no-endpoint-nodeports"),
        ),
        "cluster-ips-check": (Rule(*reject), Rule(*drop)),
        "services": (
            Rule(f"{ip} daddr . meta l4proto . th dport vmap @service-ips"),
            Rule(f"{node_ports} meta l4proto . th dport vmap @service-nodeports"),
        ),
        "mark-for-masquerade": (Rule(f"mark set mark or {MASQUERADE_MARK}"),),
        "masquerading": (
            *masquerading,
            Rule(f"mark and {MASQUERADE_MARK} == 0 return"),
            Rule(f"mark set mark xor {MASQUERADE_MARK}"),
            Rule("masquerade fully-random"),
        ),
    }
    for name, rules in regular.items():
        yield family_table.chain(name, rules)
    yield family_table.chain(
        "reject-chain",
        (Rule("reject"),),
        comment="helper for @no-endpoint-services / @no-endpoint-nodeports",
    )
    for name, hook, texts in _BASE_CHAINS:
        yield family_table.chain(name, tuple(Rule(text) for text in texts), hook)


def node_port_key(port: PortView) -> str:
    """Return the key of a node port in maps."""
    return f"{port.protocol} . {port.node_port}"


def destination(port: PortView, address: str) -> str:
    """Return the key of an address of a Service in maps."""
    return f"{address} . {port.protocol} . {port.port}"
