"""iptables: kube-proxy's mode of that name, with its own chains in the tables nat, filter and mangle.

    PREROUTING, OUTPUT  →  KUBE-SERVICES  →  KUBE-SVC-…  →  KUBE-SEP-…: DNAT
    INPUT, FORWARD, OUTPUT  →  what has no endpoints is refused
    POSTROUTING  →  KUBE-POSTROUTING, for what was marked 0x4000 on the way

A packet to 10.96.12.7:80 is compared with one rule after another in KUBE-SERVICES, which is what makes many Services slow; the chain
behind it draws an endpoint. A port that a Service does not have is nobody's here: the packet leaves by the default route.
Source: k8s.io/kubernetes pkg/proxy/iptables/{proxier.go,proxier_test.go}, pkg/kubelet/kubelet_network_linux.go (1.33).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab.api.core import Service
from kubenetlab.api.decode import Finding
from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.proxy import local_traffic
from kubenetlab.datapath.proxy.local_traffic import DetectLocal, Detector, LocalMode, detectors
from kubenetlab.datapath.proxy.services import Backend, PortView, node_port_addresses, port_views
from kubenetlab.datapath.proxy.udp_flows import udp_flows
from kubenetlab.datapath.view import NodePlace, NodeView, ServiceView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.iptables import (
    FAMILIES,
    ChainEntry,
    IptablesChain,
    IptablesObject,
    Jump,
    comment,
)
from kubenetlab.hoststate.rules.rulesets import Rules
from kubenetlab.hoststate.sandbox import Sysctl

MASQUERADE_MARK = "0x4000"
_NEW = "-m conntrack --ctstate NEW "
_PORTALS = comment("kubernetes service portals")

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
        f"{_NEW}{comment('kubernetes externally-visible service portals')} -j KUBE-EXTERNAL-SERVICES",
    ),
    ("filter", "INPUT", "-j KUBE-FIREWALL"),
    ("filter", "FORWARD", f"{comment('kubernetes forwarding rules')} -j KUBE-FORWARD"),
    ("filter", "FORWARD", f"{_NEW}{_PORTALS} -j KUBE-SERVICES"),
    (
        "filter",
        "FORWARD",
        f"{_NEW}{comment('kubernetes externally-visible service portals')} -j KUBE-EXTERNAL-SERVICES",
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
            f"{comment('kubernetes forwarding rules')} -m mark --mark {MASQUERADE_MARK}/{MASQUERADE_MARK} -j ACCEPT",
            f"{comment('kubernetes forwarding conntrack rule')} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
    ),
)
"""(table, name, rules) of the chains that are there whatever Services exist, the same for both families."""

_LOCALNET_GUARD = (
    f"! -s 127.0.0.0/8 -d 127.0.0.0/8 {comment('block incoming localnet connections')} "
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
)


class Mode(ModeOptions, frozen=True):
    """Options as kube-proxy's own configuration names them."""

    needs = Needs(programs=("iptables-nft-restore",), features=("iptables",))

    localhost_node_ports: bool = True
    """Node ports answer at 127.0.0.1, too."""
    masquerade_all: bool = False
    """Whatever is for a cluster IP is masqueraded."""
    detect_local_mode: LocalMode = "ClusterCIDR"
    """What counts as traffic of pods: `ClusterCIDR`, sources in podSubnet; `NodeCIDR`, in the node's part of it; `BridgeInterface` and
    `InterfaceNamePrefix`, packets that come in by interfaces that `detectLocal` names; `none`, nothing."""
    detect_local: DetectLocal = DetectLocal()
    """`bridgeInterface` or `interfaceNamePrefix`, for the two modes that need one."""
    node_port_addresses: tuple[str, ...] = ()
    """Ranges of the nodes' addresses at which node ports answer, or `primary`; without any they answer at all local ones."""

    def findings(self) -> Iterator[Finding]:
        return local_traffic.findings(self.detect_local_mode, self.detect_local)

    def names_node(self, service: Service) -> bool:
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
    ) -> tuple[Rules, ...]:
        found: list[Rules] = []
        for detector in detectors(
            self.detect_local_mode, self.detect_local, network, place.families
        ):
            version = detector.version
            ports = port_views(place, service, version)
            if objects := tuple(
                obj for port in ports for obj in self._service_port(port, detector)
            ):
                found.append(
                    Rules("iptables", FAMILIES[version], service.service.full_name, objects)
                )
            found += udp_flows(service.service.full_name, ports, version)
        return tuple(found)

    def _service_port(self, port: PortView, detector: Detector) -> Iterator[IptablesObject]:
        outsiders = detector.iptables(is_local=False) if detector.is_implemented else None
        return _PortRules(
            FAMILIES[detector.version], port, detector, "" if self.masquerade_all else outsiders
        ).all()


