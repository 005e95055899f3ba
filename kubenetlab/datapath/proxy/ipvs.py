"""ipvs: kube-proxy's mode ipvs: virtual servers of the kernel's load balancer IPVS.

    kube-ipvs0          dummy device with every Service address: the node accepts their packets
    INPUT, OUTPUT       →  IPVS: a virtual server per address, protocol and port
    PREROUTING, OUTPUT  →  KUBE-SERVICES: mark packets to masquerade with 0x4000, by ipset lookups
    INPUT               →  KUBE-IPVS-FILTER: reject other ports of Service addresses

The number of rules does not depend on the number of Services: a Service is a few virtual servers,
set members and addresses.

Differences from upstream:
- internalTrafficPolicy Local without a local endpoint drops packets, as in the other modes.
- Traffic of the node itself to an external address with externalTrafficPolicy Local is
  masqueraded.
- A ping to a Service address is answered.
- No rule uses `physdev`, which would load br_netfilter.

Source: k8s.io/kubernetes pkg/proxy/ipvs/{proxier.go,ipset.go,graceful_termination.go,README.md}
(1.33).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.api.core import Service
from kubenetlab.api.values import ip
from kubenetlab.datapath.modes import Needs, PodNetwork
from kubenetlab.datapath.proxy import ipvs_rules as fixed
from kubenetlab.datapath.proxy.local_traffic import LocalTrafficOptions
from kubenetlab.datapath.proxy.services import (
    EndpointAddress,
    PortView,
    has_node_ports,
    node_port_addresses,
    port_views,
)
from kubenetlab.datapath.proxy.udp_flows import udp_flows
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import NodePlace, NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.dummy import Dummy
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.ipset import Member
from kubenetlab.hoststate.rules.iptables import FAMILIES, ChainEntry, comment
from kubenetlab.hoststate.rules.ipvs import IpvsObject, RealServer, VirtualServer
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.names import link_alias, mac_of

DEVICE: Final = "kube-ipvs0"
SETTINGS: Final = ("conntrack", "expire_nodest_conn", "expire_quiescent_template")
"""Settings of net.ipv4.vs with the value 1."""
_NODE_PORTS: Final[Mapping[str, tuple[str, str]]] = {
    "tcp": ("NODE-PORT-TCP", "NODE-PORT-LOCAL-TCP"),
    "udp": ("NODE-PORT-UDP", "NODE-PORT-LOCAL-UDP"),
    "sctp": ("NODE-PORT-SCTP-HASH", "NODE-PORT-LOCAL-SCTP-HASH"),
}
"""Protocol → set of node ports, and set of those with externalTrafficPolicy Local."""


class Mode(LocalTrafficOptions, frozen=True):
    """Options, named as in kube-proxy's configuration.

    scheduler: rr | wrr | lc | wlc | sh | mh | dh | sed | nq | lblc | lblcr
        How a real server is selected: round robin (rr), fewest connections (lc), hash of the
        client's address (sh) and others; see ipvsadm(8). Each is a kernel module ip_vs_*.
        Default: rr.
    strictARP: true | false
        The node answers ARP requests on a link only for the addresses of that link (arp_ignore 1,
        arp_announce 2). MetalLB requires it. Default: false.
    nodePortAddresses: list of ranges, or `primary` for the node's own address
        Node addresses at which node ports answer. An empty list, the default, means every address
        of the node except 127.0.0.1.
    """

    needs = Needs(
        programs=("iptables-nft-restore", "ipset"),
        own_features=("iptables", "ipset", "dummy", "ipvs"),
        root="the settings of IPVS, net.ipv4.vs.…",
    )

    scheduler: Literal["rr", "wrr", "lc", "wlc", "sh", "mh", "dh", "sed", "nq", "lblc", "lblcr"] = (
        "rr"
    )
    """IPVS scheduler, which selects a real server for a connection; see ipvsadm(8)."""
    strict_arp: bool = False
    """Set arp_ignore to 1 and arp_announce to 2, as MetalLB requires."""
    node_port_addresses: tuple[str, ...] = ()
    """Ranges of the node addresses at which node ports answer, or `primary`; empty for all."""

    def depends_on_node(self, service: Service) -> bool:
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
        for detector in self.detectors(network, node.families):
            yield from fixed.sets(node.netns, detector.version)
            yield from fixed.rules(node.netns, detector, is_all=self.masquerade_all)

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[SubjectRules[RuleObject] | Object, ...]:
        objects: list[SubjectRules[RuleObject] | Object] = []
        for cluster_cidr in network.cluster_cidrs:
            version = ip.version_of(cluster_cidr)
            addresses = self._node_addresses(place, version)
            views = port_views(place, service, version)
            if not views:
                continue
            ports = [_Port(version, port, self.scheduler, addresses) for port in views]
            by_backend: dict[str, list[RuleObject]] = {"ipset": [], "iptables": [], "ipvs": []}
            for obj in (obj for port in ports for obj in port.all()):
                by_backend[obj.backend].append(obj)
            if health := service.service.spec.health_check_node_port:
                by_backend["ipset"].append(
                    fixed.member(version, "HEALTH-CHECK-NODE-PORT", str(health))
                )
            bound = dict.fromkeys(address for port in ports for address in port.bound)
            by_backend["ipset"] += (fixed.member(version, "IPVS-IPS", address) for address in bound)
            subject = service.service.full_name
            # Set members are shared objects: several Services may have the same endpoint.
            objects.append(
                SubjectRules(
                    "ipset", FAMILIES[version], subject, (), tuple(by_backend.pop("ipset"))
                )
            )
            objects += (
                SubjectRules(name, FAMILIES[version], subject, tuple(rules))
                for name, rules in by_backend.items()
                if rules
            )
            objects += udp_flows(subject, views, version)
            objects += (
                Address("", DEVICE, f"{address}/{32 if version == 4 else 128}", is_source=False)
                for address in bound
            )
        return tuple(objects)

    def _node_addresses(self, place: NodePlace, version: int) -> tuple[str, ...]:
        """Return the node's addresses at which node ports answer; empty without a node."""
        own = next((family for family in place.families if family.version == version), None)
        if own is None:
            return ()
        configured = node_port_addresses(self.node_port_addresses, place, version)
        return own.local_addresses if configured is None else configured


