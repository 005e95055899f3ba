"""iptables: kube-proxy's mode iptables: one chain per Service port and per endpoint.

    PREROUTING, OUTPUT      →  KUBE-SERVICES  →  KUBE-SVC-…  →  KUBE-SEP-…: DNAT
    INPUT, FORWARD, OUTPUT  →  reject ports without endpoints
    POSTROUTING             →  KUBE-POSTROUTING: masquerade packets with mark 0x4000

The rules are in the tables nat, filter and mangle. The first packet of a connection passes the
rules of KUBE-SERVICES one after another until one matches, so lookup time grows with the number of
Services. The chain of the Service selects an endpoint at random.

A port that the Service does not have matches no rule: the packet leaves by the default route.

Source: k8s.io/kubernetes pkg/proxy/iptables/{proxier.go,proxier_test.go},
pkg/kubelet/kubelet_network_linux.go (1.33).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab.api.core import Service
from kubenetlab.datapath.modes import Needs, PodNetwork
from kubenetlab.datapath.proxy.iptables_names import (
    endpoint_chain,
    external_chain,
    firewall_chain,
    local_chain,
    service_chain,
)
from kubenetlab.datapath.proxy.local_traffic import Detector, LocalTrafficOptions
from kubenetlab.datapath.proxy.services import (
    EndpointAddress,
    PortView,
    node_port_addresses,
    port_views,
)
from kubenetlab.datapath.proxy.udp_flows import udp_flows
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import NodePlace, NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.iptables import (
    FAMILIES,
    ChainEntry,
    IptablesChain,
    IptablesObject,
    Jump,
    comment,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules
from kubenetlab.hoststate.sandbox import Sysctl

MASQUERADE_MARK = "0x4000"
_NEW = "-m conntrack --ctstate NEW "
_PORTALS = comment("kubernetes service portals")
_EXTERNAL_PORTALS = comment("kubernetes externally-visible service portals")
_MARKED = f"-m mark --mark {MASQUERADE_MARK}/{MASQUERADE_MARK}"

_JUMPS: tuple[tuple[str, str, str], ...] = (
    ("nat", "PREROUTING", f"{_PORTALS} -j KUBE-SERVICES"),
    ("nat", "OUTPUT", f"{_PORTALS} -j KUBE-SERVICES"),
    ("nat", "POSTROUTING", f"{comment('kubernetes postrouting rules')} -j KUBE-POSTROUTING"),
    *(
        (
            "filter",
            chain,
            f"{_NEW}{comment('kubernetes load balancer firewall')} -j KUBE-PROXY-FIREWALL",
        )
        for chain in ("INPUT", "FORWARD", "OUTPUT")
    ),
    ("filter", "INPUT", f"{comment('kubernetes health check service ports')} -j KUBE-NODEPORTS"),
    (
        "filter",
        "INPUT",
        f"{_NEW}{_EXTERNAL_PORTALS} -j KUBE-EXTERNAL-SERVICES",
    ),
    ("filter", "INPUT", "-j KUBE-FIREWALL"),
    ("filter", "FORWARD", f"{comment('kubernetes forwarding rules')} -j KUBE-FORWARD"),
    ("filter", "FORWARD", f"{_NEW}{_PORTALS} -j KUBE-SERVICES"),
    (
        "filter",
        "FORWARD",
        f"{_NEW}{_EXTERNAL_PORTALS} -j KUBE-EXTERNAL-SERVICES",
    ),
    ("filter", "OUTPUT", f"{_NEW}{_PORTALS} -j KUBE-SERVICES"),
    ("filter", "OUTPUT", "-j KUBE-FIREWALL"),
)
"""(table, built-in chain, rule)"""

_CHAINS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("mangle", "KUBE-KUBELET-CANARY", ()),
    ("mangle", "KUBE-PROXY-CANARY", ()),
    ("nat", "KUBE-PROXY-CANARY", ()),
    ("filter", "KUBE-PROXY-CANARY", ()),
    ("nat", "KUBE-NODEPORTS", ()),
    ("nat", "KUBE-MARK-MASQ", (f"-j MARK --or-mark {MASQUERADE_MARK}",)),
    (
        "nat",
        "KUBE-POSTROUTING",
        (
            f"-m mark ! --mark {MASQUERADE_MARK}/{MASQUERADE_MARK} -j RETURN",
            f"-j MARK --xor-mark {MASQUERADE_MARK}",
            f"{comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
        ),
    ),
    ("filter", "KUBE-SERVICES", ()),
    ("filter", "KUBE-EXTERNAL-SERVICES", ()),
    ("filter", "KUBE-PROXY-FIREWALL", ()),
    ("filter", "KUBE-NODEPORTS", ()),
    (
        "filter",
        "KUBE-FORWARD",
        (
            "-m conntrack --ctstate INVALID -j DROP",
            f"{comment('kubernetes forwarding rules')} {_MARKED} -j ACCEPT",
            f"{comment('kubernetes forwarding conntrack rule')} "
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
    ),
)
"""(table, name, rules) of the chains that exist without any Service, in both families."""

_LOCALNET_GUARD = (
    f"! -s 127.0.0.0/8 -d 127.0.0.0/8 {comment('block incoming localnet connections')} "
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
)


class Mode(LocalTrafficOptions, frozen=True):
    """Options, named as in kube-proxy's configuration.

    localhostNodePorts: true | false
        Node ports also answer at 127.0.0.1. Default: true.
    nodePortAddresses: list of ranges, or `primary` for the node's own address
        Node addresses at which node ports answer. An empty list, the default, means every local
        address.
    """

    needs = Needs(programs=("iptables-nft-restore",), own_features=("iptables",))

    localhost_node_ports: bool = True
    """Node ports also answer at 127.0.0.1."""
    node_port_addresses: tuple[str, ...] = ()
    """Ranges of the node addresses at which node ports answer, or `primary`; empty for all."""

    def depends_on_node(self, service: Service) -> bool:
        return self.detect_local_mode == "NodeCIDR"

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        if self.localhost_node_ports and any(family.version == 4 for family in node.families):
            yield Sysctl(node.netns, "net/ipv4/conf/all/route_localnet", "1")
        for family in node.families:
            addresses = node_port_addresses(self.node_port_addresses, node, family.version)
            yield from _fixed(
                FAMILIES[family.version], node.netns, addresses, self.localhost_node_ports
            )

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[SubjectRules[RuleObject], ...]:
        rules: list[SubjectRules[RuleObject]] = []
        for detector in self.detectors(network, place.families):
            version = detector.version
            ports = port_views(place, service, version)
            if objects := tuple(
                obj for port in ports for obj in self._service_port(port, detector)
            ):
                rules.append(
                    SubjectRules("iptables", FAMILIES[version], service.service.full_name, objects)
                )
            rules += udp_flows(service.service.full_name, ports, version)
        return tuple(rules)

    def _service_port(self, port: PortView, detector: Detector) -> Iterator[IptablesObject]:
        outsiders = detector.iptables(is_local=False) if detector.is_implemented else None
        source = "" if self.masquerade_all else outsiders
        return _PortRules(FAMILIES[detector.version], port, detector, source).all()


def _fixed(
    family: str, netns: str, addresses: Sequence[str] | None, has_localhost: bool
) -> Iterator[Object]:
    """Yield the objects that exist without any Service.

    addresses: local addresses at which node ports answer; None for all.
    """
    for table, name, rules in _CHAINS:
        yield IptablesChain(netns, family, table, name, rules)
    yield IptablesChain(
        netns, family, "filter", "KUBE-FIREWALL", (_LOCALNET_GUARD,) if family == "ip" else ()
    )
    last = comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
    if addresses is None:
        localhost = "127.0.0.0/8" if family == "ip" else "::1/128"
        loopback = "" if family == "ip" and has_localhost else f" ! -d {localhost}"
        tail = [f"{last} -m addrtype --dst-type LOCAL{loopback} -j KUBE-NODEPORTS"]
    else:
        tail = [f"{last} -d {address} -j KUBE-NODEPORTS" for address in addresses]
    yield IptablesChain(netns, family, "nat", "KUBE-SERVICES", tuple(tail))
    for table, chain, rule in _JUMPS:
        yield Jump(netns, family, table, chain, rule)


class _PortRules(Struct, frozen=True):
    """Rules of one port of one Service in one family."""

    family: str
    port: PortView
    detector: Detector
    outsiders: str | None
    """Match of the traffic to the cluster IP that is masqueraded; None if there is none."""

    def all(self) -> Iterator[IptablesObject]:
        port = self.port
        yield from self._without_endpoints()
        if not port.cluster_endpoints:
            return
        if port.internal:
            chain = local_chain(port) if port.is_internal_local else service_chain(port)
            yield self._entry(
                "nat",
                "KUBE-SERVICES",
                f"{self._comment('cluster IP')} {self._match(port.cluster_ip)} -j {chain}",
            )
        if port.is_reached_from_outside:
            yield from self._from_outside()
        if port.uses_cluster_policy:
            yield self._choice(
                service_chain(port), port.cluster_endpoints, not port.is_internal_local
            )
        if port.uses_local_policy and port.local_endpoints:
            yield self._choice(local_chain(port), port.local_endpoints, port.is_internal_local)
        used = (port.cluster_endpoints if port.uses_cluster_policy else ()) + (
            port.local_endpoints if port.uses_local_policy else ()
        )
        for endpoint in dict.fromkeys(used):
            yield self._endpoint(endpoint)

    def _without_endpoints(self) -> Iterator[IptablesObject]:
        """Yield the rules for addresses of the port that lead to no endpoint.

        They reject if the Service has no endpoint at all, and drop if only a policy Local excludes
        them.
        """
        port = self.port
        reason, target = (
            ("has no local endpoints", "DROP")
            if port.cluster_endpoints
            else ("has no endpoints", "REJECT")
        )
        if not port.internal:
            yield self._entry(
                "filter",
                "KUBE-SERVICES",
                f"{self._comment(reason)} {self._match(port.cluster_ip)} -j {target}",
            )
        if not port.external:
            outside = "KUBE-EXTERNAL-SERVICES"
            for address in port.outside_ips:
                yield self._entry(
                    "filter", outside, f"{self._comment(reason)} {self._match(address)} -j {target}"
                )
            if port.node_port:
                yield self._entry(
                    "filter",
                    outside,
                    f"{self._comment(reason)} -m addrtype --dst-type LOCAL "
                    f"{self._match('', port.node_port)} -j {target}",
                )

    def _from_outside(self) -> Iterator[IptablesObject]:
        """Yield the rules for external addresses, with the firewall of load balancer addresses."""
        port, external = self.port, external_chain(self.port)
        for address in port.external_ips:
            yield self._entry(
                "nat",
                "KUBE-SERVICES",
                f"{self._comment('external IP')} {self._match(address)} -j {external}",
            )
        guard = firewall_chain(port) if port.sources else external
        for address in port.virtual_ips:
            yield self._entry(
                "nat",
                "KUBE-SERVICES",
                f"{self._comment('loadbalancer IP')} {self._match(address)} -j {guard}",
            )
            if port.sources:
                reason = self._comment(f"traffic not accepted by {guard}")
                yield self._entry(
                    "filter", "KUBE-PROXY-FIREWALL", f"{reason} {self._match(address)} -j DROP"
                )
        if port.virtual_ips and port.sources:
            note = comment(f"other traffic to {port.title} will be dropped by KUBE-PROXY-FIREWALL")
            yield self._chain(
                guard,
                *(
                    f"{self._comment('loadbalancer IP')} -s {source} -j {external}"
                    for source in port.sources
                ),
                note,
            )
        if port.node_port:
            yield self._entry(
                "nat",
                "KUBE-NODEPORTS",
                f"{comment(port.title)} {self._match('', port.node_port)} -j {external}",
            )
        yield self._chain(external, *self._policy())

    def _policy(self) -> Iterator[str]:
        """Yield the rules of the external chain.

        With the policy Cluster all traffic is masqueraded. With the policy Local only traffic of
        the node itself is masqueraded, and traffic from within the cluster may go to any endpoint.
        """
        port, service = self.port, service_chain(self.port)
        subject = f"{port.title} external destinations"
        if not port.is_external_local:
            yield f"{comment(f'masquerade traffic for {subject}')} -j KUBE-MARK-MASQ"
            yield f"-j {service}"
            return
        from_node = "-m addrtype --src-type LOCAL"
        if self.detector.is_implemented:
            local = self.detector.iptables(is_local=True)
            yield f"{comment(f'pod traffic for {subject}')}{local} -j {service}"
        yield f"{comment(f'masquerade LOCAL traffic for {subject}')} {from_node} -j KUBE-MARK-MASQ"
        yield f"{comment(f'route LOCAL traffic for {subject}')} {from_node} -j {service}"
        if port.local_endpoints:
            yield f"-j {local_chain(port)}"

    def _choice(
        self, chain: str, endpoints: Sequence[EndpointAddress], is_internal: bool
    ) -> IptablesChain:
        """Return the chain that selects an endpoint.

        Rules for session affinity come first. With n endpoints left, each rule matches one nth of
        the packets that reach it.
        """
        port = self.port
        rules = []
        if is_internal and self.outsiders is not None:
            rules.append(
                f"{self._comment('cluster IP')} {self._match(port.cluster_ip)}{self.outsiders} "
                "-j KUBE-MARK-MASQ"
            )
        for endpoint in endpoints if port.affinity_s else ():
            name = endpoint_chain(port, endpoint)
            has_affinity = f"-m recent --name {name} --rcheck --seconds {port.affinity_s} --reap"
            rules.append(f"{self._comment(f'-> {endpoint}')} {has_affinity} -j {name}")
        for index, endpoint in enumerate(endpoints):
            remaining, name = len(endpoints) - index, endpoint_chain(port, endpoint)
            statistic = f" -m statistic --mode random --probability {1 / remaining:.10f}"
            share = statistic if remaining > 1 else ""
            rules.append(f"{self._comment(f'-> {endpoint}')}{share} -j {name}")
        return self._chain(chain, *rules)

    def _endpoint(self, endpoint: EndpointAddress) -> IptablesChain:
        port, name = self.port, endpoint_chain(self.port, endpoint)
        remember = f" -m recent --name {name} --set" if port.affinity_s else ""
        title, match = comment(port.title), f"-m {port.protocol} -p {port.protocol}"
        return self._chain(
            name,
            f"{title} -s {endpoint.address} -j KUBE-MARK-MASQ",
            f"{title}{remember} {match} -j DNAT --to-destination {endpoint}",
        )

    def _comment(self, text: str) -> str:
        return comment(f"{self.port.title} {text}")

    def _match(self, address: str, number: int = 0) -> str:
        protocol, destination = self.port.protocol, f" -d {address}" if address else ""
        return f"-m {protocol} -p {protocol}{destination} --dport {number or self.port.port}"

    def _entry(self, table: str, chain: str, rule: str) -> ChainEntry:
        return ChainEntry("", self.family, table, chain, rule)

    def _chain(self, name: str, *rules: str) -> IptablesChain:
        return IptablesChain("", self.family, "nat", name, rules)
