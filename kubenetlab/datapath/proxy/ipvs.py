"""ipvs: kube-proxy's mode of that name: virtual servers of the kernel's own load balancer, and a few rules that ask whole sets.

    every address of a Service is on the dummy device kube-ipvs0, so that the node takes in what is for it
    INPUT, OUTPUT  →  IPVS: a virtual server per address, protocol and port; its scheduler chooses among the real servers
    PREROUTING, OUTPUT  →  KUBE-SERVICES: what is to be masqueraded is marked 0x4000, by asking ipsets
    INPUT  →  KUBE-IPVS-FILTER: whatever else of the node's would answer at those addresses is refused

However many Services there are, the rules are as many as before: a Service is virtual servers, members of sets, and addresses. Beyond
upstream's: a policy Local that leads to nobody is silent, as in the other modes; what a node itself sends to an outside address of a
Service by that policy is masqueraded; an echo request is answered; and nothing asks `physdev`, which would bring br_netfilter.
Source: k8s.io/kubernetes pkg/proxy/ipvs/{proxier.go,ipset.go,graceful_termination.go,README.md} (1.33).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.api import ip
from kubenetlab.api.core import Service
from kubenetlab.api.decode import Finding
from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.proxy import ipvs_rules as fixed
from kubenetlab.datapath.proxy import local_traffic
from kubenetlab.datapath.proxy.local_traffic import DetectLocal, LocalMode, detectors
from kubenetlab.datapath.proxy.services import (
    Backend,
    PortView,
    has_node_ports,
    node_port_addresses,
    port_views,
)
from kubenetlab.datapath.proxy.udp_flows import udp_flows
from kubenetlab.datapath.view import NodePlace, NodeView, ServiceView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import Dummy
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.ipset import Member
from kubenetlab.hoststate.rules.iptables import FAMILIES, ChainEntry, comment
from kubenetlab.hoststate.rules.ipvs import IpvsObject, RealServer, VirtualServer
from kubenetlab.hoststate.rules.rulesets import RuleObject, Rules
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.names import link_alias, mac_of

DEVICE: Final = "kube-ipvs0"
SETTINGS: Final = ("conntrack", "expire_nodest_conn", "expire_quiescent_template")
"""Of net.ipv4.vs: all of them 1."""
_NODE_PORTS: Final[Mapping[str, tuple[str, str]]] = {
    "tcp": ("NODE-PORT-TCP", "NODE-PORT-LOCAL-TCP"),
    "udp": ("NODE-PORT-UDP", "NODE-PORT-LOCAL-UDP"),
    "sctp": ("NODE-PORT-SCTP-HASH", "NODE-PORT-LOCAL-SCTP-HASH"),
}
"""Protocol → the sets of node ports, and of those by the policy Local."""


class Mode(ModeOptions, frozen=True):
    """Options as kube-proxy's own configuration names them."""

    needs = Needs(
        programs=("iptables-nft-restore", "ipset"),
        features=("iptables", "ipset", "dummy", "ipvs"),
        root="the settings of IPVS, net.ipv4.vs.…",
    )

    scheduler: Literal["rr", "wrr", "lc", "wlc", "sh", "mh", "dh", "sed", "nq", "lblc", "lblcr"] = (
        "rr"
    )
    """Who of the real servers is chosen: in turn (rr), the one with the fewest connections (lc), by the client's address (sh) …: ipvsadm(8)."""
    strict_arp: bool = False
    """A node answers ARP on a link for that link's own addresses only (arp_ignore 1, arp_announce 2), as MetalLB asks for."""
    masquerade_all: bool = False
    """Whatever is for a cluster IP is masqueraded."""
    detect_local_mode: LocalMode = "ClusterCIDR"
    """What counts as traffic of pods: `ClusterCIDR`, sources in podSubnet; `NodeCIDR`, in the node's part of it; `BridgeInterface` and
    `InterfaceNamePrefix`, packets that come in by interfaces that `detectLocal` names; `none`, nothing."""
    detect_local: DetectLocal = DetectLocal()
    """`bridgeInterface` or `interfaceNamePrefix`, for the two modes that need one."""
    node_port_addresses: tuple[str, ...] = ()
    """Ranges of the nodes' addresses at which node ports answer, or `primary`; without any they answer at all but 127.0.0.1."""

    def findings(self) -> Iterator[Finding]:
        return local_traffic.findings(self.detect_local_mode, self.detect_local)

    def names_node(self, service: Service) -> bool:
        return has_node_ports(service)

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        for name in SETTINGS:
            yield Sysctl(node.netns, f"net/ipv4/vs/{name}", "1")
        if self.strict_arp:
            yield Sysctl(node.netns, "net/ipv4/conf/all/arp_ignore", "1")
            yield Sysctl(node.netns, "net/ipv4/conf/all/arp_announce", "2")
        yield Dummy(
            node.netns,
            DEVICE,
            mac_of(node.addresses[0]),
            link_alias("kube-proxy ipvs", "the addresses of Services"),
        )
        for detector in detectors(
            self.detect_local_mode, self.detect_local, network, node.families
        ):
            yield from fixed.sets(node.netns, detector.version)
            yield from fixed.rules(node.netns, detector, is_all=self.masquerade_all)

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[Rules | Object, ...]:
        found: list[Rules | Object] = []
        for cluster_cidr in network.cluster_cidrs:
            version = ip.version_of(cluster_cidr)
            addresses = self._node_addresses(place, version)
            views = port_views(place, service, version)
            if not views:
                continue
            ports = [_Port(version, port, self.scheduler, addresses) for port in views]
            made: dict[str, list[RuleObject]] = {"ipset": [], "iptables": [], "ipvs": []}
            for obj in (obj for port in ports for obj in port.all()):
                made[obj.dialect].append(obj)
            if health := service.service.spec.health_check_node_port:
                made["ipset"].append(fixed.member(version, "HEALTH-CHECK-NODE-PORT", str(health)))
            bound = dict.fromkeys(address for port in ports for address in port.bound)
            made["ipset"] += (fixed.member(version, "IPVS-IPS", address) for address in bound)
            subject = service.service.full_name
            found.append(
                Rules("ipset", FAMILIES[version], subject, (), tuple(made.pop("ipset")))
            )  # others may have the same endpoints
            found += (
                Rules(name, FAMILIES[version], subject, tuple(objects))
                for name, objects in made.items()
                if objects
            )
            found += udp_flows(subject, views, version)
            found += (
                Address("", DEVICE, f"{address}/{32 if version == 4 else 128}", is_source=False)
                for address in bound
            )
        return tuple(found)

    def _node_addresses(self, place: NodePlace, version: int) -> tuple[str, ...]:
        """At which addresses of its own a node answers; none where the node does not matter."""
        own = next((family for family in place.families if family.version == version), None)
        if own is None:
            return ()
        found = node_port_addresses(self.node_port_addresses, place, version)
        return tuple(dict.fromkeys((own.address, own.gateway))) if found is None else found