def _fixed(
    family: str, netns: str, addresses: Sequence[str] | None, has_localhost: bool
) -> Iterator[Object]:
    """What is there without any Service. `addresses` are those at which node ports answer; None: all local ones."""
    for table, name, rules in _CHAINS:
        yield IptablesChain(netns, family, table, name, rules)
    yield IptablesChain(
        netns, family, "filter", "KUBE-FIREWALL", (_LOCALNET_GUARD,) if family == "ip" else ()
    )
    last = comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
    if addresses is None:
        loopback = (
            ""
            if family == "ip" and has_localhost
            else f" ! -d {'127.0.0.0/8' if family == 'ip' else '::1/128'}"
        )
        tail = [f"{last} -m addrtype --dst-type LOCAL{loopback} -j KUBE-NODEPORTS"]
    else:
        tail = [f"{last} -d {address} -j KUBE-NODEPORTS" for address in addresses]
    yield IptablesChain(netns, family, "nat", "KUBE-SERVICES", tuple(tail))
    for table, chain, rule in _JUMPS:
        yield Jump(netns, family, table, chain, rule)


class _PortRules(Struct, frozen=True):
    """One port of one Service in one family."""

    family: str
    port: PortView
    detector: Detector
    outsiders: str | None
    """Matches traffic to the cluster IP that is masqueraded; None: there is none."""

    def all(self) -> Iterator[IptablesObject]:
        port = self.port
        yield from self._without_endpoints()
        if not port.everywhere:
            return
        if port.internal:
            chain = local_chain(port) if port.is_internal_local else service_chain(port)
            yield self._entry(
                "nat",
                "KUBE-SERVICES",
                f"{self._says('cluster IP')} {self._to(port.cluster_ip)} -j {chain}",
            )
        if port.is_reached_from_outside:
            yield from self._from_outside()
        if port.uses_cluster_policy:
            yield self._choice(service_chain(port), port.everywhere, not port.is_internal_local)
        if port.uses_local_policy and port.here:
            yield self._choice(local_chain(port), port.here, port.is_internal_local)
        used = (port.everywhere if port.uses_cluster_policy else ()) + (
            port.here if port.uses_local_policy else ()
        )
        for endpoint in dict.fromkeys(used):
            yield self._endpoint(endpoint)

    def _without_endpoints(self) -> Iterator[IptablesObject]:
        port = self.port
        what, target = (
            ("has no local endpoints", "DROP")
            if port.everywhere
            else ("has no endpoints", "REJECT")
        )
        if not port.internal:
            yield self._entry(
                "filter",
                "KUBE-SERVICES",
                f"{self._says(what)} {self._to(port.cluster_ip)} -j {target}",
            )
        if not port.external:
            outside = "KUBE-EXTERNAL-SERVICES"
            for address in port.outside_ips:
                yield self._entry(
                    "filter", outside, f"{self._says(what)} {self._to(address)} -j {target}"
                )
            if port.node_port:
                yield self._entry(
                    "filter",
                    outside,
                    f"{self._says(what)} -m addrtype --dst-type LOCAL {self._to('', port.node_port)} -j {target}",
                )

    def _from_outside(self) -> Iterator[IptablesObject]:
        """The ways in, the firewall in front of the load balancer's, and what becomes of who came in."""
        port, external = self.port, external_chain(self.port)
        for address in port.external_ips:
            yield self._entry(
                "nat",
                "KUBE-SERVICES",
                f"{self._says('external IP')} {self._to(address)} -j {external}",
            )
        guard = firewall_chain(port) if port.sources else external
        for address in port.balanced_ips:
            yield self._entry(
                "nat",
                "KUBE-SERVICES",
                f"{self._says('loadbalancer IP')} {self._to(address)} -j {guard}",
            )
            if port.sources:
                says = self._says(f"traffic not accepted by {guard}")
                yield self._entry(
                    "filter", "KUBE-PROXY-FIREWALL", f"{says} {self._to(address)} -j DROP"
                )
        if port.balanced_ips and port.sources:
            others = comment(
                f"other traffic to {port.title} will be dropped by KUBE-PROXY-FIREWALL"
            )
            yield self._chain(
                guard,
                *(
                    f"{self._says('loadbalancer IP')} -s {source} -j {external}"
                    for source in port.sources
                ),
                others,
            )
        if port.node_port:
            yield self._entry(
                "nat",
                "KUBE-NODEPORTS",
                f"{comment(port.title)} {self._to('', port.node_port)} -j {external}",
            )
        yield self._chain(external, *self._policy())

    def _policy(self) -> Iterator[str]:
        """By the policy Cluster all of it is masqueraded; by Local only what the node itself sends, and the cluster's own goes anywhere."""
        port, service = self.port, service_chain(self.port)
        where = f"{port.title} external destinations"
        if not port.is_external_local:
            yield f"{comment(f'masquerade traffic for {where}')} -j KUBE-MARK-MASQ"
            yield f"-j {service}"
            return
        own = "-m addrtype --src-type LOCAL"
        if self.detector.is_implemented:
            yield f"{comment(f'pod traffic for {where}')}{self.detector.iptables(is_local=True)} -j {service}"
        yield f"{comment(f'masquerade LOCAL traffic for {where}')} {own} -j KUBE-MARK-MASQ"
        yield f"{comment(f'route LOCAL traffic for {where}')} {own} -j {service}"
        if port.here:
            yield f"-j {local_chain(port)}"

    def _choice(self, chain: str, endpoints: Sequence[Backend], is_internal: bool) -> IptablesChain:
        """Whoever is faithful to an endpoint goes there; of n that are left each rule takes the nth part."""
        port = self.port
        rules = []
        if is_internal and self.outsiders is not None:
            rules.append(
                f"{self._says('cluster IP')} {self._to(port.cluster_ip)}{self.outsiders} -j KUBE-MARK-MASQ"
            )
        for endpoint in endpoints if port.affinity_s else ():
            name = endpoint_chain(port, endpoint)
            faithful = f"-m recent --name {name} --rcheck --seconds {port.affinity_s} --reap"
            rules.append(f"{self._says(f'-> {endpoint}')} {faithful} -j {name}")
        for index, endpoint in enumerate(endpoints):
            left = len(endpoints) - index
            drawn = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
            rules.append(
                f"{self._says(f'-> {endpoint}')}{drawn} -j {endpoint_chain(port, endpoint)}"
            )
        return self._chain(chain, *rules)

    def _endpoint(self, endpoint: Backend) -> IptablesChain:
        port, name = self.port, endpoint_chain(self.port, endpoint)
        remember = f" -m recent --name {name} --set" if port.affinity_s else ""
        says, match = comment(port.title), f"-m {port.protocol} -p {port.protocol}"
        return self._chain(
            name,
            f"{says} -s {endpoint.address} -j KUBE-MARK-MASQ",
            f"{says}{remember} {match} -j DNAT --to-destination {endpoint}",
        )

    def _says(self, what: str) -> str:
        return comment(f"{self.port.title} {what}")

    def _to(self, address: str, number: int = 0) -> str:
        protocol, there = self.port.protocol, f" -d {address}" if address else ""
        return f"-m {protocol} -p {protocol}{there} --dport {number or self.port.port}"

    def _entry(self, table: str, chain: str, rule: str) -> ChainEntry:
        return ChainEntry("", self.family, table, chain, rule)

    def _chain(self, name: str, *rules: str) -> IptablesChain:
        return IptablesChain("", self.family, "nat", name, rules)


