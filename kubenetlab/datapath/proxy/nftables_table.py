"""kube-proxy's nftables table without any Service: chains that always exist, maps and sets.

Source: k8s.io/kubernetes pkg/proxy/nftables/proxier.go (setupNFTables, 1.33).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab.datapath.proxy.services import PortView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import (
    Chain,
    Collection,
    Element,
    Hook,
    Rule,
    SetType,
    Table,
    rule,
)
from kubenetlab.hoststate.rules.nftables.datatypes import VERDICT
from kubenetlab.hoststate.rules.nftables.statements import (
    AnyStatement,
    InSet,
    MapVerdict,
    Masked,
    Masquerade,
    Match,
    OneOf,
    Reject,
    SetMark,
    Verdict,
    drop,
    jump,
    return_,
)
from kubenetlab.names import KUBE_PROXY_TABLE

TABLE = KUBE_PROXY_TABLE
MASQUERADE_MARK = "0x4000"
MARK = jump("mark-for-masquerade")
"""Verdict that marks a packet, so that it is masqueraded when it leaves."""
NODE_PORT_IPS = "nodeport-ips"

_NEW = Match("ct state", "new")
_BASE_CHAINS: tuple[tuple[str, Hook, tuple[Rule, ...]], ...] = (
    (
        "filter-prerouting-pre-dnat",
        Hook("filter", "prerouting", -110),
        (rule(_NEW, jump("firewall-check")),),
    ),
    (
        "filter-output-pre-dnat",
        Hook("filter", "output", -110),
        (rule(_NEW, jump("firewall-check")),),
    ),
    (
        "filter-input",
        Hook("filter", "input", 0),
        (
            rule(_NEW, jump("nodeport-endpoints-check")),
            rule(_NEW, jump("service-endpoints-check")),
        ),
    ),
    (
        "filter-forward",
        Hook("filter", "forward", 0),
        (rule(_NEW, jump("service-endpoints-check")), rule(_NEW, jump("cluster-ips-check"))),
    ),
    (
        "filter-output",
        Hook("filter", "output", 0),
        (rule(_NEW, jump("service-endpoints-check")), rule(_NEW, jump("cluster-ips-check"))),
    ),
    ("nat-prerouting", Hook("nat", "prerouting", -100), (rule(jump("services")),)),
    ("nat-output", Hook("nat", "output", -100), (rule(jump("services")),)),
    ("nat-postrouting", Hook("nat", "postrouting", 100), (rule(jump("masquerading")),)),
)
"""(name, hook, rules)"""

_ADDRESS_TYPES = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_ADDRESSES = {family: SetType((address,)) for family, address in _ADDRESS_TYPES.items()}
_DESTINATIONS = {
    family: SetType((address, "inet_proto", "inet_service"), VERDICT)
    for family, address in _ADDRESS_TYPES.items()
}
_NODE_PORTS = dict.fromkeys(_ADDRESS_TYPES, SetType(("inet_proto", "inet_service"), VERDICT))
PAIRS = {family: SetType((address, address)) for family, address in _ADDRESS_TYPES.items()}
"""Type of a set of pairs of addresses, by family."""

_COLLECTIONS: dict[str, tuple[dict[str, SetType], str]] = {
    "cluster-ips": (_ADDRESSES, "Active ClusterIPs"),
    NODE_PORT_IPS: (_ADDRESSES, "IPs that accept NodePort traffic"),
    "service-ips": (_DESTINATIONS, "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
    "service-nodeports": (_NODE_PORTS, "NodePort traffic"),
    "firewall-ips": (_DESTINATIONS, "destinations that are subject to LoadBalancerSourceRanges"),
    "no-endpoint-services": (
        _DESTINATIONS,
        "vmap to drop or reject packets to services with no endpoints",
    ),
    "no-endpoint-nodeports": (
        _NODE_PORTS,
        "vmap to drop or reject packets to service nodeports with no endpoints",
    ),
}
"""Name → (type by family, comment)."""


class FamilyTable(Struct, frozen=True):
    """kube-proxy's table of one address family on a node; creates objects of that table."""

    family: str
    """nft's name of the family and of its packet header."""
    netns: str = ""

    @property
    def any_local(self) -> tuple[AnyStatement, ...]:
        """Match of the node's own addresses except loopback."""
        loopback = "127.0.0.0/8" if self.family == "ip" else "::1"
        return (
            Match("fib daddr type", "local"),
            Match(f"{self.family} daddr", loopback, is_negated=True),
        )

    def address(self, collection: str, address: str) -> Element:
        """Return an element of a set of addresses."""
        return Element(
            self.netns, self.family, TABLE, collection, _ADDRESSES[self.family], (address,)
        )

    def verdict(
        self, collection: str, item: tuple[str, ...], verdict: Verdict, comment: str
    ) -> Element:
        """Return an element of one of the maps of verdicts."""
        type_ = _COLLECTIONS[collection][0][self.family]
        return Element(
            self.netns, self.family, TABLE, collection, type_, item, verdict, comment=comment
        )

    def data(
        self, collection: str, type_: SetType, item: tuple[str, ...], value: tuple[str, ...] = ()
    ) -> Element:
        """Return an element of a set, or of a map of other values than verdicts."""
        return Element(self.netns, self.family, TABLE, collection, type_, item, data=value)

    def chain(
        self, name: str, rules: tuple[Rule, ...], hook: Hook | None = None, comment: str = ""
    ) -> Chain:
        return Chain(self.netns, self.family, TABLE, name, rules, hook, comment)

    def collection(self, name: str, type_: SetType, comment: str) -> Collection:
        return Collection(self.netns, self.family, TABLE, name, type_, comment)

    def clients(self, name: str, timeout_s: int) -> Collection:
        """Return a set of addresses that packets add for some time."""
        return Collection(
            self.netns, self.family, TABLE, name, _ADDRESSES[self.family], timeout_s=timeout_s
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
    for name, (types, comment) in _COLLECTIONS.items():
        if name != NODE_PORT_IPS or addresses is not None:
            yield family_table.collection(name, types[family_table.family], comment)
    node_ports: tuple[AnyStatement, ...] = (
        family_table.any_local
        if addresses is None
        else (InSet((f"{family_table.family} daddr",), NODE_PORT_IPS),)
    )
    yield from _fixed_chains(family_table, service_cidr, node_ports, masquerading)
    for address in addresses or ():
        yield family_table.address(NODE_PORT_IPS, address)


def _fixed_chains(
    family_table: FamilyTable,
    service_cidr: str,
    node_ports: tuple[AnyStatement, ...],
    masquerading: Sequence[Rule],
) -> Iterator[Object]:
    """Yield the chains that always exist.

    node_ports: match of the addresses at which node ports answer.
    """
    daddr = f"{family_table.family} daddr"
    port = ("meta l4proto", "th dport")
    destination = (daddr, *port)
    regular: dict[str, tuple[Rule, ...]] = {
        "firewall-check": (rule(MapVerdict(destination, "firewall-ips")),),
        "service-endpoints-check": (rule(MapVerdict(destination, "no-endpoint-services")),),
        "nodeport-endpoints-check": (rule(*node_ports, MapVerdict(port, "no-endpoint-nodeports")),),
        "cluster-ips-check": (
            rule(
                InSet((daddr,), "cluster-ips"),
                Reject(),
                comment="Reject traffic to invalid ports of ClusterIPs",
            ),
            rule(
                OneOf(daddr, (service_cidr,)),
                drop,
                comment="Drop traffic to unallocated ClusterIPs",
            ),
        ),
        "services": (
            rule(MapVerdict(destination, "service-ips")),
            rule(*node_ports, MapVerdict(port, "service-nodeports")),
        ),
        "mark-for-masquerade": (rule(SetMark("or", MASQUERADE_MARK)),),
        "masquerading": (
            *masquerading,
            rule(Masked("mark", MASQUERADE_MARK), return_),
            rule(SetMark("xor", MASQUERADE_MARK)),
            rule(Masquerade(is_fully_random=True)),
        ),
    }
    for name, rules in regular.items():
        yield family_table.chain(name, rules)
    yield family_table.chain(
        "reject-chain",
        (rule(Reject()),),
        comment="helper for @no-endpoint-services / @no-endpoint-nodeports",
    )
    for name, hook, rules in _BASE_CHAINS:
        yield family_table.chain(name, rules, hook)


def node_port_key(port: PortView) -> tuple[str, str]:
    """Return the key of a node port in maps."""
    return port.protocol, str(port.node_port)


def destination(port: PortView, address: str) -> tuple[str, str, str]:
    """Return the key of an address of a Service in maps."""
    return address, port.protocol, str(port.port)
