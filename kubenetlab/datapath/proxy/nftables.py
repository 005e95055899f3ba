"""nftables: kube-proxy's mode nftables: verdict maps lead to a chain per Service and endpoint.

    prerouting, output  →  services  →  map service-ips  →  service-…  →  endpoint-…: dnat
    forward, output     →  map no-endpoint-services: reject
                        →  cluster IP in set cluster-ips: reject; other Service addresses: drop
    postrouting         →  masquerading: packets with mark 0x4000

The rules are in the tables `ip kube-proxy` and `ip6 kube-proxy`. A packet to 10.96.12.7:80 finds
`goto service-…` in the map service-ips by one lookup. The chain of the Service selects an endpoint
at random, and the chain of the endpoint rewrites the destination.

Source: k8s.io/kubernetes pkg/proxy/nftables/{README.md,proxier.go,proxier_test.go} (1.33).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Literal

from msgspec import structs

from kubenetlab.api.core import Service
from kubenetlab.api.values import ip
from kubenetlab.datapath.modes import Needs, PodNetwork
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.proxy import nftables_maps as maps
from kubenetlab.datapath.proxy.local_traffic import Detector, LocalTrafficOptions
from kubenetlab.datapath.proxy.nftables_table import (
    MARK,
    FamilyTable,
    destination,
    node_port_key,
    table,
)
from kubenetlab.datapath.proxy.services import (
    PRIMARY,
    EndpointAddress,
    PortView,
    node_port_addresses,
    port_views,
)
from kubenetlab.datapath.proxy.udp_flows import udp_flows
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import NodePlace, NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import (
    MAX_NAME,
    NFT_FAMILIES,
    InTable,
    Rule,
    TableRules,
    rule,
)
from kubenetlab.hoststate.rules.nftables.statements import (
    AnyStatement,
    Dnat,
    InSet,
    Match,
    OneOf,
    RandomVerdict,
    UpdateSet,
    drop,
    goto,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules

MAX_FAITHFUL = 1000
"""Maximum number of Services for which `layout: auto` is `faithful`."""


class Mode(LocalTrafficOptions, frozen=True):
    """Options, named as in kube-proxy's configuration (except layout).

    layout: auto | faithful | fast
        faithful: kube-proxy's own chains for every Service and endpoint. fast: Services are entries
        of a few maps, for labs with thousands of Services; ports with session affinity, a policy
        Local or source ranges keep their chains. auto: faithful up to 1,000 Services, else fast.
        Default: auto.
    nodePortAddresses: list of ranges, or `primary` for the node's own address
        Node addresses at which node ports answer. An empty list means every local address except
        127.0.0.1. Default: [primary].
    """

    needs = Needs(programs=("nft",), features=("nft nat", "nft numgen", "nft vmap"))

    layout: Literal["auto", "faithful", "fast"] = "auto"
    """Chains or map entries; see the manual page."""
    node_port_addresses: tuple[str, ...] = (PRIMARY,)
    """Ranges of the node addresses at which node ports answer, or `primary`; empty for all."""

    def depends_on_node(self, service: Service) -> bool:
        return self.detect_local_mode == "NodeCIDR"

    def resolve_auto(self, services: int) -> Mode:
        chosen = "fast" if services > MAX_FAITHFUL else "faithful"
        return structs.replace(self, layout=chosen) if self.layout == "auto" else self

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        for index, family in enumerate(node.families):
            family_table = FamilyTable(NFT_FAMILIES[family.version], node.netns)
            addresses = node_port_addresses(self.node_port_addresses, node, family.version)
            if self.layout == "fast":
                yield maps.hairpin_set(family_table)
            hairpin = [maps.hairpin_rule(family_table)] if self.layout == "fast" else []
            yield from table(family_table, addresses, node.service_cidrs[index], hairpin)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        for address in pod.addresses if self.layout == "fast" and not pod.is_host_network else ():
            family = NFT_FAMILIES[ip.version_of(address)]
            yield maps.pod_entry(FamilyTable(family, node.netns), address)

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[SubjectRules[RuleObject], ...]:
        rules: list[SubjectRules[RuleObject]] = []
        for detector in self._detectors(place, network):
            version = detector.version
            family_table = FamilyTable(NFT_FAMILIES[version])
            outsiders = self._outsiders(detector)
            ports = port_views(place, service, version)
            fast = [port for port in ports if self.layout == "fast" and maps.fits(port)]
            own: list[InTable] = [
                family_table.address("cluster-ips", address)
                for address in dict.fromkeys(port.cluster_ip for port in ports)
            ]
            for port in ports:
                own += (
                    maps.entries(family_table, port)
                    if port in fast
                    else _service_port(family_table, port, detector, outsiders)
                )
            shared = {
                obj.key: obj for port in fast for obj in maps.shared(family_table, port, outsiders)
            }
            if ports:
                rules.append(
                    TableRules(
                        "nftables",
                        family_table.family,
                        service.service.full_name,
                        tuple(own),
                        tuple(shared.values()),
                    )
                )
            rules += udp_flows(service.service.full_name, ports, version)
        return tuple(rules)

    def _outsiders(self, detector: Detector) -> tuple[AnyStatement, ...] | None:
        """Return the match of masqueraded traffic to a cluster IP; None if there is none."""
        if self.masquerade_all:
            return ()
        return (detector.nft(is_local=False),) if detector.is_implemented else None

    def _detectors(self, place: NodeView | NodePlace, network: PodNetwork) -> tuple[Detector, ...]:
        return self.detectors(network, place.families)


def _service_port(
    family_table: FamilyTable,
    port: PortView,
    detector: Detector,
    outsiders: tuple[AnyStatement, ...] | None,
) -> Iterator[InTable]:
    """Yield the chains of one port, and the elements that lead to them.

    The elements are for the cluster IP, external addresses and the node port.
    outsiders: match of the traffic to the cluster IP that is masqueraded; None if there is none.
    """
    yield from _firewall(family_table, port)
    yield from _without_endpoints(family_table, port)
    if not port.cluster_endpoints:
        return
    internal = local_chain(port) if port.is_internal_local else service_chain(port)
    marking = (
        ()
        if outsiders is None
        else (rule(Match(f"{family_table.family} daddr", port.cluster_ip), *outsiders, MARK),)
    )
    policies = (
        (service_chain, port.uses_cluster_policy, port.cluster_endpoints),
        (local_chain, port.uses_local_policy, port.local_endpoints),
    )
    for chain_of, is_used, endpoints in policies:
        if is_used and endpoints:
            name = chain_of(port)
            own_marking = marking if name == internal else ()
            yield family_table.chain(
                name, (*own_marking, *_choice(family_table, port, endpoints)), comment=port.title
            )
    if port.internal:
        yield family_table.verdict(
            "service-ips", destination(port, port.cluster_ip), goto(internal), port.title
        )
    if port.is_reached_from_outside:
        external = external_chain(port)
        yield family_table.chain(external, tuple(_from_outside(port, detector)), comment=port.title)
        for address in port.outside_ips:
            yield family_table.verdict(
                "service-ips", destination(port, address), goto(external), port.title
            )
        if port.node_port:
            yield family_table.verdict(
                "service-nodeports", node_port_key(port), goto(external), port.title
            )
    yield from _endpoints(family_table, port)


def _firewall(family_table: FamilyTable, port: PortView) -> Iterator[InTable]:
    """Yield the chain and elements that drop clients outside loadBalancerSourceRanges."""
    if port.virtual_ips and port.sources:
        outside = OneOf(f"{family_table.family} saddr", tuple(port.sources), is_negated=True)
        firewall = firewall_chain(port)
        yield family_table.chain(firewall, (rule(outside, drop),), comment=port.title)
        for address in port.virtual_ips:
            yield family_table.verdict(
                "firewall-ips", destination(port, address), goto(firewall), port.title
            )


def _without_endpoints(family_table: FamilyTable, port: PortView) -> Iterator[InTable]:
    """Yield the elements for addresses of the port that lead to no endpoint.

    They reject if the Service has no endpoint at all, and drop if only a policy Local excludes
    them.
    """
    verdict = drop if port.cluster_endpoints else goto("reject-chain")
    if not port.internal:
        yield family_table.verdict(
            "no-endpoint-services", destination(port, port.cluster_ip), verdict, port.title
        )
    if not port.external:
        for address in port.outside_ips:
            yield family_table.verdict(
                "no-endpoint-services", destination(port, address), verdict, port.title
            )
        if port.node_port:
            yield family_table.verdict(
                "no-endpoint-nodeports", node_port_key(port), verdict, port.title
            )


def _choice(
    family_table: FamilyTable, port: PortView, endpoints: Sequence[EndpointAddress]
) -> Iterator[Rule]:
    """Yield the rules that select an endpoint: session affinity first, then at random."""
    if port.affinity_s:
        for endpoint in endpoints:
            clients = InSet((f"{family_table.family} saddr",), affinity_set(port, endpoint))
            yield rule(clients, goto(endpoint_chain(port, endpoint)))
    yield rule(RandomVerdict(tuple(endpoint_chain(port, endpoint) for endpoint in endpoints)))


def _from_outside(port: PortView, detector: Detector) -> Iterator[Rule]:
    """Yield the rules of the external chain.

    With the policy Cluster all traffic is masqueraded. With the policy Local only traffic of the
    node itself is masqueraded, and traffic from within the cluster may go to any endpoint.
    """
    cluster = service_chain(port)
    if not port.is_external_local:
        yield rule(MARK)
        yield rule(goto(cluster))
        return
    if detector.is_implemented:
        yield rule(detector.nft(is_local=True), goto(cluster), comment="short-circuit pod traffic")
    from_node = Match("fib saddr type", "local")
    yield rule(from_node, MARK, comment="masquerade local traffic")
    yield rule(from_node, goto(cluster), comment="short-circuit local traffic")
    if port.local_endpoints:
        yield rule(goto(local_chain(port)))


def _endpoints(family_table: FamilyTable, port: PortView) -> Iterator[InTable]:
    """Yield the chain of each endpoint that is used by some policy."""
    used = (port.cluster_endpoints if port.uses_cluster_policy else ()) + (
        port.local_endpoints if port.uses_local_policy else ()
    )
    source, protocol = f"{family_table.family} saddr", Match("meta l4proto", port.protocol)
    for endpoint in dict.fromkeys(used):
        remember: tuple[Rule, ...] = ()
        if port.affinity_s:
            clients = affinity_set(port, endpoint)
            yield family_table.clients(clients, port.affinity_s)
            remember = (rule(UpdateSet(source, clients)),)
        hairpin = rule(Match(source, endpoint.address), MARK)
        rewrite = rule(protocol, Dnat(endpoint.address, endpoint.port))
        yield family_table.chain(
            endpoint_chain(port, endpoint), (hairpin, *remember, rewrite), comment=port.title
        )


def service_chain(port: PortView) -> str:
    """Return kube-proxy's name of the chain of all endpoints.

    Example: `service-ULMVA6XW-ns1/svc1/tcp/p80`.
    """
    return _chain_name("service", _base(port))


def local_chain(port: PortView) -> str:
    """Return kube-proxy's name of the chain of this node's endpoints.

    Example: `local-ULMVA6XW-ns1/svc1/tcp/p80`.
    """
    return _chain_name("local", _base(port))


def external_chain(port: PortView) -> str:
    """Return kube-proxy's name of the chain for external addresses.

    Example: `external-ULMVA6XW-ns1/svc1/tcp/p80`.
    """
    return _chain_name("external", _base(port))


def firewall_chain(port: PortView) -> str:
    """Return kube-proxy's name of the chain of source ranges.

    Example: `firewall-ULMVA6XW-ns1/svc1/tcp/p80`.
    """
    return _chain_name("firewall", _base(port))


def endpoint_chain(port: PortView, endpoint: EndpointAddress) -> str:
    """Return kube-proxy's name of the chain of one endpoint.

    Example: `endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80`.
    """
    return _chain_name("endpoint", _endpoint_base(port, endpoint))


def affinity_set(port: PortView, endpoint: EndpointAddress) -> str:
    """Return kube-proxy's name of the set of an endpoint's recent clients.

    Example: `affinity-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80`.
    """
    return _chain_name("affinity", _endpoint_base(port, endpoint))


def _base(port: PortView) -> str:
    return f"{port.namespace}/{port.service}/{port.protocol}/{port.port_name}"


def _endpoint_base(port: PortView, endpoint: EndpointAddress) -> str:
    """Return the name with the endpoint. An IPv6 address has dots, as nft names have no colons."""
    return f"{_base(port)}__{endpoint.address.replace(':', '.')}/{endpoint.port}"


@lru_cache(1024)
def _chain_name(prefix: str, base: str) -> str:
    """Return a name with a digest; several rules of a port contain it."""
    name = f"{prefix}-{_base32(hashlib.sha256(base.encode()).digest()[:5])}-{base}"
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."


def _base32(data: bytes) -> str:
    """Encode five bytes as eight characters, four times as fast as `base64.b32encode`."""
    pairs, bits = _base32_pairs(), int.from_bytes(data)
    return (
        pairs[bits >> 30]
        + pairs[bits >> 20 & 0x3FF]
        + pairs[bits >> 10 & 0x3FF]
        + pairs[bits & 0x3FF]
    )


@cache
def _base32_pairs() -> tuple[str, ...]:
    """Return the two characters for each value of ten bits (RFC 4648)."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    return tuple(first + second for first in alphabet for second in alphabet)