def service_chain(port: PortView) -> str:
    """kube-proxy's name for all endpoints of a Service port: `KUBE-SVC-XPGD46QRK7WJZT7O`."""
    return f"KUBE-SVC-{_digest(port)}"


def local_chain(port: PortView) -> str:
    """kube-proxy's name for those on the node: `KUBE-SVL-XPGD46QRK7WJZT7O`."""
    return f"KUBE-SVL-{_digest(port)}"


def external_chain(port: PortView) -> str:
    """kube-proxy's name for what comes for an address outside: `KUBE-EXT-XPGD46QRK7WJZT7O`."""
    return f"KUBE-EXT-{_digest(port)}"


def firewall_chain(port: PortView) -> str:
    """kube-proxy's name for who may come in: `KUBE-FW-XPGD46QRK7WJZT7O`."""
    return f"KUBE-FW-{_digest(port)}"


def endpoint_chain(port: PortView, endpoint: Backend) -> str:
    """kube-proxy's name for an endpoint of a Service port: `KUBE-SEP-SXIVWICOYRO3J4NJ`."""
    return f"KUBE-SEP-{_digest(port, str(endpoint))}"


def _digest(port: PortView, endpoint: str = "") -> str:
    digest = hashlib.sha256(f"{port.title}{port.protocol}{endpoint}".encode()).digest()
    return base64.b32encode(digest[:10]).decode()