class _Port(Struct, frozen=True):
    """One port of one Service in one family, and the node's addresses at which it answers as a node port."""

    version: int
    port: PortView
    scheduler: str
    node_addresses: tuple[str, ...]

    @property
    def bound(self) -> Iterable[str]:
        """The addresses that the node takes in for it, beside its own."""
        return dict.fromkeys((self.port.cluster_ip, *self.port.outside_ips))

    def all(self) -> Iterator[RuleObject]:
        port = self.port
        yield from self._sets()
        yield from self._sources()
        if port.is_internal_local and port.everywhere and not port.here:
            yield self._silence()
        else:
            yield from self._server(port.cluster_ip, port.port, port.internal)
        # By the policy Local, where no endpoint is: pods and the node itself reach all, and what is answered to others is nobody's.
        outside = port.external or port.everywhere
        for address in port.outside_ips:
            yield from self._server(address, port.port, outside)
        for address in self.node_addresses if port.node_port else ():
            yield from self._server(address, port.node_port, outside)

    def _server(
        self, address: str, number: int, endpoints: Sequence[Backend]
    ) -> Iterator[IpvsObject]:
        port = self.port
        yield VirtualServer("", port.protocol, address, number, self.scheduler, port.affinity_s)
        for endpoint in endpoints:
            yield RealServer("", port.protocol, address, number, endpoint.address, endpoint.port)

    def _sets(self) -> Iterator[Member]:
        port = self.port
        for endpoint in port.everywhere:
            yield self._member("LOOP-BACK", endpoint.address, endpoint.port, f",{endpoint.address}")
        yield self._member("CLUSTER-IP", port.cluster_ip, port.port)
        for address in port.external_ips:
            yield self._member(
                "EXTERNAL-IP-LOCAL" if port.is_external_local else "EXTERNAL-IP", address, port.port
            )
        for address in port.balanced_ips:
            yield self._member("LOAD-BALANCER", address, port.port)
            if port.is_external_local:
                yield self._member("LOAD-BALANCER-LOCAL", address, port.port)
        for name in (
            _NODE_PORTS[port.protocol][: 1 + port.is_external_local] if port.node_port else ()
        ):
            if port.protocol == "sctp":
                yield from (
                    self._member(name, address, port.node_port) for address in self.node_addresses
                )
            else:
                yield fixed.member(self.version, name, str(port.node_port))

    def _sources(self) -> Iterator[RuleObject]:
        """Who may come in by a load balancer's address. Where the node itself may not, its own packets are stopped on their way out."""
        port = self.port
        for address in port.balanced_ips if port.sources else ():
            yield self._member("LOAD-BALANCER-FW", address, port.port)
            for source in port.sources:
                if source in port.balanced_ips:
                    yield self._member("LOAD-BALANCER-SOURCE-IP", address, port.port, f",{source}")
                else:
                    yield from (
                        self._member("LOAD-BALANCER-SOURCE-CIDR", address, port.port, f",{part}")
                        for part in _halved(source)
                    )
            if address not in port.sources:
                server = f"--vaddr {address} --vproto {port.protocol} --vport {port.port}"
                yield self._entry("KUBE-IPVS-OUT-FILTER", f"-s {address} -m ipvs {server} -j DROP")

    def _silence(self) -> ChainEntry:
        """Without a virtual server, so that IPVS refuses nothing."""
        port = self.port
        says = comment(f"{port.title} has no local endpoints")
        return self._entry(
            "KUBE-PROXY-FIREWALL",
            f"{says} -m {port.protocol} -p {port.protocol} -d {port.cluster_ip} --dport {port.port} -j DROP",
        )

    def _member(self, name: str, address: str, number: int, rest: str = "") -> Member:
        return fixed.member(self.version, name, f"{address},{self.port.protocol}:{number}{rest}")

    def _entry(self, chain: str, rule: str) -> ChainEntry:
        return ChainEntry("", FAMILIES[self.version], "filter", chain, rule)


def _halved(source: str) -> tuple[str, ...]:
    """A range as a set takes it: everything as two halves, a single address without its length."""
    address, _, length = source.partition("/")
    if length == "0":
        return ("0.0.0.0/1", "128.0.0.0/1") if ":" not in address else ("::/1", "8000::/1")
    return (address,) if length == ("128" if ":" in address else "32") else (source,)
