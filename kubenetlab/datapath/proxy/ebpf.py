"""ebpf: Services by programs of the kernel's own machine, at tc on the links of a node; no hook of netfilter is used.

    pod ── veth0 ┐ coming: what is for a Service's address goes to an endpoint    ┌ eth0 ── other nodes, outside
                 ┴ cbr0, routes, the rules of others: they see client and endpoint ┴
    pod ── veth1 ┐ going: answers get the Service's address back; here, too, is masqueraded

With `dsr` the node that is asked hands packets on to the endpoint's node as they are, and that one answers the client.

Maps hold Services, endpoints and flows. A hash finds a Service whatever their number, and a change touches one entry. There is no
Service for SCTP: its ports refuse. See kubenetlab/bpf/service.bpf.c. As in: Cilium's kube-proxy replacement at tc, Calico's eBPF dataplane.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api import ip
from kubenetlab.api.decode import Finding
from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.proxy import local_traffic
from kubenetlab.datapath.proxy.local_traffic import DetectLocal, LocalMode, detectors
from kubenetlab.datapath.proxy.services import (
    PRIMARY,
    Backend,
    PortView,
    node_port_addresses,
    port_views,
)
from kubenetlab.datapath.view import Family, NodePlace, NodeView, PodView, ServiceView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules import bpf
from kubenetlab.hoststate.rules.bpf import (
    AllowedSource,
    BpfPrograms,
    ClusterIp,
    FamilyConfig,
    Frontend,
    PodLink,
    RemoteRange,
)
from kubenetlab.hoststate.rules.bpf_entries import PROTOCOLS
from kubenetlab.hoststate.rules.rulesets import RuleObject, Rules
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.names import NODE_UPLINK

_ANY_ADDRESS = {4: "0.0.0.0", 6: "::"}


class Mode(ModeOptions, frozen=True):
    """Options as kube-proxy's own configuration names them."""

    needs = Needs(programs=("libbpf.so.1",), features=("tc programs",), root="eBPF programs")

    masquerade_all: bool = False
    """Whatever is for a cluster IP is masqueraded, what pods send too."""
    detect_local_mode: LocalMode = "ClusterCIDR"
    """What counts as traffic of pods: `ClusterCIDR`, sources in podSubnet; `NodeCIDR`, in the node's part of it; `BridgeInterface` and
    `InterfaceNamePrefix`, packets that come in by interfaces that `detectLocal` names; `none`, nothing."""
    detect_local: DetectLocal = DetectLocal()
    """`bridgeInterface` or `interfaceNamePrefix`, for the two modes that need one."""
    node_port_addresses: tuple[str, ...] = (PRIMARY,)
    """Ranges of the nodes' addresses at which node ports answer, or `primary`; without any they answer at all but 127.0.0.1."""
    dsr: bool = False
    """Direct server return: what comes from outside for an endpoint on another node is handed on to that node as it is. The endpoint
    sees the client although the policy is Cluster, and its node answers the client itself."""

    def findings(self) -> Iterator[Finding]:
        return local_traffic.findings(self.detect_local_mode, self.detect_local)

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        # What the node asks itself by a Service comes in again by lo, from the node's own address.
        yield Sysctl(node.netns, "net/ipv4/conf/lo/accept_local", "1")
        yield Sysctl(node.netns, "net/ipv4/conf/lo/rp_filter", "0")
        yield BpfPrograms(node.netns, tuple(self._ranges(node, network)), NODE_UPLINK)
        for family in (
            (family for peer in node.peers for family in peer.families) if self.dsr else ()
        ):
            yield RemoteRange(node.netns, family.pod_cidr, family.address)
            yield RemoteRange(node.netns, f"{family.address}/{family.host_length}", family.address)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.ifname:
            yield PodLink(node.netns, pod.ifname)

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[Rules, ...]:
        found = []
        for cluster_cidr in network.cluster_cidrs:
            version = ip.version_of(cluster_cidr)
            ports = [
                port
                for port in port_views(place, service, version)
                if port.protocol.upper() in PROTOCOLS
            ]
            if ports:
                ips = (
                    ClusterIp("", cluster_ip)
                    for cluster_ip in dict.fromkeys(port.cluster_ip for port in ports)
                )
                fronts = (obj for port in ports for obj in _service_port(port, version, self))
                found.append(
                    Rules("bpf", f"IPv{version}", service.service.full_name, (*ips, *fronts))
                )
        return tuple(found)

    def _ranges(self, node: NodeView, network: PodNetwork) -> Iterator[FamilyConfig]:
        found = detectors(self.detect_local_mode, self.detect_local, network, node.families)
        parts = zip(node.families, network.cluster_cidrs, node.service_cidrs, found, strict=True)
        for family, pods, services, detector in parts:
            local = local_traffic.by_address(detector, family, network)
            yield FamilyConfig(family.address, pods, services, self._doors(node, family), local)

    def _doors(self, node: NodeView, family: Family) -> tuple[str, ...]:
        found = node_port_addresses(self.node_port_addresses, node, family.version)
        return (family.address, family.gateway) if found is None else found


def _service_port(port: PortView, version: int, mode: Mode) -> Iterator[RuleObject]:
    """One port: its lists of endpoints, and where it is found."""
    service = f"{port.title}/{port.protocol.upper()}"
    everywhere = bpf.endpoints(service, "Cluster", _pairs(port.everywhere))
    here = bpf.endpoints(service, "Local", _pairs(port.here))
    if port.uses_cluster_policy:
        yield everywhere
    if port.uses_local_policy:
        yield here
    fenced = port.balanced_ips if port.sources else ()
    for cidr in port.sources if fenced else ():
        yield AllowedSource(
            "", service, cidr if "/" in cidr else f"{cidr}/{128 if version == 6 else 32}"
        )
    outside = [(address, port.port) for address in port.outside_ips]
    outside += [(_ANY_ADDRESS[version], port.node_port)] if port.node_port else []
    inside = [(port.cluster_ip, port.port)]
    for ways, is_outside, is_local in (
        (inside, False, port.is_internal_local),
        (outside, True, port.is_external_local),
    ):
        for address, number in ways:
            yield Frontend(
                "",
                address,
                number,
                port.protocol.upper(),
                service,
                (everywhere.name, len(port.everywhere)),
                (here.name, len(port.here)) if is_local else bpf.NOWHERE,
                port.affinity_s,
                is_outside,
                is_local,
                address in fenced,
                is_hiding=mode.masquerade_all and not is_outside,
                is_direct=mode.dsr and is_outside and not is_local,
            )


def _pairs(endpoints: tuple[Backend, ...]) -> list[tuple[str, int]]:
    return [(endpoint.address, endpoint.port) for endpoint in endpoints]
