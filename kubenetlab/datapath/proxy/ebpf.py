"""ebpf: BPF programs at tc translate Services; no netfilter hook is used.

    pod ── veth0 ┐ coming (ingress): Service address → endpoint   ┌ eth0 ── nodes,
                 ├ cbr0, routes, rules: see client and endpoint   ┤         outside
    pod ── veth1 ┘ going (egress): endpoint → Service; masquerade └ lo

The programs `coming` and `going` are attached to the pods' links, to eth0 of the node and to links
between nodes, such as flannel.1, vxlan.calico and tunl0; `going` also to lo. Connection tracking
and the rules of other components see client and endpoint, never the Service address.

Masqueraded packets, and packets of the node itself, have the node's address on the link by which
they leave for another node: its own address on eth0, that of the tunnel on a tunnel. So answers
take the same way back, and tunnels that check sources (WireGuard) accept the packets.

BPF maps hold Services, endpoints and flows. A Service is found by one hash lookup, and a change
updates only its own entries. SCTP is not supported: its ports are refused.

With `dsr: true` (direct server return) the node that gets a packet from outside forwards it
unchanged, in Geneve, to the node of the endpoint, which replies to the client directly.

Source: kubenetlab/bpf/service.bpf.c.
As in: Cilium's kube-proxy replacement at tc, Calico's eBPF dataplane.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.values import ip
from kubenetlab.datapath.modes import Needs, PodNetwork
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.proxy import local_traffic
from kubenetlab.datapath.proxy.local_traffic import LocalTrafficOptions
from kubenetlab.datapath.proxy.services import (
    PRIMARY,
    EndpointAddress,
    PortView,
    node_port_addresses,
    port_views,
)
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import Family, NodePlace, NodeView
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
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.names import NODE_UPLINK

_ANY_ADDRESS = {4: "0.0.0.0", 6: "::"}


class Mode(LocalTrafficOptions, frozen=True):
    """Options, named as in kube-proxy's configuration (except dsr).

    nodePortAddresses: list of ranges, or `primary` for the node's own address
        Node addresses at which node ports answer. An empty list means every address of the node
        except 127.0.0.1. Default: [primary].
    dsr: true | false
        Direct server return for connections from outside to an endpoint on another node. The
        endpoint sees the client's address although externalTrafficPolicy is Cluster.
        Default: false.
    """

    needs = Needs(programs=("libbpf.so.1",), own_features=("tc programs",), root="eBPF programs")

    node_port_addresses: tuple[str, ...] = (PRIMARY,)
    """Ranges of the node addresses at which node ports answer, or `primary`; empty for all."""
    dsr: bool = False
    """Direct server return for connections from outside to an endpoint on another node."""

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        # Connections of the node to itself through a Service arrive on lo from the node's address.
        yield Sysctl(node.netns, "net/ipv4/conf/lo/accept_local", "1")
        yield Sysctl(node.netns, "net/ipv4/conf/lo/rp_filter", "0")
        # The programs expect links without Ethernet headers first.
        overlays = sorted(network.overlay_links, key=lambda each: not each.is_bare)
        bare_count = sum(each.is_bare for each in overlays)
        ranges = tuple(self._ranges(node, network))
        yield BpfPrograms(node.netns, ranges, NODE_UPLINK, len(overlays), bare_count)
        for number, each in enumerate(overlays):
            yield bpf.OverlayLink(node.netns, number, each.name, each.addresses, each.bridge)
        for link in network.tunnels:
            yield PodLink(node.netns, link)
        for family in (
            (family for peer in node.peers for family in peer.families) if self.dsr else ()
        ):
            for cidr in family.ranges:
                yield RemoteRange(node.netns, cidr, family.address)
            yield RemoteRange(node.netns, f"{family.address}/{family.host_length}", family.address)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.ifname:
            yield PodLink(node.netns, pod.ifname)

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[SubjectRules[RuleObject], ...]:
        rules = []
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
                frontends = (obj for port in ports for obj in _service_port(port, version, self))
                rules.append(
                    SubjectRules(
                        "bpf", f"IPv{version}", service.service.full_name, (*ips, *frontends)
                    )
                )
        return tuple(rules)

    def _ranges(self, node: NodeView, network: PodNetwork) -> Iterator[FamilyConfig]:
        """Yield the addresses and ranges of each family, by which the programs classify packets."""
        local_detectors = self.detectors(network, node.families)
        families = zip(
            node.families, network.cluster_cidrs, node.service_cidrs, local_detectors, strict=True
        )
        for family, pods, services, detector in families:
            local = local_traffic.by_address(detector, family, network)
            yield FamilyConfig(family.address, pods, services, self._doors(node, family), local)

    def _doors(self, node: NodeView, family: Family) -> tuple[str, ...]:
        """Return the node's addresses at which node ports answer."""
        configured = node_port_addresses(self.node_port_addresses, node, family.version)
        return family.local_addresses if configured is None else configured


def _service_port(port: PortView, version: int, mode: Mode) -> Iterator[RuleObject]:
    """Yield the lists of endpoints of one port, and the frontends that lead to them."""
    service = f"{port.title}/{port.protocol.upper()}"
    all_endpoints = bpf.endpoints(service, "Cluster", _pairs(port.cluster_endpoints))
    local_endpoints = bpf.endpoints(service, "Local", _pairs(port.local_endpoints))
    if port.uses_cluster_policy:
        yield all_endpoints
    if port.uses_local_policy:
        yield local_endpoints
    restricted = port.virtual_ips if port.sources else ()
    for cidr in port.sources if restricted else ():
        yield AllowedSource(
            "", service, cidr if "/" in cidr else f"{cidr}/{128 if version == 6 else 32}"
        )
    external = [(address, port.port) for address in port.outside_ips]
    external += [(_ANY_ADDRESS[version], port.node_port)] if port.node_port else []
    internal = [(port.cluster_ip, port.port)]
    for addresses, is_outside, is_local in (
        (internal, False, port.is_internal_local),
        (external, True, port.is_external_local),
    ):
        for address, number in addresses:
            yield Frontend(
                "",
                address,
                number,
                port.protocol.upper(),
                service,
                (all_endpoints.name, len(port.cluster_endpoints)),
                (local_endpoints.name, len(port.local_endpoints)) if is_local else bpf.NOWHERE,
                port.affinity_s,
                is_outside,
                is_local,
                address in restricted,
                masquerades_all=mode.masquerade_all and not is_outside,
                is_direct=mode.dsr and is_outside and not is_local,
            )


def _pairs(endpoints: tuple[EndpointAddress, ...]) -> list[tuple[str, int]]:
    return [(endpoint.address, endpoint.port) for endpoint in endpoints]