class _Port(Struct, frozen=True):
    """One port of one Service in one family, with the node's addresses for its node port."""

    version: int
    port: PortView
    scheduler: str
    node_addresses: tuple[str, ...]

    @property
    def bound(self) -> Iterable[str]:
        """Addresses for kube-ipvs0."""
        return dict.fromkeys((self.port.cluster_ip, *self.port.outside_ips))

    def all(self) -> Iterator[RuleObject]:
        port = self.port
        yield from self._sets()
        yield from self._sources()
        if port.is_internal_local and port.cluster_endpoints and not port.local_endpoints:
            yield self._drop()
        else:
            yield from self._server(port.cluster_ip, port.port, port.internal)
        # With the policy Local and no local endpoint, pods and the node itself still reach every
        # endpoint. Load balancers send nothing to this node.
        outside = port.external or port.cluster_endpoints
        for address in port.outside_ips:
            yield from self._server(address, port.port, outside)
        for address in self.node_addresses if port.node_port else ():
            yield from self._server(address, port.node_port, outside)

    def _server(
        self, address: str, number: int, endpoints: Sequence[EndpointAddress]
    ) -> Iterator[IpvsObject]:
        """Yield a virtual server and its real servers."""
        port = self.port
        yield VirtualServer("", port.protocol, address, number, self.scheduler, port.affinity_s)
        for endpoint in endpoints:
            yield RealServer("", port.protocol, address, number, endpoint.address, endpoint.port)

    def _sets(self) -> Iterator[Member]:
        """Yield the set members for the port's endpoints, addresses and node port."""
        port = self.port
        for endpoint in port.cluster_endpoints:
            yield self._member("LOOP-BACK", endpoint.address, endpoint.port, f",{endpoint.address}")
        yield self._member("CLUSTER-IP", port.cluster_ip, port.port)
        for address in port.external_ips:
            yield self._member(
                "EXTERNAL-IP-LOCAL" if port.is_external_local else "EXTERNAL-IP", address, port.port
            )
        for address in port.virtual_ips:
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
        """Yield the objects that enforce loadBalancerSourceRanges.

        If the node itself is not in a range, its own packets are dropped on their way out.
        """
        port = self.port
        for address in port.virtual_ips if port.sources else ():
            yield self._member("LOAD-BALANCER-FW", address, port.port)
            for source in port.sources:
                if source in port.virtual_ips:
                    yield self._member("LOAD-BALANCER-SOURCE-IP", address, port.port, f",{source}")
                else:
                    yield from (
                        self._member(
                            "LOAD-BALANCER-SOURCE-CIDR", address, port.port, f",{range_part}"
                        )
                        for range_part in _halved(source)
                    )
            if address not in port.sources:
                server = f"--vaddr {address} --vproto {port.protocol} --vport {port.port}"
                yield self._entry("KUBE-IPVS-OUT-FILTER", f"-s {address} -m ipvs {server} -j DROP")

    def _drop(self) -> ChainEntry:
        """Return the rule that drops packets to the cluster IP.

        There is no virtual server for it, since IPVS would reject the packets.
        """
        port = self.port
        reason = comment(f"{port.title} has no local endpoints")
        return self._entry(
            "KUBE-PROXY-FIREWALL",
            f"{reason} -m {port.protocol} -p {port.protocol} -d {port.cluster_ip} "
            f"--dport {port.port} -j DROP",
        )

    def _member(self, name: str, address: str, number: int, rest: str = "") -> Member:
        return fixed.member(self.version, name, f"{address},{self.port.protocol}:{number}{rest}")

    def _entry(self, chain: str, rule: str) -> ChainEntry:
        return ChainEntry("", FAMILIES[self.version], "filter", chain, rule)


def _halved(source: str) -> tuple[str, ...]:
    """Return a range as members of a set.

    A set does not accept the length 0, so every address is two halves; a single address has no
    length.
    """
    address, _, length = source.partition("/")
    if length == "0":
        return ("0.0.0.0/1", "128.0.0.0/1") if ":" not in address else ("::/1", "8000::/1")
    return (address,) if length == ("128" if ":" in address else "32") else (source,)
